//! `cargo xtask keep-plugins LABEL`: builds plugins once more and for the last time, for `tests/abi/`, where every later host must load them.

use std::{
    error::Error,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{Outcome, say, workspace};

/// The plugins that have every hook and use every call, of conductors and of services.
const KEPT: &[&str] = &["conductor-test-range", "conductor-test-steward"];

/// Of one file, and of all that is kept together: they stay in the repository for ever.
const LARGEST: u64 = 1 << 20;
const LARGEST_TOGETHER: u64 = 16 << 20;

pub(crate) fn run(label: &str) -> Outcome {
    if label.is_empty() || !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err("a label has lower-case letters, digits and dashes, and says what is new: `hooks`, `services`".into());
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("what is kept is for x86_64 Linux, and is built there".into());
    }
    let version = |package: &str| Ok::<_, Box<dyn Error>>(workspace::package(package)?["version"].as_str().unwrap_or_default().to_owned());
    let (contract, sdk) = (version("conductor-host-abi")?, version("conductor-host-sdk")?);
    let name = format!("{contract}-{label}");
    let kept = workspace::root().join("tests/abi");
    let folder = kept.join(&name);
    if folder.exists() {
        return Err(format!("tests/abi/{name} is there, and what is kept is never built again: choose another label").into());
    }
    let built = KEPT.iter().map(|package| build(package)).collect::<Result<Vec<_>, _>>()?;
    let mut together = size_below(&kept)?;
    for file in &built {
        let size = fs::metadata(file)?.len();
        together += size;
        say(&format!("{:>9} bytes  {}\n", size, file.display()));
        if size > LARGEST || together > LARGEST_TOGETHER {
            return Err(format!("too large: {LARGEST} bytes for one file, {LARGEST_TOGETHER} for all, which would be {together}").into());
        }
    }
    fs::create_dir(&folder)?;
    let mut names = Vec::new();
    for file in &built {
        let library = file.file_name().ok_or("cargo named a folder")?;
        fs::copy(file, folder.join(library))?;
        names.push(format!("`{}`", library.to_string_lossy()));
    }
    let line = format!("| `{name}` | {} | SDK {sdk}, contract {contract}, {}, for size |\n", names.join(", "), compiler()?);
    fs::OpenOptions::new().append(true).open(kept.join("README.md"))?.write_all(line.as_bytes())?;
    say(&format!("kept in tests/abi/{name}, and listed in tests/abi/README.md. Now: cargo nextest run -p conductor-tests --test abi\n"));
    Ok(ExitCode::SUCCESS)
}

/// As an author builds for release who cares for size, and without a word of this machine's folders.
fn build(package: &str) -> Result<PathBuf, Box<dyn Error>> {
    let mut command = workspace::cargo();
    // The library alone: what is also built for other crates to link cannot be optimised as a whole.
    command.args(["rustc", "--package", package, "--lib", "--crate-type", "cdylib", "--release", "--locked"]);
    command.arg("--message-format=json-render-diagnostics");
    for setting in ["opt-level=\"s\"", "lto=\"fat\"", "codegen-units=1", "strip=\"symbols\""] {
        command.args(["--config", &format!("profile.release.{setting}")]);
    }
    // Not in the folder of other release builds, which are made otherwise.
    command.arg("--target-dir").arg(workspace::target()?.join("kept-plugins"));
    let mut remap = format!("--remap-path-prefix={}=/src", workspace::root().display());
    for (variable, usual, to) in [("CARGO_HOME", ".cargo", "/cargo"), ("RUSTUP_HOME", ".rustup", "/rustup")] {
        let of_home = std::env::home_dir().map(|home| home.join(usual));
        if let Some(folder) = std::env::var_os(variable).map(PathBuf::from).or(of_home) {
            remap += &format!("\u{1f}--remap-path-prefix={}={to}", folder.display());
        }
    }
    command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", remap);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{package} cannot be built ({})", output.status).into());
    }
    let built = workspace::Built::from_messages(&String::from_utf8(output.stdout)?);
    Ok(workspace::find(&built.libraries, &package.replace('-', "_"))?.to_owned())
}

fn size_below(folder: &Path) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        size += if entry.file_type()?.is_dir() { size_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(size)
}

fn compiler() -> Result<String, Box<dyn Error>> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_small_and_listed() {
        let kept = workspace::root().join("tests/abi");
        assert!(size_below(&kept).unwrap() <= LARGEST_TOGETHER);
        let listed = fs::read_to_string(kept.join("README.md")).unwrap();
        let folders = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let folders: Vec<_> = folders.collect();
        assert!(!folders.is_empty());
        for folder in folders {
            let name = folder.file_name().unwrap().to_str().unwrap();
            assert!(listed.contains(&format!("| `{name}` |")), "{name} is not in the README");
            for file in fs::read_dir(&folder).unwrap() {
                let file = file.unwrap().path();
                assert!(fs::metadata(&file).unwrap().len() <= LARGEST, "{}", file.display());
            }
        }
    }

    #[test]
    fn a_label_is_a_word_and_what_is_kept_is_not_built_again() {
        for label in ["", "Hooks", "a/b", "..", "a_b"] {
            assert!(run(label).unwrap_err().to_string().starts_with("a label has"), "{label}");
        }
    }
}
