//! A host in whose settings no store is named takes over the sessions of the `json:` store that was the default before, once.

use std::fs;

use conductor_tests::host::{Host, HostOptions};
use serde_json::json;

#[test]
fn the_former_default_store_is_taken_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start_in(folder, HostOptions::default());
    let old = host.create("default");
    host.stop();
    let json = host.store_file();
    let before = fs::read(&json).unwrap();

    let unset = HostOptions::default().unset("store.url");
    host.start_again_with(unset.clone());
    assert_eq!(host.show(&old).json()["pin"], old.pin.as_str());
    assert_eq!(fs::read(&json).unwrap(), before, "it is kept");
    let new = host.create("default");
    host.close(&old);
    host.stop();
    host.start_again();
    assert_eq!((host.show(&old).status, host.show(&new).status), (404, 200));
    host.stop();

    // As the text of a refusal says: without its database the host starts without sessions.
    let database = host.folder().join("state/sessions.db");
    fs::remove_file(&database).unwrap();
    host.start_again();
    assert_eq!((host.show(&old).status, host.show(&new).status), (404, 404));
    host.stop();

    // A store that is named is never filled by itself, were it the default's.
    fs::remove_file(&database).unwrap();
    fs::remove_file(host.folder().join("state/sessions.json.imported")).unwrap();
    host.start_again_with(unset.set("store.url", json!("sqlite:state/sessions.db")));
    assert_eq!(host.show(&old).status, 404);
}
