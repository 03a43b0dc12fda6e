//! The log: what the controller says about itself, on standard error.

use std::{
    backtrace::Backtrace,
    io::{self, IsTerminal},
    panic,
};

use prometheus::IntCounter;
use tracing::{Metadata, error};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{ParseError, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{level}` is no log level; use error, warn, info, debug or trace, or directives like \
         info,weir_controller::watch=debug"
    )]
    Level {
        level: String,
        #[source]
        source: ParseError,
    },
    #[error("set up the log")]
    Subscriber(#[from] TryInitError),
}

/// Has every panic counted and logged instead of printed. Where it ends, somebody says what it cost.
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

/// Starts logging. To be called once, first.
///
/// # Errors
/// The level is none, or this was called before.
pub fn init(level: &str, json: bool) -> Result<(), Error> {
    let filter = EnvFilter::try_new(level)
        .map_err(|source| Error::Level { level: level.to_owned(), source })?;
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_discreet))
        .with(lines)
        .try_init()?;
    Ok(())
}

/// Whether what is said may be in the log, whatever level is asked for: the client of the API server
/// quotes answers that it cannot read, Secrets among them. Its failures whoever made the request says.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("kube_client")
}
