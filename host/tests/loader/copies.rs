//! The private copy, who may write a plugin, and pinned contents.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use conductor_host::conductors::{library::Hash, refusal::Reason};

use crate::support::{Loader, Plugins, ask, create, written};

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
fn copies_that_are_not_loaded_can_be_removed() {
    let loader = Loader::new();
    let library = loader.load(&Plugins::built().real("default"));
    let folder = loader.state.path().join("plugins");
    for name in [format!("{}.so", Hash::of(b"old")), format!("{}.tmp", Hash::of(b"cut")), "README".to_owned()] {
        fs::write(folder.join(name), "").unwrap();
    }
    assert_eq!(loader.libraries.remove_unused_copies().unwrap(), 2);
    assert!(folder.join("README").exists() && folder.join(format!("{}.so", library.hash())).exists());
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
