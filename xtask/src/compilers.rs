//! `cargo xtask other-compilers`: the plugin of `tests/plugins/foreign`, built by the oldest compiler that the SDK supports and by one that is
//! newer than ours, for `tests/tests/other_compilers.rs`. On Debian both come from its archive: the newer one is installed, the older one unpacked into a
//! folder below the target folder, where it is in nobody's way. Elsewhere two variables name them.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{Outcome, packages, test::shown, workspace};

/// Folders with `bin/cargo` and `bin/rustc`, in place of what Debian has.
const OLDEST: &str = "CONDUCTOR_OLDEST_RUST";
const NEWEST: &str = "CONDUCTOR_NEWEST_RUST";

/// The package whose version is the compiler's, what comes in the same version, and what that needs beyond what the installed compiler does.
const ARCHIVED: &str = "rustc-web";
const OF_THAT_VERSION: [&str; 2] = ["cargo-web", "libstd-rust-web-dev"];

/// A compiler with its cargo.
struct Toolchain {
    /// Has `bin`.
    folder: PathBuf,
    /// Where its shared libraries lie, if it does not know by itself.
    libraries: Vec<PathBuf>,
}

/// Builds both plugins into `TARGET/other-compilers`.
pub(crate) fn run() -> Outcome {
    let target = workspace::target()?;
    let sdk = workspace::package("conductor-host-sdk")?;
    let version = sdk["rust_version"].as_str().ok_or("the SDK states no oldest compiler")?;
    // Every part of the SDK is for that compiler.
    let features = sdk["features"].as_object().into_iter().flatten().map(|(name, _)| format!("conductor-host-sdk/{name}"));
    let features = features.collect::<Vec<_>>().join(",");
    build(&oldest(version, &target)?, "oldest", &["--features", &features], &target)?;
    build(&newest()?, "newest", &[], &target)?;
    Ok(ExitCode::SUCCESS)
}

fn build(toolchain: &Toolchain, name: &str, more: &[&str], target: &Path) -> Result<(), Box<dyn Error>> {
    let folder = workspace::root().join("tests/plugins").join(name);
    let target = target.join("other-compilers").join(name);
    lay_lock(&folder, &target)?;
    let mut cargo = toolchain.command("cargo");
    cargo.args(["build", "--profile", "foreign", "--manifest-path"]).arg(folder.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target).args(more).env("RUSTC", toolchain.folder.join("bin/rustc"));
    // What is meant for the workspace's compiler is not meant for this one.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    packages::run(&mut cargo)
}

/// The workspace's lock file beside the plugin's manifest. Only when it has changed: what cargo adds to it is kept otherwise, and needs no network.
fn lay_lock(folder: &Path, target: &Path) -> std::io::Result<()> {
    let ours = fs::read(workspace::root().join("Cargo.lock"))?;
    let (laid, known) = (folder.join("Cargo.lock"), target.join("workspace.lock"));
    if laid.exists() && fs::read(&known).is_ok_and(|known| known == ours) {
        return Ok(());
    }
    fs::create_dir_all(target)?;
    fs::write(laid, &ours)?;
    fs::write(known, ours)
}

impl Toolchain {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join("bin").join(program));
        command.stdin(Stdio::null()).current_dir(workspace::root());
        workspace::forget_package(&mut command);
        if let Ok(path) = env::join_paths(&self.libraries)
            && !path.is_empty()
        {
            command.env("LD_LIBRARY_PATH", path);
        }
        command
    }

    /// What it says that it is, once both of its programs run.
    fn version(&self) -> Result<String, Box<dyn Error>> {
        let mut said = String::new();
        for program in ["cargo", "rustc"] {
            let mut command = self.command(program);
            let output = command.arg("--version").output().map_err(|error| format!("{}: {error}", shown(&command)))?;
            if !output.status.success() {
                return Err(format!("{}: {}", self.folder.display(), String::from_utf8_lossy(&output.stderr).trim()).into());
            }
            said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        }
        Ok(said)
    }

    /// # Errors
    /// When this is no such compiler.
    fn checked(self, wanted: &str) -> Result<Self, Box<dyn Error>> {
        let version = self.version()?;
        if !version.starts_with(&format!("rustc {wanted}")) {
            return Err(format!("{}: {version}, but rustc {wanted} is wanted", self.folder.display()).into());
        }
        Ok(self)
    }
}

fn named(variable: &str) -> Option<Toolchain> {
    env::var_os(variable).map(|folder| Toolchain { folder: folder.into(), libraries: Vec::new() })
}

/// The installed one of Debian, which `packages` sees to.
fn newest() -> Result<Toolchain, Box<dyn Error>> {
    let toolchain = named(NEWEST).unwrap_or_else(|| Toolchain { folder: "/usr".into(), libraries: Vec::new() });
    let other = toolchain.version().and_then(|version| {
        let ours = Command::new("rustc").arg("--version").current_dir(workspace::root()).output()?.stdout;
        if version.as_bytes() == ours.trim_ascii() {
            Err(format!("{}: {version}, as here", toolchain.folder.display()).into())
        } else {
            Ok(())
        }
    });
    match other {
        Ok(()) => Ok(toolchain),
        Err(error) => {
            Err(format!("{error}. Another Rust, best a newer one, is needed: on Debian {ARCHIVED}, elsewhere {NEWEST}=FOLDER").into())
        }
    }
}

fn oldest(version: &str, target: &Path) -> Result<Toolchain, Box<dyn Error>> {
    if let Some(toolchain) = named(OLDEST) {
        return toolchain.checked(version);
    }
    let folder = target.join(format!("rust-{version}"));
    if let Ok(toolchain) = unpacked(&folder).and_then(|toolchain| toolchain.checked(version)) {
        return Ok(toolchain);
    }
    unpack(version, &folder).map_err(|error| format!("{error}. Rust {version} is needed: say where it is with {OLDEST}=FOLDER"))?;
    unpacked(&folder)?.checked(version)
}

/// What is unpacked there; its libraries lie in a folder named after the machine.
fn unpacked(folder: &Path) -> Result<Toolchain, Box<dyn Error>> {
    let mut libraries = Vec::new();
    for place in ["usr/lib", "lib"] {
        let entries = fs::read_dir(folder.join(place)).into_iter().flatten();
        libraries.extend(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    Ok(Toolchain { folder: folder.join("usr"), libraries })
}

/// Downloads and unpacks Debian's packages of that compiler: whole, or not at all.
fn unpack(version: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    eprintln!("unpacking Rust {version} into {}", folder.display());
    let of_debian = archived(version)?.ok_or_else(|| format!("Debian's archive has no {ARCHIVED} {version}"))?;
    let (new, packages) = (folder.with_extension("new"), folder.with_extension("packages"));
    for folder in [folder, &new, &packages] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    fs::create_dir_all(&packages)?;
    let standard = format!("libstd-rust-web-{version}");
    let mut wanted: Vec<OsString> = vec!["download".into(), "-q".into()];
    for package in OF_THAT_VERSION.into_iter().chain([ARCHIVED, &standard]) {
        wanted.push(format!("{package}={of_debian}").into());
    }
    wanted.extend(libraries_of(&format!("{standard}={of_debian}"))?.into_iter().map(Into::into));
    packages::run(Command::new("apt-get").args(["-o", "APT::Sandbox::User=root"]).args(wanted).current_dir(&packages))?;
    for package in fs::read_dir(&packages)? {
        packages::run(Command::new("dpkg-deb").arg("--extract").arg(package?.path()).arg(&new))?;
    }
    fs::remove_dir_all(packages)?;
    Ok(fs::rename(new, folder)?)
}

/// The libraries that a newer compiler does not bring: another LLVM, and what cargo used then.
fn libraries_of(standard: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let output = Command::new("apt-cache").args(["show", standard]).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8(output.stdout)?;
    let needs = said.lines().filter_map(|line| line.strip_prefix("Depends: ")).flat_map(|list| list.split(", "));
    let llvm = needs.filter_map(|need| need.split_whitespace().next()).find(|name| name.starts_with("libllvm"));
    Ok(llvm.into_iter().map(str::to_owned).chain(["libpcre3".to_owned()]).collect())
}

/// The full version of the package that has this compiler; where the lists do not know it, they may be old or absent.
fn archived(version: &str) -> Result<Option<String>, Box<dyn Error>> {
    let look = || -> Result<_, Box<dyn Error>> {
        let output = Command::new("apt-cache").args(["madison", ARCHIVED]).output().map_err(|error| format!("apt-cache: {error}"))?;
        Ok(version_of(&String::from_utf8(output.stdout)?, version))
    };
    let found = look()?;
    if found.is_some() || !packages::can_install() {
        return Ok(found);
    }
    packages::run(Command::new("apt-get").args(["update", "-q"]))?;
    look()
}

fn version_of(listing: &str, version: &str) -> Option<String> {
    let versions = listing.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    versions.filter(|found| found.starts_with(&format!("{version}."))).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_the_archive() {
        let listing = " rustc-web | 1.96.0+dfsg1-1~deb12u2 | http://a Packages\n rustc-web | 1.85.0+dfsg3-1~deb12u3 | http://b Packages\n";
        assert_eq!(version_of(listing, "1.85").as_deref(), Some("1.85.0+dfsg3-1~deb12u3"));
        assert_eq!(version_of(listing, "1.8"), None);
    }

    #[test]
    fn another_compiler_is_not_taken_for_the_wanted_one() {
        let ours = env::var_os("CARGO").map(PathBuf::from).and_then(|cargo| Some(cargo.parent()?.parent()?.to_owned())).unwrap();
        let toolchain = || Toolchain { folder: ours.clone(), libraries: Vec::new() };
        assert!(toolchain().checked("").is_ok());
        assert!(toolchain().checked("0.1").err().unwrap().to_string().contains("rustc 0.1 is wanted"));
        let nowhere = Toolchain { folder: "/nowhere".into(), libraries: Vec::new() };
        assert!(nowhere.checked("").is_err());
    }

    #[test]
    fn the_sdk_and_its_contract_state_one_oldest_compiler() {
        let versions = ["conductor-host-sdk", "conductor-host-abi"].map(|name| workspace::package(name).unwrap()["rust_version"].clone());
        assert_eq!(versions[0], versions[1]);
        let version = versions[0].as_str().unwrap();
        for page in ["README.md", "CONTRIBUTING.md", "conductor-sdk/README.md", "conductor-sdk/COMPATIBILITY.md"] {
            let text = fs::read_to_string(workspace::root().join(page)).unwrap();
            assert!(text.contains(&format!("Rust {version}")), "{page} does not say that plugins need Rust {version}");
        }
    }
}
