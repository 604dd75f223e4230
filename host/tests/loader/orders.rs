//! **Every plugin of 1.x in every host of 1.x, in whatever order they come**: plugins of this contract, of the next minor version and of the
//! first release, in this host and in one of the next minor version; each order in a process of its own, with and without a refused one among them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Loader, Plugins, ask, create};

/// Names the files for [`in_a_process_of_its_own`].
const FILES: &str = "CONDUCTOR_TEST_LOAD";
const SEPARATOR: &str = "\n";
/// What the lines that count begin with; the test harness prints others.
const MARK: &str = "loaded: ";

/// A file, and what each host says of it.
struct Case {
    file: PathBuf,
    this_host: &'static str,
    next_host: &'static str,
}

fn cases() -> [Case; 4] {
    let plugins = Plugins::built();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("tests/abi/1.0.0/libconductor_default.so");
    let ours = |file| Case { file, this_host: "\"State\"", next_host: "\"State\" more=None peek=None" };
    let next_minor = Case {
        file: plugins.fixture("next_minor"),
        this_host: "\"1.1.0 state now=42 can_tell=false level=3\"",
        next_host: "\"1.1.0 state now=43 can_tell=true level=0\" more=Some(11) peek=Some(11)",
    };
    let refused = Case {
        file: plugins.fixture("layout"),
        this_host: "refused: plugin ",
        next_host: "refused: its binary contract differs from 1.1.0, first at PluginRoot > manifest > ",
    };
    [ours(plugins.real("default")), ours(kept), next_minor, refused]
}

/// All orders of so many things; each order of a part of them begins one of these.
fn orders(of: usize) -> Vec<Vec<usize>> {
    let (mut all, mut begun) = (Vec::new(), vec![Vec::new()]);
    while let Some(order) = begun.pop() {
        begun.extend((0..of).filter(|next| !order.contains(next)).map(|next| [&*order, &[next]].concat()));
        all.push(order);
    }
    all.retain(|order| order.len() == of);
    all
}

/// What [`every_order_works_in_this_host`] starts again and again: this host, loading the files that it is given. Without any it has nothing to say.
#[test]
fn in_a_process_of_its_own() {
    let loader = Loader::new();
    for file in env::var(FILES).iter().flat_map(|files| files.split(SEPARATOR)) {
        let said = match loader.libraries.load(Path::new(file), None) {
            Ok(library) => ask(&mut create(&library, &library.manifest().conductors[0].name), "state"),
            Err(refusal) => format!("refused: {refusal}"),
        };
        println!("\n{MARK}{said}");
    }
}

#[test]
fn every_order_works_in_this_host() {
    let this = env::current_exe().unwrap();
    every_order(
        |case| case.this_host,
        |files| {
            let mut command = Command::new(&this);
            command.args(["--exact", "orders::in_a_process_of_its_own", "--nocapture"]).env(FILES, files.join(SEPARATOR));
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            output.lines().filter_map(|line| line.strip_prefix(MARK)).map(str::to_owned).collect()
        },
    );
}

#[test]
fn every_order_works_in_a_host_of_the_next_minor_version() {
    every_order(
        |case| case.next_host,
        |files| {
            let output = Command::new(Plugins::built().newer_host()).args(files).output().unwrap();
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
        },
    );
}

/// What a plugin that was kept is asked, what it answers, and what it asks of its host for that: by its file's name. `faulty` asks
/// nothing by itself: that a panic stays inside, in that host, too, is what it shows.
const KEPT: [(&str, &str, &str); 5] = [
    ("default", "state null", "\"State\" more=None peek=None asked: "),
    (
        "test_echo",
        "clients null\nsay {\"name\":\"a\",\"payload\":\"b\"}\nwait {\"millis\":5}",
        "[\"ann\"] null 5 more=None peek=None asked: clients publish publish sleep",
    ),
    ("test_faulty", "panic null\nfine null", "panic: "),
    (
        "test_range",
        "grants null\nask {\"spawn\":5}\nask {\"sleep\":0}\nask {\"save\":4}",
        "[\"ann\"] null \"slept as long: true\" null more=None peek=None \
         asked: labels timer save clients spawn publish sleep publish now sleep now save",
    ),
    (
        "test_steward",
        "list 1\nclients \"7\"\nsleep 0",
        "[] [\"ann\"] true more=None peek=None asked: sessions sessions clients now sleep now",
    ),
];

#[test]
fn the_kept_plugins_ask_a_host_of_the_next_minor_version_and_are_answered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("tests/abi");
    let folders = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let (arguments, expected): (Vec<String>, Vec<&str>) = files
        .map(|file| {
            let name = file.file_stem().unwrap().to_str().unwrap().trim_start_matches("libconductor_").to_owned();
            let kept = KEPT.iter().find(|(kept, ..)| *kept == name);
            let (_, asked, answer) = kept.unwrap_or_else(|| panic!("{}: say in KEPT what it is asked", file.display()));
            (format!("{}\n{asked}", file.display()), *answer)
        })
        .unzip();
    // Once in each process, one after the other: the files of one plugin, of several versions, beside each other.
    let output = Command::new(Plugins::built().newer_host()).args(&arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), arguments.len(), "{said:?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.len() >= 5);
    for ((said, expected), argument) in said.iter().zip(expected).zip(&arguments) {
        assert!(said.starts_with(expected), "{argument}: {said}");
    }
}

fn every_order(expected: impl Fn(&Case) -> &'static str, load: impl Fn(&[&str]) -> Vec<String>) {
    let cases = cases();
    let orders = orders(cases.len());
    assert_eq!(orders.len(), 24);
    for order in orders {
        let order: Vec<&Case> = order.into_iter().map(|index| &cases[index]).collect();
        let files: Vec<_> = order.iter().map(|case| case.file.to_str().expect("a path in Unicode")).collect();
        let said = load(&files);
        assert_eq!(said.len(), order.len(), "{files:?}: {said:?}");
        for (said, case) in said.iter().zip(&order) {
            assert!(said.starts_with(expected(case)), "{files:?}: {said:?}");
        }
    }
}
