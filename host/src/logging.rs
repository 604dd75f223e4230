//! The log: lines on standard error, for people on a terminal and as JSON objects otherwise.
//!
//! `log.level` and `log.format` decide. `RUST_LOG` counts as the weakest source of `log.level`: settings win.

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::config::{Log, LogFormat};

/// Makes the log the process's own. To be called once; a second call changes nothing, and says so in the log.
pub fn start(settings: &Log, terminal: bool) {
    let subscriber = subscriber(settings, terminal, std::io::stderr);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::warn!("the log was started already; its settings stay");
    }
}

/// What writes lines as `settings` say; `terminal` is whether `writer` is one.
pub fn subscriber<W>(settings: &Log, terminal: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // The settings have checked the level, so nothing is lost here. The library of the broker tells at `info` and
    // `warn` what clients do, in their own words; who wants to hear it names `mqtt5`.
    let filter = EnvFilter::builder().parse_lossy(format!("mqtt5=error,mqtt5_protocol=error,{}", settings.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let human = match settings.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    match (human, terminal && takes_colours()) {
        (true, true) => Box::new(builder.finish()),
        (true, false) => Box::new(builder.with_ansi(false).finish()),
        (false, _) => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
    }
}

/// Whether a terminal takes colours. Those of Unix do.
#[cfg(unix)]
const fn takes_colours() -> bool {
    true
}

/// Whether a console takes colours. It does so only once it was told to, and old ones never do.
#[cfg(windows)]
fn takes_colours() -> bool {
    anstyle_query::windows::enable_ansi_colors() == Some(true)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, terminal: bool) -> String {
        let buffer = Buffer::default();
        let target = buffer.clone();
        let settings = Log { level: level.to_owned(), format };
        let subscriber = subscriber(&settings, terminal, move || target.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(session = "012345", "made\nup");
            tracing::debug!("detail");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_are_json_off_a_terminal_and_human_on_one() {
        let line = logged("info", LogFormat::Auto, false);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["level"], &json["message"], &json["session"]), (&"INFO".into(), &"made\nup".into(), &"012345".into()));
        let line = logged("info", LogFormat::Auto, true);
        assert!(line.contains("made") && !line.starts_with('{'), "{line}");
    }

    #[test]
    fn the_format_setting_overrides_the_terminal() {
        assert!(logged("info", LogFormat::Json, true).starts_with('{'));
        let human = logged("info", LogFormat::Human, false);
        assert!(!human.starts_with('{') && !human.contains('\u{1b}'), "{human}");
    }

    #[test]
    fn the_level_setting_filters() {
        assert_eq!(logged("warn", LogFormat::Json, false), "");
        assert_eq!(logged("info", LogFormat::Json, false).lines().count(), 1);
        assert_eq!(logged("warn,conductor_host=debug", LogFormat::Json, false).lines().count(), 2);
    }
}
