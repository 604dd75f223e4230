//! Files that are cut short, changed, or random.

use std::fs;

use conductor_host::conductors::{
    inspect::{Target, inspect},
    refusal::Reason,
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::support::{Loader, Plugins, compile_c, written};

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
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })
        .run(&(0..real.len()), |at| {
            cut(at);
            Ok(())
        })
        .unwrap();
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
fn a_file_is_held_to_its_sections_too() {
    let mut real = fs::read(Plugins::built().real("default")).unwrap();
    // The table stays where it is; the size of its first debug section, which no loader looks at, is now beyond the end.
    let table = usize::try_from(u64::from_le_bytes(real[40..48].try_into().unwrap())).unwrap();
    let unloaded = |at: &usize| real[at + 4..at + 16] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let header = (table..real.len()).step_by(64).find(unloaded).expect("a debug build has sections that are not loaded");
    real[header + 36] = 1;
    let refused = inspect(&real, &Target::current());
    let Err(Reason::Damaged { detail, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(detail, "a section reaches beyond its end");
}

#[test]
fn a_dll_without_the_end_of_its_symbols_is_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let dll = folder.path().join("x.dll");
    compile_c("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64", "__declspec(dllexport) int conductor_host_plugin_v1 = 1;", &dll);
    let whole = fs::read(dll).unwrap();
    let windows = Target { system: "Windows", arch: "x86_64".to_owned() };
    inspect(&whole, &windows).unwrap();
    // MinGW writes sections first, then the symbols, and their names at the very end.
    let number = |at: usize| u32::from_le_bytes(*whole[at..].first_chunk().unwrap()) as usize;
    let header = number(0x3c) + 4;
    let (symbols, count) = (number(header + 8), number(header + 12));
    let names = symbols + count * 18;
    assert!(symbols > 0 && names + number(names) == whole.len());
    for size in [whole.len() - 1, names + 4, names + 3, names, names - 1, symbols + 1, symbols] {
        let refused = inspect(&whole[..size], &windows);
        let Err(Reason::Damaged { detail, .. }) = &refused else { panic!("at {size}: {refused:?}") };
        assert_eq!(detail, "its table of symbols reaches beyond its end", "at {size}");
    }
    // One that has none is whole without.
    let mut stripped = whole[..symbols].to_vec();
    stripped[header + 8..header + 16].fill(0);
    inspect(&stripped, &windows).unwrap();
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
