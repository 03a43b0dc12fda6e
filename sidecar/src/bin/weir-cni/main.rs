//! Redirect rules from the node: a plugin that container runtimes run for every new pod, and the agent
//! that installs it and tells it what is to be done. One program, so that they are of one version.
//!
//! ```text
//! runtime --ADD--> plugin --which pod?--> agent --GET--> API server
//!                    \--rules--> the pod's network namespace
//! ```
//!
//! What is not known is refused, and asked for again by the kubelet: a pod that is skipped by mistake
//! sends its traffic past its sidecar.

mod agent;
mod plugin;
mod question;
mod rules;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;

/// `EX_USAGE` of sysexits.h.
const USAGE_ERROR: u8 = 64;

/// Programs redirect rules in pods, from outside of them. Without a command it is a CNI plugin, which
/// container runtimes run.
#[derive(Debug, Parser)]
#[command(name = "weir-cni", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Installs the plugin on this node and answers its questions, until it is told to end.
    Agent(Box<agent::Options>),
}

fn main() -> ExitCode {
    if let Some(environment) = plugin::Environment::of_process() {
        return plugin::run(&environment, io::stdin(), &mut io::stdout());
    }
    match Arguments::try_parse() {
        Ok(Arguments { command: Command::Agent(options) }) => run_agent(*options),
        Err(message) => {
            // Nobody is left to be told that it could not be printed.
            let _ = message.print();
            // Help and version are no errors.
            if message.use_stderr() { USAGE_ERROR.into() } else { ExitCode::SUCCESS }
        }
    }
}

fn run_agent(options: agent::Options) -> ExitCode {
    // Before anything speaks TLS: libraries would choose another one. The error would be one that is
    // installed already, and nothing ran before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match agent::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There may be no log to say it in.
            let _ = writeln!(io::stderr(), "weir-cni: {error:#}");
            ExitCode::FAILURE
        }
    }
}
