//! `cargo xtask test`: everything that must hold, in one go.

use std::{
    ffi::OsStr,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use crate::{Outcome, packages, say, workspace};

/// A check: what it is for, cargo's arguments, and whether the others make sense without it.
struct Step {
    what: &'static str,
    arguments: &'static [&'static str],
    needed: bool,
}

const FORMAT: Step = Step { what: "format", arguments: &["fmt", "--all", "--check"], needed: false };
/// With the test that is built for `--windows` alone.
const LINTS: Step = Step {
    what: "lints",
    arguments: &["clippy", "--workspace", "--all-targets", "--features", "conductor-tests/windows", "--", "-D", "warnings"],
    needed: false,
};
/// With all targets, so that the programs and plugins that the tests start are made by the same build as the tests.
const BUILD: Step = Step { what: "build", arguments: &["build", "--workspace", "--all-targets"], needed: true };
/// Needed by one of the tests, which says so where this has failed.
const OTHER_COMPILERS: Step = Step {
    what: "plugins by other compilers",
    arguments: &["run", "--quiet", "--package", "xtask", "--", "other-compilers"],
    needed: false,
};
/// What we depend on: licences, sources, versions.
const DEPENDENCIES: Step = Step { what: "dependencies", arguments: &["run", "--quiet", "--package", "xtask", "--", "deny"], needed: false };
/// Both crates of the SDK as they would be published, and built from that.
const PACKAGES: Step = Step {
    what: "packages of the SDK",
    arguments: &["package", "--allow-dirty", "--package", "conductor-host-abi", "--package", "conductor-host-sdk"],
    needed: false,
};
const NEXTEST: Step = Step { what: "tests", arguments: &["nextest", "run", "--workspace", "--no-fail-fast"], needed: false };
const TESTS: Step = Step { what: "tests", arguments: &["test", "--workspace", "--all-targets", "--no-fail-fast"], needed: false };
const EXAMPLES: Step =
    Step { what: "examples in the documentation", arguments: &["test", "--workspace", "--doc", "--no-fail-fast"], needed: false };
const DOCUMENTATION: Step = Step { what: "documentation", arguments: &["doc", "--workspace", "--no-deps"], needed: false };

/// Runs all of it, also where something has failed, and says at the end what did.
pub(crate) fn run() -> Outcome {
    let path = packages::ensure(&workspace::target()?)?;
    let tests = if has_nextest() {
        NEXTEST
    } else {
        eprintln!("cargo-nextest is not installed, so `cargo test` runs the tests (one program after the other: slower)");
        TESTS
    };
    let (mut summary, mut failed) = (String::from("\n"), false);
    for step in [FORMAT, DEPENDENCIES, LINTS, BUILD, OTHER_COMPILERS, PACKAGES, tests, EXAMPLES, DOCUMENTATION] {
        let begun = Instant::now();
        let passed = check(&step, &path)?;
        failed |= !passed;
        let verdict = if passed { "ok" } else { "FAILED" };
        summary += &format!("{verdict:>6}  {:>4} s  {}\n", begun.elapsed().as_secs(), step.what);
        if step.needed && !passed {
            summary += "nothing after this was looked at\n";
            break;
        }
    }
    say(&summary);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check(step: &Step, path: &OsStr) -> Result<bool, std::io::Error> {
    let mut command = workspace::cargo();
    command.args(step.arguments).env("PATH", path);
    if step.what == DOCUMENTATION.what {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    eprintln!("\n== {}: {}", step.what, shown(&command));
    Ok(command.stdin(Stdio::null()).status()?.success())
}

fn has_nextest() -> bool {
    packages::succeeds(workspace::cargo().args(["nextest", "--version"]))
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "--doc"]);
        assert_eq!(shown(&command), "cargo test --doc");
    }

    /// Every page in the root and in the folders for people.
    fn pages() -> Vec<std::path::PathBuf> {
        let folders = ["", "docs", "conductor-sdk", "plugins", "deploy/nginx"].map(|folder| workspace::root().join(folder));
        let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        let ends = ["md", "toml", "conf"];
        files.filter(|file| file.extension().is_some_and(|end| ends.iter().any(|known| *known == end))).collect()
    }

    /// What GitHub calls the headings of a page in links to them: small letters, dashes for spaces, and of the rest `_` and `-` alone.
    fn anchors(page: &str) -> Vec<String> {
        let mut code = false;
        let outside = page.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            !code && !fence
        });
        let headings = outside.filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
        let mut anchors: Vec<String> = Vec::new();
        for heading in headings {
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let same = anchors.iter().filter(|known| **known == anchor).count();
            anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
        }
        anchors
    }

    #[test]
    fn headings_are_linked_to_as_github_does() {
        let page = "# Up & away\n## 6. What `x_y` is\n```sh\n# no heading\n```\n### `GET /v1/metrics`: counts\n## Up & away\n#nor this\n";
        assert_eq!(anchors(page), ["up--away", "6-what-x_y-is", "get-v1metrics-counts", "up--away-1"]);
    }

    #[test]
    fn no_page_has_a_merge_that_is_not_done_or_a_link_to_no_place() {
        let pages = pages();
        assert!(pages.len() > 15, "{pages:?}");
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            for line in text.lines() {
                let marked = ["<<<<<<< ", "======= ", ">>>>>>> "].iter().any(|mark| format!("{line} ").starts_with(mark));
                assert!(!marked, "{}: {line}", page.display());
            }
            if page.extension().is_some_and(|end| end == "md") {
                for (link, _) in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
                    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                    let file = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
                    assert!(link.contains("://") || file.exists(), "{}: {link}", page.display());
                    if !anchor.is_empty() && file.extension().is_some_and(|end| end == "md") {
                        let known = anchors(&std::fs::read_to_string(&file).unwrap());
                        assert!(known.iter().any(|known| known == anchor), "{}: {link} is none of {known:?}", page.display());
                    }
                }
            }
        }
    }

    /// Each file below a folder, with its path from the root.
    fn sources(folder: &str) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(workspace::root().join(folder)).unwrap().map(Result::unwrap);
        let named = entries.map(|entry| (format!("{folder}/{}", entry.file_name().into_string().unwrap()), entry.path()));
        let below = named.flat_map(|(name, path)| match path.is_dir() {
            true => sources(&name),
            false => vec![(name, std::fs::read_to_string(path).unwrap_or_default())],
        });
        below.collect()
    }

    /// Whether SECURITY.md's name of a test is one's: a function with this name that is a test, in a file whose path begins as the modules say.
    fn is_test(name: &str, sources: &[(String, String)]) -> bool {
        let (modules, function) = name.rsplit_once("::").unwrap();
        let place = |folder: &str, modules: &str| format!("{folder}/{}", modules.replace("::", "/"));
        let places = match modules.strip_suffix("::tests") {
            Some(modules) => vec![place("host/src", modules)],
            None => vec![place("tests/tests", modules), place("host/tests", modules)],
        };
        let here =
            |path: &str| places.iter().any(|place| path.strip_prefix(place.as_str()).is_some_and(|rest| rest.starts_with(['.', '/', '_'])));
        let is_here = |text: &str| {
            let lines: Vec<_> = text.lines().map(str::trim_start).collect();
            let at = lines.iter().position(|line| line.contains(&format!("fn {function}(")));
            let before = lines[..at.unwrap_or(0)].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
            before.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
        };
        sources.iter().any(|(path, text)| here(path) && is_here(text))
    }

    #[test]
    fn each_promise_of_security_md_names_tests_and_commands_that_are_there() {
        let sources: Vec<_> = ["host/src", "host/tests", "tests/tests"].iter().flat_map(|folder| sources(folder)).collect();
        let page = std::fs::read_to_string(workspace::root().join("SECURITY.md")).unwrap();
        let (mut tests, mut commands) = (0, 0);
        let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise") && !line.starts_with("| ---"));
        for row in rows {
            let mut holds = 0;
            for code in row.rsplit_once(" | ").unwrap().1.split('`').skip(1).step_by(2) {
                if code.starts_with("cargo xtask ") {
                    assert!(crate::HELP.lines().any(|line| line.trim_start().starts_with(code)), "there is no `{code}`: {row}");
                    commands += 1;
                } else if code.contains("::") {
                    assert!(is_test(code, &sources), "there is no test {code}: {row}");
                    tests += 1;
                } else {
                    assert!(workspace::root().join(code).exists(), "there is no {code}: {row}");
                    continue;
                }
                holds += 1;
            }
            assert!(holds > 0, "nothing holds this: {row}");
        }
        assert!(tests > 60 && commands >= 5, "{tests} tests and {commands} commands");
        assert!(crate::bench::tables::TESTS.iter().all(|name| is_test(name, &sources)));
        for name in [
            "access::a_test_that_is_not_there",
            "flood::a_viewer_sees_no_pin",
            "pace::tests::source",
            "limits::tests::a_client_that_does_not_read_is_cut",
        ] {
            assert!(!is_test(name, &sources), "{name}");
        }
    }

    #[test]
    fn plugins_have_no_unsafe_code() {
        let crates = ["plugins", "tests/plugins"].map(|folder| workspace::root().join(folder));
        let folders = crates.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        let sources = folders.flat_map(|folder| [folder.join("src/lib.rs"), folder.join("lib.rs")]).filter(|file| file.exists());
        // One is made of the contract's own source, in another version; the other does without the SDK, and so names the entry symbol itself.
        let sources = sources.filter(|file| !file.ends_with("variant/lib.rs") && !file.ends_with("raw/src/lib.rs"));
        let sources: Vec<_> = sources.chain([workspace::root().join("host/src/plugin/new/lib.rs")]).collect();
        assert!(sources.len() >= 7, "{sources:?}");
        for source in sources {
            let text = std::fs::read_to_string(&source).unwrap();
            assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", source.display());
        }
    }

    #[test]
    fn the_sdk_takes_its_contract_from_one_minor_version() {
        let version = workspace::package("conductor-host-abi").unwrap()["version"].as_str().unwrap().to_owned();
        let (minor, _) = version.rsplit_once('.').unwrap();
        let root = std::fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap();
        let wanted = root.lines().find(|line| line.starts_with("conductor-host-abi = ")).unwrap();
        assert!(wanted.contains(&format!("version = \"~{minor}\"")), "{wanted}");
    }

    #[test]
    fn the_published_crates_have_the_licences_in_them() {
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let text = std::fs::read(workspace::root().join(name)).unwrap();
            for folder in ["conductor-sdk", "conductor-sdk/abi"] {
                assert_eq!(std::fs::read(workspace::root().join(folder).join(name)).unwrap(), text, "{folder}/{name}");
            }
        }
    }

    #[test]
    fn the_plugin_of_the_readmes_is_the_one_that_is_compiled() {
        let read = |file: &str| std::fs::read_to_string(workspace::root().join(file)).unwrap();
        let front_page = read("conductor-sdk/src/lib.rs");
        let lines = front_page.lines().map(|line| line.trim_start_matches("//!").trim_start_matches(' '));
        let code: Vec<_> = lines.skip_while(|line| *line != "```").skip(1).take_while(|line| !line.starts_with("# ")).collect();
        assert!(code.len() > 20, "{code:?}");
        let stripped = |text: &str| text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n");
        for file in ["README.md", "conductor-sdk/README.md"] {
            assert!(stripped(&read(file)).contains(&stripped(&code.join("\n"))), "{file}");
        }
    }
}
