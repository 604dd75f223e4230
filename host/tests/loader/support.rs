//! Real plugin files for the loader's tests, and the smallest host that can talk to them.
#![expect(clippy::unwrap_used, unreachable_pub, reason = "these are parts of tests, in a binary of their own")]

use std::{
    fs::{self, File},
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RResult},
    async_ffi::{BorrowingFfiFuture, FfiFuture, FutureExt},
    contract::{ConductorObj, Event, Failure, HostObj, HostObject, Reply},
    wire::{call, code, event},
};
use conductor_host::conductors::library::{Libraries, Library};

/// The libraries that the tests load, built with cargo once for each run of the tests.
pub struct Plugins {
    real: PathBuf,
    fixtures: PathBuf,
}

impl Plugins {
    pub fn built() -> &'static Self {
        static BUILT: OnceLock<Plugins> = OnceLock::new();
        BUILT.get_or_init(build)
    }

    /// `default`, `active`: the workspace's own.
    pub fn real(&self, name: &str) -> PathBuf {
        self.real.join(library_name(&format!("conductor_{name}")))
    }

    /// `next_minor`, `next_major`, `layout`, `forked`: built with another version of the contract.
    pub fn fixture(&self, name: &str) -> PathBuf {
        self.fixtures.join(library_name(&format!("plugin_{name}")))
    }

    /// A program that loads plugins as a host of the next minor version does.
    pub fn newer_host(&self) -> PathBuf {
        self.fixtures.join(format!("newer_host{}", std::env::consts::EXE_SUFFIX))
    }
}

fn library_name(stem: &str) -> String {
    format!("{}{stem}.{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_EXTENSION)
}

fn build() -> Plugins {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let fixtures = target.join("plugin-fixtures");
    let plugins = Plugins { real: target.join("debug"), fixtures: fixtures.join("debug") };
    fs::create_dir_all(&fixtures).unwrap();

    // Each test may be a process of its own: the first of a run builds, the others wait for it and see its stamp.
    let lock = File::create(fixtures.join("tests.lock")).unwrap();
    lock.lock().unwrap();
    let (stamp, run) = (fixtures.join("tests.stamp"), std::env::var("NEXTEST_RUN_ID").unwrap_or_default());
    if !run.is_empty() && fs::read_to_string(&stamp).is_ok_and(|built| built == run) {
        return plugins;
    }
    let cargo = |manifest: &Path, target: &Path, more: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--profile", "dev", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(target).args(more);
        run_tool(&mut command, "cargo");
    };
    cargo(&root.join("Cargo.toml"), target, &["-p", "conductor-default", "-p", "conductor-active"]);
    for name in ["next_minor", "next_major", "layout", "forked"] {
        let folder = root.join("tests/plugins").join(name);
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        cargo(&folder.join("Cargo.toml"), &fixtures, &[]);
    }
    fs::write(stamp, run).unwrap();
    plugins
}

/// Runs a tool that must be there, and must succeed.
pub fn run_tool(command: &mut Command, package: &str) {
    let name = command.get_program().to_owned();
    let output = command.output().unwrap_or_else(|e| panic!("{name:?} cannot be run ({e}): install {package}"));
    assert!(output.status.success(), "{name:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles a piece of C into the shared library `to`.
pub fn compile_c(compiler: &str, package: &str, source: &str, to: &Path) {
    let file = to.with_extension("c");
    fs::write(&file, source).unwrap();
    run_tool(Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(to).arg(file), package);
}

type Logged = Arc<Mutex<Vec<String>>>;

/// A host that knows the time (42) and keeps what is logged.
pub struct TestHost(Logged);

impl HostObject for TestHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        async move {
            match call.kind.as_str() {
                call::NOW => ROk(b"42".to_vec().into()),
                _ => RErr(Failure::new(code::UNSUPPORTED, "only the time is known here")),
            }
        }
        .into_ffi()
    }

    fn spawn(&self, _: &[u8], _: FfiFuture<Reply>) -> Result<u64, Failure> {
        Err(Failure::new(code::UNSUPPORTED, "nothing is spawned here"))
    }

    fn log(&self, level: u8, target: &str, message: &str, _: &[u8]) {
        self.0.lock().unwrap().push(format!("{level} {target} {message}"));
    }
}

/// A host with a state folder of its own.
pub struct Loader {
    pub state: tempfile::TempDir,
    pub libraries: Libraries,
    pub logged: Logged,
}

impl Loader {
    pub fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let logged = Logged::default();
        let log = logged.clone();
        let libraries = Libraries::new(state.path().join("plugins"), 3, move |_| HostObj::new(TestHost(log.clone())));
        Self { state, libraries, logged }
    }

    pub fn load(&self, path: &Path) -> Arc<Library> {
        self.libraries.load(path, None).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// What the refusal says after the file's name: always one short line.
    pub fn refused(&self, path: &Path) -> String {
        let refusal = self.libraries.load(path, None).expect_err("this must be refused");
        let message = refusal.to_string();
        assert!(message.lines().count() == 1 && message.chars().count() < 700, "{message}");
        let said = message.strip_prefix(&format!("plugin {}: ", refusal.file.display()));
        said.unwrap_or_else(|| panic!("{message}")).to_owned()
    }
}

/// A copy of a file under a name of its own, in a folder of its own.
pub fn copied(loader: &Loader, from: &Path, name: &str) -> PathBuf {
    let to = loader.state.path().join(name);
    fs::copy(from, &to).unwrap();
    to
}

pub fn written(loader: &Loader, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let to = loader.state.path().join(name);
    fs::write(&to, content).unwrap();
    to
}

/// The plugin of the next minor version, in a mood.
pub fn moody(loader: &Loader, mood: &str) -> PathBuf {
    const MARK: &[u8] = b"plugin-mood=";
    let mut bytes = fs::read(Plugins::built().fixture("next_minor")).unwrap();
    let mark = [MARK, b"good        "].concat();
    let at = bytes.windows(mark.len()).position(|window| window == mark).expect("the fixture has its mark") + MARK.len();
    bytes[at..at + 12].copy_from_slice(format!("{mood:12}").as_bytes());
    written(loader, &format!("{mood}.so"), bytes)
}

/// Makes a conductor for session 123456.
pub fn create(library: &Library, conductor: &str) -> ConductorObj {
    let meta = format!(r#"{{"session":"123456","type":"t","config":{{}},"seed":"{}","time":42}}"#, "0".repeat(64));
    match block_on(library.create(conductor, HostObj::new(TestHost(Logged::default())), meta.as_bytes(), b"")) {
        RResult::ROk(conductor) => conductor,
        RResult::RErr(failure) => panic!("{failure:?}"),
    }
}

/// Asks a conductor, and gives its answer as text.
pub fn ask(conductor: &mut ConductorObj, method: &str) -> String {
    let event = Event { subject: method.into(), body: b"null".as_slice().into(), ..Event::new(event::REQUEST) };
    match block_on(conductor.handle(event)) {
        ROk(answer) => String::from_utf8(answer.to_vec()).unwrap(),
        RErr(failure) => panic!("{failure:?}"),
    }
}

/// Polls until it is done, on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
