//! The table as a document, and the settings in force as TOML text.

use std::{
    fmt::{self, Write as _},
    path::Path,
};

use serde_json::Value;

use super::{
    ENVIRONMENT_PREFIX,
    mistakes::Origin,
    reader::Effective,
    table::{FAMILIES, Fallback, Key, SECTIONS, Section},
    values::Kind,
};

const INTRODUCTION: &str = "\
# Settings

<!-- Generated from the table in host/src/config/table.rs: `conductor-host config reference > docs/settings.md` -->

Four sources, the first that sets a key wins:

1. flags: `--set SECTION.KEY=VALUE` (any key, may be repeated; of the same key the last counts), `--log-level LEVEL`;
2. environment variables: `CONDUCTOR_HOST__SECTION__KEY`, all in upper case but the name of a type or service, which is taken as it is
   (`CONDUCTOR_HOST__TYPES__default__PLUGIN`);
3. the settings file, TOML;
4. the defaults below.

In flags and the environment a value is plain text: no quotes; lists are separated by commas; a table is a JSON object. An
empty text is a value too. An unknown key is a mistake in every source, and so is a wrong value, even one that a stronger
source overrides. All mistakes are reported at once, each with where it was set, and the host exits with status 2.
`conductor-host config check FILE` looks for them without starting anything; `conductor-host config show FILE` prints the
settings in force and where each comes from.

Relative paths, the default ones too, are relative to the folder of the settings file (without a file: to the working
directory). `store.url` and `token.key` follow `state.dir` as long as they are not set themselves. Addresses are IP addresses
with a port; names are not resolved; port 0 lets the system choose. Durations are numbers with units: `500ms`, `5s`, `1h 30m`.
";

/// `docs/settings.md`, whole.
#[must_use]
pub fn reference() -> String {
    let mut page = Page(INTRODUCTION.to_owned());
    for section in SECTIONS {
        page.section(section);
    }
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing into a `String` cannot fail.
        let _infallible = writeln!(self.0, "{text}");
    }

    fn section(&mut self, section: &Section) {
        self.line(format_args!("\n## `[{}]`\n\n{}", section.path, prose(section.doc)));
        for key in section.keys {
            self.line(format_args!("\n### `{}.{}`\n\n{}\n", section.path, key.name, prose(key.doc)));
            self.line(format_args!("- Value: {}", key.expected));
            self.line(format_args!("- Default: {}", default(key)));
            let family = FAMILIES.iter().find(|family| family.section == section.path);
            let path = family.map_or_else(|| section.path.to_uppercase(), |family| format!("{}__NAME", family.word.to_uppercase()));
            self.line(format_args!("- Environment: `{ENVIRONMENT_PREFIX}{path}__{}`", key.name.to_uppercase()));
        }
    }
}

fn prose(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn default(key: &Key) -> String {
    match key.default {
        Fallback::Required => "none, it must be set".to_owned(),
        Fallback::Unset => "not set".to_owned(),
        Fallback::Text(text) if key.kind == Kind::Text => format!("`{text:?}`"),
        Fallback::Text(text) => format!("`{text}`"),
    }
}

pub(super) fn show(base_dir: &Path, effective: &[Effective]) -> String {
    let mut page = Page(String::new());
    page.line(format_args!("# Relative paths are relative to {:?}.", base_dir.display().to_string()));
    let mut current = "";
    for entry in effective {
        let (section, key) = entry.path.rsplit_once('.').unwrap_or(("", &entry.path));
        if section != current {
            page.line(format_args!("\n[{section}]"));
            current = section;
        }
        let origin = match &entry.origin {
            Origin::Default => "default".to_owned(),
            set => set.to_string(),
        };
        match entry.value.as_ref().map(|value| (toml_text(value), value)) {
            Some(_) if entry.secret => page.line(format_args!("# {key} is set, and not shown  # {origin}")),
            None => page.line(format_args!("# {key} is not set")),
            Some((Some(text), _)) => page.line(format_args!("{key} = {text}  # {origin}")),
            // JSON's null, out of a flag, has no TOML form.
            Some((None, value)) => page.line(format_args!("# {key} is {value}  # {origin}")),
        }
    }
    page.0
}

fn toml_text(value: &Value) -> Option<String> {
    let mut text = String::new();
    serde::Serialize::serialize(value, toml::ser::ValueSerializer::new(&mut text)).ok()?;
    Some(text)
}
