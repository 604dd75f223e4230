//! Why a plugin is not used: one short message for each case.

use std::{fmt, path::PathBuf};

use conductor_abi::ABI_VERSION;

/// A plugin that is not used. Displays as one line: the file, what was found, what was expected, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file that was looked at, resolved.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}: {}", self.file.display(), self.reason)
    }
}

impl std::error::Error for Refusal {}

/// What is wrong with a plugin. Texts of the system or of the plugin are kept as text, so that a refusal can be kept, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing is there.
    #[error("there is no such file{}; build the plugin, or correct its path", meant(.configured))]
    Missing {
        /// The path in the settings, where it is a stem that had to be resolved.
        configured: Option<PathBuf>,
    },
    /// A folder is there.
    #[error("this is a folder; name the library file in it, by its full name or as FOLDER/NAME without prefix and ending")]
    Folder,
    /// A device, a pipe or the like is there.
    #[error("this is not a regular file; name a library file")]
    Special,
    /// The system does not let the host read it.
    #[error("it cannot be read: {0}; give the host's user the right to read it")]
    Unreadable(String),
    /// Others could put their code into the host.
    #[error("{0} is writable by everybody, who could so run code in the host; remove that right (chmod o-w)")]
    WritableByOthers(String),
    /// Far too large.
    #[error("the file has more than {limit} bytes, the most that is accepted; is this really the plugin?")]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// The content is not what the settings pin.
    #[error("its SHA-256 is {found}, but the settings pin {pinned}; restore the file, or pin the new one if you trust it")]
    OtherContent {
        /// Of the file, in hexadecimal.
        found: String,
        /// Of the settings, in hexadecimal.
        pinned: String,
    },
    /// No library of any system.
    #[error("this is {found}, not a shared library; a plugin is what cargo builds with crate-type = [\"cdylib\"]")]
    NotALibrary {
        /// What it is, with its article.
        found: String,
    },
    /// The beginning of a library, or one with nonsense in its headers.
    #[error("the file is cut short or damaged ({detail}; it has {size} bytes); copy it again")]
    Damaged {
        /// Which part is not there or not right.
        detail: String,
        /// The file's size.
        size: usize,
    },
    /// For another system or processor.
    #[error("this is {found}, but this host needs {expected}; use the plugin that was built for this system")]
    OtherPlatform {
        /// What it is, with its article.
        found: String,
        /// What would be right, with its article.
        expected: String,
    },
    /// A library without our entry symbol.
    #[error(
        "this is a shared library, but not a plugin: it exports no usable symbol {symbol}; a plugin is built with \
         conductor-host-sdk and has an export_conductors! or export_plugin!"
    )]
    NotAPlugin {
        /// The symbol that was looked for.
        symbol: &'static str,
    },
    /// A plugin in the reserved C contract, which this host does not speak.
    #[error(
        "this plugin offers only the C contract ({symbol}), which this host does not have; use a newer host, or conductor-host-sdk 1.x"
    )]
    CContract {
        /// The symbol that was found.
        symbol: String,
    },
    /// Made for another major version of the contract.
    #[error(
        "this plugin is made for version {found} of the contract, but this host has {ABI_VERSION}; rebuild it with \
         conductor-host-sdk 1.x, or use a host for version {found}"
    )]
    OtherMajor {
        /// The version, or only its first number.
        found: String,
    },
    /// The entry symbol leads to something else than a plugin's header.
    #[error("its entry symbol does not lead to a header that this host knows ({0}); rebuild it with conductor-host-sdk 1.x")]
    OtherHeader(String),
    /// A type that crosses the boundary is not the one that the host knows.
    #[error("its binary contract differs from {ABI_VERSION}, first at {difference}; rebuild it with conductor-host-sdk 1.x")]
    OtherLayout {
        /// The path to the first difference and the difference, in one line.
        difference: String,
    },
    /// The private copy could not be made.
    #[error("its private copy in {} cannot be made: {error}; check the rights and the space of the state folder", .folder.display())]
    Copy {
        /// The folder for copies.
        folder: PathBuf,
        /// What the system says.
        error: String,
    },
    /// The system's loader does not want it.
    #[error(
        "the system cannot load it: {0}; was it built on a newer system than this one, is a library that it needs missing, or the state \
         folder on a disk mounted noexec?"
    )]
    NotLoadable(String),
    /// The plugin's own description is no description.
    #[error("its manifest cannot be used: {0}; rebuild it with conductor-host-sdk 1.x")]
    BadManifest(String),
    /// The plugin's own code failed to describe it.
    #[error(
        "its manifest cannot be made: {0}; that is a mistake in the plugin's own code (what its methods() says, say), for its author to mend"
    )]
    ManifestFailed(String),
    /// Two of what it offers have the same name.
    #[error("it offers {0:?} twice; rename one of the two in its export_conductors! or export_plugin!")]
    OfferedTwice(String),
    /// The plugin's own start failed.
    #[error("it failed to start: {0}; once the cause is gone, start the host again (a reload does not start the same file twice)")]
    InitFailed(String),
    /// It needs a newer host.
    #[error("its conductor or service {conductor:?} needs a host that knows {what:?}, which this one does not; use a newer conductor-host")]
    Requires {
        /// Which conductor or service.
        conductor: String,
        /// What it needs.
        what: String,
    },
    /// The settings ask for a conductor that it has not.
    #[error("it offers no conductor {wanted:?}; it offers {offered}: set conductor = \"…\" in the type to one of these")]
    NoSuchConductor {
        /// The name asked for.
        wanted: String,
        /// The names offered, quoted and with commas between.
        offered: String,
    },
    /// It offers several, none is named as the type, and the settings do not say which.
    #[error(
        "it offers several conductors, none of them named as the type {type_name:?}: {offered}; set conductor = \"…\" in the type to one of these"
    )]
    WhichConductor {
        /// The type.
        type_name: String,
        /// The names offered, quoted and with commas between.
        offered: String,
    },
    /// It has services alone, or conductors alone, and the other is asked for.
    #[error("it offers no {wanted}; its {other} {offered} can be used in {section}")]
    OnlyOther {
        /// `conductor` or `service`: what is asked for.
        wanted: &'static str,
        /// The other of the two.
        other: &'static str,
        /// The names of those, quoted and with commas between.
        offered: String,
        /// Where the settings name those.
        section: &'static str,
    },
    /// The settings ask for a service that it has not.
    #[error("it offers no service {wanted:?}; it offers {offered}: set service = \"…\" in the table to one of these")]
    NoSuchService {
        /// The name asked for.
        wanted: String,
        /// The names offered, quoted and with commas between.
        offered: String,
    },
    /// It offers several, none is named as the table, and the settings do not say which.
    #[error(
        "it offers several services, none of them named as the table {name:?}: {offered}; set service = \"…\" in the table to one of these"
    )]
    WhichService {
        /// The table.
        name: String,
        /// The names offered, quoted and with commas between.
        offered: String,
    },
}

fn meant(configured: &Option<PathBuf>) -> String {
    configured.as_ref().map_or_else(String::new, |path| format!(" (which is what {:?} means on this system)", path.display()))
}

/// On one line, plain, and no longer than `most` characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let text = plain(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A text out of a plugin, safe to show: what could move a terminal's cursor, colour it or hide something is written as `\u{1b}`.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, c| {
        if is_hidden(c) {
            plain.extend(c.escape_unicode())
        } else {
            plain.push(c)
        }
        plain
    })
}

/// Whether a character shows nothing by itself and changes what is around it: controls, marks of direction, joiners, tags.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_plugin_is_one_plain_line() {
        assert_eq!(one_line(" a\n\tb\u{1b}[31m\u{202e}\u{9b}é ", 60), r"a b\u{1b}[31m\u{202e}\u{9b}é");
        assert_eq!(one_line("äöüß", 3), "äöü…");
    }
}
