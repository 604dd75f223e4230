//! Makes the contract of another version out of the one of the workspace, so that the two never drift apart otherwise.

use std::{env, fs, path::Path};

const CONTRACT: &str = "../../../conductor-sdk/abi/src/contract.rs";

/// Each function that the next minor version would append: a type where it belongs, and its value in the table.
const APPENDED: [(&str, &str); 6] = [
    (
        "(*mut (), Event<'a>) -> BorrowingFfiFuture<'a, Reply>,\n}",
        "(*mut (), Event<'a>) -> BorrowingFfiFuture<'a, Reply>,\n    /// New.\n    pub peek: unsafe extern \"C\" fn(*mut ()) -> u32,\n}",
    ),
    ("drop: Self::drop, handle: Self::handle })", "drop: Self::drop, handle: Self::handle, peek: Self::peek })"),
    (
        "RStr<'a>, RStr<'a>, RSlice<'a, u8>),\n}",
        "RStr<'a>, RStr<'a>, RSlice<'a, u8>),\n    /// New.\n    pub tell: unsafe extern \"C\" fn(*const ()) -> u32,\n}",
    ),
    ("log: Self::log,", "log: Self::log, tell: Self::tell,"),
    (
        "RSlice<'a, u8>) -> BorrowingFfiFuture<'a, Created>,\n}",
        "RSlice<'a, u8>) -> BorrowingFfiFuture<'a, Created>,\n    /// New.\n    pub more: extern \"C\" fn() -> u32,\n}",
    ),
    ("create: Self::create,", "create: Self::create, more: Self::more,"),
];

/// The appended functions themselves, and a way to ask whether the host has its own.
const BODIES: &str = r#"
impl<T: ConductorObject> ConductorImpl<T> { unsafe extern "C" fn peek(_: *mut ()) -> u32 { 11 } }
impl<T: HostObject> HostImpl<T> { unsafe extern "C" fn tell(_: *const ()) -> u32 { 11 } }
impl<T: PluginEntry> RootImpl<T> { extern "C" fn more() -> u32 { 11 } }
impl HostObj { /// Whether the host has the new function.
    pub fn can_tell(&self) -> bool { self.table.tell().is_some() } }
impl ConductorObj { /// What the new function answers, where the plugin has it.
    pub fn peek(&self) -> Option<u32> { self.table.peek().map(|peek| unsafe { peek(self.data) }) } }
"#;

fn main() {
    println!("cargo::rerun-if-changed={CONTRACT}");
    println!("cargo::rerun-if-changed=../variant");
    let mut contract = fs::read_to_string(CONTRACT).expect("the contract can be read");
    // Inner attributes and documentation are not allowed in an included file.
    contract =
        contract.lines().filter(|line| !line.starts_with("//!") && !line.starts_with("#![")).map(|line| format!("{line}\n")).collect();
    if env::var_os("CARGO_FEATURE_APPENDED").is_some() {
        for (old, new) in APPENDED {
            replace(&mut contract, old, new);
        }
        contract.push_str(BODIES);
    } else {
        contract.push_str("impl HostObj { /// Never.\n    pub fn can_tell(&self) -> bool { false } }\n");
    }
    if env::var_os("CARGO_FEATURE_FORKED").is_some() {
        // Another idea of what the next minor version is.
        replace(&mut contract, "fn(*const ()) -> u32", "fn(*const ()) -> u64");
        replace(&mut contract, "fn tell(_: *const ()) -> u32", "fn tell(_: *const ()) -> u64");
    }
    if env::var_os("CARGO_FEATURE_CHANGED").is_some() {
        replace(&mut contract, "    pub code: i32,", "    pub code: i64,");
        replace(
            &mut contract,
            "pub fn new(code: i32, message: impl Into<String>) -> Self {",
            "pub fn new(code: i32, message: impl Into<String>) -> Self { let code = i64::from(code);",
        );
    }
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    fs::write(Path::new(&out).join("contract.rs"), contract).expect("the contract can be written");
}

fn replace(text: &mut String, old: &str, new: &str) {
    assert_eq!(text.matches(old).count(), 1, "the contract has changed; adapt what this build script replaces: {old}");
    *text = text.replace(old, new);
}
