//! Looks into a plugin file before the system's loader sees it: nothing of the file runs, and what the loader would die of
//! (a file cut short is a bus error inside `dlopen`) is found here.

use conductor_abi::{ENTRY_SYMBOL, ENTRY_SYMBOL_PREFIX, abi_stable::library::LibHeader};
use object::{
    Architecture, BinaryFormat, Endianness, FileKind, LittleEndian, Object, ObjectKind, ObjectSection, ObjectSegment, ObjectSymbol,
    SymbolKind,
    pe::{IMAGE_SIZEOF_SYMBOL, ImageFileHeader},
    read::{
        NameOrOrdinal,
        elf::ElfFile,
        macho::{FatArch, MachOFatFile32, MachOFatFile64},
        pe::ImageNtHeaders,
    },
};

use super::{refusal::Reason, resolve::Platform};

/// The name under which a C contract is reserved; no host has it yet.
const C_ENTRY_SYMBOL: &str = "conductor_plugin_v1";

/// What a library is made for, as far as its headers say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `Linux`, `Windows`, `macOS`, `FreeBSD`.
    pub system: &'static str,
    /// As [`std::env::consts::ARCH`] calls it.
    pub arch: String,
}

impl Target {
    /// What this host can load.
    #[must_use]
    pub fn current() -> Self {
        let system = match Platform::CURRENT {
            Platform::Linux if cfg!(target_os = "freebsd") => "FreeBSD",
            Platform::Linux => "Linux",
            Platform::Windows => "Windows",
            Platform::MacOs => "macOS",
        };
        Self { system, arch: with_order(std::env::consts::ARCH, cfg!(target_endian = "little")) }
    }

    /// `a Windows DLL (x86-64)`.
    fn describe(&self, kind: ObjectKind) -> String {
        let noun = match kind {
            ObjectKind::Dynamic if self.system == "Windows" => "DLL",
            ObjectKind::Dynamic => "library",
            ObjectKind::Executable => "program",
            ObjectKind::Relocatable => "object file",
            _ => "file of another kind",
        };
        format!("a {} {noun} ({})", self.system, self.arch.replace('_', "-"))
    }
}

/// The name of a processor, with the order of its bytes where that is not the usual one for the name.
fn with_order(arch: &str, little_endian: bool) -> String {
    let usually_big = matches!(arch, "powerpc64" | "powerpc" | "mips" | "mips64" | "s390x" | "sparc64" | "m68k");
    match (little_endian, usually_big) {
        (true, true) => format!("{arch}le"),
        (false, false) => format!("{arch}be"),
        _ => arch.to_owned(),
    }
}

/// Looks whether `bytes`, a whole file, are a plugin for `target`.
///
/// Never panics, whatever the bytes, and takes time and memory in proportion to their number.
///
/// # Errors
/// The first that is wrong, in this order: not a library, damaged, another platform, not a shared library, no entry symbol.
pub fn inspect(bytes: &[u8], target: &Target) -> Result<(), Reason> {
    let damaged = |error: object::Error| Reason::Damaged { detail: error.to_string(), size: bytes.len() };
    let kind = match FileKind::parse(bytes) {
        Ok(kind) => kind,
        Err(_) if bytes.len() < 16 && bytes.starts_with(b"\x7fELF") => {
            return Err(Reason::Damaged { detail: "not even its first header is whole".to_owned(), size: bytes.len() });
        }
        Err(_) => return Err(Reason::NotALibrary { found: of_unknown_kind(bytes).to_owned() }),
    };
    match kind {
        FileKind::Elf32 | FileKind::Elf64 | FileKind::Pe32 | FileKind::Pe64 | FileKind::MachO32 | FileKind::MachO64 => {
            library(bytes, target)
        }
        FileKind::MachOFat32 => universal(bytes, MachOFatFile32::parse(bytes).map_err(damaged)?.arches(), target),
        FileKind::MachOFat64 => universal(bytes, MachOFatFile64::parse(bytes).map_err(damaged)?.arches(), target),
        FileKind::Archive => Err(Reason::NotALibrary { found: "a static library".to_owned() }),
        FileKind::Coff | FileKind::CoffBig => Err(Reason::NotALibrary { found: "an object file".to_owned() }),
        _ => Err(Reason::NotALibrary { found: "a binary file of another kind".to_owned() }),
    }
}

fn of_unknown_kind(bytes: &[u8]) -> &'static str {
    let start = bytes.get(..512).unwrap_or(bytes);
    // The piece may end within a character.
    let text = !start.contains(&0) && std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
    match start {
        [] => "an empty file",
        [b'#', b'!', ..] => "a script",
        [b'M', b'Z', ..] => "a program for MS-DOS, or a Windows library that is cut short",
        _ if text => "a text file",
        _ => "a file of an unknown kind",
    }
}

/// A macOS file with one library for each of several processors.
fn universal<T: FatArch>(bytes: &[u8], arches: &[T], target: &Target) -> Result<(), Reason> {
    let ours = arches.iter().find(|arch| name(arch.architecture(), true) == target.arch);
    let Some(ours) = ours.filter(|_| target.system == "macOS") else {
        // More than a few are made up.
        let all: Vec<_> = arches.iter().take(4).map(|arch| name(arch.architecture(), true).replace('_', "-")).collect();
        let found = format!("a macOS library ({})", all.join(" and "));
        return Err(Reason::OtherPlatform { found, expected: target.describe(ObjectKind::Dynamic) });
    };
    let slice = ours.data(bytes).map_err(|error| Reason::Damaged { detail: error.to_string(), size: bytes.len() })?;
    library(slice, target)
}

fn library(bytes: &[u8], target: &Target) -> Result<(), Reason> {
    let size = bytes.len();
    let damaged = |detail: String| Reason::Damaged { detail, size };
    let file = object::File::parse(bytes).map_err(|error| damaged(error.to_string()))?;
    whole(&file, bytes).map_err(damaged)?;

    let found = Target { system: system(&file), arch: name(file.architecture(), file.endianness() == Endianness::Little) };
    if found != *target {
        return Err(Reason::OtherPlatform { found: found.describe(file.kind()), expected: target.describe(ObjectKind::Dynamic) });
    }
    if file.kind() != ObjectKind::Dynamic {
        return Err(Reason::NotALibrary { found: found.describe(file.kind()) });
    }
    entry(&file, size)
}

/// Whether all that the headers speak of lies within the file: what the loader maps, and the sections too, since a file whose
/// end is missing was not copied whole, even if the loader would not look there.
fn whole(file: &object::File<'_>, bytes: &[u8]) -> Result<(), String> {
    let within = |(offset, length): (u64, u64)| offset.checked_add(length).is_some_and(|end| end <= bytes.len() as u64);
    if !file.segments().all(|segment| within(segment.file_range())) {
        return Err("a segment reaches beyond its end".to_owned());
    }
    if !file.sections().filter_map(|section| section.file_range()).all(within) {
        return Err("a section reaches beyond its end".to_owned());
    }
    let header = match file {
        object::File::Pe32(pe) => Some(pe.nt_headers().file_header()),
        object::File::Pe64(pe) => Some(pe.nt_headers().file_header()),
        _ => None,
    };
    if !header.is_none_or(|header| symbols_of(header, bytes).is_none_or(within)) {
        return Err("its table of symbols reaches beyond its end".to_owned());
    }
    Ok(())
}

/// Where a DLL's table of symbols is, in bytes, with the names that lie behind it and begin with their length. It is in no section, and
/// some linkers write it last.
fn symbols_of(header: &ImageFileHeader, bytes: &[u8]) -> Option<(u64, u64)> {
    let (at, count) = (header.pointer_to_symbol_table.get(LittleEndian), header.number_of_symbols.get(LittleEndian));
    if at == 0 || count == 0 {
        return None;
    }
    let symbols = u64::from(count) * IMAGE_SIZEOF_SYMBOL as u64;
    let names = usize::try_from(u64::from(at) + symbols).ok().and_then(|names| bytes.get(names..)?.first_chunk());
    // Where the length is not there, its own four bytes are beyond the end.
    let length = names.map_or(4, |length| u32::from_le_bytes(*length));
    Some((at.into(), symbols + u64::from(length)))
}

fn system(file: &object::File<'_>) -> &'static str {
    let abi = match file {
        object::File::Elf32(elf) => os_abi(elf),
        object::File::Elf64(elf) => os_abi(elf),
        _ => 0,
    };
    match (file.format(), abi) {
        (BinaryFormat::Pe, _) => "Windows",
        (BinaryFormat::MachO, _) => "macOS",
        (BinaryFormat::Elf, 9) => "FreeBSD",
        (BinaryFormat::Elf, 0 | 3) => "Linux",
        _ => "foreign",
    }
}

fn os_abi<E: object::read::elf::FileHeader>(file: &ElfFile<'_, E>) -> u8 {
    file.elf_header().e_ident().os_abi.0
}

/// As [`std::env::consts::ARCH`] names it, where it has a name.
fn name(arch: Architecture, little_endian: bool) -> String {
    let name = match arch {
        Architecture::X86_64 => "x86_64",
        Architecture::I386 => "x86",
        Architecture::Aarch64 => "aarch64",
        Architecture::PowerPc => "powerpc",
        Architecture::PowerPc64 => "powerpc64",
        other => &format!("{other:?}").to_ascii_lowercase(),
    };
    with_order(name, little_endian)
}

/// Looks for the entry symbol, or for what else says whose plugin it might be.
fn entry(file: &object::File<'_>, size: usize) -> Result<(), Reason> {
    let damaged = |error: object::Error| Reason::Damaged { detail: error.to_string(), size };
    let (mut other_major, mut c_contract, mut found) = (None, None, false);
    for export in file.exports().map_err(damaged)? {
        let export = export.map_err(damaged)?;
        let NameOrOrdinal::Name(name) = export.name() else { continue };
        let Ok(name) = std::str::from_utf8(name) else { continue };
        // macOS writes an underscore before every C name.
        let name = if file.format() == BinaryFormat::MachO { name.strip_prefix('_').unwrap_or(name) } else { name };
        if name == ENTRY_SYMBOL {
            found = true;
        } else if let Some(major) = name.strip_prefix(ENTRY_SYMBOL_PREFIX) {
            if !major.is_empty() && major.len() < 10 && major.bytes().all(|b| b.is_ascii_digit()) {
                other_major = Some(major.to_owned());
            }
        } else if name == C_ENTRY_SYMBOL {
            c_contract = Some(name.to_owned());
        }
    }
    if found && is_header(file) {
        return Ok(());
    }
    if let Some(found) = other_major {
        return Err(Reason::OtherMajor { found });
    }
    if let Some(symbol) = c_contract {
        return Err(Reason::CContract { symbol });
    }
    Err(Reason::NotAPlugin { symbol: ENTRY_SYMBOL })
}

/// Whether the entry symbol can be a plugin's header: the loader will read it as one. Only ELF says what a symbol is: a variable
/// (not a function, which looking it up may even run) of that size within what is loaded.
fn is_header(file: &object::File<'_>) -> bool {
    let loaded = |from: u64, size: u64| {
        let end = from.checked_add(size);
        file.segments().any(|s| s.address() <= from && end.is_some_and(|end| end <= s.address().saturating_add(s.size())))
    };
    let is_header = |symbol: object::Symbol<'_, '_>| {
        symbol.name() == Ok(ENTRY_SYMBOL)
            && symbol.kind() == SymbolKind::Data
            && symbol.section_index().is_some()
            && symbol.size() >= size_of::<LibHeader>() as u64
            && loaded(symbol.address(), symbol.size())
    };
    file.format() != BinaryFormat::Elf || file.dynamic_symbols().any(is_header)
}
