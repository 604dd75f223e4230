//! Another program reads the live sessions out of the store's database while the host works.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use conductor_tests::host::{Host, HostOptions};
use serde_json::{Value, json};

/// Reads again and again, until its input ends: each line is what one read saw.
const READER: &str = r#"
import json, sqlite3, sys, threading
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
db = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
names = [column[0] for column in db.execute("SELECT * FROM active_sessions").description]
print(json.dumps(names), flush=True)
while True:
    last = ended.is_set()
    rows = db.execute("SELECT id, type, created_at, clients, labels, locked FROM active_sessions ORDER BY id").fetchall()
    print(json.dumps(rows), flush=True)
    if last:
        break
try:
    db.execute("DELETE FROM sessions")
except sqlite3.OperationalError as error:
    print(json.dumps(str(error)), flush=True)
"#;

#[test]
fn another_program_sees_the_sessions_while_they_come_and_go() {
    let host = Host::start(HostOptions::default().set("store.url", json!("sqlite:state/sessions.db")));
    let stays = host.create("default");
    let file = host.folder().join("state/sessions.db");
    let mut reader = Command::new("python3")
        .args(["-u", "-c", READER])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut lines =
        BufReader::new(reader.stdout.take().unwrap()).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let columns = lines.next().unwrap();
    assert!(!columns.as_array().unwrap().iter().any(|name| name == "pin" || name == "record"), "{columns}");
    // A session with two clients, made and closed: no read sees more of them, or one that is not begun.
    let mut made = Vec::new();
    for n in 0..30 {
        let session = host.create("default");
        host.join(&session, "phone");
        host.join(&session, "tablet");
        if n % 3 > 0 {
            host.close(&session);
        }
        made.push((session.id, n % 3 > 0));
    }
    drop(reader.stdin.take());
    let reads: Vec<_> = lines.collect();
    assert!(reader.wait().unwrap().success());
    let (refused, reads) = reads.split_last().unwrap();
    assert!(refused.as_str().unwrap().contains("readonly"), "{refused}");
    let (last, _) = reads.split_last().unwrap();
    let mut different = reads.to_vec();
    different.dedup();
    assert!(different.len() >= 3, "it read while nothing happened: {different:?}");
    let ids = |read: &Value| read.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    for read in reads {
        for row in read.as_array().unwrap() {
            assert!(row[1] == "default" && row[3].as_u64().unwrap() <= 2 && row[4] == "{}" && row[5] == 0, "{row}");
            assert!(row[2].as_str().unwrap().ends_with('Z'), "{row}");
        }
        // At each moment: what stays, those that were kept so far in their order, and one that is under way at most.
        let seen = ids(read);
        assert!(seen.contains(&stays.id), "{read}");
        let kept: Vec<_> = made.iter().filter(|(_, closed)| !closed).map(|(id, _)| seen.contains(id)).collect();
        assert!(kept.is_sorted_by(|earlier, later| earlier >= later), "{read}");
        assert!(made.iter().filter(|(id, closed)| *closed && seen.contains(id)).count() <= 1, "{read}");
    }
    let mut expected: Vec<_> = made.iter().filter(|(_, closed)| !closed).map(|(id, _)| id.clone()).chain([stays.id]).collect();
    expected.sort();
    assert_eq!(ids(last), expected);
}
