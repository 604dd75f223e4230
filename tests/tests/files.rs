//! Which files the host believes: plugins by their hash, secrets that are nobody else's, a state folder that is its own.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use conductor_tests::{Host, HostOptions, artefacts, host::run_refused};
use serde_json::{Value, json};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The hash of the type's plugin, as a host without pins tells it.
fn hash_of(host: &Host, library: &str) -> String {
    let plugins = host.admin("/v1/plugins").json();
    let of = |plugin: &&Value| plugin["file"].as_str().is_some_and(|file| file.contains(library));
    plugins["items"].as_array().unwrap().iter().find(of).unwrap()["sha256"].as_str().unwrap().to_owned()
}

#[test]
fn a_pinned_plugin_loads_and_one_of_another_content_is_refused_with_both_hashes() {
    let mut host = Host::start(HostOptions::default());
    let right = hash_of(&host, "conductor_default");
    host.stop();
    host.start_again_with(HostOptions::default().set("types.default.sha256", json!(right.to_uppercase())));
    let session = host.create("default");
    assert_eq!(host.ask(&session, "state", ""), "State");
    host.stop();
    let wrong = "0".repeat(64);
    let refused = run_refused(host.folder(), &HostOptions::default().set("types.default.sha256", json!(wrong)));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&right) && refused.stderr.contains(&wrong), "{refused:?}");
    // The same of a service; and what may be missing says why while the host runs.
    let heartbeat = artefacts::plugin("conductor_heartbeat");
    let service = HostOptions::default().set("services.heartbeat.plugin", json!(heartbeat)).set("services.heartbeat.sha256", json!(wrong));
    let refused = run_refused(host.folder(), &service);
    assert!(refused.code == Some(1) && refused.stderr.contains(&wrong), "{refused:?}");
    let optional = HostOptions::default().set("types.default.sha256", json!(wrong)).set("types.default.required", json!(false));
    host.start_again_with(optional);
    let told = host.admin("/v1/types/default").body;
    assert!(told.contains(&right) && told.contains(&wrong), "{told}");
    assert_ne!(host.admin("/api/createSession?type=default").status, 200);
}

#[test]
fn a_state_folder_that_others_may_look_into_is_closed_and_all_in_it_is_the_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let mut host = Host::start_in(folder, HostOptions::default());
    assert_eq!(mode(&state), 0o700);
    assert!(host.log().contains("others could look into the state folder"));
    host.create("default");
    host.stop();
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn a_token_key_behind_a_symbolic_link_is_refused_and_so_is_a_plugin_that_others_may_change() {
    let mut host = Host::start(HostOptions::default());
    host.stop();
    let (key, moved) = (host.folder().join("state/token-key.pem"), host.folder().join("moved.pem"));
    fs::rename(&key, &moved).unwrap();
    symlink(&moved, &key).unwrap();
    let refused = run_refused(host.folder(), &HostOptions::default());
    assert!(refused.code == Some(1) && refused.stderr.contains("symbolic link"), "{refused:?}");
    // The key where it lies is as good as before.
    host.start_again_with(HostOptions::default().set("token.key", json!(moved)));
    host.stop();
    let plugins = host.folder().join("plugins");
    fs::create_dir(&plugins).unwrap();
    let copy = plugins.join("copy.so");
    fs::copy(artefacts::plugin("conductor_default"), &copy).unwrap();
    let options = HostOptions::default().set("token.key", json!(moved)).set("types.default.plugin", json!(copy));
    for (path, bits, good) in
        [(&copy, 0o757, false), (&copy, 0o775, true), (&plugins, 0o777, false), (&plugins, 0o1777, true), (&plugins, 0o775, true)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
        if good {
            host.start_again_with(options.clone());
            host.stop();
        } else {
            let refused = run_refused(host.folder(), &options);
            assert!(refused.code == Some(1) && refused.stderr.contains("o-w"), "{bits:o}: {refused:?}");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
