//! The command line: reads arguments and settings, answers what needs no host, and says what is to be run.

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tempfile::TempDir;

mod progress;
mod session;
mod store;
mod token;

use crate::{
    config::{Flag, Mistakes, Settings, Source, Warning, reference},
    migrate,
    plugin::{self, PluginCommand},
    sessions::clock::Clock,
};

/// The exit status for a wrong command line and for wrong settings.
pub const WRONG_SETTINGS: u8 = 2;

/// What there is to do next.
#[derive(Debug)]
pub enum Next {
    /// Run the host.
    Serve(Box<Serve>),
    /// All is done: end with this status.
    Exit(u8),
}

/// How the host is to be run.
#[derive(Debug)]
pub struct Serve {
    /// Checked.
    pub settings: Settings,
    /// Where they come from.
    pub source: Source,
    /// To be logged.
    pub warnings: Vec<Warning>,
    /// Where to write the bound addresses.
    pub ready_file: Option<PathBuf>,
    /// Development mode, with the folder for what shall not be kept; it goes with the value.
    pub dev: Option<TempDir>,
}

/// Session server for groups of devices: sessions conducted by plugins, over MQTT.
#[derive(Debug, Parser)]
#[command(name = "conductor-host", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the host in the foreground, until SIGTERM or Ctrl-C.
    ///
    /// Logs go to standard error. Wrong settings end it with status 2 before anything is opened.
    Serve {
        /// The settings file (TOML). Without it the defaults apply, with no session types.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Once every listener is bound, write the bound addresses to this file as JSON. It appears whole.
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
        /// For plugin authors: watches the plugin of each type and reloads it on change, sessions included. Where settings say nothing else,
        /// nothing is kept after the end.
        #[arg(long)]
        dev: bool,
        /// The plugin of a type, as `types.NAME.plugin` sets it; PATH is relative to the working directory. May be repeated.
        #[arg(long = "type", value_name = "NAME=PATH", value_parser = type_flag)]
        types: Vec<Flag>,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Checks or shows settings without starting anything.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The tokens that open the admin port, and the key that signs the tokens of devices.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The session store: into it, out of it, copies of it, and whether it is good.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// What is kept of one session.
    #[command(subcommand)]
    Session(session::SessionCommand),
    Migrate(migrate::Arguments),
    /// Begins a new plugin, or looks into a built one. Needs no settings and no running host.
    #[command(subcommand)]
    Plugin(PluginCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints `FILE: ok` and warnings, or all mistakes, one a line (status 2).
    Check {
        /// The settings file (TOML).
        file: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Prints the settings in force as TOML, each with where it was set. Plugins' own settings are printed as they are.
    Show {
        /// The settings file (TOML).
        file: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Prints the reference of all settings (Markdown).
    Reference,
}

/// Settings on the command line. They win over the environment (`CONDUCTOR_HOST__SECTION__KEY`) and the file.
#[derive(Debug, Args)]
struct Overrides {
    /// Set any key, as in `--set iot.listen=127.0.0.1:0`. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Short for `--set log.level=LEVEL`: off, error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Overrides {
    fn flags(&self) -> Vec<Flag> {
        let level = self.log_level.iter().map(|level| Flag::new("--log-level", "log.level", level));
        self.set.iter().map(|argument| Flag::set(argument)).chain(level).collect()
    }
}

/// Reads the command line (`args` begins with the program's name) and the settings. What is asked for goes to `out`,
/// what is wrong to `err`.
pub fn start(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    version: &'static str,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Next {
    let command = Cli::command().version(version);
    let cli = command.try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            let status = u8::try_from(error.exit_code()).unwrap_or(WRONG_SETTINGS);
            let text = error.render().to_string();
            return if error.use_stderr() { print(err, text.as_bytes(), status) } else { print(out, text.as_bytes(), status) };
        }
    };
    match cli.command {
        Command::Serve { config, ready_file, dev, types, overrides } => {
            let source = Source::new(config, env, types.into_iter().chain(overrides.flags()).collect());
            serve(source, dev, ready_file)
                .map_or_else(|wrong| print(err, wrong.as_bytes(), WRONG_SETTINGS), |serve| Next::Serve(Box::new(serve)))
        }
        Command::Config(ConfigCommand::Check { file, overrides }) => match Settings::load(Some(&file), env, &overrides.flags()) {
            Ok((_, warnings)) => check_passed(out, &file, &warnings),
            Err(mistakes) => refuse(err, &mistakes),
        },
        Command::Config(ConfigCommand::Show { file, overrides }) => match Settings::load(Some(&file), env, &overrides.flags()) {
            Ok((settings, _)) => print(out, settings.show().as_bytes(), 0),
            Err(mistakes) => refuse(err, &mistakes),
        },
        Command::Config(ConfigCommand::Reference) => print(out, reference().as_bytes(), 0),
        Command::Token(command) => token::run(command, env, Clock::system().seconds(), out, err),
        Command::Store(command) => store::run(command, env, Clock::system().seconds(), out, err),
        Command::Session(command) => session::run(command, env, out, err),
        Command::Migrate(arguments) => match migrate::run(&arguments, env, Clock::system().seconds(), out) {
            Ok(()) => Next::Exit(0),
            Err(failed) => print(err, format!("{failed}\n").as_bytes(), failed.status()),
        },
        Command::Plugin(command) => {
            let said = plugin::run(command);
            let status = write(err, said.err.as_bytes(), said.status);
            print(out, said.out.as_bytes(), status)
        }
    }
}

/// The setting that `--type NAME=PATH` makes.
fn type_flag(argument: &str) -> Result<Flag, String> {
    let (name, path) = argument.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()).ok_or("expected NAME=PATH")?;
    // Settings are relative to their file; what is typed is relative to where it is typed.
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    let path = path.to_str().ok_or("the working directory's path is not Unicode text")?;
    Ok(Flag::new(&format!("--type {name}"), &format!("types.{name}.plugin"), path))
}

/// All that a run needs; or what is wrong, a line each.
fn serve(mut source: Source, dev: bool, ready_file: Option<PathBuf>) -> Result<Serve, String> {
    let load = |source: &Source| source.load().map_err(|mistakes| format!("{mistakes}\n"));
    let (mut settings, mut warnings) = load(&source)?;
    let mut folder = None;
    if dev {
        let made = tempfile::Builder::new().prefix("conductor-host-dev-").tempdir();
        let made = made.map_err(|error| format!("--dev: no temporary folder: {error}; TMPDIR can name another\n"))?;
        let state = made.path().to_str().ok_or("--dev: the temporary folder's path is not Unicode text\n")?;
        let unless_set = [("state.dir", state), ("store.url", "memory:")].into_iter().filter(|(key, _)| !settings.is_set(key));
        source.flags.extend(unless_set.map(|(key, value)| Flag::new("--dev", key, value)));
        (settings, warnings) = load(&source)?;
        folder = Some(made);
    }
    Ok(Serve { settings, source, warnings, ready_file, dev: folder })
}

fn check_passed(out: &mut dyn Write, file: &Path, warnings: &[Warning]) -> Next {
    let mut text = format!("{}: ok\n", file.display());
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    print(out, text.as_bytes(), 0)
}

fn refuse(err: &mut dyn Write, mistakes: &Mistakes) -> Next {
    print(err, format!("{mistakes}\n").as_bytes(), WRONG_SETTINGS)
}

/// Ends with `status`; with 1 where the text could not be written and all else went well.
fn print(to: &mut dyn Write, text: &[u8], status: u8) -> Next {
    Next::Exit(write(to, text, status))
}

fn write(to: &mut dyn Write, text: &[u8], status: u8) -> u8 {
    match to.write_all(text).and_then(|()| to.flush()) {
        Err(_) if status == 0 => 1,
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreUrl;

    /// Runs the command line on a settings file with this text; what came out, and what is next.
    fn run(text: &str, env: &[(&str, &str)], args: &[&str]) -> (String, String, Next) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, text).unwrap();
        let fill = |arg: &&str| arg.replace("FILE", file.to_str().unwrap());
        let args = std::iter::once("conductor-host".to_owned()).chain(args.iter().map(fill)).map(OsString::from);
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let next = start(args, env, "7.8.9 (plugin ABI 1.2)", &mut out, &mut err);
        let folder = format!("{}/", folder.path().display());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder, "");
        (text(out), text(err), next)
    }

    const TYPE: &str = "[types.a]\nplugin = \"a\"\n";

    #[test]
    fn a_good_file_is_ok_and_its_warnings_are_printed() {
        let (out, err, next) = run(TYPE, &[], &["config", "check", "FILE"]);
        assert!(matches!(next, Next::Exit(0)));
        assert_eq!((out.as_str(), err.as_str()), ("settings.toml: ok\n", ""));

        let (out, _, next) = run("", &[], &["config", "check", "FILE"]);
        assert!(matches!(next, Next::Exit(0)));
        assert_eq!(out, "settings.toml: ok\nwarning: default: types: no type is configured, so no session can be created\n");
    }

    #[test]
    fn wrong_settings_end_every_command_with_status_2() {
        for args in [&["config", "check", "FILE"][..], &["config", "show", "FILE"], &["serve", "--config", "FILE"]] {
            let (out, err, next) = run("[iot]\nlisten = 1\nlitsen = 2\n", &[], args);
            assert!(matches!(next, Next::Exit(2)), "{args:?}");
            assert_eq!(out, "");
            assert_eq!(err.lines().count(), 2, "{err}");
            assert!(err.starts_with("settings.toml:2: iot.listen: found 1, expected "), "{err}");
        }
    }

    #[test]
    fn flags_reach_the_settings() {
        let args = ["serve", "--config", "FILE", "--ready-file", "r.json", "--set", "iot.listen=127.0.0.1:0", "--log-level", "debug"];
        let (_, err, next) = run(TYPE, &[("CONDUCTOR_HOST__LOG__LEVEL", "warn")], &args);
        let Next::Serve(serve) = next else { panic!("{err}") };
        let Serve { settings, warnings, ready_file, .. } = *serve;
        assert_eq!(settings.iot.listen, ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!(settings.log.level, "debug");
        assert_eq!(ready_file.unwrap(), Path::new("r.json"));
        assert!(warnings.is_empty());
    }

    #[test]
    fn development_keeps_nothing_unless_told_to() {
        let serve = |text: &str, args: &[&str]| {
            let (_, err, next) = run(text, &[], args);
            let Next::Serve(serve) = next else { panic!("{err}") };
            *serve
        };
        let dev = serve("", &["serve", "--dev", "--type", "a.b=plugins/x", "--type", "c=/y/z"]);
        let folder = dev.dev.as_ref().unwrap().path().to_owned();
        assert_eq!((&dev.settings.state.dir, &dev.settings.store.url), (&folder, &StoreUrl::Memory));
        assert_eq!(dev.settings.types["a.b"].plugin, std::env::current_dir().unwrap().join("plugins/x"));
        assert_eq!(dev.settings.types["c"].plugin, Path::new("/y/z"));
        let (again, _) = dev.source.load().unwrap();
        assert!(again.differs_in(&dev.settings).is_empty());
        drop(dev);
        assert!(!folder.exists());

        let text = "[state]\ndir = \"kept\"\n[store]\nurl = \"json:kept.json\"\n[types.c]\nplugin = \"x\"\n";
        let dev = serve(text, &["serve", "--dev", "--config", "FILE"]);
        assert!(dev.settings.state.dir.ends_with("kept") && matches!(dev.settings.store.url, StoreUrl::Json(_)));
        let plain = serve(text, &["serve", "--config", "FILE", "--type", "c=/y/z"]);
        assert!(plain.dev.is_none());
        assert_eq!(plain.settings.types["c"].plugin, Path::new("/y/z"), "a flag wins over the file");

        for wrong in ["c", "=x", "c="] {
            let (_, err, next) = run("", &[], &["serve", "--type", wrong]);
            assert!(matches!(next, Next::Exit(2)) && err.contains("expected NAME=PATH"), "{err}");
        }
    }

    #[test]
    fn a_wrong_flag_is_named_as_it_was_written() {
        let args = ["serve", "--config", "FILE", "--log-level", "loud", "--set", "iot.lisen=1", "--set", "nonsense"];
        let (_, err, next) = run(TYPE, &[], &args);
        assert!(matches!(next, Next::Exit(2)));
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!(lines.len(), 3, "{err}");
        assert_eq!(lines[0], "--set iot.lisen: iot.lisen: unknown key; did you mean iot.listen?");
        assert_eq!(lines[1], "--set nonsense: expected SECTION.KEY=VALUE");
        assert!(lines[2].starts_with("--log-level: log.level: found \"loud\", expected off, error, "), "{err}");
    }

    #[test]
    fn show_prints_toml_that_loads_again_and_says_where_each_value_is_from() {
        let text = "[types.\"x.y\"]\nplugin = \"p\"\nconfig = { a = [1, 2.5], b = { c = true } }\n";
        let env = [("CONDUCTOR_HOST__SESSIONS__ID_DIGITS", "9"), ("RUST_LOG", "warn")];
        let (out, err, next) = run(text, &env, &["config", "show", "FILE", "--set", "mqtt.listen=127.0.0.1:1,127.0.0.1:2"]);
        assert!(matches!(next, Next::Exit(0)), "{err}");
        for line in [
            "dir = \"state\"  # default",
            "url = \"sqlite:state/sessions.db\"  # default",
            "# public_url is not set",
            "id_digits = 9  # environment variable CONDUCTOR_HOST__SESSIONS__ID_DIGITS",
            "level = \"warn\"  # environment variable RUST_LOG",
            "listen = \"127.0.0.1:1,127.0.0.1:2\"  # --set mqtt.listen",
            "[types.\"x.y\"]",
            "config = { a = [1, 2.5], b = { c = true } }  # settings.toml:3",
        ] {
            assert!(out.lines().any(|shown| shown == line), "{line}\n{out}");
        }
        let (again, err, _) = run(&out, &[], &["config", "show", "FILE"]);
        let values = |text: &str| -> Vec<String> {
            let value = |line: &str| line.split("  #").next().unwrap_or_default().to_owned();
            text.lines().skip(1).map(value).collect()
        };
        assert_eq!(values(&again), values(&out), "{err}");
    }

    #[test]
    fn help_and_version_end_well_and_a_wrong_command_line_does_not() {
        let (out, _, next) = run("", &[], &["--version"]);
        assert!(matches!(next, Next::Exit(0)));
        assert_eq!(out, "conductor-host 7.8.9 (plugin ABI 1.2)\n");
        let (out, _, next) = run("", &[], &["serve", "--help"]);
        assert!(matches!(next, Next::Exit(0)));
        assert!(out.contains("--ready-file <FILE>") && out.contains("--set <SECTION.KEY=VALUE>"), "{out}");
        let (out, err, next) = run("", &[], &["serve", "--nonsense"]);
        assert!(matches!(next, Next::Exit(2)));
        assert!(out.is_empty() && err.contains("--nonsense"), "{err}");
    }

    #[test]
    fn output_that_cannot_be_written_is_a_failure() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let args = ["conductor-host", "config", "reference"].map(OsString::from);
        assert!(matches!(start(args, [], "1", &mut Full, &mut Vec::new()), Next::Exit(1)));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
