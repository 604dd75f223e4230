//! Opens plugin libraries and checks that they keep the contract: the host's only unsafe code.
//!
//! A library is never unloaded: its code may be on a stack, in a waker or in a table for as long as the process lives. What
//! is opened is a private copy named by its content, so the plugin's own file may be overwritten at any time, the same content
//! is the same library, and a changed one is loaded beside the old.
//!
//! What the contract's types promise about memory is the plugin's word: a plugin runs with all the host's rights. The checks
//! here find a wrong file, not a hostile one.
#![expect(unsafe_code, reason = "a shared library is opened, and what its entry symbol leads to is believed after checks")]

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use conductor_abi::{
    ABI_VERSION, ENTRY_SYMBOL,
    abi_stable::{
        StableAbi,
        library::{AbiHeaderRef, LibHeader},
        std_types::{RErr, ROk},
    },
    async_ffi::BorrowingFfiFuture,
    contract::{Created, Event, Failure, HostObj, PluginRootRef, Reply},
    wire::{ConductorManifest, Manifest, code, requirement, root},
};

use super::{
    inspect::{Target, inspect},
    layout, platform,
    refusal::{Reason, Refusal, one_line},
    resolve::{Platform, resolve},
};

/// The largest plugin file, in bytes.
const MAX_FILE: u64 = 512 << 20;

/// The SHA-256 of a plugin file. Reads and writes as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or("a SHA-256 is 64 hexadecimal digits")?;
        Ok(Self(std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1])))
    }
}

type MakeHost = Box<dyn Fn(&Path) -> HostObj + Send + Sync>;

/// The libraries that this process has loaded. One for each process: a library's `init` runs once.
pub struct Libraries {
    copies: PathBuf,
    log_level: u8,
    host: MakeHost,
    /// What became of each content whose code has run; held while one is loaded, so that they come one after the other.
    known: Mutex<BTreeMap<Hash, Result<Arc<Library>, Reason>>>,
}

impl fmt::Debug for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libraries").field("copies", &self.copies).finish_non_exhaustive()
    }
}

impl Libraries {
    /// Keeps copies in the folder `copies`, which is made where it is missing and belongs to the host alone. `log_level` (0 to 5)
    /// is what each library begins with. `host` makes the host as a library sees it as a whole, for its file.
    #[must_use]
    pub fn new(copies: PathBuf, log_level: u8, host: impl Fn(&Path) -> HostObj + Send + Sync + 'static) -> Self {
        Self { copies, log_level, host: Box::new(host), known: Mutex::default() }
    }

    /// Loads the plugin that `configured` means on this system ([`resolve`]), an absolute path; `pinned` is the content that the
    /// settings insist on. The same content again is the same library. Reads files and runs the plugin's start: call it where
    /// waiting is no harm.
    ///
    /// # Errors
    /// Whatever is wrong with the file. A content whose own code failed once (its manifest, its `init`) is refused from then on,
    /// since `init` must not run twice.
    pub fn load(&self, configured: &Path, pinned: Option<Hash>) -> Result<Arc<Library>, Refusal> {
        let file = resolve(Platform::CURRENT, configured);
        self.load_file(configured, &file, pinned).map_err(|reason| Refusal { file, reason })
    }

    fn load_file(&self, configured: &Path, file: &Path, pinned: Option<Hash>) -> Result<Arc<Library>, Reason> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = read(file).map_err(|reason| match reason {
            Reason::Missing { .. } if configured != file => Reason::Missing { configured: Some(configured.to_owned()) },
            other => other,
        })?;
        let hash = Hash::of(&bytes);
        if let Some(pinned) = pinned.filter(|pinned| *pinned != hash) {
            return Err(Reason::OtherContent { found: hash.to_string(), pinned: pinned.to_string() });
        }
        if let Some(result) = known.get(&hash) {
            return result.clone();
        }
        inspect(&bytes, &Target::current())?;
        let copy =
            copy(&self.copies, hash, &bytes).map_err(|error| Reason::Copy { folder: self.copies.clone(), error: error.to_string() })?;
        let size = bytes.len();
        drop(bytes);
        let header = open(&copy)?;
        let result = start(header, (self.host)(file), self.log_level);
        let abi = one_line(header.version_strings().version.as_str(), 40);
        let result = result.map(|(root, manifest)| Arc::new(Library { file: file.to_owned(), size, hash, abi, manifest, root }));
        known.insert(hash, result.clone());
        result
    }

    /// Removes the copies of plugins that this process has not loaded, and what an interrupted copy left; answers how many files.
    /// Call it once all types are loaded: each build of a plugin leaves a copy.
    ///
    /// # Errors
    /// Of the system, at the first file that stays.
    pub fn remove_unused_copies(&self) -> io::Result<usize> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        for entry in fs::read_dir(&self.copies)? {
            let path = entry?.path();
            let hash = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Hash>().ok());
            // What is not named by a hash is not ours to remove.
            let Some(hash) = hash else { continue };
            if !known.contains_key(&hash) {
                fs::remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Sets what all loaded libraries log, 0 (nothing) to 5 (trace).
    pub fn set_log_level(&self, level: u8) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().flatten().for_each(|library| library.root.set_log_level()(level));
    }
}

/// A loaded plugin, until the process ends. It has kept the checks; it may still do anything.
pub struct Library {
    file: PathBuf,
    size: usize,
    hash: Hash,
    abi: String,
    manifest: Manifest,
    root: PluginRootRef,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("file", &self.file).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Library {
    /// The file that this content was first loaded from; it may have changed since.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How many bytes were loaded.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The SHA-256 of what was loaded.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The version of the contract that it was built with: what was checked, not what its manifest says.
    #[must_use]
    pub fn abi(&self) -> &str {
        &self.abi
    }

    /// What it offers: at least one conductor or service, no name twice.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The conductor for a type: the configured one, else the one named as the type, else the only one.
    ///
    /// # Errors
    /// [`Reason::NoSuchConductor`], [`Reason::WhichConductor`], each with what is offered.
    pub fn choose_conductor(&self, configured: Option<&str>, type_name: &str) -> Result<&ConductorManifest, Refusal> {
        let Manifest { conductors, services, .. } = &self.manifest;
        let chosen = choose(conductors, configured, type_name).map_err(|(missing, offered)| match missing {
            _ if conductors.is_empty() => {
                Reason::OnlyOther { wanted: "conductor", other: "service", offered: names(services), section: "[services.NAME]" }
            }
            Some(wanted) => Reason::NoSuchConductor { wanted, offered },
            None => Reason::WhichConductor { type_name: type_name.to_owned(), offered },
        });
        chosen.and_then(usable).map_err(|reason| Refusal { file: self.file.clone(), reason })
    }

    /// The service for a table of the settings: the configured one, else the one named as the table, else the only one.
    ///
    /// # Errors
    /// [`Reason::NoSuchService`], [`Reason::WhichService`], each with what is offered.
    pub fn choose_service(&self, configured: Option<&str>, name: &str) -> Result<&ConductorManifest, Refusal> {
        let Manifest { conductors, services, .. } = &self.manifest;
        let chosen = choose(services, configured, name).map_err(|(missing, offered)| match missing {
            _ if services.is_empty() => {
                Reason::OnlyOther { wanted: "service", other: "conductor", offered: names(conductors), section: "[types.NAME]" }
            }
            Some(wanted) => Reason::NoSuchService { wanted, offered },
            None => Reason::WhichService { name: name.to_owned(), offered },
        });
        chosen.and_then(usable).map_err(|reason| Refusal { file: self.file.clone(), reason })
    }

    /// Makes `conductor` for one session, or a service, out of a [`CreateMeta`](conductor_abi::wire::CreateMeta) and saved state. The plugin's
    /// code runs when the future is polled, and may block.
    pub fn create<'a>(&'a self, conductor: &'a str, host: HostObj, meta: &'a [u8], body: &'a [u8]) -> BorrowingFfiFuture<'a, Created> {
        self.root.create()(conductor.into(), host, meta.into(), body.into())
    }

    /// Asks the plugin whether `config` (JSON) fits `conductor`: answers with a failure of
    /// [`code::INVALID_CONFIG`] where it does not.
    pub fn check_config<'a>(&'a self, conductor: &'a str, config: &'a [u8]) -> BorrowingFfiFuture<'a, Reply> {
        self.root.handle()(Event { subject: conductor.into(), body: config.into(), ..Event::new(root::CHECK_CONFIG) })
    }
}

/// The configured one, else the one named as the table, else the only one. Else the name that was missed, where one was configured, and
/// what is offered.
fn choose<'a>(
    offers: &'a [ConductorManifest],
    configured: Option<&str>,
    table: &str,
) -> Result<&'a ConductorManifest, (Option<String>, String)> {
    let named = |name: &str| offers.iter().find(|offer| offer.name == name);
    match (configured, offers) {
        (Some(wanted), _) => named(wanted).ok_or_else(|| (Some(wanted.to_owned()), names(offers))),
        (None, [only]) => Ok(only),
        (None, _) => named(table).ok_or_else(|| (None, names(offers))),
    }
}

fn names(offers: &[ConductorManifest]) -> String {
    offers.iter().map(|offer| format!("{:?}", offer.name)).collect::<Vec<_>>().join(", ")
}

fn usable(offer: &ConductorManifest) -> Result<&ConductorManifest, Reason> {
    match unmet_requirement(offer) {
        None => Ok(offer),
        Some(what) => Err(Reason::Requires { conductor: offer.name.clone(), what: what.to_owned() }),
    }
}

/// What a conductor needs of a host and this one does not know.
fn unmet_requirement(conductor: &ConductorManifest) -> Option<&str> {
    conductor.requires.iter().map(String::as_str).find(|what| !requirement::ALL.contains(what))
}

/// Reads a plugin's file, whole, after a look at who may write it.
fn read(path: &Path) -> Result<Vec<u8>, Reason> {
    let unreadable = |error: &io::Error| Reason::Unreadable(error.to_string());
    let file = match platform::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Reason::Missing { configured: None }),
        // Where the system does not open folders.
        Err(_) if path.is_dir() => return Err(Reason::Folder),
        Err(error) => return Err(unreadable(&error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if metadata.is_dir() {
        return Err(Reason::Folder);
    }
    if !metadata.is_file() {
        return Err(Reason::Special);
    }
    if platform::others_may_write(&metadata) {
        return Err(Reason::WritableByOthers("the file".to_owned()));
    }
    // A link's folder and its target's: who may write in either chooses what is loaded.
    let real = fs::canonicalize(path).map_err(|error| unreadable(&error))?;
    for folder in [path.parent(), real.parent()].into_iter().flatten() {
        let metadata = fs::metadata(folder).map_err(|error| unreadable(&error))?;
        if platform::others_may_write(&metadata) {
            return Err(Reason::WritableByOthers(format!("its folder {}", folder.display())));
        }
    }
    bytes_of(file, metadata.len()).map_err(|error| unreadable(&error))?.ok_or(Reason::TooLarge { limit: MAX_FILE })
}

/// Nothing where there are more than [`MAX_FILE`].
fn bytes_of(file: File, expected: u64) -> io::Result<Option<Vec<u8>>> {
    if expected > MAX_FILE {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok((read as u64 <= MAX_FILE).then_some(bytes))
}

/// Where the copy with this content is. One that is there already is compared, not trusted; what is not right is replaced.
fn copy(folder: &Path, hash: Hash, bytes: &[u8]) -> io::Result<PathBuf> {
    platform::private_folder(folder)?;
    // A name without folder would be looked up in the system's library path.
    let folder = std::path::absolute(folder)?;
    let copy = folder.join(format!("{hash}.{}", Platform::CURRENT.extension()));
    if is_copy(&copy, bytes)? {
        return Ok(copy);
    }
    let temporary = folder.join(format!("{hash}.tmp"));
    match fs::remove_file(&temporary) {
        // Left by a process that was killed.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = platform::create(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, &copy)?;
    Ok(copy)
}

fn is_copy(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == bytes.len() as u64 => Ok(fs::read(path)? == bytes),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
use libloading::os::unix::Library as Opened;
#[cfg(windows)]
use libloading::os::windows::Library as Opened;

/// Opens an inspected copy, with everything that it needs resolved now, and finds its header. It stays open whatever comes.
fn open(copy: &Path) -> Result<&'static LibHeader, Reason> {
    // SAFETY: the library's constructors run here, and are the plugin's own responsibility (see the module). The file is whole,
    // of this platform and exports a plugin's entry symbol, and nobody else may change it.
    #[cfg(unix)]
    let opened = unsafe { Opened::open(Some(copy), libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_LOCAL) };
    // SAFETY: as above.
    #[cfg(windows)]
    let opened = unsafe { Opened::load_with_flags(copy, 0) };
    let opened = ManuallyDrop::new(opened.map_err(|error| Reason::NotLoadable(chain(&error, copy)))?);

    // SAFETY: a symbol is an address, as `AbiHeaderRef` is. What it leads to is at least as large as a `LibHeader` (`inspect`),
    // lives as long as the process since the library is never closed, and is plain integers until `upgrade` has compared them.
    let header = unsafe { opened.get::<AbiHeaderRef>(ENTRY_SYMBOL) };
    let header: AbiHeaderRef = *header.map_err(|error| Reason::OtherHeader(chain(&error, copy)))?;
    header.upgrade().map_err(|error| Reason::OtherHeader(one_line(&error.to_string(), 200)))
}

/// An error with its reasons, without the name of the copy, which would tell the reader nothing.
fn chain(error: &dyn Error, copy: &Path) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    one_line(&text.replace(&format!("{}: ", copy.display()), ""), 400)
}

/// Checks the contract and starts the plugin.
fn start(header: &'static LibHeader, host: HostObj, log_level: u8) -> Result<(PluginRootRef, Manifest), Reason> {
    let version = header.version_strings().version.as_str();
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(version) != major(ABI_VERSION) {
        return Err(Reason::OtherMajor { found: one_line(version, 40) });
    }
    let theirs = header.layout().ok_or_else(|| Reason::OtherLayout { difference: "the plugin carries no layout".to_owned() })?;
    layout::compatible(PluginRootRef::LAYOUT, theirs)?;
    // SAFETY: the layout of all that can be reached from the root has just been compared with the host's.
    let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() };
    let root = root.map_err(|error| Reason::InitFailed(one_line(&error.to_string(), 200)))?;

    let manifest = match root.manifest()() {
        ROk(json) => manifest(&json)?,
        RErr(failure) => return Err(Reason::ManifestFailed(said(&failure))),
    };
    if let RErr(failure) = root.init()(host, b"{}".as_slice().into()) {
        return Err(Reason::InitFailed(said(&failure)));
    }
    root.set_log_level()(log_level);
    Ok((root, manifest))
}

fn said(failure: &Failure) -> String {
    let panicked = if failure.code == code::PANIC { "it panicked: " } else { "" };
    one_line(&format!("{panicked}{}", failure.message), 400)
}

pub(crate) fn manifest(json: &[u8]) -> Result<Manifest, Reason> {
    let manifest: Manifest = serde_json::from_slice(json).map_err(|error| Reason::BadManifest(error.to_string()))?;
    let mut names = BTreeSet::new();
    if let Some(twice) = manifest.conductors.iter().chain(&manifest.services).find(|offer| !names.insert(&offer.name)) {
        return Err(Reason::OfferedTwice(one_line(&twice.name, 200)));
    }
    if names.is_empty() {
        return Err(Reason::BadManifest("it offers neither a conductor nor a service".to_owned()));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_of_a_later_version_is_found() {
        let mut conductor = ConductorManifest::default();
        assert_eq!(unmet_requirement(&conductor), None);
        conductor.requires = vec![requirement::JOINING.to_owned()];
        assert_eq!(unmet_requirement(&conductor), None);
        conductor.requires.push("teleport".to_owned());
        assert_eq!(unmet_requirement(&conductor), Some("teleport"));
    }

    #[test]
    fn names_are_unique_over_conductors_and_services() {
        let offers = |text: &str| manifest(text.as_bytes());
        assert_eq!(offers(r#"{"services":[{"name":"a"}]}"#).unwrap().services[0].name, "a");
        assert_eq!(offers(r#"{"conductors":[{"name":"a"}],"services":[{"name":"a"}]}"#).unwrap_err(), Reason::OfferedTwice("a".to_owned()));
        assert_eq!(offers("{}").unwrap_err(), Reason::BadManifest("it offers neither a conductor nor a service".to_owned()));
    }
}
