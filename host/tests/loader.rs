//! The loader on real files: what it loads, what it refuses and in which words.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use conductor_abi::abi_stable::std_types::RErr;
use conductor_host::conductors::{
    inspect::{Target, inspect},
    library::Hash,
    refusal::Reason,
};
use proptest::{prelude::*, test_runner::TestRunner};
use support::{Loader, Plugins, ask, block_on, compile_c, create, run_tool};

/// A copy of a file under a name of its own, in a folder of its own.
fn copied(loader: &Loader, from: &Path, name: &str) -> PathBuf {
    let to = loader.state.path().join(name);
    fs::copy(from, &to).unwrap();
    to
}

fn written(loader: &Loader, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let to = loader.state.path().join(name);
    fs::write(&to, content).unwrap();
    to
}

/// The plugin of the next minor version, in a mood.
fn moody(loader: &Loader, mood: &str) -> PathBuf {
    const MARK: &[u8] = b"plugin-mood=";
    let mut bytes = fs::read(Plugins::built().fixture("next_minor")).unwrap();
    let mark = [MARK, b"good        "].concat();
    let at = bytes.windows(mark.len()).position(|window| window == mark).expect("the fixture has its mark") + MARK.len();
    bytes[at..at + 12].copy_from_slice(format!("{mood:12}").as_bytes());
    written(loader, &format!("{mood}.so"), bytes)
}

// --- what loads

#[test]
fn the_real_plugins_load_and_answer() {
    let loader = Loader::new();
    for (name, answer) in [("default", "\"Stop\""), ("active", "\"Stopped\"")] {
        let library = loader.load(&Plugins::built().real(name));
        assert_eq!(library.manifest().conductors[0].name, name);
        assert_eq!(ask(&mut create(&library, name), "stop"), answer);
    }
}

#[test]
fn a_stem_with_dashes_finds_what_cargo_built() {
    let loader = Loader::new();
    let stem = Plugins::built().real("default").with_file_name("conductor-default");
    assert_eq!(loader.load(&stem).file(), Plugins::built().real("default"));
}

#[test]
fn a_config_is_checked_by_the_plugin() {
    let library = Loader::new().load(&Plugins::built().real("default"));
    assert!(block_on(library.check_config("default", b"{}")).is_ok());
    let RErr(failure) = block_on(library.check_config("default", b"{\"a\":1}")) else { panic!("this config does not fit") };
    assert_eq!(failure.message, "this conductor takes no config");
}

#[test]
fn the_same_content_is_the_same_library_wherever_it_lies() {
    let loader = Loader::new();
    let first = loader.load(&Plugins::built().real("default"));
    assert!(Arc::ptr_eq(&first, &loader.load(&Plugins::built().real("default"))));
    assert!(Arc::ptr_eq(&first, &loader.load(&copied(&loader, &Plugins::built().real("default"), "elsewhere.so"))));
}

#[test]
fn a_changed_content_is_loaded_beside_the_old() {
    let loader = Loader::new();
    let path = moody(&loader, "good");
    let old = loader.load(&path);
    let mut conductor = create(&old, "variant");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    let new = loader.load(&path);
    assert!(!Arc::ptr_eq(&old, &new) && old.hash() != new.hash());
    for conductor in [&mut conductor, &mut create(&new, "variant"), &mut create(&old, "variant")] {
        assert_eq!(ask(conductor, "x"), "\"1.1.0 x now=42 can_tell=false\"");
    }
    // Two generations, two starts.
    assert_eq!(*loader.logged.lock().unwrap(), ["3 variant started", "3 variant started"]);
}

#[test]
fn a_file_overwritten_in_place_harms_nothing_that_runs() {
    let loader = Loader::new();
    let path = copied(&loader, &Plugins::built().real("default"), "mine.so");
    let library = loader.load(&path);
    let mut before = create(&library, "default");
    // As `cp` does: the same file, other bytes.
    let size = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![0xcc; usize::try_from(size).unwrap()]).unwrap();
    assert_eq!(ask(&mut before, "state"), "\"State\"");
    assert_eq!(ask(&mut create(&library, "default"), "start"), "\"Start\"");
    fs::write(&path, "").unwrap();
    assert_eq!(ask(&mut create(&library, "default"), "stop"), "\"Stop\"");
}

#[test]
fn the_next_minor_version_loads_before_and_after_this_one() {
    for order in [["next_minor", "default"], ["default", "next_minor"]] {
        let loader = Loader::new();
        for _ in 0..2 {
            for name in order {
                if name == "default" {
                    let library = loader.load(&Plugins::built().real("default"));
                    assert_eq!(ask(&mut create(&library, "default"), "state"), "\"State\"");
                } else {
                    let library = loader.load(&Plugins::built().fixture("next_minor"));
                    assert_eq!(ask(&mut create(&library, "variant"), "x"), "\"1.1.0 x now=42 can_tell=false\"");
                }
            }
            // And after one whose layout is wrong.
            loader.refused(&Plugins::built().fixture("layout"));
        }
    }
}

#[test]
fn both_versions_load_after_one_with_a_wrong_layout() {
    let loader = Loader::new();
    loader.refused(&Plugins::built().fixture("layout"));
    loader.load(&Plugins::built().fixture("next_minor"));
    loader.load(&Plugins::built().real("default"));
}

#[test]
fn the_conductor_is_the_configured_one_or_the_types_namesake_or_the_only_one() {
    let loader = Loader::new();
    let (one, two) = (loader.load(&Plugins::built().real("default")), loader.load(&Plugins::built().fixture("next_minor")));
    assert_eq!(one.choose_conductor(None, "quiz").unwrap().name, "default");
    assert_eq!(two.choose_conductor(Some("other"), "variant").unwrap().name, "other");
    assert_eq!(two.choose_conductor(None, "variant").unwrap().name, "variant");
    let refusal = two.choose_conductor(None, "quiz").unwrap_err().to_string();
    assert!(
        refusal.ends_with(
            "none of them named as the type \"quiz\": \"variant\", \"other\"; set conductor = \"…\" in the type to one of these"
        )
    );
    let refusal = one.choose_conductor(Some("greeter"), "default").unwrap_err().to_string();
    assert!(
        refusal.ends_with("it offers no conductor \"greeter\"; it offers \"default\": set conductor = \"…\" in the type to one of these")
    );
}

// --- the private copy

#[test]
fn the_copy_is_private_and_one_that_is_wrong_is_replaced() {
    let loader = Loader::new();
    let plugin = Plugins::built().real("default");
    let bytes = fs::read(&plugin).unwrap();
    let folder = loader.state.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // Of the right size, so that only its content tells.
    let copy = folder.join(format!("{}.so", Hash::of(&bytes)));
    fs::write(&copy, vec![0; bytes.len()]).unwrap();
    fs::write(folder.join(format!("{}.tmp", Hash::of(&bytes))), "left behind").unwrap();
    let library = loader.load(&plugin);
    assert_eq!(ask(&mut create(&library, "default"), "state"), "\"State\"");
    assert!(fs::read(&copy).unwrap() == bytes);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&folder), mode(&copy)), (0o700, 0o500));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_good_copy_is_used_again() {
    use std::os::unix::fs::MetadataExt;
    let loader = Loader::new();
    let plugin = Plugins::built().real("default");
    let folder = loader.state.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    let copy = folder.join(format!("{}.so", Hash::of(&fs::read(&plugin).unwrap())));
    fs::copy(&plugin, &copy).unwrap();
    let before = fs::metadata(&copy).unwrap().ino();
    loader.load(&plugin);
    assert_eq!(fs::metadata(&copy).unwrap().ino(), before);
}

#[test]
fn a_copy_that_cannot_be_made_is_said() {
    let loader = Loader::new();
    written(&loader, "plugins", "in the way");
    let said = loader.refused(&Plugins::built().real("default"));
    assert!(said.starts_with("its private copy in ") && said.ends_with("check the rights and the space of the state folder"), "{said}");
}

#[test]
fn a_file_or_folder_that_everybody_may_write_is_refused() {
    let loader = Loader::new();
    let folder = loader.state.path().join("own");
    fs::create_dir(&folder).unwrap();
    let plugin = folder.join("p.so");
    fs::copy(Plugins::built().real("default"), &plugin).unwrap();
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    chmod(&plugin, 0o646);
    assert_eq!(
        loader.refused(&plugin),
        "the file is writable by everybody, who could so run code in the host; remove that right (chmod o-w)"
    );
    chmod(&plugin, 0o664);
    chmod(&folder, 0o777);
    let its_folder = format!("its folder {} is writable by everybody", folder.display());
    assert!(loader.refused(&plugin).starts_with(&its_folder));
    // Through a link from a good folder it is the same file in the same folder.
    let link = loader.state.path().join("link.so");
    symlink(&plugin, &link).unwrap();
    assert!(loader.refused(&link).starts_with(&its_folder));

    for good in [0o1777, 0o775] {
        chmod(&folder, good);
        loader.load(&plugin);
    }
}

#[test]
fn only_the_pinned_content_is_loaded() {
    let loader = Loader::new();
    let plugin = Plugins::built().real("default");
    let hash = Hash::of(&fs::read(&plugin).unwrap());
    loader.libraries.load(&plugin, Some(hash.to_string().to_uppercase().parse().unwrap())).unwrap();
    // It is loaded already, and is refused all the same.
    let refusal = loader.libraries.load(&plugin, Some(Hash::of(b"other"))).unwrap_err();
    assert_eq!(refusal.reason, Reason::OtherContent { found: hash.to_string(), pinned: Hash::of(b"other").to_string() });
    assert!("abc".parse::<Hash>().is_err() && "é".repeat(64).parse::<Hash>().is_err());
}

// --- what is no plugin

#[test]
fn what_is_not_there_is_said_with_what_was_looked_for() {
    let loader = Loader::new();
    let stem = loader.state.path().join("my-plugin");
    let refusal = loader.libraries.load(&stem, None).unwrap_err();
    assert_eq!(refusal.file, loader.state.path().join("libmy_plugin.so"));
    assert_eq!(
        loader.refused(&stem),
        format!(
            "there is no such file (which is what {:?} in the settings means on this system); build the plugin, or correct its path in the settings",
            stem.display().to_string()
        )
    );
    assert_eq!(loader.refused(&stem.with_extension("so")), "there is no such file; build the plugin, or correct its path in the settings");
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

// --- damage

#[test]
fn a_file_cut_short_anywhere_never_reaches_the_system_loader() {
    let loader = Loader::new();
    let real = fs::read(Plugins::built().real("default")).unwrap();
    let target = Target::current();
    inspect(&real, &target).unwrap();
    let cut = |at: usize| {
        let refused = inspect(&real[..at], &target);
        assert!(matches!(refused, Err(Reason::Damaged { .. } | Reason::NotALibrary { .. })), "cut at {at}: {refused:?}");
    };
    (0..real.len()).step_by(4096).for_each(cut);
    (0..100).chain(real.len() - 100..real.len()).for_each(cut);
    TestRunner::default().run(&(0..real.len()), |at| Ok(cut(at))).unwrap();
    // And through the door.
    let said = loader.refused(&written(&loader, "cut.so", &real[..real.len() / 2]));
    assert!(said.starts_with("the file is cut short or damaged (") && said.ends_with("; copy it again"), "{said}");
}

#[test]
fn a_file_without_section_table_is_held_to_its_segments() {
    let mut real = fs::read(Plugins::built().real("default")).unwrap();
    // e_shoff, e_shnum and e_shstrndx: without them, the loader works, and only the segments tell that the file is short.
    real[40..48].fill(0);
    real[60..64].fill(0);
    let target = Target::current();
    let refused = inspect(&real[..real.len() / 8], &target);
    let Err(Reason::Damaged { detail, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(detail, "a segment reaches beyond its end");
    assert!(matches!(inspect(&real, &target), Err(Reason::NotAPlugin { .. })));
}

#[test]
fn no_bytes_make_the_inspection_panic() {
    let real = fs::read(Plugins::built().real("default")).unwrap();
    let dll_folder = tempfile::tempdir().unwrap();
    let dll = dll_folder.path().join("x.dll");
    compile_c("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64", "__declspec(dllexport) int x = 1;", &dll);
    let files = [real, fs::read(dll).unwrap()];
    let targets = [Target::current(), Target { system: "Windows", arch: "x86_64".to_owned() }];
    let mut runner = TestRunner::new(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() });
    // Headers are where it hurts: half of the changes go to the first and last 8 KiB.
    let place = prop_oneof![
        any::<prop::sample::Index>().prop_map(|i| (0, i)),
        any::<prop::sample::Index>().prop_map(|i| (1, i)),
        any::<prop::sample::Index>().prop_map(|i| (2, i))
    ];
    let changes = prop::collection::vec((place, any::<u8>()), 1..24);
    runner
        .run(&(0..2_usize, changes), |(which, changes)| {
            let mut bytes = files[which].clone();
            for ((part, index), value) in changes {
                let edge = bytes.len().min(8192);
                let at = match part {
                    0 => index.index(bytes.len()),
                    1 => index.index(edge),
                    _ => bytes.len() - 1 - index.index(edge),
                };
                bytes[at] = value;
            }
            let _ = inspect(&bytes, &targets[which]);
            Ok(())
        })
        .unwrap();
    let magics: [&[u8]; 6] =
        [b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x02\x01", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe\0\0\0\x02", b"!<arch>\n"];
    runner
        .run(&(0..magics.len(), prop::collection::vec(any::<u8>(), 0..600)), |(magic, rest)| {
            let bytes = [magics[magic], &rest].concat();
            prop_assert!(targets.iter().all(|target| inspect(&bytes, target).is_err()));
            Ok(())
        })
        .unwrap();
}

// --- plugins that break the contract

#[test]
fn an_undefined_symbol_is_found_at_load_and_named() {
    let loader = Loader::new();
    let plugin = loader.state.path().join("undefined.so");
    let source =
        "extern void nowhere_to_be_found(void); char conductor_host_plugin_v1[4096] = {1}; void f(void) { nowhere_to_be_found(); }";
    compile_c("gcc", "gcc", source, &plugin);
    assert_eq!(
        loader.refused(&plugin),
        "the system cannot load it: dlopen failed: undefined symbol: nowhere_to_be_found; a library that it needs is missing or does not fit"
    );
}

#[test]
fn the_entry_symbols_of_other_contracts_are_told_apart() {
    let loader = Loader::new();
    let cases = [
        ("v2", "char conductor_host_plugin_v2[4096] = {1};", "this plugin is made for version 2 of the contract, but this host has 1."),
        ("c", "char conductor_plugin_v1[4096] = {1};", "this plugin offers only the C contract (conductor_plugin_v1)"),
        ("odd", "char conductor_host_plugin_vx[4096] = {1};", "this is a shared library, but not a plugin: "),
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
    for (mood, why) in [
        ("no-manifest", "there is none today"),
        ("panicking", "it panicked: manifest panicked outside of a guard"),
        ("garbage", "EOF while parsing an object at line 1 column 1"),
        ("twice", "it offers \"a\" twice"),
        ("nothing", "it offers no conductor"),
    ] {
        let loader = Loader::new();
        let said = loader.refused(&moody(&loader, mood));
        assert_eq!(said, format!("its manifest cannot be used: {why}; rebuild it with conductor-host-sdk 1.x"));
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
        assert_eq!(loader.refused(&plugin), said);
        assert_eq!(loader.refused(&plugin), said);
        assert_eq!(*loader.logged.lock().unwrap(), ["3 variant started"]);
    }
}
