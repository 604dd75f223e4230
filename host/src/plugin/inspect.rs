//! `plugin inspect`: loads a file with the host's own loader, and shows what that found.

use std::{fmt::Write as _, io, path::Path, sync::Arc};

use conductor_abi::{
    ABI_VERSION,
    wire::{ConductorManifest, requirement},
};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{Said, schema};
use crate::conductors::{
    inspect::Target,
    library::Library,
    refusal::{Reason, Refusal, is_hidden, plain},
    resolve::Platform,
    services::LibraryHost,
};

/// How folders for copies are named.
const PREFIX: &str = "conductor-host-inspect";

/// As printed with `--json`: keys are added, never renamed.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    file: String,
    size: usize,
    sha256: String,
    format: &'static str,
    system: &'static str,
    arch: String,
    abi: &'a str,
    host_abi: &'static str,
    sdk: &'a str,
    conductors: Vec<Offered<'a>>,
    services: Vec<Offered<'a>>,
}

/// A conductor or a service.
#[derive(Serialize)]
struct Offered<'a> {
    name: &'a str,
    /// Of a conductor alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    lazy: Option<bool>,
    hooks: &'a [String],
    requires: &'a [String],
    methods: Vec<Method<'a>>,
    other_methods: bool,
    config: Option<&'a Value>,
}

#[derive(Serialize)]
struct Method<'a> {
    name: &'a str,
    params: Option<&'a Value>,
    result: Option<&'a Value>,
}

#[derive(Serialize)]
struct Refused<'a> {
    ok: bool,
    file: String,
    refused: &'a str,
}

pub(super) fn run(file: &Path, json: bool) -> Said {
    with_loaded(file, json, 0, |library| Said::done(if json { one_object(&report(library)) } else { text(&report(library)) }))
}

/// Loads the file as the host does, and asks `show` about it; says why not where it is refused. What it logs above `log_level` is not counted.
pub(super) fn with_loaded(file: &Path, json: bool, log_level: u8, show: impl FnOnce(&Arc<Library>) -> Said) -> Said {
    let configured = match std::path::absolute(file) {
        Ok(path) => path,
        Err(error) => return Said::failed(format!("{:?} is no path: {error}\n", file.display())),
    };
    let temporary = match temporary_folder() {
        Ok(temporary) => temporary,
        Err(error) => return Said::failed(format!("no temporary folder for the plugin's copy: {error}; TMPDIR can name another\n")),
    };
    let copies = temporary.as_ref().map_or_else(|| std::env::temp_dir().join(PREFIX), |folder| folder.path().join("copies"));
    let libraries = LibraryHost::libraries(copies.clone(), log_level);
    let loaded = libraries.load(&configured, None);
    let said = match &loaded {
        Ok(library) => show(library),
        Err(refusal) => refused(refusal, &configured, &copies, json),
    };
    let removed = temporary.map_or_else(|| libraries.remove_unused_copies().map(drop), TempDir::close);
    told(said, removed, &copies)
}

/// A new folder that only this user may enter, whatever the umask: what lies in it is opened. None on Windows, where an open library
/// cannot be removed: there it is always the same folder, in the user's own one for temporary files.
fn temporary_folder() -> io::Result<Option<TempDir>> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    if cfg!(windows) { Ok(None) } else { builder.tempdir().map(Some) }
}

/// What is left behind does not make a good plugin a bad one, but is not kept secret.
fn told(mut said: Said, removed: io::Result<()>, copies: &Path) -> Said {
    if let Err(error) = removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }) {
        said.err += &format!("note: copies stay in {}: {error}\n", copies.display());
    }
    said
}

fn refused(refusal: &Refusal, configured: &Path, copies: &Path, json: bool) -> Said {
    let mut words = plain(&refusal.to_string());
    if matches!(refusal.reason, Reason::NotLoadable(_) | Reason::Copy { .. }) {
        let _ = write!(words, "\nhere the copy was made in {}; TMPDIR can name another folder", plain(&copies.to_string_lossy()));
    }
    if matches!(refusal.reason, Reason::Missing { .. }) && configured != refusal.file && configured.exists() {
        let what = if configured.is_dir() { "a folder" } else { "a file" };
        let shown = plain(&configured.to_string_lossy());
        let _ = write!(words, "\n{shown} itself is {what}; a library's full name has an ending: .so, .dll or .dylib");
    }
    if json {
        let refused = Refused { ok: false, file: refusal.file.to_string_lossy().into_owned(), refused: &words };
        return Said { out: one_object(&refused), err: String::new(), status: 1 };
    }
    Said::failed(words + "\n")
}

fn report(library: &Library) -> Report<'_> {
    let target = Target::current();
    let format = match Platform::CURRENT {
        Platform::Linux => "ELF",
        Platform::Windows => "PE",
        Platform::MacOs => "Mach-O",
    };
    let manifest = library.manifest();
    Report {
        ok: true,
        file: library.file().to_string_lossy().into_owned(),
        size: library.size(),
        sha256: library.hash().to_string(),
        format,
        system: target.system,
        arch: target.arch,
        abi: library.abi(),
        host_abi: ABI_VERSION,
        sdk: &manifest.sdk,
        conductors: manifest.conductors.iter().map(|manifest| offered(manifest, Some(manifest.lazy))).collect(),
        services: manifest.services.iter().map(|manifest| offered(manifest, None)).collect(),
    }
}

fn offered(manifest: &ConductorManifest, lazy: Option<bool>) -> Offered<'_> {
    let methods = manifest.methods.iter();
    let methods = methods.map(|method| Method { name: &method.name, params: method.params.as_ref(), result: method.result.as_ref() });
    Offered {
        name: &manifest.name,
        lazy,
        hooks: &manifest.hooks,
        requires: &manifest.requires,
        methods: methods.collect(),
        other_methods: manifest.other_methods,
        config: manifest.config.as_ref(),
    }
}

/// JSON in which what a terminal would act on is escaped; to a reader of JSON it is the same.
fn one_object(value: &impl Serialize) -> String {
    let failed = |error: serde_json::Error| serde_json::json!({"ok": false, "refused": error.to_string()}).to_string();
    let json = serde_json::to_string_pretty(value).unwrap_or_else(failed);
    let mut escaped = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // The line ends are those between the parts; within texts they are escaped already.
        if is_hidden(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped + "\n"
}

fn text(report: &Report<'_>) -> String {
    let mut text = format!("{}: this host loads it\n", plain(&report.file));
    let mut line = |name: &str, value: String| text += &format!("  {name:<9} {value}\n");
    line("size", format!("{} bytes", report.size));
    line("sha256", report.sha256.clone());
    line("format", format!("{} library for {} ({})", report.format, report.system, report.arch.replace('_', "-")));
    line("contract", format!("{}, and this host has {}", plain(report.abi), report.host_abi));
    line("sdk", if report.sdk.is_empty() { "unknown".to_owned() } else { plain(report.sdk) });
    for conductor in &report.conductors {
        let made = if conductor.lazy == Some(true) { "at the session's first event (lazy)" } else { "with the session" };
        offer(&mut text, "conductor", made, conductor);
    }
    for service in &report.services {
        offer(&mut text, "service", "when the host starts", service);
    }
    text
}

fn offer(text: &mut String, kind: &str, made: &str, offered: &Offered<'_>) {
    let Offered { name, hooks, requires, methods, other_methods, config, .. } = offered;
    *text += &format!("\n{kind} \"{}\"\n", plain(name));
    let mut line = |name: &str, value: String| *text += &format!("  {name:<9} {value}\n");
    line("made", made.to_owned());
    line("hooks", if hooks.is_empty() { "none".to_owned() } else { plain(&hooks.join(", ")) });
    if !requires.is_empty() {
        let unknown: Vec<&str> = requires.iter().map(String::as_str).filter(|what| !requirement::ALL.contains(what)).collect();
        let refused = format!(" (this host does not know {}, and refuses this {kind})", plain(&unknown.join(", ")));
        line("requires", plain(&requires.join(", ")) + if unknown.is_empty() { "" } else { &refused });
    }
    line("config", config.map_or_else(|| "unknown".to_owned(), |config| schema::parameters(config).unwrap_or("none".to_owned())));
    let mut methods: Vec<String> = methods.iter().map(signature).collect();
    if *other_methods {
        methods.push(if methods.is_empty() { "any" } else { "(any other)" }.to_owned());
    }
    if methods.is_empty() {
        methods.push("none".to_owned());
    }
    for (index, method) in methods.into_iter().enumerate() {
        line(if index == 0 { "methods" } else { "" }, method);
    }
}

/// `say {name: string} -> null`
fn signature(method: &Method<'_>) -> String {
    let params = method.params.and_then(schema::parameters).map(|params| format!(" {params}")).unwrap_or_default();
    let result = method.result.map(|result| format!(" -> {}", schema::short(result))).unwrap_or_default();
    format!("{}{params}{result}", plain(method.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped_in_json_and_stays_what_it_was() {
        let bad = json!({"name": "a\u{1b}[31m\u{9b}2J\u{202e}\n\u{e0041}z"});
        let shown = one_object(&bad);
        assert!(shown.chars().all(|c| c == '\n' || !is_hidden(c)), "{shown:?}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), bad);
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_for_copies_is_private() {
        let folder = temporary_folder().unwrap().expect("a folder of its own");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.path()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
    }

    fn manifest(json: Value) -> ConductorManifest {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_conductor_is_shown_in_plain_text() {
        let manifest = manifest(json!({
            "name": "a\u{1b}[2J\nb", "hooks": ["mess\u{7}age", "close"], "requires": ["joining", "b\u{7}"], "lazy": true, "config": {"type": "null"}, "other_methods": true,
            "methods": [
                {"name": "x\ny", "params": {"type": "object", "properties": {"n\u{202e}": {"type": "string"}}}, "result": {"type": "null"}},
                {"name": "old"}
            ],
        }));
        let mut undemanding = manifest.clone();
        undemanding.requires.clear();
        let report = Report {
            ok: true,
            file: "/p/\u{1b}.so".to_owned(),
            size: 7,
            sha256: "ab".to_owned(),
            format: "ELF",
            system: "Linux",
            arch: "x86_64".to_owned(),
            abi: "1.2.3",
            host_abi: "1.0.0",
            sdk: "s\u{9b}dk",
            conductors: vec![offered(&manifest, Some(true))],
            services: vec![offered(&undemanding, None)],
        };
        let expected = "\
/p/\\u{1b}.so: this host loads it
  size      7 bytes
  sha256    ab
  format    ELF library for Linux (x86-64)
  contract  1.2.3, and this host has 1.0.0
  sdk       s\\u{9b}dk

conductor \"a\\u{1b}[2J\\u{a}b\"
  made      at the session's first event (lazy)
  hooks     mess\\u{7}age, close
  requires  joining, b\\u{7} (this host does not know b\\u{7}, and refuses this conductor)
  config    none
  methods   x\\u{a}y {n\\u{202e}?: string} -> null
            old
            (any other)

service \"a\\u{1b}[2J\\u{a}b\"
  made      when the host starts
  hooks     mess\\u{7}age, close
  config    none
  methods   x\\u{a}y {n\\u{202e}?: string} -> null
            old
            (any other)
";
        assert_eq!(text(&report), expected);
    }
}
