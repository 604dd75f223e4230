//! The frozen types, and safe ways to make and use them on both sides.
//!
//! A side implements a trait ([`ConductorObject`], [`HostObject`], [`PluginEntry`]), and `new` puts it behind a table of
//! C functions; the other side calls methods of the object. No function here lets a panic cross the boundary.
#![expect(unsafe_code, reason = "objects cross the library boundary as a pointer and a table of C functions")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::{
    StableAbi,
    library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModule, RootModuleResult},
    package_version_strings,
    prefix_type::WithMetadata,
    sabi_types::VersionStrings,
    staticref,
    std_types::{RErr, RResult, RSlice, RStr, RString, RVec},
};
use async_ffi::{BorrowingFfiFuture, FfiFuture, FutureExt};

use crate::wire::code;

/// What happens, or what is asked: the one shape in which both sides speak. Everything is borrowed for as long as the
/// answer's future lives.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Which event or call: a name of [`wire::event`](crate::wire::event) or [`wire::call`](crate::wire::call).
    pub kind: RStr<'a>,
    /// What it is about: a method's name, a message's name, a timer's name.
    pub subject: RStr<'a>,
    /// The client it concerns; empty for none.
    pub client: RStr<'a>,
    /// A JSON object with the rest, or no bytes at all.
    pub meta: RSlice<'a, u8>,
    /// Raw bytes: a request's parameters (JSON), a message's payload, saved state.
    pub body: RSlice<'a, u8>,
}

impl<'a> Event<'a> {
    /// An event of `kind` with everything else empty.
    #[must_use]
    pub fn new(kind: &'a str) -> Self {
        Self { kind: kind.into(), subject: RStr::empty(), client: RStr::empty(), meta: RSlice::EMPTY, body: RSlice::EMPTY }
    }
}

/// An error that crosses the boundary.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Failure {
    /// Below zero: one of [`wire::code`](crate::wire::code). Zero and above belong to authors.
    pub code: i32,
    /// One sentence for people.
    pub message: RString,
    /// JSON with details, or no bytes at all. Whatever may be added to an error later goes in here.
    pub data: RVec<u8>,
}

impl Failure {
    /// A failure without data.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: RString::from(message.into()), data: RVec::new() }
    }
}

/// What comes back: bytes (JSON where the kind says so), or an error.
pub type Reply = RResult<RVec<u8>, Failure>;

fn panicked(code: i32, what: &str) -> Failure {
    Failure::new(code, format!("{what} panicked outside of a guard"))
}

/// Runs `f`, and makes a panic the value of `or`. The payload is leaked: its own drop may panic again.
fn guarded<T>(f: impl FnOnce() -> T, or: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        std::mem::forget(payload);
        or()
    })
}

// ------------------------------------------------------------------------------------------------------------------------
// The conductor: made by the plugin, used by the host

/// What a plugin implements for one conductor of one session.
pub trait ConductorObject: Send + 'static {
    /// Handles one event. The host gives the next one when this future is done or dropped.
    fn handle<'a>(&'a mut self, event: Event<'a>) -> BorrowingFfiFuture<'a, Reply>;
}

/// The functions of a conductor. New ones are appended after the marked field.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
#[sabi(kind(Prefix(prefix_ref = ConductorTableRef)))]
#[sabi(missing_field(option))]
pub struct ConductorTable {
    /// Ends the object; called once, last.
    pub drop: unsafe extern "C" fn(*mut ()),
    /// [`ConductorObject::handle`]; the pointer is borrowed exclusively while the future lives.
    #[sabi(last_prefix_field)]
    pub handle: for<'a> unsafe extern "C" fn(*mut (), Event<'a>) -> BorrowingFfiFuture<'a, Reply>,
}

/// A conductor, owned.
#[repr(C)]
#[derive(StableAbi)]
pub struct ConductorObj {
    data: *mut (),
    table: ConductorTableRef,
}

// SAFETY: `new` demands `T: Send`, and the object is that `T`, owned.
unsafe impl Send for ConductorObj {}

struct ConductorImpl<T>(T);

impl<T: ConductorObject> ConductorImpl<T> {
    staticref!(const TABLE: WithMetadata<ConductorTable> = WithMetadata::new(ConductorTable { drop: Self::drop, handle: Self::handle }));

    unsafe extern "C" fn drop(data: *mut ()) {
        // SAFETY: `data` came from `Box::into_raw` in `new` for this very `T`, and `ConductorObj::drop` calls this once.
        guarded(|| drop(unsafe { Box::from_raw(data.cast::<T>()) }), || ());
    }

    unsafe extern "C" fn handle<'a>(data: *mut (), event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        // SAFETY: `data` is the live `T` of `new`; `ConductorObj::handle` holds `&'a mut` while the future lives.
        let object: &'a mut T = unsafe { &mut *data.cast::<T>() };
        guarded(|| object.handle(event), || async { RErr(panicked(code::PANIC, "handle")) }.into_ffi())
    }
}

impl ConductorObj {
    /// Puts `object` behind the table.
    pub fn new<T: ConductorObject>(object: T) -> Self {
        Self { data: Box::into_raw(Box::new(object)).cast(), table: ConductorTableRef(ConductorImpl::<T>::TABLE.as_prefix()) }
    }

    /// Hands one event to the conductor. Nothing of it runs before the first poll.
    pub fn handle<'a>(&'a mut self, event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        // SAFETY: `data` belongs to `table`, and `&'a mut self` is held while the future lives.
        unsafe { self.table.handle()(self.data, event) }
    }
}

impl Drop for ConductorObj {
    fn drop(&mut self) {
        // SAFETY: `data` belongs to `table` and is not used again.
        unsafe { self.table.drop()(self.data) }
    }
}

impl std::fmt::Debug for ConductorObj {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConductorObj")
    }
}

// ------------------------------------------------------------------------------------------------------------------------
// The host: made by the host, used by the plugin

/// What the host implements for one session, and once for the library as a whole. A plugin may keep the object for as long as
/// it likes, use it from any thread, and drop it on any thread.
pub trait HostObject: Send + Sync + 'static {
    /// Asks the host. A kind that needs no waiting is ready at the first poll; none ever re-enters the conductor. The arguments
    /// are read for as long as the future lives.
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply>;

    /// Runs `task` beside the conductor until it ends or the session does; answers with its number. What the task answers
    /// is looked at for errors only. A refused task is dropped before this returns, on the caller's thread; tasks of a
    /// creation that failed end with it.
    ///
    /// # Errors
    /// [`code::CLOSED`], [`code::OVERLOADED`].
    fn spawn(&self, meta: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure>;

    /// Writes to the host's log. `level`: 1 error, 2 warn, 3 info, 4 debug, 5 trace; `fields`: a JSON object or no bytes.
    fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]);
}

/// The functions of the host. New ones are appended after the marked field.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef)))]
#[sabi(missing_field(option))]
pub struct HostTable {
    /// Ends the object; called once, last.
    pub drop: unsafe extern "C" fn(*const ()),
    /// [`HostObject::call`].
    pub call: for<'a> unsafe extern "C" fn(*const (), Event<'a>) -> BorrowingFfiFuture<'a, Reply>,
    /// [`HostObject::spawn`]; the bytes are `meta`.
    pub spawn: for<'a> unsafe extern "C" fn(*const (), RSlice<'a, u8>, FfiFuture<Reply>) -> RResult<u64, Failure>,
    /// [`HostObject::log`]: level, target, message, fields.
    #[sabi(last_prefix_field)]
    pub log: for<'a> unsafe extern "C" fn(*const (), u8, RStr<'a>, RStr<'a>, RSlice<'a, u8>),
}

/// The host as a session (or the library as a whole) sees it, owned; usable from any thread.
#[repr(C)]
#[derive(StableAbi)]
pub struct HostObj {
    data: *const (),
    table: HostTableRef,
}

// SAFETY: `new` demands `T: Send + Sync`, and only `&T` is ever handed out.
unsafe impl Send for HostObj {}
// SAFETY: as above.
unsafe impl Sync for HostObj {}

struct HostImpl<T>(T);

impl<T: HostObject> HostImpl<T> {
    staticref!(const TABLE: WithMetadata<HostTable> = WithMetadata::new(HostTable {
        drop: Self::drop,
        call: Self::call,
        spawn: Self::spawn,
        log: Self::log,
    }));

    unsafe extern "C" fn drop(data: *const ()) {
        // SAFETY: `data` came from `Box::into_raw` in `new` for this very `T`, and `HostObj::drop` calls this once.
        guarded(|| drop(unsafe { Box::from_raw(data.cast::<T>().cast_mut()) }), || ());
    }

    unsafe extern "C" fn call<'a>(data: *const (), call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        // SAFETY: `data` is the live `T` of `new`, borrowed for `'a` by `HostObj::call`.
        let object: &'a T = unsafe { &*data.cast::<T>() };
        guarded(|| object.call(call), || async { RErr(panicked(code::INTERNAL, "call")) }.into_ffi())
    }

    unsafe extern "C" fn spawn(data: *const (), meta: RSlice<'_, u8>, task: FfiFuture<Reply>) -> RResult<u64, Failure> {
        // SAFETY: as in `call`.
        let object = unsafe { &*data.cast::<T>() };
        guarded(|| object.spawn(meta.as_slice(), task).into(), || RErr(panicked(code::INTERNAL, "spawn")))
    }

    unsafe extern "C" fn log(data: *const (), level: u8, target: RStr<'_>, message: RStr<'_>, fields: RSlice<'_, u8>) {
        // SAFETY: as in `call`.
        let object = unsafe { &*data.cast::<T>() };
        guarded(|| object.log(level, target.as_str(), message.as_str(), fields.as_slice()), || ());
    }
}

impl HostObj {
    /// Puts `object` behind the table.
    pub fn new<T: HostObject>(object: T) -> Self {
        Self { data: Box::into_raw(Box::new(object)).cast_const().cast(), table: HostTableRef(HostImpl::<T>::TABLE.as_prefix()) }
    }

    /// [`HostObject::call`].
    pub fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        // SAFETY: `data` belongs to `table` and is borrowed for as long as the future lives.
        unsafe { self.table.call()(self.data, call) }
    }

    /// [`HostObject::spawn`].
    ///
    /// # Errors
    /// As there.
    pub fn spawn(&self, meta: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        // SAFETY: `data` belongs to `table`.
        unsafe { self.table.spawn()(self.data, RSlice::from_slice(meta), task) }.into()
    }

    /// [`HostObject::log`].
    pub fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]) {
        // SAFETY: `data` belongs to `table`.
        unsafe { self.table.log()(self.data, level, target.into(), message.into(), RSlice::from_slice(fields)) }
    }
}

impl Drop for HostObj {
    fn drop(&mut self) {
        // SAFETY: `data` belongs to `table` and is not used again.
        unsafe { self.table.drop()(self.data) }
    }
}

impl std::fmt::Debug for HostObj {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostObj")
    }
}

// ------------------------------------------------------------------------------------------------------------------------
// The plugin as a whole

/// What a conductor's creation answers.
pub type Created = RResult<ConductorObj, Failure>;

/// What a plugin implements once.
pub trait PluginEntry: 'static {
    /// What the library offers: [`wire::Manifest`](crate::wire::Manifest) as JSON. Called before `init`, from any thread.
    fn manifest() -> Reply;

    /// Called once, before any `create`; `host` serves the library as a whole (its log, for now).
    fn init(host: HostObj, meta: &[u8]) -> Reply;

    /// Events that concern the library as a whole, [`wire::root`](crate::wire::root).
    fn handle<'a>(event: Event<'a>) -> BorrowingFfiFuture<'a, Reply>;

    /// Makes the conductor `name` for one session. `meta` is a [`wire::CreateMeta`](crate::wire::CreateMeta); `body` is the
    /// saved state to restore from, where `meta` says so.
    fn create<'a>(name: &'a str, host: HostObj, meta: &'a [u8], body: &'a [u8]) -> BorrowingFfiFuture<'a, Created>;

    /// The most detailed level that is worth logging, 0 (nothing) to 5 (trace). May change at any time, from any thread.
    fn set_log_level(level: u8);
}

/// The root of a plugin. New functions are appended after the marked field.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
#[sabi(missing_field(option))]
pub struct PluginRoot {
    /// [`PluginEntry::manifest`].
    pub manifest: extern "C" fn() -> Reply,
    /// [`PluginEntry::init`].
    pub init: for<'a> extern "C" fn(HostObj, RSlice<'a, u8>) -> Reply,
    /// [`PluginEntry::handle`].
    pub handle: for<'a> extern "C" fn(Event<'a>) -> BorrowingFfiFuture<'a, Reply>,
    /// [`PluginEntry::set_log_level`].
    pub set_log_level: extern "C" fn(u8),
    /// [`PluginEntry::create`]: name, host, meta, body.
    #[sabi(last_prefix_field)]
    pub create: for<'a> extern "C" fn(RStr<'a>, HostObj, RSlice<'a, u8>, RSlice<'a, u8>) -> BorrowingFfiFuture<'a, Created>,
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}

    const BASE_NAME: &'static str = "conductor_host_plugin";
    const NAME: &'static str = "conductor-host plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

struct RootImpl<T>(T);

impl<T: PluginEntry> RootImpl<T> {
    staticref!(const TABLE: WithMetadata<PluginRoot> = WithMetadata::new(PluginRoot {
        manifest: Self::manifest,
        init: Self::init,
        handle: Self::handle,
        set_log_level: Self::set_log_level,
        create: Self::create,
    }));

    extern "C" fn load() -> RootModuleResult {
        __call_root_module_loader(|| PluginRootRef(Self::TABLE.as_prefix()))
    }

    extern "C" fn manifest() -> Reply {
        guarded(T::manifest, || RErr(panicked(code::PANIC, "manifest")))
    }

    extern "C" fn init(host: HostObj, meta: RSlice<'_, u8>) -> Reply {
        guarded(|| T::init(host, meta.as_slice()), || RErr(panicked(code::PANIC, "init")))
    }

    extern "C" fn handle(event: Event<'_>) -> BorrowingFfiFuture<'_, Reply> {
        guarded(|| T::handle(event), || async { RErr(panicked(code::PANIC, "handle")) }.into_ffi())
    }

    extern "C" fn set_log_level(level: u8) {
        guarded(|| T::set_log_level(level), || ());
    }

    extern "C" fn create<'a>(name: RStr<'a>, host: HostObj, meta: RSlice<'a, u8>, body: RSlice<'a, u8>) -> BorrowingFfiFuture<'a, Created> {
        guarded(
            || T::create(name.as_str(), host, meta.as_slice(), body.as_slice()),
            || async { RErr(panicked(code::PANIC, "create")) }.into_ffi(),
        )
    }
}

/// The value of the entry symbol ([`ENTRY_SYMBOL`](crate::ENTRY_SYMBOL)) for a plugin.
#[must_use]
pub const fn header<T: PluginEntry>() -> LibHeader {
    // SAFETY: `load` answers with a `PluginRootRef`, made from a `PluginRoot` table of this crate.
    unsafe { LibHeader::from_constructor::<PluginRootRef>(RootImpl::<T>::load, CheckTypeLayout::Yes) }
}

/// Sizes and places that every 1.x shares. A change here is a break, whatever the version says.
#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use std::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn the_frozen_types_are_what_they_were() {
        assert_eq!((size_of::<Event<'_>>(), align_of::<Event<'_>>()), (80, 8));
        let places = [
            offset_of!(Event<'_>, kind),
            offset_of!(Event<'_>, subject),
            offset_of!(Event<'_>, client),
            offset_of!(Event<'_>, meta),
            offset_of!(Event<'_>, body),
        ];
        assert_eq!(places, [0, 16, 32, 48, 64]);
        assert_eq!((size_of::<Failure>(), align_of::<Failure>()), (72, 8));
        assert_eq!([offset_of!(Failure, code), offset_of!(Failure, message), offset_of!(Failure, data)], [0, 8, 40]);
        assert_eq!([size_of::<Reply>(), size_of::<Created>()], [80, 80]);
        assert_eq!([size_of::<ConductorObj>(), size_of::<HostObj>()], [16, 16]);
        assert_eq!([offset_of!(ConductorObj, data), offset_of!(ConductorObj, table)], [0, 8]);
        assert_eq!([offset_of!(HostObj, data), offset_of!(HostObj, table)], [0, 8]);
        assert_eq!(size_of::<FfiFuture<Reply>>(), 24);
        // What a later version appends makes a table longer; these places stay.
        assert_eq!([offset_of!(ConductorTable, drop), offset_of!(ConductorTable, handle)], [0, 8]);
        let places = [offset_of!(HostTable, drop), offset_of!(HostTable, call), offset_of!(HostTable, spawn), offset_of!(HostTable, log)];
        assert_eq!(places, [0, 8, 16, 24]);
        let places = [
            offset_of!(PluginRoot, manifest),
            offset_of!(PluginRoot, init),
            offset_of!(PluginRoot, handle),
            offset_of!(PluginRoot, set_log_level),
            offset_of!(PluginRoot, create),
        ];
        assert_eq!(places, [0, 8, 16, 24, 32]);
        assert_eq!([size_of::<ConductorTable>(), size_of::<HostTable>(), size_of::<PluginRoot>()], [16, 32, 40]);
    }
}
