//! Where cargo put the binary and the plugins, and whether they are those of the sources as they are now.

use std::{
    env::{
        self,
        consts::{DLL_EXTENSION, DLL_PREFIX, EXE_SUFFIX},
    },
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Builds all that the tests start.
pub const BUILD_COMMAND: &str = "cargo build -p conductor-host -p conductor-default -p conductor-active -p conductor-test-echo -p conductor-test-faulty -p conductor-test-range -p conductor-test-steward -p conductor-test-versions -p conductor-test-tokio-user -p conductor-test-raw -p conductor-heartbeat -p conductor-quiz -p conductor-remote";

/// The variable that names the folder of a build for Windows: then its host and its plugins are what the tests start and load.
/// Beside them is a program `conductor-host` for this system that runs the .exe. `cargo xtask test --windows` sets it.
pub const WINDOWS_BUILD: &str = "CONDUCTOR_TESTS_WINDOWS_BUILD";

/// Whether the host and the plugins are those of a build for Windows.
#[must_use]
pub fn are_for_windows() -> bool {
    env::var_os(WINDOWS_BUILD).is_some()
}

/// The folder of a build, told from the test's own place in it: `target/debug` of `target/debug/deps/flow-0123`.
///
/// # Panics
/// When the test's own path cannot be told.
#[must_use]
pub fn folder() -> PathBuf {
    if let Some(folder) = env::var_os(WINDOWS_BUILD) {
        return folder.into();
    }
    let own = std::env::current_exe().expect("a test knows its own path");
    own.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// Builds what [`other`] names.
pub const OTHER_COMMAND: &str = "cargo xtask other-compilers";

/// The host's binary.
///
/// # Panics
/// When it is missing or older than its sources.
#[must_use]
pub fn binary() -> PathBuf {
    if are_for_windows() {
        checked(folder().join("conductor-host.exe"), BUILD_COMMAND);
        return folder().join("conductor-host");
    }
    checked(folder().join(format!("conductor-host{EXE_SUFFIX}")), BUILD_COMMAND)
}

/// A plugin's library, by the crate's name with underscores.
///
/// # Panics
/// When it is missing or older than its sources.
#[must_use]
pub fn plugin(library: &str) -> PathBuf {
    let file = if are_for_windows() { format!("{library}.dll") } else { format!("{DLL_PREFIX}{library}.{DLL_EXTENSION}") };
    checked(folder().join(file), BUILD_COMMAND)
}

/// A plugin of another compiler: `oldest` or `newest`.
///
/// # Panics
/// When it is missing or older than its sources.
#[must_use]
pub fn other(compiler: &str) -> PathBuf {
    let builds = folder().parent().expect("target/PROFILE").join("other-compilers").join(compiler).join("foreign");
    checked(builds.join(format!("{DLL_PREFIX}plugin_{compiler}.{DLL_EXTENSION}")), OTHER_COMMAND)
}

/// Cargo writes the list of a file's sources beside it, as a make rule.
fn checked(file: PathBuf, command: &str) -> PathBuf {
    let modified = |file: &Path| -> SystemTime {
        let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
        modified.unwrap_or_else(|e| panic!("{}: {e}; run `{command}`", file.display()))
    };
    let built = modified(&file);
    let rule = file.with_extension("d");
    let sources = fs::read_to_string(&rule).unwrap_or_else(|e| panic!("{}: {e}; run `{command}`", rule.display()));
    for source in sources_of(&sources) {
        // A source that was deleted since has changed, too.
        assert!(modified(&source) <= built, "{} is older than {}; run `{command}`", file.display(), source.display());
    }
    file
}

fn sources_of(rule: &str) -> Vec<PathBuf> {
    let list = rule.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, list)| list);
    // A blank within a path is escaped.
    list.replace("\\ ", "\0").split_whitespace().map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_lists_its_sources() {
        let rule = "/t/debug/host: /a/b.rs /a\\ b/c.rs\n\n/t/other: /x.rs\n";
        assert_eq!(sources_of(rule), [PathBuf::from("/a/b.rs"), PathBuf::from("/a b/c.rs")]);
    }

    #[test]
    fn a_file_older_than_its_source_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (built, source) = (folder.path().join("built"), folder.path().join("source.rs"));
        fs::write(&built, "").unwrap();
        fs::write(folder.path().join("built.d"), format!("{}: {}\n", built.display(), source.display())).unwrap();
        fs::File::create(&source).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(checked(built.clone(), "make it"), built);
        let later = fs::metadata(&built).unwrap().modified().unwrap() + std::time::Duration::from_secs(9);
        fs::File::create(&source).unwrap().set_modified(later).unwrap();
        let refusal = std::panic::catch_unwind(|| checked(built, "make it")).unwrap_err();
        assert!(refusal.downcast_ref::<String>().unwrap().ends_with("run `make it`"));
    }
}
