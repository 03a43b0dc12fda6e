//! Measures Weir beside nginx, HAProxy and Envoy: the same work, on one processor each, in turns
//! within the same minutes, from the outside.
//!
//! ```text
//! generator --requests--> proxy --requests--> origin
//!  processor A             processor B         processor A
//! ```
//!
//! A scenario (`scenarios/*.toml`) says what a proxy is configured to do and what is sent to it;
//! `peers/` holds the configuration of each. All that run are started, then measured in an order and
//! back, several times. The main figure is the processor time of the proxy per request at a fixed
//! rate, as the kernel accounts for it; every answer is compared with what it has to be.

mod account;
mod affinity;
mod args;
mod certs;
mod chart;
mod compare;
mod control;
mod environment;
mod grpc;
mod html;
mod lan;
mod limit;
mod load;
mod measure;
mod origin;
mod pattern;
mod peer;
mod result;
mod run;
mod scenario;
mod statistics;
mod table;
mod template;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

use args::{Arguments, Command};

fn main() -> anyhow::Result<ExitCode> {
    limit::raise();
    match Arguments::parse().command {
        Command::Run(args) => {
            // One thread: the generator is bound to one processor.
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let right = LocalSet::new().block_on(&runtime, async {
                let mut terminate = signal(SignalKind::terminate())?;
                let mut interrupt = signal(SignalKind::interrupt())?;
                // What is dropped with the run ends its proxies.
                tokio::select! {
                    right = run::run(*args) => right,
                    _ = terminate.recv() => Ok(false),
                    _ = interrupt.recv() => Ok(false),
                }
            })?;
            Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Compare { before, after } => compare::run(&before, &after),
        Command::Report { result, out } => html::run(&result, out),
        Command::List => run::list(),
    }
}
