//! `weirctl`: looks at configuration, the controller and its proxies. In a cluster it changes nothing
//! but the log level of a proxy.
//!
//! The pages it reads are on loopback of their pods, so they are reached as `kubectl port-forward`
//! reaches them: through the API server, by who may.

use std::{io::Write, process::ExitCode};

use anyhow::Context as _;

pub mod args;

mod analyze;
mod cluster;
mod completion;
mod kube_inject;
mod page;
mod proxy_config;
mod proxy_status;
mod table;
mod version;

use self::args::{Arguments, Command, Output};

/// How the process ends when it does not succeed; the numbers are istioctl's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something around us failed.
    Failed = 1,
    /// `EX_USAGE` of sysexits.h: the command line.
    Usage = 64,
    /// `EX_DATAERR`: files that cannot be read as configuration.
    Data = 65,
    /// The analysis found something at or above the threshold.
    Findings = 79,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not succeed, and what the process ends with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, error: anyhow::Error::msg(message.into()) }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, error }
    }
}

/// What is printed, and whether the command fails for all that.
struct Report {
    text: String,
    failure: Option<Failure>,
}

impl From<String> for Report {
    fn from(text: String) -> Self {
        Self { text, failure: None }
    }
}

/// Does what the command line asks for. `out` is standard output.
///
/// # Errors
/// Whatever keeps it from that, with the next step where there is one.
pub fn run(arguments: Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let Arguments { target, command } = arguments;
    let Report { text, failure } = match command {
        Command::Completion { shell } => completion::script(shell).into(),
        Command::Version(arguments) => runtime.block_on(version::run(&target, &arguments))?.into(),
        Command::ProxyStatus(arguments) => {
            runtime.block_on(proxy_status::run(&target, &arguments))?
        }
        Command::ProxyConfig(arguments) => {
            runtime.block_on(proxy_config::run(&target, &arguments))?.into()
        }
        Command::Analyze(arguments) => runtime.block_on(analyze::run(&target, &arguments))?,
        Command::KubeInject(arguments) => {
            runtime.block_on(kube_inject::run(&target, &arguments))?.into()
        }
    };
    print(out, &text)?;
    failure.map_or(Ok(()), Err)
}

fn print(out: &mut dyn Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write the result"),
    }
}

/// A result for programs.
fn structured(value: &serde_json::Value, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Json => Ok(format!("{value:#}\n")),
        Output::Yaml => serde_yaml::to_string(value).context("print YAML"),
    }
}
