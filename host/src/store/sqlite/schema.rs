//! What is in the file, and how a file of an earlier version becomes one of this.
//!
//! - `sessions`: one row for each session. `record` is the session as the `json:` store writes it ([`format`](super::super::json::format)).
//! - `resting`: ids that rest, and until when.
//! - `states`: what conductors have saved.
//! - `tally`: one row, edited by each transaction: how many rows there are, and the sum of their sums, so that a row that is lost or comes back is seen.
//! - `active_sessions`: the view that other programs read. Columns may be added to it and are never changed: `docs/store.md` promises so.
//!
//! `key` is [`SessionId::packed`](crate::sessions::SessionId::packed). `sum` is over the table, the key and the content: see [`sum`](super::rows::sum).

use std::collections::BTreeMap;

use rusqlite::Connection;

/// `cond`: at a fixed place of the file, so that other programs know it.
pub(super) const APPLICATION_ID: i32 = 0x636f_6e64;

/// The version that this host writes: as many as there are migrations.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a handful")]
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// Each makes the next version of the one before. What is released is never edited.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE sessions (key INTEGER PRIMARY KEY, record TEXT NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE resting (key INTEGER PRIMARY KEY, until INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE states (key INTEGER PRIMARY KEY, version INTEGER NOT NULL, bytes BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE tally (
    key INTEGER PRIMARY KEY, transactions INTEGER NOT NULL,
    sessions INTEGER NOT NULL, resting INTEGER NOT NULL, states INTEGER NOT NULL, sum INTEGER NOT NULL
);
INSERT INTO tally VALUES (1, 0, 0, 0, 0, 0);
CREATE VIEW active_sessions AS SELECT
    json_extract(record, '$.id') AS id,
    json_extract(record, '$.type') AS type,
    json_extract(record, '$.created_at') AS created_at,
    (SELECT count(*) FROM json_each(record, '$.clients') AS client WHERE client.type = 'text') AS clients,
    coalesce(json_extract(record, '$.labels'), '{}') AS labels,
    coalesce(json_extract(record, '$.locked'), 0) AS locked,
    json_extract(record, '$.max_clients') AS max_clients,
    json_extract(record, '$.lifetime') AS lifetime_ms,
    json_extract(record, '$.empty_timeout') AS empty_timeout_ms
FROM sessions;
"];

/// Brings a database that has `version` to [`VERSION`], in one transaction.
pub(super) fn migrate(db: &Connection, version: i32) -> rusqlite::Result<()> {
    let transaction = db.unchecked_transaction()?;
    for step in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or_default()) {
        db.execute_batch(step)?;
    }
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// What is there, by name: as it was made, or edited.
fn objects(db: &Connection) -> rusqlite::Result<BTreeMap<String, (String, Option<String>)>> {
    let mut rows = db.prepare("SELECT name, type, sql FROM sqlite_schema")?;
    rows.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?.collect()
}

/// Whether a database of [`VERSION`] has all that belongs there, as it was made; the first that it has not.
pub(super) fn missing(db: &Connection) -> rusqlite::Result<Option<String>> {
    let model = Connection::open_in_memory()?;
    migrate(&model, 0)?;
    let there = objects(db)?;
    Ok(objects(&model)?.into_iter().find(|(name, made)| there.get(name) != Some(made)).map(|(name, _)| name))
}
