//! `conductor-host plugin new` and `plugin inspect`, as an author meets them.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use conductor_tests::{
    Host, HostOptions, Version, Way, artefacts,
    host::{Ended, run_refused},
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A working directory, and beside it a folder for temporary files in which nothing may be left.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        Self(folder)
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.work().join(name);
        fs::write(&file, content).unwrap();
        file
    }

    /// A shared library out of C.
    fn compiled(&self, compiler: &str, package: &str, source: &str, name: &str) -> PathBuf {
        let (from, to) = (self.file("library.c", source), self.work().join(name));
        run_tool(Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&to).arg(from), package);
        to
    }

    fn plugin(&self, arguments: &[&str]) -> Ended {
        let output = Command::new(artefacts::binary())
            .arg("plugin")
            .args(arguments)
            .current_dir(self.work())
            .env("TMPDIR", self.0.path().join("tmp"))
            .output()
            .unwrap();
        assert_eq!(entries(&self.0.path().join("tmp")), [""; 0], "nothing is left behind");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn inspect(&self, file: &Path) -> Ended {
        self.plugin(&["inspect", file.to_str().unwrap()])
    }

    fn inspect_json(&self, file: &Path) -> (Option<i32>, Value) {
        let ended = self.plugin(&["inspect", "--json", file.to_str().unwrap()]);
        assert_eq!(ended.stderr, "");
        (ended.code, serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}")))
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn run_tool(command: &mut Command, package: &str) {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{shown}: {e}; install {package}, or run `cargo xtask test`, which does"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown} failed:\n{out}\n{err}");
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A plugin built with another version of the contract, where the loader's own tests build it, too.
fn of_other_version(name: &str) -> PathBuf {
    let target = artefacts::folder().parent().unwrap().join("plugin-fixtures");
    fs::create_dir_all(&target).unwrap();
    let lock = File::create(target.join("tests.lock")).unwrap();
    lock.lock().unwrap();
    let folder = repository().join("tests/plugins").join(name);
    fs::copy(repository().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let mut build = cargo();
    build.args(["build", "--quiet", "--profile", "dev", "--manifest-path"]).arg(folder.join("Cargo.toml")).arg("--target-dir").arg(&target);
    run_tool(&mut build, "cargo");
    target.join(format!("debug/libplugin_{name}.so"))
}

/// The bytes of the plugin of the next minor version, with texts in it replaced by others of the same length.
fn changed(replaced: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = fs::read(of_other_version("next_minor")).unwrap();
    for (old, new) in replaced {
        assert_eq!(old.len(), new.len(), "{new:?}");
        let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).unwrap_or_else(|| panic!("{old:?} is in it"));
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}

#[test]
fn a_plugin_is_shown_with_all_that_it_offers() {
    let desk = Desk::new();
    let echo = artefacts::plugin("conductor_test_echo");
    let ended = desk.inspect(&echo);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    for line in [
        format!("{}: this host loads it", echo.display()),
        format!("  size      {} bytes", fs::metadata(&echo).unwrap().len()),
        "  contract  1.0.0, and this host has 1.0.0".to_owned(),
        "conductor \"echo\"".to_owned(),
        "  made      with the session".to_owned(),
        "  hooks     message, link, close".to_owned(),
        "  config    none".to_owned(),
        "  methods   params any -> any".to_owned(),
        "            whoami -> any".to_owned(),
        "            say {name: string, payload: string, qos?: uint8, retain?: boolean, client?: string | null} -> null".to_owned(),
    ] {
        assert!(ended.stdout.lines().any(|shown| shown == line), "{line}\n{}", ended.stdout);
    }

    // As settings name it, from the working directory on.
    symlink(artefacts::folder(), desk.work().join("plugins")).unwrap();
    let ended = desk.inspect(Path::new("plugins/conductor-default"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with(&format!("{}/plugins/libconductor_default.so: ", desk.work().display())), "{ended:?}");
    assert!(ended.stdout.contains("made      at the session's first event (lazy)"), "{ended:?}");

    // What the settings may hold for it.
    let ended = desk.inspect(&artefacts::plugin("conductor_quiz"));
    let config = "  config    {quizmaster?: string, buzzer_seconds?: uint32, answer_seconds?: uint32}";
    assert!(ended.stdout.lines().any(|shown| shown == config), "{ended:?}");
}

#[test]
fn as_json_it_has_the_documented_keys() {
    let desk = Desk::new();
    let echo = artefacts::plugin("conductor_test_echo");
    let (code, shown) = desk.inspect_json(&echo);
    assert_eq!(code, Some(0));
    let sum = Command::new("sha256sum").arg(&echo).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    let size = fs::metadata(&echo).unwrap().len();
    for (key, value) in [
        ("ok", json!(true)),
        ("file", json!(echo)),
        ("size", json!(size)),
        ("sha256", json!(sum)),
        ("format", json!("ELF")),
        ("system", json!("Linux")),
        ("arch", json!(std::env::consts::ARCH)),
        ("abi", json!("1.0.0")),
        ("host_abi", json!("1.0.0")),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert!(shown["sdk"].as_str().unwrap().starts_with("conductor-host-sdk 1."), "{shown}");
    let conductor = &shown["conductors"][0];
    assert_eq!(
        (&conductor["name"], &conductor["lazy"], &conductor["hooks"]),
        (&json!("echo"), &json!(false), &json!(["message", "link", "close"]))
    );
    assert_eq!((&conductor["config"]["type"], &conductor["requires"]), (&json!("null"), &json!([])));
    let (_, decides) = desk.inspect_json(&artefacts::plugin("conductor_test_range"));
    assert_eq!(decides["conductors"][0]["requires"], json!(["joining"]));
    let method = conductor["methods"].as_array().unwrap().iter().find(|method| method["name"] == "say").unwrap();
    assert_eq!((&method["params"]["required"], &method["result"]["type"]), (&json!(["name", "payload"]), &json!("null")));

    let documented = fs::read_to_string(repository().join("docs/plugins.md")).unwrap();
    let (_, refused) = desk.inspect_json(Path::new("nothing.so"));
    for object in [&shown, conductor, method, &refused] {
        for key in object.as_object().unwrap().keys() {
            assert!(documented.contains(&format!("`{key}`")), "docs/plugins.md says what {key} is");
        }
    }
}

#[test]
fn several_conductors_and_a_newer_contract_are_shown_and_no_text_moves_the_terminal() {
    let desk = Desk::new();
    let named = r#"{"name":"v\u001b[31m\u009bx" }"#;
    let file = desk.file("two.so", changed(&[(r#"{"name":"variant","new_key":1}"#, named)]));
    let ended = desk.inspect(&file);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in
        ["  contract  1.1.0, and this host has 1.0.0", r#"conductor "v\u{1b}[31m\u{9b}x""#, "conductor \"other\"", "  config    unknown"]
    {
        assert!(ended.stdout.lines().any(|shown| shown == line), "{line}\n{}", ended.stdout);
    }
    let (_, shown) = desk.inspect_json(&file);
    assert_eq!((&shown["conductors"][0]["name"], &shown["conductors"][1]["config"]), (&json!("v\u{1b}[31m\u{9b}x"), &json!(null)));
    let file =
        desk.file("fails.so", changed(&[("plugin-mood=good       ", "plugin-mood=no-manifest"), ("none\ntoday", "no\u{1b}[31mday")]));
    let refused = desk.inspect(&file);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains(r"its manifest cannot be made: there is no\u{1b}[31mday; that is a mistake in the plugin's own code"),
        "{refused:?}"
    );
    for text in [&ended.stdout, &refused.stderr, &desk.plugin(&["inspect", "--json", "two.so"]).stdout] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

/// What would do harm where it is not known: as a type, and as what is inspected.
#[test]
fn a_conductor_that_requires_what_this_host_does_not_know_is_refused_in_words() {
    let desk = Desk::new();
    let demanding = r#"{"name":"v","requires":["x"]} "#;
    let file = desk.file("later.so", changed(&[(r#"{"name":"variant","new_key":1}"#, demanding)]));
    let said =
        "later.so: its conductor or service \"v\" needs a host that knows \"x\", which this one does not; use a newer conductor-host";
    let types = |required: bool| {
        HostOptions::default()
            .set("types.v.plugin", json!(file))
            .set("types.v.required", json!(required))
            .set("types.v.conductor", json!("v"))
    };
    let refused = run_refused(&desk.work(), &types(true));
    // As it stands in a log of JSON.
    let line = json!(said).to_string();
    assert!(refused.code == Some(1) && refused.stderr.contains(line.trim_matches('"')), "{refused:?}");

    let host = Host::start(types(false));
    let answer = conductor_tests::http::post(host.admin, "/v1/sessions", r#"{"type":"v"}"#);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains(said), "{answer:?}");

    let ended = desk.inspect(&file);
    let line = "  requires  x (this host does not know x, and refuses this conductor)";
    assert!(ended.code == Some(0) && ended.stdout.lines().any(|shown| shown == line), "{ended:?}");
}

/// Each in at most five lines that name the file, what was found, what was expected and what to do; and in the words of `serve`.
#[test]
fn what_the_host_would_refuse_is_refused_in_its_words() {
    let desk = Desk::new();
    let real = fs::read(artefacts::plugin("conductor_default")).unwrap();
    let cut = desk.file("cut.so", &real[..real.len() / 2]);
    let text = desk.file("text.so", "a plugin, if only it were one\n");
    let folder = desk.work().join("folder.so");
    fs::create_dir(&folder).unwrap();
    fs::create_dir(desk.work().join("target")).unwrap();
    let dll = desk.compiled(
        "x86_64-w64-mingw32-gcc",
        "gcc-mingw-w64-x86-64",
        "__declspec(dllexport) int conductor_host_plugin_v1 = 1;",
        "plugin.dll",
    );
    let foreign = desk.compiled("gcc", "gcc", "int answer(void) { return 42; }", "foreign.so");
    let init = desk.file("init.so", changed(&[("plugin-mood=good      ", "plugin-mood=init-fails")]));
    let writable = desk.file("writable.so", &real);
    fs::set_permissions(&writable, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let here = format!("a Linux library ({})", std::env::consts::ARCH.replace('_', "-"));

    let cases: [(PathBuf, &[&str]); 10] = [
        (cut, &["cut.so: the file is cut short or damaged (", "copy it again"]),
        (text, &["text.so: this is a text file, not a shared library", "crate-type = [\"cdylib\"]"]),
        (folder, &["folder.so: this is a folder", "name the library file in it"]),
        ("target".into(), &["libtarget.so: there is no such file", "build the plugin", "work/target itself is a folder"]),
        ("nothing/my-plugin".into(), &["nothing/libmy_plugin.so: there is no such file", "correct its path"]),
        (
            dll,
            &["plugin.dll: this is a Windows DLL (x86-64), but this host needs ", &here, "use the plugin that was built for this system"],
        ),
        (foreign, &["foreign.so: this is a shared library, but not a plugin", "conductor_host_plugin_v1", "built with conductor-host-sdk"]),
        (
            of_other_version("next_major"),
            &["libplugin_next_major.so: this plugin is made for version 2.0.0 of the contract, but this host has 1.0.0", "rebuild it"],
        ),
        (init, &["init.so: it failed to start: no licence", "once the cause is gone, start the host again"]),
        (writable, &["writable.so: the file is writable by everybody", "chmod o-w"]),
    ];
    for (file, said) in cases {
        let ended = desk.inspect(&file);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.stderr.lines().count() <= 5, "{}", ended.stderr);
        for words in said {
            assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
        }
        let (code, shown) = desk.inspect_json(&file);
        assert_eq!((code, &shown["ok"]), (Some(1), &json!(false)));
        assert_eq!(shown["refused"].as_str(), Some(ended.stderr.trim_end()));
        assert!(Path::new(shown["file"].as_str().unwrap()).is_absolute(), "{shown}");

        let serve = run_refused(&desk.work(), &HostOptions::default().set("types.x.plugin", json!(file)));
        assert_eq!(serve.code, Some(1), "{serve:?}");
        // As it stands in a log of JSON.
        let line = json!(ended.stderr.lines().next()).to_string();
        assert!(serve.stderr.contains(line.trim_matches('"')), "{line}\n{}", serve.stderr);
    }
}

#[test]
fn nothing_of_a_file_runs_before_it_has_passed() {
    let desk = Desk::new();
    let marker = desk.0.path().join("it-ran");
    let source = |more: &str| {
        let mark = format!("fclose(fopen(\"{}\", \"w\"))", marker.display());
        format!("#include <stdio.h>\n__attribute__((constructor)) static void mark(void) {{ {mark}; }}\n{more}\n")
    };
    let foreign = desk.compiled("gcc", "gcc", &source("int answer = 42;"), "foreign.so");
    let bytes = fs::read(&foreign).unwrap();
    let cut = desk.file("cut.so", &bytes[..bytes.len() - 1]);
    for file in [foreign, cut] {
        assert_eq!(desk.inspect(&file).code, Some(1));
        assert!(!marker.exists(), "{} was opened", file.display());
    }
    assert!(desk.plugin(&["inspect", "--help"]).stdout.contains("THEN ITS CODE RUNS"));
    // One that passes the look at its headers is opened, and only then found to be none. Without this, the marker would prove nothing.
    let opened = desk.compiled("gcc", "gcc", &source("char conductor_host_plugin_v1[4096] = \"garbage\";"), "opened.so");
    assert_eq!(desk.inspect(&opened).code, Some(1));
    assert!(marker.exists());
}

#[test]
fn a_new_plugin_that_cannot_be_made_changes_nothing() {
    let desk = Desk::new();
    let work = desk.work();
    fs::create_dir(work.join("empty")).unwrap();
    desk.file("file", "mine");
    symlink("nowhere", work.join("dangling")).unwrap();
    let before = entries(&work);
    for (arguments, code, words) in [
        (&["fn"][..], 2, "that is a keyword of Rust"),
        (&["test"], 2, "that is a crate that comes with Rust"),
        (&["Quiz"], 2, "lower-case letters"),
        (&["../quiz"], 2, "lower-case letters"),
        (&["empty"], 1, "empty is there already, and stays as it is"),
        (&["file"], 1, "file is there already"),
        (&["dangling"], 1, "dangling is there already"),
        (&["quiz", "--path", "empty"], 1, "empty is there already"),
        (&["quiz", "--path", "no/quiz"], 1, "the folder "),
        (&["quiz", "--path", ".."], 1, "is no name for a new folder"),
        (&["quiz", "--path", "file/quiz"], 1, "Not a directory"),
        (&["quiz", "--sdk", "no/sdk"], 1, "is no folder with the package conductor-host-sdk"),
    ] {
        let ended = desk.plugin(&[&["new"], arguments].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
        assert_eq!(entries(&work), before, "{arguments:?}");
        assert_eq!((fs::read_to_string(work.join("file")).unwrap().as_str(), entries(&work.join("empty")).len()), ("mine", 0));
    }
}

#[test]
fn outside_of_a_checkout_the_new_plugin_asks_for_the_release_and_says_that_there_is_none() {
    let desk = Desk::new();
    let ended = desk.plugin(&["new", "quiz"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("conductor-host-sdk 1.0 is not published yet") && ended.stderr.contains("--sdk PATH"), "{ended:?}");
    let manifest = |folder: &str| fs::read_to_string(desk.work().join(folder).join("Cargo.toml")).unwrap();
    assert_eq!(manifest("quiz").matches("conductor-host-sdk = { version = \"1.0\"").count(), 2);

    let checkout = repository().to_str().unwrap();
    let ended = desk.plugin(&["new", "quiz", "--path", "other", "--sdk", checkout]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(manifest("other").matches(&format!("path = \"{checkout}/conductor-sdk\"")).count(), 2);
    let ended = desk.plugin(&["new", "quiz", "--path", "pinned", "--sdk", "1.2"]);
    assert!(ended.code == Some(0) && ended.stderr.contains("conductor-host-sdk 1.2 is not published yet"), "{ended:?}");
    assert_eq!(manifest("pinned").matches("conductor-host-sdk = { version = \"1.2\"").count(), 2);
    assert_eq!(entries(&desk.work()), ["other", "pinned", "quiz"]);
    // As others make files, not as temporary ones are: it may be shared.
    let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
    fs::create_dir(desk.work().join("usual")).unwrap();
    assert_eq!(mode(&desk.work().join("quiz")), mode(&desk.work().join("usual")));
}

/// All that the new crate's own CI does, and then the real host. Always the same folder: cargo knows a crate by its place, and the
/// dependencies stay built from run to run.
#[test]
fn a_new_plugin_builds_passes_its_own_ci_loads_and_answers() {
    let target = artefacts::folder().parent().unwrap().join("plugin-new");
    fs::create_dir_all(&target).unwrap();
    let made = target.join("made");
    if made.exists() {
        fs::remove_dir_all(&made).unwrap();
    }
    let mut new = Command::new(artefacts::binary());
    // Around one of the two is the checkout, wherever the target folder is.
    new.args(["plugin", "new", "quick-vote", "--path"]).arg(&made).current_dir(repository());
    run_tool(&mut new, "conductor-host");

    // Versions as in this repository, which are there without a network.
    fs::copy(repository().join("Cargo.lock"), made.join("Cargo.lock")).unwrap();
    let ci = fs::read_to_string(made.join(".github/workflows/ci.yml")).unwrap();
    let steps: Vec<_> = ci.lines().filter_map(|line| line.trim().strip_prefix("- run: cargo ")).collect();
    assert_eq!(steps, ["fmt --check", "clippy --all-targets -- -D warnings", "test", "build --release"]);
    for step in steps {
        // Of the two profiles, one is enough here.
        let arguments = step.split(' ').filter(|argument| *argument != "--release");
        let mut command = cargo();
        command.args(arguments).current_dir(&made).env("CARGO_TARGET_DIR", &target).env("CARGO_NET_OFFLINE", "true");
        // Nobody debugs it, and it is built anew each time.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
        run_tool(&mut command, "cargo");
    }

    let plugin = target.join("debug/quick-vote");
    let ended = Desk::new().inspect(&plugin);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in ["conductor \"quick-vote\"", "  methods   ask {question: string, answers: [string, …], seconds?: uint32} -> null"] {
        assert!(ended.stdout.lines().any(|shown| shown == line), "{line}\n{}", ended.stdout);
    }

    let host = Host::start(HostOptions::default().set("types.quick-vote.plugin", json!(plugin)));
    let session = host.create("quick-vote");
    let mut ann = device(&host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "question"), 1));
    let answer = host.request(&session, "ask", json!({"question": "Tea?", "answers": ["yes", "no"]}));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(ann.heard(), (topic(&session, "question"), r#"{"question":"Tea?","answers":["yes","no"]}"#.to_owned()));
    assert!(ann.publish(&topic(&session, "vote"), "yes", 1, false));
    until("the vote", || (host.request(&session, "result", json!(null)).json()["result"] == json!({"yes": 1, "no": 0})).then_some(()));
    let refused = host.request(&session, "ask", json!({"question": "Tea?", "answers": "yes"}));
    assert_eq!(refused.status, 422, "{refused:?}");
}
