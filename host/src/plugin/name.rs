//! What a new plugin may be called: a crate, a library and a conductor bear the name, on every system.

/// Beginning with these, so that the words say why.
const TAKEN: [(&[&str], &str); 4] = [
    (
        &[
            "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
            "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut",
            "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
            "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
        ],
        "a keyword of Rust",
    ),
    (&["alloc", "core", "proc_macro", "std", "test"], "a crate that comes with Rust"),
    (
        &["conductor_abi", "conductor_host", "conductor_host_abi", "conductor_host_sdk", "conductor_sdk", "schemars", "serde"],
        "a crate that the plugin itself is built with",
    ),
    (
        &[
            "aux", "c", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "con", "dl", "gcc_s", "lpt1", "lpt2",
            "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9", "m", "nul", "prn", "pthread", "rt", "util",
        ],
        "a name that a system keeps for itself (as a device, or as a library such as libc)",
    ),
];

/// As many characters as a type in the settings may have.
const LONGEST: usize = 64;

/// A name that is good for all of them.
///
/// # Errors
/// What is wrong with it, and what is right.
pub(super) fn parse(name: &str) -> Result<String, String> {
    let shape = "a name has lower-case letters, digits and single dashes or underscores between them, and begins with a letter";
    let parts: Vec<&str> = name.split(['-', '_']).collect();
    let good = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !parts.iter().all(good) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(shape.to_owned());
    }
    if name.len() > LONGEST {
        return Err(format!("it has {} characters, and may have {LONGEST}", name.len()));
    }
    let library = library(name);
    match TAKEN.iter().find(|(names, _)| names.contains(&library.as_str())) {
        Some((_, whose)) => Err(format!("that is {whose}; choose another name")),
        None => Ok(name.to_owned()),
    }
}

/// The library of a crate of this name, as cargo calls it.
pub(super) fn library(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_good_everywhere_are_taken_as_they_are() {
        for name in ["quiz", "my-quiz", "my_quiz-2", "q2", "tests", "r-2-d2", &"x".repeat(64)] {
            assert_eq!(parse(name).as_deref(), Ok(name));
        }
        assert_eq!(library("my-quiz_2"), "my_quiz_2");
    }

    #[test]
    fn a_name_of_the_wrong_shape_is_refused_with_the_right_one() {
        for name in ["", "2quiz", "Quiz", "quiz!", "a b", "a/b", "../a", "a.b", "-a", "_a", "a-", "a__b", "a-_b", "größe", "a\nb"] {
            let refused = parse(name).unwrap_err();
            assert!(refused.starts_with("a name has lower-case letters, digits"), "{name}: {refused}");
        }
        assert_eq!(parse(&"x".repeat(65)).unwrap_err(), "it has 65 characters, and may have 64");
    }

    #[test]
    fn a_name_that_means_something_else_is_refused_with_what_it_means() {
        for (name, whose) in [
            ("fn", "that is a keyword of Rust; choose another name"),
            ("async", "that is a keyword of Rust; choose another name"),
            ("test", "that is a crate that comes with Rust; choose another name"),
            ("proc-macro", "that is a crate that comes with Rust; choose another name"),
            ("conductor-sdk", "that is a crate that the plugin itself is built with; choose another name"),
            ("serde", "that is a crate that the plugin itself is built with; choose another name"),
        ] {
            assert_eq!(parse(name).unwrap_err(), whose);
        }
        for name in ["c", "con", "lpt1", "gcc-s"] {
            assert!(parse(name).unwrap_err().starts_with("that is a name that a system keeps for itself"), "{name}");
        }
    }
}
