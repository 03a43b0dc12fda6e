//! The control plane measured: the real controller on a real API server, both in the same minutes on
//! the machine that does everything else as well.
//!
//! ```text
//! writes --> API server --events--> controller --pushes--> a gateway, or a swarm of proxies
//! ```

mod absence;
mod acceptance;
mod api;
mod bed;
mod killed;
mod objects;
mod process;
mod proxy;
mod restart;
mod start;
mod swarm;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use weir_tests::{
    binaries,
    client::http::{Connection, Request},
    cluster::bed::Missing,
};

use crate::{
    args::RunArguments,
    measure::Figure,
    peer::Peer,
    result::{CaseResult, Latencies},
    scenario::{Case, Measure, Scenario},
};
use bed::Bed;

/// What something may take that always happens, on a machine that builds something else.
const PATIENCE: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// What is measured, and with which API server.
#[derive(Debug)]
pub struct Programs {
    pub controller: PathBuf,
    pub gateway: PathBuf,
    /// Of a cluster that is there; otherwise each case has one of its own.
    pub kubeconfig: Option<PathBuf>,
    scale: f64,
}

/// What a case gave: each figure as often as it was taken.
#[derive(Debug, Default)]
struct Found {
    figures: BTreeMap<Figure, Vec<f64>>,
    latencies: Latencies,
}

impl Found {
    fn set(&mut self, figure: Figure, value: f64) {
        self.figures.insert(figure, vec![value]);
    }
}

impl Programs {
    /// Those that are given, else those beside this program, else this build's.
    pub fn find(args: &RunArguments) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let find = |given: &Option<PathBuf>, name: &str| {
            let beside = own.with_file_name(name);
            let found = given.clone().or_else(|| beside.is_file().then_some(beside));
            found.unwrap_or_else(|| binaries::built(name))
        };
        Ok(Self {
            controller: find(&args.controller, "weir-controller"),
            gateway: find(&args.gateway, "weir-gateway"),
            kubeconfig: args.kubeconfig.clone(),
            scale: args.scale,
        })
    }

    /// Why there can be no cluster here, if that is so and one would have to be brought up.
    fn missing_cluster(&self) -> Option<String> {
        if self.kubeconfig.is_some() {
            return None;
        }
        // What goes wrong with it is said where it is brought up.
        let missing = weir_tests::cluster::bed::missing().ok().flatten();
        missing.map(|Missing(why)| format!("no cluster: {why}"))
    }

    /// So many of what there are `full` of.
    fn scaled(&self, full: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a count of objects"
        )]
        let scaled = (full as f64 * self.scale).round() as usize;
        scaled.max(1)
    }
}

/// Measures a case of the control plane.
pub async fn measure(scenario: &Scenario, case: &Case, programs: &Programs) -> CaseResult {
    if let Some(why) = programs.missing_cluster() {
        let mut result =
            CaseResult::of_control_plane(scenario, case, BTreeMap::new(), Vec::new(), None);
        result.left_out.insert(Peer::Weir, why);
        return result;
    }
    let found = found(case, programs).await;
    let failed = found.as_ref().err().map(|error| format!("{error:#}"));
    let Found { figures, latencies } = found.unwrap_or_default();
    CaseResult::of_control_plane(scenario, case, figures, latencies, failed)
}

async fn found(case: &Case, programs: &Programs) -> anyhow::Result<Found> {
    let folder = tempfile::Builder::new().prefix("weir-loadtests-control-").tempdir()?;
    let bed = Bed::start(programs.kubeconfig.as_deref()).await.context("an API server")?;
    let stage = Stage { case, programs, bed: &bed, folder: folder.path() };
    let found = match case.measure {
        Measure::Acceptance => acceptance::take(&stage).await,
        Measure::Swarm => swarm::take(&stage).await,
        Measure::Start => start::take(&stage).await,
        Measure::Restart => restart::take(&stage).await,
        Measure::Absence => absence::take(&stage).await,
        Measure::Killed => killed::take(&stage).await,
        Measure::Cost
        | Measure::Latency
        | Measure::Idle
        | Measure::Change
        | Measure::Churn
        | Measure::Overload
        | Measure::Memory => bail!("{} is measured with proxies", case.name),
    };
    bed.end().await?;
    found
}

/// Where a case is measured.
#[derive(Clone, Copy)]
struct Stage<'a> {
    case: &'a Case,
    programs: &'a Programs,
    bed: &'a Bed,
    /// For files of the processes.
    folder: &'a Path,
}

impl Stage<'_> {
    fn objects(&self) -> usize {
        self.programs.scaled(self.case.control.objects)
    }

    fn proxies(&self) -> usize {
        self.programs.scaled(self.case.control.proxies)
    }

    fn changes(&self) -> usize {
        self.programs.scaled(self.case.control.changes)
    }
}

/// Asks until there is an answer.
async fn until<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Whether the route of a host answers at a gateway's port; nobody listens there at first.
async fn is_served(port: u16, host: &str) -> bool {
    let Ok(mut connection) = Connection::http1(port).await else { return false };
    let reply = connection.send(&Request::get(host, "/")).await;
    reply.is_ok_and(|reply| reply.status == 200 && reply.header("x-route") == Some(host))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Quantiles of times in milliseconds, as charts want them: in microseconds.
fn latencies(times: &[f64]) -> Latencies {
    const QUANTILES: [f64; 8] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0];
    let at = |q: f64| Some((q, crate::statistics::quantile(times, q)? * 1e3));
    QUANTILES.into_iter().filter_map(at).collect()
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of measurements")]
    let count = values.len().max(1) as f64;
    values.iter().sum::<f64>() / count
}
