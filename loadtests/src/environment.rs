//! What a result was measured on, so that it can be judged and repeated.

use std::{
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{affinity::Cpus, peer::Program};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    /// Seconds since 1970.
    pub started: u64,
    pub arguments: Vec<String>,
    pub commit: Option<String>,
    pub kernel: String,
    pub cpu: String,
    pub cpus_online: usize,
    pub generator_cpu: usize,
    pub proxy_cpu: usize,
    /// Of each proxy.
    #[serde(default = "one")]
    pub workers: usize,
    /// The frequency governor, where the kernel has one.
    pub governor: Option<String>,
    /// Processes that wanted to run just before, on average over a minute.
    pub load_average: f64,
    pub programs: Vec<Program>,
    /// Peers that were asked for and are not there, and how to install them.
    pub missing: Vec<String>,
}

impl Environment {
    pub fn look(cpus: Cpus, programs: Vec<Program>, missing: Vec<String>) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let governor =
            format!("/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", cpus.proxy);
        let load = read("/proc/loadavg").unwrap_or_default();
        Self {
            started: now(),
            arguments: std::env::args().skip(1).collect(),
            commit: commit(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu: cpu_model(&read("/proc/cpuinfo").unwrap_or_default()),
            cpus_online: std::thread::available_parallelism().map_or(1, usize::from),
            generator_cpu: cpus.generator,
            proxy_cpu: cpus.proxy,
            workers: cpus.workers,
            governor: read(&governor),
            load_average: load.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
            programs,
            missing,
        }
    }
}

/// Of results that do not say it.
fn one() -> usize {
    1
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn cpu_model(info: &str) -> String {
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model).to_owned()
}

/// The commit of the working copy, marked when it was changed since.
fn commit() -> Option<String> {
    let folder = env!("CARGO_MANIFEST_DIR");
    let args = ["-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let output = Command::new("git").args(args).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!commit.is_empty()).then_some(commit)
}
