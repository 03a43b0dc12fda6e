//! The log: what the proxy says about itself, on standard error.

use std::{
    backtrace::Backtrace,
    io::{self, IsTerminal},
    panic,
    sync::OnceLock,
};

use prometheus::IntCounter;
use tracing::error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

/// The level in force. One for the process, as the log is.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{level}` is no log level; use error, warn, info, debug or trace, or directives like \
         info,weir_gateway::http=debug"
    )]
    Level {
        level: String,
        /// `None`: a word that would be taken for a module's name.
        #[source]
        source: Option<tracing_subscriber::filter::ParseError>,
    },
    #[error("set up the log")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging. To be called once, first.
///
/// # Errors
/// The level is none, or this was called before.
pub fn init(level: &str, json: bool) -> Result<(), Error> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    FILTER.get_or_init(|| handle);
    Ok(())
}

/// Has every panic counted and logged instead of printed. A panic ends the task it happens in, which
/// is one connection; the process goes on.
pub fn report_panics(panics: IntCounter) {
    panic::set_hook(Box::new(move |info| {
        panics.inc();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or_default();
        // Empty unless RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        error!(place, what, %backtrace, "panic; this is a bug, please report it");
    }));
}

/// The level in force, as directives.
#[must_use]
pub fn level() -> String {
    FILTER
        .get()
        .and_then(|handle| handle.with_current(ToString::to_string).ok())
        .unwrap_or_default()
}

/// Changes the level while running.
///
/// # Errors
/// It is none.
pub fn set_level(level: &str) -> Result<(), Error> {
    let filter = parse(level)?;
    if let Some(handle) = FILTER.get() {
        // An error is the end of the subscriber, which lives as long as the process.
        let _ = handle.reload(filter);
    }
    Ok(())
}

/// A single level is for our own lines. Those of the libraries would drown them, and some of their
/// warnings a peer can cause as often as it likes: one for every frame it should not have sent.
fn parse(level: &str) -> Result<EnvFilter, Error> {
    let unknown = |source| Error::Level { level: level.to_owned(), source };
    for directive in level.split(',') {
        // A word that is no level would be taken for the name of a module.
        let is_level = !directive.is_empty() && directive.trim().parse::<LevelFilter>().is_ok();
        if !directive.contains('=') && !is_level {
            return Err(unknown(None));
        }
    }
    let directives = match level.trim().to_ascii_lowercase().as_str() {
        ours @ ("warn" | "info" | "debug" | "trace") => {
            format!("error,weir_gateway={ours},weir_config={ours}")
        }
        other => other.to_owned(),
    };
    EnvFilter::builder().parse(directives).map_err(|error| unknown(Some(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_our_own_lines() {
        for level in ["WARN", "info", "debug"] {
            let directives = parse(level).unwrap().to_string();
            let ours = format!("weir_gateway={}", level.to_ascii_lowercase());
            assert!(directives.contains(&ours), "{directives}");
            assert!(directives.split(',').any(|it| it == "error"), "{directives}");
        }
        assert_eq!(parse("error").unwrap().to_string(), "error");
        assert_eq!(parse("h2=trace").unwrap().to_string(), "h2=trace");
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for wrong in ["loud", "", "info,loud", "h2=loud"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_panic_is_counted_and_ends_nothing_else() {
        let panics = IntCounter::new("panics", "panics").unwrap();
        let previous = panic::take_hook();
        report_panics(panics.clone());
        let ended = std::thread::spawn(|| panic!("on purpose")).join();
        panic::set_hook(previous);
        assert!(ended.is_err());
        assert!(panics.get() >= 1, "other tests may panic meanwhile");
    }
}
