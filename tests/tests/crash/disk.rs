//! A disk that is full, and one that fails: what cannot be kept is refused, the host goes on from memory and recovers by itself, and a restart finds what was
//! acknowledged and nothing that was refused, also where the disk still fails when the host is killed.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use conductor_tests::{Host, Response, Session, http, until};
use serde_json::{Value, json};

use super::Medium;

#[test]
fn a_full_disk_refuses_changes_and_loses_nothing_json() {
    full(Medium::Json);
}

#[test]
fn a_full_disk_refuses_changes_and_loses_nothing_sqlite() {
    full(Medium::Sqlite);
}

#[test]
fn a_failing_disk_refuses_changes_and_brings_none_of_them_back_json() {
    // Writing and all that follows, syncs of files, of folders alone (when the new file is in its place already), renaming.
    failing(Medium::Json, &["wsfr", "s", "f", "r"]);
}

#[test]
fn a_failing_disk_refuses_changes_and_brings_none_of_them_back_sqlite() {
    // Folders are synced and files renamed where it is made, and never again.
    failing(Medium::Sqlite, &["ws", "w", "s"]);
}

#[test]
fn a_drain_ends_in_time_on_a_disk_that_hangs() {
    let place = tempfile::tempdir().unwrap();
    let shim = shim(place.path());
    thread::scope(|scope| {
        for (file, undone) in [("sessions", "the store's last writes"), (".join-budgets", "the saving of the budgets of pins")] {
            let shim = &shim;
            scope.spawn(move || hanging(shim, file, undone));
        }
    });
}

/// Session `kept` has the client `before` and the state 1; `bare` has nothing.
struct Before {
    kept: Session,
    bare: Session,
}

impl Before {
    fn new(host: &Host) -> Self {
        let before = Self { kept: host.create("echo"), bare: host.create("echo") };
        host.join(&before.kept, "before");
        assert_eq!(keep(host, &before.kept, 1).status, 200);
        before
    }

    /// Each kind of change is refused, says so, and has done nothing; all else goes on.
    fn assert_refused(&self, host: &Host) {
        let listed = listed(host);
        problem(&create(host), 503, "store_unavailable");
        // To each port in its own words, and in the older form.
        assert_eq!(host.admin("/api/createSession?type=echo").status, 503);
        assert_eq!(host.admin(&format!("/api/closeSession?id={}", self.bare.id)).status, 503);
        let body = json!({"id": self.bare.id, "pin": self.bare.pin, "client": "refused"}).to_string();
        let join = host.join_raw(&body);
        assert_eq!((join.status, join.json()), (503, json!({"token": "Could not validate session credentials"})));
        problem(&keep(host, &self.kept, 2), 500, "conductor_error");
        let ready = host.admin("/readyz");
        let store = &ready.json()["parts"]["store"]["status"];
        assert_eq!((ready.status, &ready.json()["status"], store), (200, &json!("degraded"), &json!("down")));
        assert_eq!(host.ask(&self.kept, "kept", ""), 1, "what is in memory goes on");
        assert_eq!(self::listed(host), listed, "nothing was half done");
    }

    fn assert_there(&self, host: &Host, more: &[Session]) {
        let mut ids: Vec<_> = listed(host).into_iter().map(|(id, _)| id).collect();
        let mut expected: Vec<_> = [&self.kept, &self.bare].into_iter().chain(more).map(|session| session.id.clone()).collect();
        ids.sort();
        expected.sort();
        assert_eq!(ids, expected);
        assert_eq!(host.clients(&self.kept), ["before"]);
        assert_eq!(host.ask(&self.kept, "kept", ""), 1);
    }
}

fn create(host: &Host) -> Response {
    http::post(host.admin, "/v1/sessions", "{\"type\": \"echo\"}")
}

fn keep(host: &Host, session: &Session, number: u32) -> Response {
    host.request(session, "keep", json!({"number": number, "bytes": 20_000}))
}

fn problem(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{answer:?}");
}

/// Ids and clients.
fn listed(host: &Host) -> Vec<(String, Value)> {
    let listed = host.admin("/v1/sessions?limit=500").json();
    listed["items"].as_array().unwrap().iter().map(|item| (item["id"].as_str().unwrap().to_owned(), item["clients"].clone())).collect()
}

/// Once the disk is well again.
fn made_again(host: &Host) -> Session {
    let made = until("a change to succeed", || Some(create(host)).filter(|answer| answer.status == 201)).json();
    until("the host to be well", || (host.admin("/readyz").json()["status"] == "ready").then_some(()));
    Session { id: made["id"].as_str().unwrap().to_owned(), pin: made["pin"].as_str().unwrap().to_owned() }
}

fn full(medium: Medium) {
    let host = Host::start(medium.options().small_disk(32 << 10));
    let before = Before::new(&host);
    let filler = host.state_folder().join("filler");
    // More than fits: the disk is full behind it.
    fs::write(&filler, vec![0; 64 << 20]).unwrap_err();
    // The last bytes too: what is there may still have room in its own pages.
    let mut made = Vec::new();
    until("a change to be refused", || match create(&host) {
        answer if answer.status == 503 => Some(()),
        answer => {
            let answer = answer.json();
            made.push(Session { id: answer["id"].as_str().unwrap().into(), pin: answer["pin"].as_str().unwrap().into() });
            None
        }
    });
    before.assert_refused(&host);
    before.assert_there(&restarted(&host, medium), &made);
    fs::remove_file(&filler).unwrap();
    made.push(made_again(&host));
    host.join(&before.bare, "after");
    let again = restarted(&host, medium);
    before.assert_there(&again, &made);
    assert_eq!(again.clients(&before.bare), ["after"]);
}

/// What a restart would find: this disk goes with its host, so it is another host on a copy.
fn restarted(host: &Host, medium: Medium) -> Host {
    let folder = tempfile::tempdir().unwrap();
    copy(&host.state_folder(), &folder.path().join("state"));
    Host::start_in(folder, medium.options())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "filler") {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// One host for each of these kinds of calls that fail, all at once: that it recovers by itself takes seconds.
fn failing(medium: Medium, calls: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let shim = shim(place.path());
    thread::scope(|scope| calls.iter().for_each(|calls| drop(scope.spawn(|| failing_at(medium, &shim, calls)))));
}

fn shim(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/eio.c");
    let shim = folder.join("eio.so");
    let built = Command::new("gcc").args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(&shim).arg(source).status();
    assert!(built.unwrap_or_else(|e| panic!("gcc: {e}; install it, or run `cargo xtask test`, which does")).success());
    shim
}

/// The disk hangs for what begins like this in the state's folder; the end comes in time, and says what is undone.
fn hanging(shim: &Path, file: &str, undone: &str) {
    let folder = tempfile::tempdir().unwrap();
    let orders = folder.path().join("orders");
    let path = |path: &Path| path.display().to_string();
    let options = Medium::Json
        .options()
        .set("joins.exempt", json!(""))
        .environment("LD_PRELOAD", &path(shim))
        .environment("DISK_FAILS", &path(&orders));
    let options = options.environment("DISK_FOLDER", &path(&folder.path().join("state").join(file)));
    let mut host = Host::start_in(folder, options);
    let session = host.create("echo");
    fs::write(&orders, "h").unwrap();
    if file == ".join-budgets" {
        let wrong = json!({"pin": "wrong", "client": "guesses"}).to_string();
        assert_eq!(http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &wrong).status, 403);
    } else {
        // It gets no answer.
        let mut creating = host.connect_admin();
        creating.write_all(b"GET /api/createSession?type=echo HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        until("the store to hang", || (!orders.exists()).then_some(()));
    }
    let begun = Instant::now();
    host.signal_to_end();
    let status = host.wait();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(1), "{}", host.log());
    assert!(host.log().contains(undone), "{}", host.log());
}

fn failing_at(medium: Medium, shim: &Path, calls: &str) {
    let folder = tempfile::tempdir().unwrap();
    let orders = folder.path().join("orders");
    let path = |path: &Path| path.display().to_string();
    let options = medium.options().environment("LD_PRELOAD", &path(shim)).environment("DISK_FAILS", &path(&orders));
    let options = options.environment("DISK_FOLDER", &path(&folder.path().join("state")));
    let mut host = Host::start_in(folder, options);
    let before = Before::new(&host);

    fs::write(&orders, calls).unwrap();
    before.assert_refused(&host);
    // Nothing that comes later may be what takes it back.
    problem(&create(&host), 503, "store_unavailable");
    host.kill();
    fs::remove_file(&orders).unwrap();
    host.start_again();
    before.assert_there(&host, &[]);
    assert!(host.clients(&before.bare).is_empty(), "{calls}: a refused join is back");

    fs::write(&orders, calls).unwrap();
    before.assert_refused(&host);
    fs::remove_file(&orders).unwrap();
    let made = made_again(&host);
    host.join(&before.bare, "after");
    host.kill();
    host.start_again();
    before.assert_there(&host, &[made]);
    assert_eq!(host.clients(&before.bare), ["after"]);
}
