//! `plugin new`: writes the crate of a new plugin. What is in it lies in `new/`, and is built, tested and loaded by
//! `tests/tests/plugin_tools.rs`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Said, name,
    sdk::{self, Sdk},
};

/// Path in the new crate, and content. `@name@` and the like are filled in.
const FILES: [(&str, &str); 7] = [
    (".github/workflows/ci.yml", include_str!("new/ci.yml")),
    (".gitignore", include_str!("new/gitignore")),
    ("Cargo.toml", include_str!("new/Cargo.toml.in")),
    ("README.md", include_str!("new/README.md")),
    ("rustfmt.toml", include_str!("new/rustfmt.toml")),
    ("src/lib.rs", include_str!("new/lib.rs")),
    ("src/tests.rs", include_str!("new/tests.rs")),
];

pub(super) fn run(name: &str, sdk: Option<&str>, path: Option<PathBuf>) -> Said {
    let shown = path.unwrap_or_else(|| PathBuf::from(name));
    match make(name, sdk, &shown) {
        Ok(sdk) => Said { out: next_steps(name, &shown), err: warning(&sdk), status: 0 },
        Err(words) => Said::failed(format!("{words}\n")),
    }
}

fn make(name: &str, asked: Option<&str>, path: &Path) -> Result<Sdk, String> {
    let working = std::env::current_dir().map_err(|error| format!("the working directory cannot be told: {error}"))?;
    let target = working.join(path);
    let (Some(parent), Some(folder)) = (target.parent(), target.file_name()) else {
        return Err(format!("{} is no name for a new folder", path.display()));
    };
    // Without links: paths out of the new crate lead through them.
    let parent = fs::canonicalize(parent)
        .map_err(|error| format!("the folder {}, in which {} is to be, cannot be used: {error}", parent.display(), path.display()))?;
    let target = parent.join(folder);
    if fs::symlink_metadata(&target).is_ok() {
        return Err(format!("{} is there already, and stays as it is; choose another NAME, or another folder with --path", path.display()));
    }
    let sdk = sdk::find(asked, &parent, &working)?;
    write(&files(name, &sdk), &parent, &target)
        .map_err(|error| format!("{} cannot be made, and nothing is left of it: {error}", path.display()))?;
    Ok(sdk)
}

fn files(name: &str, sdk: &Sdk) -> Vec<(&'static str, String)> {
    let (where_from, ci_needs) = match sdk {
        Sdk::Folder(_) => (
            "The SDK is taken from the folder that `Cargo.toml` names, twice.",
            "# The SDK is taken from a folder beside this repository, which a CI machine does not have: until Cargo.toml names a released\n\
             # version (or a `git = \"…\"`), a step before the others must bring it to where Cargo.toml looks for it.\n",
        ),
        Sdk::Version(_) => ("The SDK is taken from crates.io.", ""),
    };
    let fill = |text: &str| {
        text.replace("@name@", name)
            .replace("@library@", &name::library(name))
            .replace("@sdk@", &sdk.dependency())
            .replace("@rust@", conductor_abi::OLDEST_RUST)
            .replace("@where_from@", where_from)
            .replace("@ci_needs@\n", ci_needs)
    };
    FILES.iter().map(|(path, text)| (*path, fill(text))).collect()
}

/// Makes the folder `target` with these files, whole or not at all: written beside it first, then renamed.
fn write(files: &[(&str, String)], parent: &Path, target: &Path) -> io::Result<()> {
    // Removed with all that is in it when this returns, unless it has another name by then. Its rights are the usual ones.
    let beside = tempfile::Builder::new().prefix(".conductor-host-new-").tempdir_in(parent)?;
    for (path, text) in files {
        let file = beside.path().join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, text)?;
    }
    // Fails where something has appeared in the meantime, unless that is an empty folder.
    fs::rename(beside.path(), target)
}

fn next_steps(name: &str, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "made {folder}: a plugin with the conductor \"{name}\". Next:\n  \
           cd {folder}\n  \
           cargo test\n  \
           cargo build --release\n  \
           conductor-host plugin inspect target/release/{}\n\
         README.md in it says how to go on.\n",
        name::library(name)
    )
}

fn warning(sdk: &Sdk) -> String {
    match sdk {
        Sdk::Version(version) if !sdk::IS_PUBLISHED => format!(
            "note: {} {version} is not published yet, so the new crate does not build as it is. Make it again with --sdk PATH, where \
             PATH is a checkout of conductor-host, or name that in its Cargo.toml: path = \"PATH/conductor-sdk\" (twice)\n",
            sdk::PACKAGE
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        for sdk in [Sdk::Folder("../sdk".to_owned()), Sdk::Version("1.0".to_owned())] {
            for (path, text) in files("my-quiz", &sdk) {
                let left =
                    text.split('@').skip(1).find(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
                assert!(left.is_none(), "{path}: {left:?}\n{text}");
                assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{path}");
            }
        }
        let manifest = &files("my-quiz", &Sdk::Version("1.0".to_owned())).iter().find(|(path, _)| *path == "Cargo.toml").unwrap().1.clone();
        let manifest: toml::Table = manifest.parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("my-quiz"));
        assert_eq!(manifest["dependencies"]["conductor-host-sdk"]["version"].as_str(), Some("1.0"));
        assert!(manifest["dependencies"].as_table().unwrap().len() <= 3 && manifest.contains_key("workspace"));
    }

    #[test]
    fn a_crate_that_cannot_be_written_whole_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("quiz");
        // The third needs a folder where the second is a file.
        let files = [("a/b", "1".to_owned()), ("c", "2".to_owned()), ("c/d", "3".to_owned())];
        write(&files, folder.path(), &target).unwrap_err();
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
        write(&files[..2], folder.path(), &target).unwrap();
        assert_eq!(names(folder.path()), ["quiz"]);
        assert_eq!(fs::read_to_string(target.join("a/b")).unwrap(), "1");
    }

    #[test]
    fn what_appears_in_the_meantime_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (file, full) = (folder.path().join("file"), folder.path().join("full"));
        fs::write(&file, "mine").unwrap();
        fs::create_dir(&full).unwrap();
        fs::write(full.join("x"), "mine").unwrap();
        for target in [&file, &full] {
            write(&[("x", "new".to_owned())], folder.path(), target).unwrap_err();
        }
        assert_eq!(
            (fs::read_to_string(&file).unwrap(), fs::read_to_string(full.join("x")).unwrap()),
            ("mine".to_owned(), "mine".to_owned())
        );
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_release_that_is_not_there_yet_is_told() {
        let told = warning(&Sdk::Version("1.0".to_owned()));
        assert_eq!(told.is_empty(), sdk::IS_PUBLISHED);
        assert!(sdk::IS_PUBLISHED || (told.contains("not published yet") && told.contains("--sdk PATH")), "{told}");
        assert!(warning(&Sdk::Folder("x".to_owned())).is_empty());
    }
}
