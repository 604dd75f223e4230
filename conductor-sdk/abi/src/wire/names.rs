//! The lists of names hold every name: who plays all of a list plays all there is.

use super::{call, close, event, leave, link};

/// The names of a module of `wire.rs` that are texts, and those that stand in its lists, as the source says it.
fn names_and_listed(module: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let source = include_str!("../wire.rs");
    let begin = format!("\npub mod {module} {{");
    let body = source.split_once(begin.as_str()).unwrap_or_else(|| panic!("there is no module {module}")).1;
    let body = body.split_once("\n}").unwrap().0;
    let (mut names, mut listed) = (Vec::new(), Vec::new());
    for item in body.split("pub const ").skip(1) {
        let (name, rest) = item.split_once(": ").unwrap();
        let (kind, value) = rest.split_once('=').unwrap();
        let value = value.split_once(';').unwrap().0;
        match kind.trim() {
            "&str" => names.push(name),
            "&[&str]" => {
                listed.extend(value.trim_matches([' ', '&', '[', ']', '\n']).split(',').map(str::trim).filter(|name| !name.is_empty()))
            }
            other => panic!("{module}::{name} is a {other}"),
        }
    }
    (names, listed)
}

/// Names that are not for conductors go into a list of their own, beside `ALL`.
#[test]
fn every_name_is_in_one_list() {
    for module in ["event", "call", "requirement", "leave", "link", "close"] {
        let (mut names, mut listed) = names_and_listed(module);
        names.sort_unstable();
        listed.sort_unstable();
        assert_eq!(names, listed, "wire::{module}: each name must stand in one list, once; then the tests' stories must have it");
        assert!(!names.is_empty());
    }
}

#[test]
fn no_name_means_two_things() {
    for all in [event::ALL, call::ALL, leave::ALL, link::ALL, close::ALL] {
        let mut once = all.to_vec();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), all.len(), "{all:?}");
    }
}
