//! The command line.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{affinity::Cpus, peer::Peer, scenario::Set};

/// Measures Weir beside other proxies: the same work, the same machine, the same minutes.
#[derive(Debug, Parser)]
#[command(name = "weir-loadtests", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure.
    Run(Box<RunArguments>),
    /// Say what differs between two results.
    Compare { before: PathBuf, after: PathBuf },
    /// Write a result as a page with charts.
    Report {
        result: PathBuf,
        /// Where to; the result's name with .html otherwise.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List the scenarios.
    List,
}

#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Scenarios or cases by name (see list); all of the set otherwise.
    pub scenarios: Vec<String>,
    #[arg(long, value_enum, default_value = "short")]
    pub set: Set,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "weir,nginx,haproxy,envoy")]
    pub peers: Vec<Peer>,
    /// How often each proxy is measured twice; the set's number otherwise.
    #[arg(long)]
    pub quads: Option<usize>,
    /// Seconds of each measurement; the set's number otherwise.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// The gateway to measure; otherwise the one beside this program, then the one in PATH.
    #[arg(long, env = "WEIR_GATEWAY_BIN")]
    pub gateway: Option<PathBuf>,
    /// The controller to measure; otherwise the one beside this program, then this build's.
    #[arg(long, env = "WEIR_CONTROLLER_BIN")]
    pub controller: Option<PathBuf>,
    #[arg(long, env = "WEIR_ENVOY")]
    pub envoy: Option<PathBuf>,
    #[arg(long, env = "WEIR_NGINX")]
    pub nginx: Option<PathBuf>,
    #[arg(long, env = "WEIR_HAPROXY")]
    pub haproxy: Option<PathBuf>,
    /// Where result.json and report.html go.
    #[arg(long, default_value = "target/loadtests")]
    pub out: PathBuf,
    /// The processor of the generator and the origin, and that of the proxy; the first two otherwise.
    #[arg(long, value_parser = cpus)]
    pub cpus: Option<Cpus>,
    /// Of each proxy, on as many processors from its own on, the generator's last: for what workers have
    /// to do with each other. Figures of proxies beside the generator vary more.
    #[arg(long, default_value = "1")]
    pub workers: NonZeroUsize,
    /// The API server that the control plane is measured on; otherwise one is brought up.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Of the counts of objects, proxies and changes that cases of the control plane have, this share.
    #[arg(long, default_value = "1")]
    pub scale: f64,
    /// Also count system calls, in short runs of their own; needs perf or strace.
    #[arg(long)]
    pub syscalls: bool,
}

fn cpus(text: &str) -> Result<Cpus, String> {
    let parse = |text: &str| text.trim().parse::<usize>().map_err(|error| error.to_string());
    match text.split_once(',') {
        Some((generator, proxy)) => {
            Ok(Cpus { generator: parse(generator)?, proxy: parse(proxy)?, workers: 1 })
        }
        None => Err("two processors, like 0,1".into()),
    }
}
