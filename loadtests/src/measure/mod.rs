//! What is done to a proxy to get figures from it; one file for each kind of scenario.

mod change;
mod churn;
mod cost;
mod direct;
mod idle;
mod memory;
mod overload;
mod syscalls;

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use serde::{Deserialize, Serialize};

pub use cost::{mebibytes, peak};
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
    /// What the proxy adds to the latency of the same load without it.
    AddedP50,
    AddedP99,
    AddedP999,
    Resident,
    /// Memory of a proxy that does nothing.
    ResidentAtRest,
    ContextSwitches,
    Syscalls,
    /// Memory for each connection that is open and does nothing.
    IdleConnection,
    /// Memory after all connections were closed, against that before the first.
    ResidentAfterClose,
    /// From the rename of the file to the first answer by the new configuration.
    ChangeLive,
    ChangeLiveMax,
    ChangeCpu,
    Failed,
    Answered,
    /// Answers in time while overloaded, against the most there can be.
    Goodput,
    /// Memory while overloaded, against that before.
    OverloadGrowth,
    /// From the end of an overload until latency is as before.
    Recovery,
    /// From the API server's acceptance of an object to its first right answer.
    AcceptanceMean,
    AcceptanceP50,
    AcceptanceP99,
    AcceptanceMax,
    /// Of the first tenth of them, and of the last: whether what is there already costs something.
    AcceptanceFirst,
    AcceptanceLast,
    Wrong,
    /// From the API server's acceptance of a change until a proxy acknowledged it.
    AckP50,
    AckP99,
    /// The same until the last of the proxies did.
    AllAckP50,
    AllAckP99,
    /// Memory of the controller for each connected proxy.
    ConnectedProxy,
    /// From the start of the controller until a proxy acknowledged everything.
    FirstSnapshot,
    FirstSnapshotCpu,
    /// Memory of the controller for each object.
    HeldObject,
    ControllerResident,
    /// From the start of a gateway until its first right answer.
    RestartP50,
    RestartMax,
    /// From the moment the controller is ready again until all proxies are connected and have a
    /// certificate: of one that was away for less than certificates live, and for longer.
    BackAfterShort,
    BackAfterLong,
    /// The same until a gateway serves what changed while it was away.
    ResyncMax,
    /// Certificates in one second, at most: while nothing happens, and when the controller is back after
    /// all have ended.
    SignedPeak,
    SignedPeakBack,
    /// Certificates of a proxy in two of their lives.
    SignedEach,
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
    /// Things that are counted are counted to less.
    pub brief: bool,
}

impl Figure {
    /// What a case is about: the first of these that it has.
    pub const MAIN: [Self; 8] = [
        Self::AddedP99,
        Self::IdleConnection,
        Self::ChangeLive,
        Self::Failed,
        Self::Goodput,
        Self::Cpu,
        Self::CpuAtSaturation,
        Self::ResidentAtRest,
    ];

    /// Latencies, and what is added to them.
    pub const ADDED: [(Self, Self); 3] = [
        (Self::LatencyP50, Self::AddedP50),
        (Self::LatencyP99, Self::AddedP99),
        (Self::LatencyP999, Self::AddedP999),
    ];

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
            Self::AddedP50 => ("added latency p50", "µs", Better::Less),
            Self::AddedP99 => ("added latency p99", "µs", Better::Less),
            Self::AddedP999 => ("added latency p99.9", "µs", Better::Less),
            Self::Resident => ("memory after load", "MiB", Better::Less),
            Self::ResidentAtRest => ("memory at rest", "MiB", Better::Less),
            Self::ContextSwitches => ("context switches", "per {unit}", Better::Less),
            Self::Syscalls => ("system calls", "per {unit}", Better::Less),
            Self::IdleConnection => ("memory of an idle connection", "KiB", Better::Less),
            Self::ResidentAfterClose => ("memory after close", "of start", Better::Less),
            Self::ChangeLive => ("change live, half of them", "ms", Better::Less),
            Self::ChangeLiveMax => ("change live, the slowest", "ms", Better::Less),
            Self::ChangeCpu => ("processor time of a change", "ms", Better::Less),
            Self::Failed => ("failed requests", "{unit}s", Better::Less),
            Self::Answered => ("answered requests", "{unit}s", Better::Neither),
            Self::Goodput => ("goodput at twice the peak", "of peak", Better::More),
            Self::OverloadGrowth => ("memory while overloaded", "of before", Better::Less),
            Self::Recovery => ("recovery from overload", "ms", Better::Less),
            Self::AcceptanceMean => ("accepted to served, mean", "ms", Better::Less),
            Self::AcceptanceP50 => ("accepted to served, p50", "ms", Better::Less),
            Self::AcceptanceP99 => ("accepted to served, p99", "ms", Better::Less),
            Self::AcceptanceMax => ("accepted to served, max", "ms", Better::Less),
            Self::AcceptanceFirst => ("mean of the first tenth", "ms", Better::Less),
            Self::AcceptanceLast => ("mean of the last tenth", "ms", Better::Less),
            Self::Wrong => ("wrong answers", "", Better::Less),
            Self::AckP50 => ("acknowledged by one, p50", "ms", Better::Less),
            Self::AckP99 => ("acknowledged by one, p99", "ms", Better::Less),
            Self::AllAckP50 => ("acknowledged by all, p50", "ms", Better::Less),
            Self::AllAckP99 => ("acknowledged by all, p99", "ms", Better::Less),
            Self::ConnectedProxy => ("memory of a proxy", "KiB", Better::Less),
            Self::FirstSnapshot => ("start to first snapshot", "ms", Better::Less),
            Self::FirstSnapshotCpu => ("processor time until then", "ms", Better::Less),
            Self::HeldObject => ("memory of an object", "KiB", Better::Less),
            Self::ControllerResident => ("memory of the controller", "MiB", Better::Less),
            Self::RestartP50 => ("start to first answer, p50", "ms", Better::Less),
            Self::RestartMax => ("start to first answer, max", "ms", Better::Less),
            Self::BackAfterShort => ("all back after less than a life", "ms", Better::Less),
            Self::BackAfterLong => ("all back after more than a life", "ms", Better::Less),
            Self::ResyncMax => ("what changed meanwhile served, max", "ms", Better::Less),
            Self::SignedPeak => ("signed in a second, at most", "", Better::Less),
            Self::SignedPeakBack => ("the same when it is back", "", Better::Less),
            Self::SignedEach => ("signed for a proxy in two lives", "", Better::Less),
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
        Measure::Cost | Measure::Latency => cost::take(running, timing).await,
        Measure::Idle => idle::take(running, timing).await,
        Measure::Change => change::take(running, timing).await,
        Measure::Churn => churn::take(running, timing).await,
        Measure::Overload => overload::take(running, timing).await,
        Measure::Memory => memory::take(running).await,
        Measure::Acceptance
        | Measure::Swarm
        | Measure::Start
        | Measure::Restart
        | Measure::Absence
        | Measure::Killed => {
            bail!("{} is not measured with a proxy", running.case.name)
        }
    }
}
