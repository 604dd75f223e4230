//! Where the workspace is, and cargo in it.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo says where this package is; the other is for whoever runs the built program by itself.
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The cargo that runs this program, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    forget_package(&mut command);
    command
}

/// Takes away what cargo tells this program about its package. Build scripts look at some of it, and would make everything anew.
pub(crate) fn forget_package(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
}

fn is_of_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// The folder that cargo builds into, wherever that is set.
pub(crate) fn target() -> Result<PathBuf, Box<dyn Error>> {
    Ok(metadata()?["target_directory"].as_str().ok_or("`cargo metadata` names no target folder")?.into())
}

/// What cargo knows of one package of the workspace.
pub(crate) fn package(name: &str) -> Result<Value, Box<dyn Error>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(packages.into_iter().find(|package| package["name"] == name).ok_or_else(|| format!("there is no package {name}"))?.clone())
}

fn metadata() -> Result<Value, Box<dyn Error>> {
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).stderr(Stdio::inherit()).output()?;
    Ok(serde_json::from_slice(&output.stdout).map_err(|error| format!("`cargo metadata` gave no answer: {error}"))?)
}

/// Files that a build made.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Built {
    /// Programs, by name.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// Shared libraries, by the crate's name.
    pub(crate) libraries: Vec<(String, PathBuf)>,
}

impl Built {
    /// Reads the messages of `cargo build --message-format=json`.
    pub(crate) fn from_messages(messages: &str) -> Self {
        let mut built = Self::default();
        for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
            if let Some(program) = message["executable"].as_str() {
                built.programs.push((name, program.into()));
            } else if message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib")) {
                let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from);
                // Windows has an import library and debug information beside it.
                let library = files.into_iter().find(|file| file.extension().is_some_and(|end| end == env::consts::DLL_EXTENSION));
                built.libraries.extend(library.map(|library| (name, library)));
            }
        }
        built
    }
}

/// The file of that name among those that were built.
pub(crate) fn find<'a>(files: &'a [(String, PathBuf)], name: &str) -> Result<&'a Path, String> {
    let file = files.iter().find(|(known, _)| known == name);
    file.map(|(_, file)| file.as_path()).ok_or_else(|| format!("cargo did not say where it put {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_it_put_things() {
        let library = format!("/t/release/{}conductor_default.{}", env::consts::DLL_PREFIX, env::consts::DLL_EXTENSION);
        let messages = format!(
            "{}\n{}\n{}\n{}\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"serde"},"filenames":["/t/libserde.rlib"],"executable":null}"#,
            format_args!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["cdylib"],"name":"conductor_default"}},"filenames":["/t/x.d","{library}"],"executable":null}}"#
            ),
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"conductor-host"},"filenames":["/t/h"],"executable":"/t/h"}"#,
            r#"{"reason":"build-finished","success":true}"#,
        );
        let built = Built::from_messages(&messages);
        assert_eq!(find(&built.programs, "conductor-host"), Ok(Path::new("/t/h")));
        assert_eq!(find(&built.libraries, "conductor_default"), Ok(Path::new(&library)));
        assert_eq!((built.programs.len(), built.libraries.len()), (1, 1));
        assert!(find(&built.libraries, "conductor_active").is_err());
    }

    #[test]
    fn what_is_said_of_this_package_is_not_passed_on() {
        let removed: Vec<_> = cargo().get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name.to_owned()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
            assert!(removed.iter().any(|gone| gone == name), "{name}: {removed:?}");
        }
        assert!(!is_of_package("CARGO_TARGET_DIR") && !is_of_package("CARGO_HOME"));
    }

    #[test]
    fn the_root_holds_the_settings_that_start_runs_on() {
        assert!(root().join("host.example.toml").is_file());
    }
}
