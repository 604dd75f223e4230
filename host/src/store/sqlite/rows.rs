//! Rows, their sums, and the tally of all of them.

use std::{collections::HashSet, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{SavedState, StoredSession, change::Content, json::format},
    check::damaged,
    schema::VERSION,
};
use crate::sessions::SessionId;

/// One of the tables with a row for each id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Sessions,
    Resting,
    States,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Resting => "resting",
            Self::States => "states",
        }
    }
}

/// The row `tally`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Counts the transactions: whether one of them took place can be read here.
    pub(super) transactions: i64,
    /// Of each table, in the order of [`Table`].
    pub(super) rows: [i64; 3],
    /// Of the sums of all rows, so in no order.
    sum: i64,
}

impl Tally {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        db.prepare_cached("SELECT transactions, sessions, resting, states, sum FROM tally WHERE key = 1")?
            .query_row([], |row| Ok(Self { transactions: row.get(0)?, rows: [row.get(1)?, row.get(2)?, row.get(3)?], sum: row.get(4)? }))
    }

    /// Writes it as that of the next transaction.
    pub(super) fn write(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.transactions += 1;
        let [sessions, resting, states] = self.rows;
        db.prepare_cached("UPDATE tally SET transactions = ?1, sessions = ?2, resting = ?3, states = ?4, sum = ?5 WHERE key = 1")?
            .execute(params![self.transactions, sessions, resting, states, self.sum])?;
        Ok(())
    }

    fn add(&mut self, table: Table, sum: i64) {
        self.rows[table as usize] += 1;
        self.sum = self.sum.wrapping_add(sum);
    }

    /// What is of this table and key goes; nothing where there is nothing.
    fn take(&mut self, db: &Connection, table: Table, key: i64, replaced: bool) -> rusqlite::Result<()> {
        let name = table.name();
        let sum: Option<i64> =
            db.prepare_cached(&format!("SELECT sum FROM {name} WHERE key = ?1"))?.query_row([key], |row| row.get(0)).optional()?;
        if let Some(sum) = sum {
            self.rows[table as usize] -= 1;
            self.sum = self.sum.wrapping_sub(sum);
            if !replaced {
                db.prepare_cached(&format!("DELETE FROM {name} WHERE key = ?1"))?.execute([key])?;
            }
        }
        Ok(())
    }

    pub(super) fn put_session(&mut self, db: &Connection, id: SessionId, session: Option<&StoredSession>) -> rusqlite::Result<()> {
        let key = key(id);
        self.take(db, Table::Sessions, key, session.is_some())?;
        let Some(session) = session else { return Ok(()) };
        let record = format::record(session).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let sum = sum(Table::Sessions, key, &[record.as_bytes()]);
        self.add(Table::Sessions, sum);
        db.prepare_cached("INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3)")?.execute(params![key, record, sum])?;
        Ok(())
    }

    pub(super) fn put_resting(&mut self, db: &Connection, id: SessionId, until: Option<u64>) -> rusqlite::Result<()> {
        let key = key(id);
        self.take(db, Table::Resting, key, until.is_some())?;
        let Some(until) = until else { return Ok(()) };
        let sum = sum(Table::Resting, key, &[&until.to_le_bytes()]);
        self.add(Table::Resting, sum);
        db.prepare_cached("INSERT OR REPLACE INTO resting VALUES (?1, ?2, ?3)")?.execute(params![key, until.cast_signed(), sum])?;
        Ok(())
    }

    pub(super) fn put_state(&mut self, db: &Connection, id: SessionId, state: Option<&SavedState>) -> rusqlite::Result<()> {
        let key = key(id);
        self.take(db, Table::States, key, state.is_some())?;
        let Some(SavedState { version, bytes }) = state else { return Ok(()) };
        let sum = sum(Table::States, key, &[&version.to_le_bytes(), bytes]);
        self.add(Table::States, sum);
        db.prepare_cached("INSERT OR REPLACE INTO states VALUES (?1, ?2, ?3, ?4)")?.execute(params![key, version, &**bytes, sum])?;
        Ok(())
    }
}

fn key(id: SessionId) -> i64 {
    id.packed().cast_signed()
}

/// The first half of a half of SHA-256: against accidents, nobody is kept out by it.
pub(super) fn sum(table: Table, key: i64, content: &[&[u8]]) -> i64 {
    let mut context = Context::new(&SHA256);
    context.update(table.name().as_bytes());
    context.update(&key.to_le_bytes());
    for part in content {
        context.update(part);
    }
    let mut sum = [0; 8];
    sum.copy_from_slice(&context.finish().as_ref()[..8]);
    i64::from_le_bytes(sum)
}

/// A session, and what its conductor has saved.
pub(super) type Kept = (Arc<StoredSession>, SavedState);

/// What is kept of this session. Nothing where it is not there or has no state, which the tally of all rows alone can confirm, and nothing where the format
/// is an earlier one.
pub(super) fn kept(db: &Connection, version: i32, id: SessionId) -> rusqlite::Result<Option<Kept>> {
    if version < VERSION {
        return Ok(None);
    }
    let mut rows = db.prepare("SELECT key, record, sum FROM sessions WHERE key = ?1")?;
    let session = rows.query_row([key(id)], |row| Ok(parse_session(row, &mut HashSet::new())?.1)).optional()?;
    Ok(session.zip(state(db, id)?))
}

/// The state of this session.
pub(super) fn state(db: &Connection, id: SessionId) -> rusqlite::Result<Option<SavedState>> {
    let mut rows = db.prepare_cached("SELECT key, version, bytes, sum FROM states WHERE key = ?1")?;
    rows.query_row([key(id)], |row| Ok(parse_state(row)?.1)).optional()
}

/// The id of a row whose content has this sum.
fn checked(row: &Row<'_>, table: Table, content: &[&[u8]]) -> rusqlite::Result<SessionId> {
    let key: i64 = row.get("key")?;
    let id = SessionId::unpack(key.cast_unsigned()).ok_or_else(|| damaged(format!("a row of the table {} has no id", table.name())))?;
    if row.get::<_, i64>("sum")? != sum(table, key, content) {
        return Err(damaged(match table {
            Table::Sessions => format!("session {id} is damaged: it is not what was stored"),
            Table::Resting => format!("how long the id {id} rests is damaged: it is not what was stored"),
            Table::States => format!("the saved state of session {id} is damaged: it is not what was saved"),
        }));
    }
    Ok(id)
}

fn parse_session(row: &Row<'_>, types: &mut HashSet<Arc<str>>) -> rusqlite::Result<(SessionId, Arc<StoredSession>)> {
    let record: String = row.get("record")?;
    let id = checked(row, Table::Sessions, &[record.as_bytes()])?;
    let session = format::parse_record(id, &record, types).map_err(|problem| damaged(format!("session {id}: {problem}")))?;
    Ok((id, session.into()))
}

fn parse_state(row: &Row<'_>) -> rusqlite::Result<(SessionId, SavedState)> {
    let (version, bytes): (u32, Vec<u8>) = (row.get("version")?, row.get("bytes")?);
    let id = checked(row, Table::States, &[&version.to_le_bytes(), &bytes])?;
    Ok((id, SavedState { version, bytes: bytes.into() }))
}

/// All that is there, each row looked at. `state` gets each saved state.
pub(super) fn read(db: &Connection, mut state: impl FnMut(SessionId, SavedState)) -> rusqlite::Result<(Content, Tally)> {
    let tally = Tally::read(db)?;
    let (mut counted, mut content, mut types) =
        (Tally { transactions: tally.transactions, ..Tally::default() }, Content::default(), HashSet::new());
    let mut rows = db.prepare("SELECT key, record, sum FROM sessions ORDER BY key")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (id, session) = parse_session(row, &mut types)?;
        counted.add(Table::Sessions, row.get("sum")?);
        content.sessions.insert(id, session);
    }
    let mut rows = db.prepare("SELECT key, until, sum FROM resting ORDER BY key")?;
    let mut rows = rows.query([])?;
    let mut resting = Vec::new();
    while let Some(row) = rows.next()? {
        let until = row.get::<_, i64>("until")?.cast_unsigned();
        let id = checked(row, Table::Resting, &[&until.to_le_bytes()])?;
        counted.add(Table::Resting, row.get("sum")?);
        resting.push((id, until));
    }
    content.resting = resting.into_iter().collect();
    let mut rows = db.prepare("SELECT key, version, bytes, sum FROM states ORDER BY key")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (id, saved) = parse_state(row)?;
        if !content.sessions.contains_key(&id) {
            return Err(damaged(format!("there is saved state of session {id}, and no such session")));
        }
        counted.add(Table::States, row.get("sum")?);
        state(id, saved);
    }
    if counted != tally {
        return Err(damaged("the rows are not those that were stored: one is missing, or one has come back"));
    }
    Ok((content, tally))
}
