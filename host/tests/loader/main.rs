//! The loader on real files: what it loads, what it refuses and in which words.
#![cfg(target_os = "linux")]

mod copies;
mod damage;
#[cfg(target_arch = "x86_64")]
mod orders;
mod refusals;
mod support;

use std::{fs, sync::Arc};

use conductor_abi::abi_stable::std_types::RErr;
use support::{Loader, Plugins, ask, block_on, copied, create, moody};

#[test]
fn the_real_plugins_load_and_answer() {
    let loader = Loader::new();
    for (name, answer) in [("default", "\"Stop\""), ("active", "\"Stopped\"")] {
        let library = loader.load(&Plugins::built().real(name));
        assert_eq!(library.manifest().conductors[0].name, name);
        assert_eq!(ask(&mut create(&library, name), "stop"), answer);
    }
}

#[test]
fn a_stem_with_dashes_finds_what_cargo_built() {
    let loader = Loader::new();
    let stem = Plugins::built().real("default").with_file_name("conductor-default");
    assert_eq!(loader.load(&stem).file(), Plugins::built().real("default"));
}

#[test]
fn a_config_is_checked_by_the_plugin() {
    let library = Loader::new().load(&Plugins::built().real("default"));
    assert!(block_on(library.check_config("default", b"{}")).is_ok());
    let RErr(failure) = block_on(library.check_config("default", b"{\"a\":1}")) else { panic!("this config does not fit") };
    assert_eq!(failure.message, "it takes no config");
}

#[test]
fn the_same_content_is_the_same_library_wherever_it_lies() {
    let loader = Loader::new();
    let first = loader.load(&Plugins::built().real("default"));
    assert!(Arc::ptr_eq(&first, &loader.load(&Plugins::built().real("default"))));
    assert!(Arc::ptr_eq(&first, &loader.load(&copied(&loader, &Plugins::built().real("default"), "elsewhere.so"))));
}

#[test]
fn a_changed_content_is_loaded_beside_the_old() {
    let loader = Loader::new();
    let path = moody(&loader, "good");
    let old = loader.load(&path);
    let mut conductor = create(&old, "variant");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    let new = loader.load(&path);
    assert!(!Arc::ptr_eq(&old, &new) && old.hash() != new.hash());
    for conductor in [&mut conductor, &mut create(&new, "variant"), &mut create(&old, "variant")] {
        assert_eq!(ask(conductor, "x"), "\"1.1.0 x now=42 can_tell=false level=3\"");
    }
    // Two generations, two starts.
    assert_eq!(*loader.logged.lock().unwrap(), ["3 variant started", "3 variant started"]);
}

#[test]
fn a_file_overwritten_in_place_harms_nothing_that_runs() {
    let loader = Loader::new();
    let path = copied(&loader, &Plugins::built().real("default"), "mine.so");
    let library = loader.load(&path);
    let mut before = create(&library, "default");
    // As `cp` does: the same file, other bytes.
    let size = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![0xcc; usize::try_from(size).unwrap()]).unwrap();
    assert_eq!(ask(&mut before, "state"), "\"State\"");
    assert_eq!(ask(&mut create(&library, "default"), "start"), "\"Start\"");
    fs::write(&path, "").unwrap();
    assert_eq!(ask(&mut create(&library, "default"), "stop"), "\"Stop\"");
}

#[test]
fn what_one_plugin_appended_does_not_bind_another() {
    let loader = Loader::new();
    loader.load(&Plugins::built().fixture("next_minor"));
    // It appended something else in the same place: each fits this host, and neither knows of the other.
    let library = loader.load(&Plugins::built().fixture("forked"));
    assert_eq!(ask(&mut create(&library, "variant"), "x"), "\"1.1.0 x now=42 can_tell=false level=3\"");
}

#[test]
fn the_conductor_is_the_configured_one_or_the_types_namesake_or_the_only_one() {
    let loader = Loader::new();
    let (one, two) = (loader.load(&Plugins::built().real("default")), loader.load(&Plugins::built().fixture("next_minor")));
    assert_eq!(one.choose_conductor(None, "quiz").unwrap().name, "default");
    assert_eq!(two.choose_conductor(Some("other"), "variant").unwrap().name, "other");
    assert_eq!(two.choose_conductor(None, "variant").unwrap().name, "variant");
    let refusal = two.choose_conductor(None, "quiz").unwrap_err().to_string();
    assert!(
        refusal.ends_with(
            "none of them named as the type \"quiz\": \"variant\", \"other\"; set conductor = \"…\" in the type to one of these"
        )
    );
    let refusal = one.choose_conductor(Some("greeter"), "default").unwrap_err().to_string();
    assert!(
        refusal.ends_with("it offers no conductor \"greeter\"; it offers \"default\": set conductor = \"…\" in the type to one of these")
    );
}

#[test]
fn the_log_level_reaches_each_library_at_its_start_and_later() {
    fn crosses_threads<T: Send + Sync>(_: &T) {}
    let loader = Loader::new();
    let library = loader.load(&Plugins::built().fixture("next_minor"));
    crosses_threads(&library);
    let mut conductor = create(&library, "variant");
    assert!(ask(&mut conductor, "x").ends_with("level=3\""));
    loader.libraries.set_log_level(5);
    assert!(ask(&mut conductor, "x").ends_with("level=5\""));
}
