//! One scenario: all its proxies started, measured in an order and back, as often as planned.

use std::time::Duration;

use super::{lane::Lane, progress::Progress};
use crate::{
    account::CpuTicks,
    affinity::Cpus,
    args::RunArguments,
    certs::Credentials,
    measure::{Figure, Sample, Timing},
    peer::{Peer, Program},
    result::CaseResult,
    scenario::{Case, Measure, Scenario, Set},
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
    /// A quad that does not count is taken again, but not for ever: up to so many times as planned.
    patience: usize,
}

impl Plan {
    pub fn new(args: &RunArguments, cpus: Cpus, programs: Vec<Program>) -> Self {
        let (quads, seconds) = defaults(args.set);
        let seconds = Duration::from_secs_f64(args.seconds.unwrap_or(seconds).max(0.1));
        let warm_up = (seconds / 4).clamp(Duration::from_millis(200), Duration::from_secs(5));
        Self {
            quads: args.quads.unwrap_or(quads).max(1),
            timing: Timing { warm_up, seconds, brief: args.set == Set::Smoke },
            cpus,
            programs,
            syscalls: args.syscalls,
            patience: if args.set == Set::Smoke { 1 } else { 2 },
        }
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
            Measure::Idle
            | Measure::Change
            | Measure::Churn
            | Measure::Overload
            | Measure::Memory => self.quads.div_ceil(3),
            // Measured apart from proxies.
            Measure::Acceptance
            | Measure::Swarm
            | Measure::Start
            | Measure::Restart
            | Measure::Absence
            | Measure::Killed => 0,
        }
    }

    /// Measures all cases of a scenario.
    pub async fn measure(
        &self,
        scenario: &Scenario,
        credentials: &Credentials,
        progress: &mut Progress,
    ) -> anyhow::Result<Vec<CaseResult>> {
        let together = if scenario.together { scenario.cases.len() } else { 1 };
        let mut results = Vec::new();
        for cases in scenario.cases.chunks(together) {
            let mut lanes = Vec::new();
            for case in cases {
                let programs = &self.programs;
                let mut lane =
                    Lane::start(case, programs, credentials, self.cpus, progress).await?;
                progress.skip(self.rounds(case) * 2 * lane.missing(programs));
                if case.measure == Measure::Latency {
                    lane.choose_rate(self.timing, progress).await;
                }
                lanes.push(lane);
            }
            self.take_quads(&mut lanes, credentials, progress).await?;
            results.extend(finish(scenario, lanes));
        }
        Ok(results)
    }

    async fn take_quads(
        &self,
        lanes: &mut [Lane],
        credentials: &Credentials,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let rounds = lanes.iter().map(|lane| self.rounds(&lane.case)).max().unwrap_or(0);
        for round in 0..rounds * self.patience {
            let enough = lanes.iter().all(|lane| lane.steady_quads() >= rounds);
            let nobody = lanes.iter().all(|lane| lane.peers().next().is_none());
            if enough || nobody || lanes.iter().any(Lane::has_failed) {
                break;
            }
            if round >= rounds {
                progress.add(lanes.iter().map(|lane| lane.peers().count() * 2).sum());
            }
            self.quad(lanes, round, credentials, progress).await?;
        }
        if self.syscalls {
            for lane in lanes.iter_mut().filter(|lane| !lane.has_failed()) {
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
        let mut order: Vec<(usize, Peer)> = Vec::new();
        for (number, lane) in lanes.iter_mut().enumerate() {
            lane.open_quad();
            order.extend(lane.peers().map(|peer| (number, peer)));
        }
        let back: Vec<_> = order.iter().rev().copied().collect();
        let ticks = [self.cpus.generator, self.cpus.proxy].map(|cpu| (cpu, CpuTicks::now(cpu)));
        // Of the first case: those that run together differ in the proxy only.
        lanes[0].take_direct(credentials, self.timing).await?;
        for (number, peer) in order.into_iter().chain(back) {
            let lane = &mut lanes[number];
            if !lane.peers().any(|here| here == peer) {
                continue;
            }
            progress.step(&format!("{} quad {} {peer}", lane.case.name, round + 1));
            lane.take(peer, self.timing, progress).await;
            if lane.has_failed() {
                return Ok(());
            }
        }
        lanes[0].take_direct(credentials, self.timing).await?;
        let steal = ticks.map(|(cpu, before)| CpuTicks::now(cpu).stolen_since(before));
        let reason = unsteady(lanes[0].direct(), steal.into_iter().fold(0.0, f64::max));
        if let Some(reason) = &reason {
            progress.note(&format!("quad {} does not count: {reason}", round + 1));
        }
        lanes.iter_mut().for_each(|lane| lane.close_quad(reason.as_deref()));
        Ok(())
    }
}

/// Why a quad does not count.
fn unsteady(direct: &[Sample], steal: f64) -> Option<String> {
    if steal > MAX_STEAL {
        return Some(format!("{:.1} % of the time was stolen", steal * 100.0));
    }
    let [before, after] = direct else { return None };
    let cpu = |sample: &Sample| sample.figures.get(&Figure::Cpu).copied();
    let moved = cpu(after)? / cpu(before)?;
    (!(1.0 / (1.0 + MAX_DRIFT)..=1.0 + MAX_DRIFT).contains(&moved))
        .then(|| format!("the load without a proxy cost {:+.1} % after", (moved - 1.0) * 100.0))
}

fn finish(scenario: &Scenario, lanes: Vec<Lane>) -> Vec<CaseResult> {
    let base = lanes.first().filter(|_| lanes.len() > 1).map(|lane| lane.quads().to_vec());
    let base_of = |n: usize| base.as_deref().filter(|_| n > 0);
    lanes.into_iter().enumerate().map(|(n, lane)| lane.finish(scenario, base_of(n))).collect()
}

/// How often and how long, unless said otherwise.
fn defaults(set: Set) -> (usize, f64) {
    match set {
        Set::Smoke => (1, 1.0),
        Set::Short => (3, 1.0),
        Set::Full => (5, 20.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(cpu: f64) -> Sample {
        Sample { figures: [(Figure::Cpu, cpu)].into(), latencies: Vec::new() }
    }

    #[test]
    fn a_quad_with_stolen_time_does_not_count() {
        assert_eq!(unsteady(&[], 0.009), None);
        assert_eq!(unsteady(&[], 0.02).as_deref(), Some("2.0 % of the time was stolen"));
    }

    #[test]
    fn a_quad_in_which_the_machine_changed_does_not_count() {
        assert_eq!(unsteady(&[direct(10.0), direct(10.4)], 0.0), None);
        let slower = unsteady(&[direct(10.0), direct(11.0)], 0.0);
        assert_eq!(slower.as_deref(), Some("the load without a proxy cost +10.0 % after"));
        assert!(unsteady(&[direct(10.0), direct(9.0)], 0.0).is_some());
    }
}
