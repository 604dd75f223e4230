//! What the tests need beside Rust: looked for, installed where that is possible, and named where it is not.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program that a test runs, and where it comes from.
struct Tool {
    /// Its name, or where Debian has it; what has a place of its own there is part of another package elsewhere.
    program: &'static str,
    /// Debian's package.
    debian: &'static str,
    /// Homebrew's.
    brew: &'static str,
}

const TOOLS: &[Tool] = &[
    // Real MQTT clients.
    Tool { program: "mosquitto_sub", debian: "mosquitto-clients", brew: "mosquitto" },
    Tool { program: "mosquitto_pub", debian: "mosquitto-clients", brew: "mosquitto" },
    // A real broker, beside the one in the host.
    Tool { program: "mosquitto", debian: "mosquitto", brew: "mosquitto" },
    // What is put in front of a host.
    Tool { program: "nginx", debian: "nginx", brew: "nginx" },
    Tool { program: "/usr/lib/nginx/modules/ngx_stream_module.so", debian: "libnginx-mod-stream", brew: "nginx" },
    // A real browser, what tells it whom to trust, and what installs the libraries of its page.
    Tool { program: "chromium", debian: "chromium", brew: "chromium" },
    Tool { program: "certutil", debian: "libnss3-tools", brew: "nss" },
    Tool { program: "npm", debian: "npm", brew: "node" },
    // The commands that `start` prints.
    Tool { program: "curl", debian: "curl", brew: "curl" },
    // Libraries that are no plugins, for this system and for Windows.
    Tool { program: "gcc", debian: "gcc", brew: "gcc" },
    Tool { program: "x86_64-w64-mingw32-gcc", debian: "gcc-mingw-w64-x86-64", brew: "mingw-w64" },
    // A compiler that is newer than ours, for plugins by others.
    Tool { program: "/usr/bin/rustc", debian: "rustc-web", brew: "rust" },
    Tool { program: "/usr/bin/cargo", debian: "cargo-web", brew: "rust" },
    // Judges tokens, and speaks MQTT.
    Tool { program: "python3", debian: "python3", brew: "python" },
    Tool { program: "stdbuf", debian: "coreutils", brew: "coreutils" },
    Tool { program: "mkfifo", debian: "coreutils", brew: "coreutils" },
    // A disk that is full.
    Tool { program: "unshare", debian: "util-linux", brew: "util-linux" },
    // What a program asks of the system, in which order.
    Tool { program: "strace", debian: "strace", brew: "strace" },
];

/// For `--windows` alone, and by what shows that Debian has them installed.
const FOR_WINDOWS: &[Tool] = &[
    // A Rust toolchain beside the usual one, with the sources of the standard library.
    Tool { program: "/usr/share/doc/rustc-web/copyright", debian: "rustc-web", brew: "" },
    Tool { program: "/usr/share/doc/cargo-web/copyright", debian: "cargo-web", brew: "" },
    Tool { program: "/usr/share/doc/rust-web-src/copyright", debian: "rust-web-src", brew: "" },
    Tool { program: "x86_64-w64-mingw32-gcc", debian: "gcc-mingw-w64-x86-64", brew: "" },
    Tool { program: "/usr/lib/wine/wine64", debian: "wine64", brew: "" },
];

/// What to install for Python, and the expression that fails where it is missing or too old.
const PYTHON: &[&str] = &["paho-mqtt>=2,<3", "pyjwt>=2.4", "cryptography>=42"];
const PYTHON_CHECK: &str = "import jwt, cryptography, paho.mqtt.client as paho; paho.CallbackAPIVersion";
/// Existing devices have it.
const OLD_PAHO: &str = "paho-mqtt>=1.6,<2";

/// Sees to it that all is there; the `PATH` for the tests.
///
/// # Errors
/// What is missing and how to install it.
pub(crate) fn ensure(target: &Path) -> Result<OsString, Box<dyn Error>> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian keeps servers, which a user's own path may not name.
    let everywhere = env::join_paths(env::split_paths(&path).chain(std::iter::once(PathBuf::from("/usr/sbin"))))?;
    let missing = missing(TOOLS, &everywhere);
    if !missing.is_empty() {
        install(&missing)?;
    }
    let path = ensure_python(target, path)?;
    ensure_old_paho(&target.join("test-paho1"), &path)?;
    ensure_browser_libraries(&target.join("test-browser"))?;
    Ok(path)
}

/// Sees to it that Rust can build for Windows here, and Wine run it.
///
/// # Errors
/// What is missing and how to install it.
pub(crate) fn ensure_for_windows() -> Result<(), Box<dyn Error>> {
    if !is_debian() || env::consts::ARCH != "x86_64" {
        return Err("`cargo xtask test --windows` needs Debian (or a relative) on x86-64; docs/windows.md says why".into());
    }
    let missing = missing(FOR_WINDOWS, &env::var_os("PATH").unwrap_or_default());
    if missing.is_empty() {
        return Ok(());
    }
    let debian = packages(&missing, |tool| tool.debian);
    if !can_install() {
        return Err(format!("this needs more packages: sudo apt-get install --no-install-recommends {}", debian.join(" ")).into());
    }
    apt_get(&debian)
}

fn ensure_python(target: &Path, path: OsString) -> Result<OsString, Box<dyn Error>> {
    if has_python_packages(Path::new("python3")) {
        return Ok(path);
    }
    // Debian and others keep their own Python for themselves (PEP 668): ours gets an environment of its own.
    let environment = target.join("test-python");
    let folder = environment.join("bin");
    if !has_python_packages(&folder.join("python3")) {
        make_environment(&environment)?;
    }
    Ok(env::join_paths(std::iter::once(folder).chain(env::split_paths(&path)))?)
}

/// The version of paho-mqtt before 2 goes into a folder that only its own tests name.
fn ensure_old_paho(folder: &Path, path: &OsString) -> Result<(), Box<dyn Error>> {
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).env("PATH", path);
        command
    };
    let check = "import paho.mqtt, sys; sys.exit(not paho.mqtt.__version__.startswith('1.'))";
    if succeeds(python(&["-c", check]).env("PYTHONPATH", folder)) {
        return Ok(());
    }
    eprintln!("installing {OLD_PAHO} into {}", folder.display());
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"];
    if !succeeds(&mut python(&["-m", "pip", "--version"])) {
        let debian = "on Debian and Ubuntu `sudo apt-get install python3-pip`";
        if !can_install() {
            return Err(format!("Python's pip is missing: {debian}").into());
        }
        apt_get(&["python3-pip"])?;
    }
    run(python(&pip).arg(folder).arg(OLD_PAHO))
}

/// What pages use, by the lock file beside their page.
fn ensure_browser_libraries(folder: &Path) -> Result<(), Box<dyn Error>> {
    let wanted = crate::workspace::root().join("tests/browser");
    let same = |name: &str| matches!((fs::read(wanted.join(name)), fs::read(folder.join(name))), (Ok(one), Ok(other)) if one == other);
    // npm makes that file last.
    if same("package.json") && same("package-lock.json") && folder.join("node_modules/.package-lock.json").exists() {
        return Ok(());
    }
    eprintln!("installing the libraries of the page in tests/browser into {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(wanted.join(name), folder.join(name))?;
    }
    run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder))
}

fn missing<'a>(tools: &'a [Tool], path: &OsString) -> Vec<&'a Tool> {
    let found = |program: &str| {
        let elsewhere = program.starts_with('/') && !is_debian();
        elsewhere || env::split_paths(path).any(|folder| folder.join(program).is_file())
    };
    tools.iter().filter(|tool| !found(tool.program)).collect()
}

fn install(missing: &[&Tool]) -> Result<(), Box<dyn Error>> {
    let debian = packages(missing, |tool| tool.debian);
    let wanted: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    if !can_install() {
        return Err(format!(
            "the tests need {}. Install them first:\n  Debian, Ubuntu: sudo apt-get install {}\n  macOS: brew install {}",
            wanted.join(", "),
            debian.join(" "),
            packages(missing, |tool| tool.brew).join(" "),
        )
        .into());
    }
    apt_get(&debian)
}

fn packages(tools: &[&Tool], of: impl Fn(&Tool) -> &'static str) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().map(|tool| of(tool)).collect();
    packages.dedup();
    packages
}

/// Root, where there is apt-get.
pub(crate) fn can_install() -> bool {
    #[cfg(unix)]
    let root = rustix::process::geteuid().is_root();
    #[cfg(not(unix))]
    let root = false;
    root && is_debian()
}

/// Debian or a relative.
fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists()
}

fn apt_get(packages: &[&str]) -> Result<(), Box<dyn Error>> {
    eprintln!("installing {}", packages.join(", "));
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    apt_get(&["update", "-q"])?;
    apt_get(&[&["install", "-y", "-q", "--no-install-recommends"], packages].concat())
}

fn has_python_packages(python: &Path) -> bool {
    succeeds(Command::new(python).args(["-c", PYTHON_CHECK]))
}

/// Whether a command ends well; what it says is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn make_environment(environment: &PathBuf) -> Result<(), Box<dyn Error>> {
    eprintln!("making {} with {}", environment.display(), PYTHON.join(", "));
    let make = || run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment));
    if let Err(error) = make() {
        if !can_install() {
            return Err(format!("{error}. Python's venv is missing: on Debian and Ubuntu `sudo apt-get install python3-venv`").into());
        }
        apt_get(&["python3-venv"])?;
        make()?;
    }
    let mut pip = Command::new(environment.join("bin/python3"));
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PYTHON))
        .map_err(|error| format!("{error}. The tests need these Python packages: {}", PYTHON.join(", ")).into())
}

/// # Errors
/// When it cannot be run or fails; it has said why.
pub(crate) fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let shown = format!("`{}`", crate::test::shown(command));
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} failed ({status})").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_found_once_per_package() {
        let tools = missing(TOOLS, &OsString::from("/nowhere"));
        let named = TOOLS.iter().filter(|tool| !tool.program.starts_with('/')).count();
        assert!(tools.len() >= named, "{}", tools.len());
        let debian = packages(&TOOLS.iter().collect::<Vec<_>>(), |tool| tool.debian).join(" ");
        let expected = "mosquitto-clients mosquitto nginx libnginx-mod-stream chromium libnss3-tools npm curl gcc gcc-mingw-w64-x86-64 \
                        rustc-web cargo-web python3 coreutils util-linux strace";
        assert_eq!(debian, expected);
        let page = fs::read_to_string(crate::workspace::root().join("docs/windows.md")).unwrap();
        for tool in FOR_WINDOWS {
            assert!(page.contains(&format!("`{}`", tool.debian)), "docs/windows.md names {}", tool.debian);
        }
        let usual = TOOLS.iter().position(|tool| tool.debian == "coreutils").unwrap();
        assert!(missing(&TOOLS[usual..], &env::var_os("PATH").unwrap()).is_empty());
    }
}
