//! Every other refusal, in its words.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use conductor_host::conductors::{
    inspect::{Target, inspect},
    refusal::Reason,
};

use crate::support::{Loader, Plugins, compile_c, copied, moody, run_tool, written};

#[test]
fn what_is_not_there_is_said_with_what_was_looked_for() {
    let loader = Loader::new();
    let stem = loader.state.path().join("my-plugin");
    let refusal = loader.libraries.load(&stem, None).unwrap_err();
    assert_eq!(refusal.file, loader.state.path().join("libmy_plugin.so"));
    assert_eq!(
        loader.refused(&stem),
        format!(
            "there is no such file (which is what {:?} means on this system); build the plugin, or correct its path",
            stem.display().to_string()
        )
    );
    assert_eq!(loader.refused(&stem.with_extension("so")), "there is no such file; build the plugin, or correct its path");
}

#[test]
fn what_is_no_library_is_named() {
    let loader = Loader::new();
    let cases: [(&str, &[u8], &str); 7] = [
        ("text.so", "ein Plugin, käme es doch".as_bytes(), "this is a text file, not a shared library; "),
        ("empty.so", b"", "this is an empty file, not a shared library; "),
        ("script.so", b"#!/bin/sh\n", "this is a script, not a shared library; "),
        ("blob.so", &[0xfe; 100], "this is a file of an unknown kind, not a shared library; "),
        ("archive.so", b"!<arch>\n00000000", "this is a static library, not a shared library; "),
        (
            "start.so",
            b"\x7fELF\x02",
            "the file is cut short or damaged (not even its first header is whole; it has 5 bytes); copy it again",
        ),
        ("header.so", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0", "the file is cut short or damaged ("),
    ];
    for (name, content, said) in cases {
        let refused = loader.refused(&written(&loader, name, content));
        assert!(refused.starts_with(said), "{name}: {refused}");
    }

    let folder = loader.state.path().join("folder.so");
    fs::create_dir(&folder).unwrap();
    assert!(loader.refused(&folder).starts_with("this is a folder; "));
    let pipe = loader.state.path().join("pipe.so");
    run_tool(Command::new("mkfifo").arg(&pipe), "coreutils");
    assert!(loader.refused(&pipe).starts_with("this is not a regular file; "));
    let circle = loader.state.path().join("circle.so");
    symlink(&circle, &circle).unwrap();
    assert!(loader.refused(&circle).starts_with("it cannot be read: Too many levels of symbolic links"));
    let huge = written(&loader, "huge.so", "");
    fs::File::options().write(true).open(&huge).unwrap().set_len((512 << 20) + 1).unwrap();
    assert!(loader.refused(&huge).starts_with("the file has more than 536870912 bytes"));
}

#[test]
fn a_library_that_is_no_plugin_is_told_apart() {
    let loader = Loader::new();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.split_whitespace().find(|word| word.contains("/libc.so")).expect("this process has a libc");
    assert!(
        loader
            .refused(Path::new(libc))
            .starts_with("this is a shared library, but not a plugin: it exports no usable symbol conductor_host_plugin_v1; ")
    );
    let host = std::env::current_exe().unwrap();
    let test = loader.refused(&copied(&loader, &host, "program.so"));
    assert!(test.starts_with("this is a shared library, but not a plugin"), "{test}");
}

#[test]
fn a_real_windows_dll_is_named_as_one() {
    let loader = Loader::new();
    let dll = loader.state.path().join("plugin.dll");
    compile_c("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64", "__declspec(dllexport) int conductor_host_plugin_v1 = 1;", &dll);
    assert_eq!(
        loader.refused(&dll),
        format!(
            "this is a Windows DLL (x86-64), but this host needs a Linux library ({}); use the plugin that was built for this system",
            std::env::consts::ARCH.replace('_', "-")
        )
    );
    // The other way round: seen from Windows, it passes all that is looked at.
    let windows = Target { system: "Windows", arch: "x86_64".to_owned() };
    let bytes = fs::read(&dll).unwrap();
    inspect(&bytes, &windows).unwrap();
    assert!(matches!(inspect(&bytes[..bytes.len() / 2], &windows), Err(Reason::Damaged { .. })));
    let ours = fs::read(Plugins::built().real("default")).unwrap();
    assert!(matches!(inspect(&ours, &windows), Err(Reason::OtherPlatform { .. })));
}

#[test]
fn other_processors_and_systems_are_named() {
    let loader = Loader::new();
    let real = fs::read(Plugins::built().real("default")).unwrap();
    let expected = format!("but this host needs a Linux library ({})", std::env::consts::ARCH.replace('_', "-"));
    let patched = |at: usize, value: u8| {
        let mut bytes = real.clone();
        bytes[at] = value;
        bytes
    };
    // e_machine is at 18; the system's number at 7.
    for (at, value, found) in [(18, 22, "a Linux library (s390xle)"), (18, 243, "a Linux library (riscv64)"), (7, 9, "a FreeBSD library")] {
        let said = loader.refused(&written(&loader, "foreign.so", patched(at, value)));
        assert!(said.starts_with(&format!("this is {found}")) && said.contains(&expected), "{said}");
    }

    // The header alone of a dynamic library for macOS on Apple's processors, and a universal file around two of them.
    let mut mach_o = Vec::new();
    for word in [0xfeed_facf_u32, 0x0100_000c, 0, 6, 0, 0, 0, 0] {
        mach_o.extend(word.to_le_bytes());
    }
    let said = loader.refused(&written(&loader, "mac.so", &mach_o));
    assert!(said.starts_with("this is a macOS library (aarch64), but"), "{said}");
    let mut universal = Vec::new();
    for word in [0xcafe_babe_u32, 2, 0x0100_000c, 0, 48, 32, 0, 0x0100_0007, 3, 48, 32, 0] {
        universal.extend(word.to_be_bytes());
    }
    universal.extend(&mach_o);
    let said = loader.refused(&written(&loader, "universal.so", &universal));
    assert!(said.starts_with("this is a macOS library (aarch64 and x86-64), but"), "{said}");
    let mac = Target { system: "macOS", arch: "aarch64".to_owned() };
    assert!(matches!(inspect(&universal, &mac), Err(Reason::NotAPlugin { .. })));
}

#[test]
fn an_undefined_symbol_is_found_at_load_and_named() {
    let loader = Loader::new();
    let plugin = loader.state.path().join("undefined.so");
    let source =
        "extern void nowhere_to_be_found(void); char conductor_host_plugin_v1[4096] = {1}; void f(void) { nowhere_to_be_found(); }";
    compile_c("gcc", "gcc", source, &plugin);
    assert_eq!(
        loader.refused(&plugin),
        "the system cannot load it: dlopen failed: undefined symbol: nowhere_to_be_found; \
         was it built on a newer system than this one, is a library that it needs missing, or the state folder on a disk mounted noexec?"
    );
}

#[test]
fn the_entry_symbols_of_other_contracts_are_told_apart() {
    let loader = Loader::new();
    let cases = [
        ("v2", "char conductor_host_plugin_v2[4096] = {1};", "this plugin is made for version 2 of the contract, but this host has 1."),
        ("c", "char conductor_plugin_v1[4096] = {1};", "this plugin offers only the C contract (conductor_plugin_v1)"),
        ("odd", "char conductor_host_plugin_vx[4096] = {1};", "this is a shared library, but not a plugin: "),
        (
            "beyond",
            r#"__asm__(".data; .globl conductor_host_plugin_v1; .type conductor_host_plugin_v1, @object; .size conductor_host_plugin_v1, 0x1000000; conductor_host_plugin_v1: .byte 1");"#,
            "this is a shared library, but not a plugin: ",
        ),
        (
            "absolute",
            r#"__asm__(".data; .globl conductor_host_plugin_v1; .type conductor_host_plugin_v1, @object; .size conductor_host_plugin_v1, 0x300; .set conductor_host_plugin_v1, 0");"#,
            "this is a shared library, but not a plugin: ",
        ),
        ("function", "void conductor_host_plugin_v1(void) { __asm__(\".skip 4096\"); }", "this is a shared library, but not a plugin: "),
        ("small", "int conductor_host_plugin_v1 = 1;", "this is a shared library, but not a plugin: "),
        (
            "user",
            "extern char conductor_host_plugin_v1[]; char *f(void) { return conductor_host_plugin_v1; }",
            "this is a shared library, but not a plugin: ",
        ),
        (
            "garbage",
            "char conductor_host_plugin_v1[4096] = \"garbage\";",
            "its entry symbol does not lead to a header that this host knows (",
        ),
    ];
    for (name, source, said) in cases {
        let plugin = loader.state.path().join(format!("{name}.so"));
        compile_c("gcc", "gcc", source, &plugin);
        let refused = loader.refused(&plugin);
        assert!(refused.starts_with(said), "{name}: {refused}");
    }
}

#[test]
fn another_layout_is_told_in_one_line() {
    let loader = Loader::new();
    let said = loader.refused(&Plugins::built().fixture("layout"));
    assert_eq!(
        said,
        "its binary contract differs from 1.0.0, first at PluginRoot > manifest > returns: RResult > field_0: Failure > code: i64 \
         (Name(ExpectedFound { expected: i32, found: i64 })); rebuild it with conductor-host-sdk 1.x"
    );
}

#[test]
fn another_major_version_behind_the_same_symbol_is_told() {
    let said = Loader::new().refused(&Plugins::built().fixture("next_major"));
    assert!(said.starts_with("this plugin is made for version 2.0.0 of the contract, but this host has 1.0.0; "), "{said}");
}

#[test]
fn a_manifest_that_cannot_be_used_is_said() {
    let author = "that is a mistake in the plugin's own code (what its methods() says, say), for its author to mend";
    let rebuild = "rebuild it with conductor-host-sdk 1.x";
    for (mood, why, advice) in [
        ("no-manifest", "its manifest cannot be made: there is none today", author),
        ("panicking", "its manifest cannot be made: it panicked: manifest panicked outside of a guard", author),
        ("garbage", "its manifest cannot be used: EOF while parsing an object at line 1 column 1", rebuild),
        ("twice", "it offers \"a\" twice", "rename one of the two in its export_conductors! or export_plugin!"),
        ("nothing", "its manifest cannot be used: it offers neither a conductor nor a service", rebuild),
    ] {
        let loader = Loader::new();
        let said = loader.refused(&moody(&loader, mood));
        assert_eq!(said, format!("{why}; {advice}"));
        assert!(loader.logged.lock().unwrap().is_empty(), "it is not started");
    }
}

#[test]
fn a_start_that_fails_is_said_and_not_tried_again() {
    for (mood, said) in [
        ("init-fails", "it failed to start: no licence"),
        ("init-panics", "it failed to start: it panicked: init panicked outside of a guard"),
    ] {
        let loader = Loader::new();
        let plugin = moody(&loader, mood);
        let said = format!("{said}; once the cause is gone, start the host again (a reload does not start the same file twice)");
        assert_eq!(loader.refused(&plugin), said);
        assert_eq!(loader.refused(&plugin), said);
        assert_eq!(*loader.logged.lock().unwrap(), ["3 variant started"]);
    }
}
