//! The log: what the controller says about itself, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::ParseError,
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

/// Starts logging. To be called once, first.
///
/// # Errors
/// The level is none, or this was called before.
pub fn init(level: &str, json: bool) -> Result<(), Error> {
    // It says every failed request as an error; whoever made the request says so better.
    let quiet = if level.contains("kube_client") { "" } else { ",kube_client=off" };
    let filter = EnvFilter::try_new(format!("{level}{quiet}"))
        .map_err(|source| Error::Level { level: level.to_owned(), source })?;
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(())
}
