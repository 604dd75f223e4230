//! What is wrong, and where it was set. One line per mistake, whatever text was found.

use std::{fmt, path::Path, sync::Arc};

/// The longest piece of outside text that a message repeats, in characters.
const SHOWN: usize = 100;

/// Where a setting comes from. Ordered as mistakes are listed: file by line, then environment, then flags.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere: the built-in default.
    Default,
    /// The settings file.
    File {
        /// As the file was named on the command line.
        name: Arc<str>,
        /// Counted from 1; 0 where the file as a whole is meant.
        line: usize,
        /// Counted in characters from 1; 0 where the whole line is meant.
        column: usize,
    },
    /// The environment variable of this name.
    Environment(Arc<str>),
    /// This command-line flag.
    Flag {
        /// Its place among the flags, from 0.
        position: usize,
        /// As it is written: `--log-level`, `--set iot.listen`.
        name: Arc<str>,
    },
}

impl Origin {
    pub(super) fn file(name: &Path) -> Self {
        Self::File { name: clean(&name.display().to_string()).into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0, .. } => f.write_str(name),
            Self::File { name, line, column: 0 } => write!(f, "{name}:{line}"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag { name, .. } => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it was set.
    pub origin: Origin,
    /// The key, as `iot.listen`; empty where no key is meant (a syntax error, say).
    pub key: String,
    /// What was found and what is expected, without a line break.
    pub problem: String,
}

impl Mistake {
    pub(super) fn new(origin: &Origin, key: &str, problem: impl Into<String>) -> Self {
        Self { origin: origin.clone(), key: clean(key), problem: problem.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.origin, &self.key, &self.problem)
    }
}

/// All that is wrong, at least one: file by line, then environment, then flags. Displays as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// `None` where the list is empty.
    pub(super) fn of(mut list: Vec<Mistake>) -> Option<Self> {
        list.sort();
        list.dedup();
        (!list.is_empty()).then_some(Self(list))
    }

    pub(super) fn single(origin: Origin, problem: String) -> Self {
        Self(vec![Mistake { origin, key: String::new(), problem }])
    }

    /// Each of them, in the order of display.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Something that is allowed and probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it was set.
    pub origin: Origin,
    /// The key it is about.
    pub key: String,
    /// What to know about it, without a line break.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.origin, &self.key, &self.text)
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, origin: &Origin, key: &str, text: &str) -> fmt::Result {
    write!(f, "{origin}: ")?;
    if !key.is_empty() {
        write!(f, "{key}: ")?;
    }
    f.write_str(text)
}

/// Outside text for a message: control characters escaped, so that it stays on its line, and cut where it is long.
pub(super) fn clean(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}
