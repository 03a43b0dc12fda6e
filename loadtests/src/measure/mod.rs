//! What is done to a proxy to get figures from it; one file for each kind of scenario.

mod cost;
mod direct;
mod syscalls;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use direct::direct;
pub use syscalls::syscalls;

use crate::{peer::Running, scenario::Measure};

/// A figure that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    Cpu,
    CpuAtSaturation,
    Throughput,
    /// The share of its processor the proxy used at saturation: below, the generator was the limit.
    Busy,
    /// The share of the asked-for rate that was answered.
    RateHeld,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    Resident,
    ContextSwitches,
    Syscalls,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
    /// Says something about the measurement, not about the proxy.
    Neither,
}

/// What one run of one proxy gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    pub figures: BTreeMap<Figure, f64>,
    /// Latency in microseconds by quantile, as far as the histogram resolves it.
    pub latencies: Vec<(f64, f64)>,
}

/// How long things are measured.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub warm_up: Duration,
    pub seconds: Duration,
}

impl Figure {
    /// What a case is about: the first of these that it has.
    pub const MAIN: [Self; 2] = [Self::Cpu, Self::CpuAtSaturation];

    /// The quantiles that are figures.
    pub const LATENCIES: [(Self, f64); 3] =
        [(Self::LatencyP50, 0.5), (Self::LatencyP99, 0.99), (Self::LatencyP999, 0.999)];

    /// What it is, what it is counted in, and which way is better. `{unit}` is the case's.
    fn describe(self) -> (&'static str, &'static str, Better) {
        match self {
            Self::Cpu => ("processor time", "µs/{unit}", Better::Less),
            Self::CpuAtSaturation => ("processor time, saturated", "µs/{unit}", Better::Less),
            Self::Throughput => ("throughput, saturated", "{unit}/s", Better::More),
            Self::Busy => ("processor in use, saturated", "share", Better::Neither),
            Self::RateHeld => ("rate held", "share", Better::Neither),
            Self::LatencyP50 => ("latency p50", "µs", Better::Less),
            Self::LatencyP99 => ("latency p99", "µs", Better::Less),
            Self::LatencyP999 => ("latency p99.9", "µs", Better::Less),
            Self::Resident => ("memory after load", "MiB", Better::Less),
            Self::ContextSwitches => ("context switches", "per {unit}", Better::Less),
            Self::Syscalls => ("system calls", "per {unit}", Better::Less),
        }
    }

    pub fn title(self) -> &'static str {
        self.describe().0
    }

    pub fn unit(self, case_unit: &str) -> String {
        self.describe().1.replace("{unit}", case_unit)
    }

    pub fn better(self) -> Better {
        self.describe().2
    }
}

impl Sample {
    pub fn set(&mut self, figure: Figure, value: f64) {
        self.figures.insert(figure, value);
    }
}

/// Measures a running proxy once.
///
/// # Errors
/// When it answers wrongly, or what it uses cannot be read.
pub async fn take(running: &mut Running, timing: Timing) -> anyhow::Result<Sample> {
    match running.case.measure {
        Measure::Cost => cost::take(running, timing).await,
        _ => anyhow::bail!("x"),
    }
}
