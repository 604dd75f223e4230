//! Builds of one plugin (`tests/plugins/versions`) that differ in a word.

use std::fs;

use crate::artefacts;

/// What stands before the version in the plugin.
const MARK: &[u8] = b"plugin-version=";
/// How many bytes the word may have.
const WORD: usize = 13;

/// The plugin as this version of it.
///
/// # Panics
/// Where the plugin is not built, or has not its one place for the word.
#[must_use]
pub fn build(version: &str) -> Vec<u8> {
    let mut bytes = fs::read(artefacts::plugin("conductor_test_versions")).expect("the plugin is there");
    let places: Vec<usize> = (0..bytes.len() - MARK.len() - WORD).filter(|at| bytes[*at..].starts_with(MARK)).collect();
    let mut written = 0;
    for place in places {
        // The code that cuts the mark off has it, too.
        let word = &mut bytes[place + MARK.len()..place + MARK.len() + WORD];
        if word.starts_with(b"one ") {
            word.copy_from_slice(format!("{version:WORD$}").as_bytes());
            written += 1;
        }
    }
    assert_eq!(written, 1, "the version stands once in the plugin");
    bytes
}
