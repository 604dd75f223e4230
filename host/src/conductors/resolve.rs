//! From the plugin path in the settings to the name of a file: a pure function, the same on every system.

use std::path::{Path, PathBuf};

/// The systems that name their libraries differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// `libname.so`; Linux, and every other Unix but macOS.
    Linux,
    /// `name.dll`.
    Windows,
    /// `libname.dylib`.
    MacOs,
}

impl Platform {
    /// The one that this host runs on.
    pub const CURRENT: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Linux
    };

    /// What a library's name begins with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Linux | Self::MacOs => "lib",
            Self::Windows => "",
        }
    }

    /// What a library's name ends with, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Linux => "so",
            Self::Windows => "dll",
            Self::MacOs => "dylib",
        }
    }
}

/// The file that `configured` means on `platform`.
///
/// - A name with a library's ending, of this system or another (`.so`, `.so.1`, `.dll`, `.dylib`, in any case), is a full file
///   name and taken as it is.
/// - Anything else is a stem, `dir/name`, named as cargo names what it builds: dashes in the last part become underscores,
///   and prefix and ending are those of the system. A file whose name really has a dash is configured by its full name.
///
/// The folders before the last part are never changed, and nothing is looked up.
#[must_use]
pub fn resolve(platform: Platform, configured: &Path) -> PathBuf {
    // A name that is no Unicode cannot be a stem out of cargo.
    let Some(name) = configured.file_name().and_then(|name| name.to_str()) else { return configured.to_owned() };
    if is_full(name) {
        return configured.to_owned();
    }
    configured.with_file_name(format!("{}{}.{}", platform.prefix(), name.replace('-', "_"), platform.extension()))
}

fn is_full(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `libname.so.1.2`: a version after the ending.
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    [Platform::Linux, Platform::Windows, Platform::MacOs]
        .iter()
        .any(|platform| name.ends_with(&format!(".{}", platform.extension())) || unversioned.ends_with(".so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(platform: Platform, configured: &str) -> String {
        resolve(platform, Path::new(configured)).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_stem_becomes_what_cargo_calls_the_library_on_each_system() {
        for (platform, file) in [
            (Platform::Linux, "/srv/my-plugins/libconductor_default.so"),
            (Platform::Windows, "/srv/my-plugins/conductor_default.dll"),
            (Platform::MacOs, "/srv/my-plugins/libconductor_default.dylib"),
        ] {
            assert_eq!(on(platform, "/srv/my-plugins/conductor-default"), file);
            assert_eq!(on(platform, "/srv/my-plugins/conductor_default"), file);
        }
    }

    #[test]
    fn a_full_file_name_of_any_system_is_taken_as_it_is() {
        for platform in [Platform::Linux, Platform::Windows, Platform::MacOs] {
            for name in ["/p/my-thing.so", "/p/libx.so.1.2", "/p/a-b.dll", "/p/A-B.DLL", "/p/lib-x.dylib"] {
                assert_eq!(on(platform, name), name);
            }
        }
    }

    #[test]
    fn a_dot_or_a_prefix_does_not_make_a_stem_a_file_name() {
        assert_eq!(on(Platform::Linux, "/p/quiz.v2"), "/p/libquiz.v2.so");
        assert_eq!(on(Platform::Linux, "/p/libquiz"), "/p/liblibquiz.so");
        assert_eq!(on(Platform::Windows, "/p/also"), "/p/also.dll");
    }

    #[test]
    fn the_current_platform_names_files_as_the_standard_library_says() {
        assert_eq!(Platform::CURRENT.prefix(), std::env::consts::DLL_PREFIX);
        assert_eq!(Platform::CURRENT.extension(), std::env::consts::DLL_EXTENSION);
    }
}
