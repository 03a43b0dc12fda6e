//! The sidecar's process: what it was told on the command line, and then to it.

use std::process::ExitCode;

use clap::Parser;
use weir_gateway::{
    app,
    bootstrap::{Bootstrap, Environment, LogFormat, SidecarArguments, SidecarCommand},
    telemetry::log,
};

mod ask;

/// Gives memory back after a peak and does not fragment over weeks, unlike the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `EX_USAGE` of sysexits.h.
const USAGE_ERROR: u8 = 64;

fn main() -> ExitCode {
    let arguments = match SidecarArguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => return usage(&message),
    };
    match arguments.command {
        Some(SidecarCommand::Drain { agent }) => return ask::drain(agent),
        Some(SidecarCommand::Wait { status, timeout }) => return ask::wait(status, timeout),
        None => {}
    }
    // Before anything speaks TLS: libraries would choose another one. The error would be one that is
    // installed already, and nothing ran before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match arguments.into_bootstrap(&Environment::of_process()) {
        Ok(bootstrap) => start(bootstrap),
        Err(message) => usage(&message),
    }
}

fn usage(message: &clap::Error) -> ExitCode {
    // Nobody is left to be told that it could not be printed.
    let _ = message.print();
    // Help and version are no errors.
    if message.use_stderr() { USAGE_ERROR.into() } else { ExitCode::SUCCESS }
}

fn start(bootstrap: Bootstrap) -> ExitCode {
    if let Err(error) = log::init(&bootstrap.log_level, bootstrap.log_format == LogFormat::Json) {
        // There is no log to say it in.
        let _ =
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n")).print();
        return USAGE_ERROR.into();
    }
    app::run(bootstrap).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}
