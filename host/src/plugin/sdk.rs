//! Where a new crate gets the SDK from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The SDK's package.
pub(super) const PACKAGE: &str = "conductor-host-sdk";

/// The version that a new crate asks for where no checkout is near.
const RELEASED: &str = "1.0";

/// Whether crates.io has it. A new crate that asks for it there is told apart until then.
pub(super) const IS_PUBLISHED: bool = false;

/// The SDK as a dependency.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sdk {
    /// A folder, as it is written into the new crate's manifest: relative to it, or absolute.
    Folder(String),
    /// A released version.
    Version(String),
}

impl Sdk {
    /// What stands between the braces of the dependency.
    pub(super) fn dependency(&self) -> String {
        match self {
            Self::Folder(folder) => format!("path = {}", toml::Value::String(folder.clone())),
            Self::Version(version) => format!("version = \"{version}\""),
        }
    }
}

/// The SDK that was asked for, for a crate in the folder `parent` (which is there); else that of the checkout around it, or around
/// the working directory; else the released one.
///
/// # Errors
/// What was asked for is no SDK.
pub(super) fn find(asked: Option<&str>, parent: &Path, working: &Path) -> Result<Sdk, String> {
    let Some(asked) = asked else { return near(parent, working) };
    if is_version(asked) {
        return Ok(Sdk::Version(asked.to_owned()));
    }
    let folder = working.join(asked);
    for folder in [folder.join("conductor-sdk"), folder.clone()] {
        if is_sdk(&folder)? {
            return Ok(Sdk::Folder(unicode(&absolute(&folder).map_err(|error| format!("{}: {error}", folder.display()))?)?));
        }
    }
    Err(format!(
        "--sdk {asked}: {} is no folder with the package {PACKAGE}, nor with a checkout of conductor-host, and {asked:?} is no version such as \
         {RELEASED}",
        folder.display()
    ))
}

fn near(parent: &Path, working: &Path) -> Result<Sdk, String> {
    for (up, folder) in parent.ancestors().enumerate() {
        if is_sdk(&folder.join("conductor-sdk"))? {
            // Relative, so that the checkout can be moved. One step leads out of the new crate.
            return Ok(Sdk::Folder("../".repeat(up + 1) + "conductor-sdk"));
        }
    }
    for folder in working.ancestors() {
        let sdk = folder.join("conductor-sdk");
        if is_sdk(&sdk)? {
            return Ok(Sdk::Folder(unicode(&sdk)?));
        }
    }
    Ok(Sdk::Version(RELEASED.to_owned()))
}

/// Whether the folder holds the SDK's crate. A manifest of another kind, or none, is none of our business.
fn is_sdk(folder: &Path) -> Result<bool, String> {
    let manifest = folder.join("Cargo.toml");
    let text = match fs::read_to_string(&manifest) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidData) => {
            return Ok(false);
        }
        Err(error) => return Err(format!("{} cannot be read: {error}", manifest.display())),
    };
    let manifest: Option<toml::Table> = text.parse().ok();
    let name = manifest.as_ref().and_then(|manifest| manifest.get("package")?.get("name")?.as_str());
    Ok(name == Some(PACKAGE))
}

/// Without `..` and links; on Windows without what would make a path one that only Windows reads.
fn absolute(folder: &Path) -> io::Result<PathBuf> {
    if cfg!(windows) { std::path::absolute(folder) } else { fs::canonicalize(folder) }
}

fn unicode(folder: &Path) -> Result<String, String> {
    folder.to_str().map(str::to_owned).ok_or_else(|| format!("cargo cannot name the folder {}: it is not Unicode", folder.display()))
}

/// `1`, `1.2`, `1.2.3`, `1.2.3-beta.1`.
fn is_version(text: &str) -> bool {
    let (numbers, before) = text.split_once('-').map_or((text, None), |(numbers, before)| (numbers, Some(before)));
    let numbers: Vec<&str> = numbers.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.len() < 10 && part.bytes().all(|b| b.is_ascii_digit());
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    numbers.len() <= 3 && numbers.iter().all(is_number) && before.is_none_or(|before| numbers.len() == 3 && before.split('.').all(is_word))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A folder like a checkout, with an SDK of this package name.
    fn checkout(package: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        // As the command passes it: without links.
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("conductor-sdk")).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("conductor-sdk/Cargo.toml"), format!("[package]\nname = \"{package}\"\n")).unwrap();
        (folder, root)
    }

    #[test]
    fn within_a_checkout_its_sdk_is_named_by_a_relative_path() {
        let (_folder, root) = checkout(PACKAGE);
        for (parent, expected) in [("", "../conductor-sdk"), ("a", "../../conductor-sdk"), ("a/b", "../../../conductor-sdk")] {
            let parent = root.join(parent);
            assert_eq!(find(None, &parent, Path::new("/")), Ok(Sdk::Folder(expected.to_owned())));
            // Seen from the new crate, as cargo does.
            fs::create_dir(parent.join("new")).unwrap();
            assert_eq!(fs::canonicalize(parent.join("new").join(expected)).unwrap(), root.join("conductor-sdk"));
        }
    }

    #[test]
    fn outside_it_the_checkout_around_the_working_directory_counts_then_the_release() {
        let (_folder, root) = checkout(PACKAGE);
        let elsewhere = tempfile::tempdir().unwrap();
        let sdk = root.join("conductor-sdk").to_str().unwrap().to_owned();
        assert_eq!(find(None, elsewhere.path(), &root.join("a")), Ok(Sdk::Folder(sdk)));
        assert_eq!(find(None, elsewhere.path(), elsewhere.path()), Ok(Sdk::Version("1.0".to_owned())));
        let (_folder, other) = checkout("another-sdk");
        assert_eq!(find(None, &other.join("a"), &other), Ok(Sdk::Version("1.0".to_owned())));
    }

    #[test]
    fn what_is_asked_for_is_a_version_an_sdk_or_a_checkout() {
        let (_folder, root) = checkout(PACKAGE);
        let sdk = root.join("conductor-sdk").to_str().unwrap().to_owned();
        for asked in [".", "conductor-sdk", "a/../conductor-sdk", &sdk, root.to_str().unwrap()] {
            assert_eq!(find(Some(asked), Path::new("/nowhere"), &root), Ok(Sdk::Folder(sdk.clone())), "{asked}");
        }
        for version in ["1", "1.0", "1.2.3", "1.2.3-beta.1"] {
            assert_eq!(find(Some(version), &root, &root), Ok(Sdk::Version(version.to_owned())));
        }
        for asked in ["a", "nowhere", "1.", "1.2.3.4", "1.2-x", "1.x", "", "*"] {
            // The empty path is the working directory itself.
            let refused = find(Some(asked), &root, &root.join("a")).unwrap_err();
            assert!(refused.starts_with(&format!("--sdk {asked}: ")) && refused.contains("is no version such as 1.0"), "{refused}");
        }
    }

    #[test]
    fn any_folder_is_good_toml() {
        for folder in ["../conductor-sdk", r"C:\a\b", "/it's \"here\"", "/a\nb"] {
            let text = format!("d = {{ {} }}", Sdk::Folder(folder.to_owned()).dependency());
            let read: toml::Table = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read["d"]["path"].as_str(), Some(folder));
        }
        assert_eq!(Sdk::Version("1.0".to_owned()).dependency(), "version = \"1.0\"");
    }
}
