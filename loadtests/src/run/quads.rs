//! One scenario: all its proxies started, measured in an order and back, as often as planned.

use std::{collections::BTreeMap, time::Duration};

use super::{defaults, progress::Progress};
use crate::{
    account::CpuTicks,
    affinity::Cpus,
    args::RunArguments,
    certs::Credentials,
    measure::{self, Figure, Timing},
    origin::Origin,
    peer::{Peer, Program, Running},
    result::{self, CaseResult, Quad},
    scenario::{Case, Measure, Scenario},
};

/// More of the time than this taken away by the host, and a quad does not count.
const MAX_STEAL: f64 = 0.01;

/// The baseline - the same load without a proxy - may move by this much within a quad.
const MAX_DRIFT: f64 = 0.05;

/// What holds for all scenarios of a run.
#[derive(Debug)]
pub struct Plan {
    pub quads: usize,
    pub timing: Timing,
    cpus: Cpus,
    programs: Vec<Program>,
    syscalls: bool,
}

/// One case while it is measured.
struct Lane {
    case: Case,
    origin: Origin,
    running: Vec<Running>,
    quads: Vec<Quad>,
    left_out: BTreeMap<Peer, String>,
    failed: Option<String>,
}

impl Plan {
    pub fn new(args: &RunArguments, cpus: Cpus, programs: Vec<Program>) -> Self {
        let (quads, seconds) = defaults(args.set);
        let seconds = Duration::from_secs_f64(args.seconds.unwrap_or(seconds).max(0.1));
        let warm_up = (seconds / 4).clamp(Duration::from_millis(200), Duration::from_secs(5));
        let timing = Timing { warm_up, seconds };
        let quads = args.quads.unwrap_or(quads).max(1);
        Self { quads, timing, cpus, programs, syscalls: args.syscalls }
    }

    /// How many measurements there will be.
    pub fn steps(&self, scenarios: &[Scenario]) -> usize {
        scenarios.iter().flat_map(|scenario| &scenario.cases).map(|case| self.of_case(case)).sum()
    }

    fn of_case(&self, case: &Case) -> usize {
        let peers = self.programs.iter().filter(|program| !case.not.contains_key(&program.peer));
        self.rounds(case) * 2 * peers.count()
    }

    /// Scenarios that take their time on their own are repeated less.
    fn rounds(&self, case: &Case) -> usize {
        match case.measure {
            Measure::Cost | Measure::Latency => self.quads,
            Measure::Idle | Measure::Change | Measure::Churn | Measure::Overload => {
                self.quads.div_ceil(3)
            }
        }
    }

    /// Measures all cases of a scenario.
    pub async fn measure(
        &self,
        scenario: &Scenario,
        credentials: &Credentials,
        progress: &mut Progress,
    ) -> anyhow::Result<Vec<CaseResult>> {
        let groups: Vec<&[Case]> = if scenario.together {
            vec![&scenario.cases[..]]
        } else {
            scenario.cases.chunks(1).collect()
        };
        let mut results = Vec::new();
        for cases in groups {
            let mut lanes = Vec::new();
            for case in cases {
                let mut lane = self.start(case, credentials, progress).await?;
                if case.measure == Measure::Latency {
                    lane.choose_rate(self.timing, progress).await;
                }
                lanes.push(lane);
            }
            self.rounds_of(&mut lanes, credentials, progress).await?;
            results.extend(finish(scenario, lanes));
        }
        Ok(results)
    }

    async fn start(
        &self,
        case: &Case,
        credentials: &Credentials,
        progress: &mut Progress,
    ) -> anyhow::Result<Lane> {
        let origin = Origin::start(case, credentials, self.cpus.generator)?;
        let mut lane = Lane {
            case: case.clone(),
            origin,
            running: Vec::new(),
            quads: Vec::new(),
            left_out: case.not.clone(),
            failed: None,
        };
        for program in &self.programs {
            if case.not.contains_key(&program.peer) {
                continue;
            }
            let cpu = self.cpus.proxy;
            match Running::start(program, case, &lane.origin, credentials, cpu).await {
                Ok(running) => lane.running.push(running),
                Err(error) => {
                    progress.skip(self.rounds(case) * 2);
                    lane.leave_out(program.peer, &error, progress);
                }
            }
        }
        Ok(lane)
    }

    async fn rounds_of(
        &self,
        lanes: &mut [Lane],
        credentials: &Credentials,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let Some(rounds) = lanes.iter().map(|lane| self.rounds(&lane.case)).max() else {
            return Ok(());
        };
        // A quad that does not count is taken again, but not for ever.
        for round in 0..rounds * 2 {
            let steady = lanes.iter().all(|lane| {
                lane.quads.iter().filter(|quad| quad.unsteady.is_none()).count() >= rounds
            });
            if steady || lanes.iter().any(|lane| lane.failed.is_some()) {
                break;
            }
            if round >= rounds {
                progress.add(lanes.iter().map(|lane| lane.running.len() * 2).sum());
            }
            self.quad(lanes, round, credentials, progress).await?;
        }
        if self.syscalls {
            for lane in lanes.iter_mut().filter(|lane| lane.failed.is_none()) {
                lane.count_syscalls(progress).await;
            }
        }
        Ok(())
    }

    /// Everything once in an order, and once back.
    async fn quad(
        &self,
        lanes: &mut [Lane],
        round: usize,
        credentials: &Credentials,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        for lane in lanes.iter_mut() {
            lane.quads.push(Quad::default());
        }
        let mut order: Vec<(usize, Peer)> = Vec::new();
        for (number, lane) in lanes.iter().enumerate() {
            order.extend(lane.running.iter().map(|running| (number, running.peer)));
        }
        let back: Vec<_> = order.iter().rev().copied().collect();
        let ticks = [self.cpus.generator, self.cpus.proxy].map(|cpu| (cpu, CpuTicks::now(cpu)));
        self.baseline(lanes, credentials).await?;
        for (number, peer) in order.into_iter().chain(back) {
            let lane = &mut lanes[number];
            let Some(running) = lane.running.iter_mut().find(|running| running.peer == peer) else {
                continue;
            };
            progress.step(&format!("{} quad {} {peer}", lane.case.name, round + 1));
            match measure::take(running, self.timing).await {
                Ok(sample) => {
                    let quad = lane.quads.last_mut().expect("a quad was pushed above");
                    quad.samples.entry(peer).or_default().push(sample);
                }
                Err(error) => lane.leave_out(peer, &error, progress),
            }
            if lane.failed.is_some() {
                return Ok(());
            }
        }
        self.baseline(lanes, credentials).await?;
        let steal = ticks.map(|(cpu, before)| CpuTicks::now(cpu).stolen_since(before));
        for lane in lanes.iter_mut().filter(|lane| lane.case.measure == Measure::Latency) {
            lane.quads.last_mut().expect("a quad was pushed above").add_latencies();
        }
        let direct = lanes.first().and_then(|lane| lane.quads.last()).map(|quad| &quad.direct[..]);
        let reason = unsteady(direct.unwrap_or_default(), steal.into_iter().fold(0.0, f64::max));
        if let Some(reason) = &reason {
            progress.note(&format!("quad {} does not count: {reason}", round + 1));
        }
        for quad in lanes.iter_mut().filter_map(|lane| lane.quads.last_mut()) {
            quad.unsteady.clone_from(&reason);
        }
        Ok(())
    }

    /// The load without a proxy, of the first case: how fast the machine is just now.
    async fn baseline(
        &self,
        lanes: &mut [Lane],
        credentials: &Credentials,
    ) -> anyhow::Result<()> {
        let Some(lane) = lanes.first_mut().filter(|lane| lane.has_baseline()) else {
            return Ok(());
        };
        let sample = measure::direct(&lane.case, &lane.origin, credentials, self.timing).await?;
        let quad = lane.quads.last_mut().expect("a quad was pushed before");
        quad.direct.push(sample);
        Ok(())
    }
}

impl Lane {
    /// Ours has to do everything, and right. A peer that does not is named, and the rest goes on.
    fn leave_out(&mut self, peer: Peer, error: &anyhow::Error, progress: &Progress) {
        progress.note(&format!("{} {peer}: {error:#}", self.case.name));
        if peer == Peer::Weir {
            self.failed = Some(format!("{error:#}"));
            return;
        }
        self.running.retain(|running| running.peer != peer);
        for quad in &mut self.quads {
            quad.samples.remove(&peer);
        }
        self.left_out.insert(peer, format!("{error:#}"));
    }

    fn has_baseline(&self) -> bool {
        matches!(self.case.measure, Measure::Cost | Measure::Latency)
    }

    /// Half of what the slowest can do: everyone's latency is that of a proxy at ease.
    async fn choose_rate(&mut self, timing: Timing, progress: &Progress) {
        let mut slowest = f64::INFINITY;
        let mut failed = Vec::new();
        for running in &self.running {
            match measure::peak(running, timing).await {
                Ok(peak) => slowest = slowest.min(peak),
                Err(error) => failed.push((running.peer, error)),
            }
        }
        for (peer, error) in failed {
            self.leave_out(peer, &error, progress);
        }
        self.case.load.rate = (slowest / 2.0).max(1.0);
        progress.note(&format!("{}: {:.0} per second", self.case.name, self.case.load.rate));
        for running in &mut self.running {
            running.case.load.rate = self.case.load.rate;
        }
    }

    async fn count_syscalls(&mut self, progress: &mut Progress) {
        for running in &self.running {
            match measure::syscalls(running).await {
                Ok(calls) => {
                    let quads = self.quads.iter_mut();
                    for sample in quads.filter_map(|quad| quad.samples.get_mut(&running.peer)).flatten() {
                        sample.set(Figure::Syscalls, calls);
                    }
                }
                Err(error) => progress.note(&format!(
                    "{}: system calls of {} were not counted: {error:#}",
                    self.case.name, running.peer
                )),
            }
        }
    }
}

/// Why a quad does not count.
fn unsteady(direct: &[measure::Sample], steal: f64) -> Option<String> {
    if steal > MAX_STEAL {
        return Some(format!("{:.1} % of the time was stolen", steal * 100.0));
    }
    let [before, after] = direct else { return None };
    let cpu = |sample: &measure::Sample| sample.figures.get(&Figure::Cpu).copied();
    let moved = cpu(after)? / cpu(before)?;
    (!(1.0 / (1.0 + MAX_DRIFT)..=1.0 + MAX_DRIFT).contains(&moved)).then(|| {
        format!("the load without a proxy cost {:+.1} % after", (moved - 1.0) * 100.0)
    })
}

fn finish(scenario: &Scenario, lanes: Vec<Lane>) -> Vec<CaseResult> {
    let base: Option<Vec<Quad>> =
        lanes.first().filter(|_| lanes.len() > 1).map(|lane| lane.quads.clone());
    lanes.into_iter().enumerate().map(|(n, lane)| lane.finish(scenario, base.as_deref().filter(|_| n > 0))).collect()
}

impl Lane {
    fn finish(self, scenario: &Scenario, base: Option<&[Quad]>) -> CaseResult {
        let counted = result::counted(&self.quads);
        // Quads of cases that ran together are unsteady together.
        let growth = base.map(|base| result::growth(&counted, &result::counted(base)));
        let steady = self.quads.iter().filter(|quad| quad.unsteady.is_none()).count();
        let last = self.quads.last();
        let direct = last.and_then(|quad| quad.direct.last());
        CaseResult {
            name: self.case.name.clone(),
            title: self.case.title.clone(),
            scenario: scenario.name.clone(),
            measure: self.case.measure,
            unit: self.case.unit().to_owned(),
            figures: result::figures(&counted),
            ratios: result::ratios(&counted),
            growth: growth.unwrap_or_default(),
            direct: direct.map(|sample| sample.figures.clone()).unwrap_or_default(),
            latencies: last.into_iter().flat_map(|quad| &quad.samples)
                .filter_map(|(peer, samples)| Some((*peer, samples.last()?.latencies.clone())))
                .filter(|(_, latencies)| !latencies.is_empty())
                .collect(),
            left_out: self.left_out,
            dropped: self.quads.iter().filter_map(|quad| quad.unsteady.clone()).collect(),
            quads_kept: counted.len(),
            unsteady: steady == 0,
            failed: self.failed,
        }
    }
}
