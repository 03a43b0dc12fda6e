//! One case while it is measured: its origin, its proxies, what they gave so far.

use std::collections::BTreeMap;

use super::progress::Progress;
use crate::{
    affinity::Cpus,
    certs::Credentials,
    lan::Lan,
    measure::{self, Figure, Sample, Timing},
    origin::Origin,
    peer::{Peer, Program, Running, missing_for_sidecars},
    result::{self, CaseResult, Quad},
    scenario::{Case, Measure, Scenario},
};

pub struct Lane {
    pub case: Case,
    origin: Origin,
    /// Where the origin is, where there are sidecars.
    _lan: Option<Lan>,
    running: Vec<Running>,
    quads: Vec<Quad>,
    left_out: BTreeMap<Peer, String>,
    failed: Option<String>,
}

impl Lane {
    /// Starts the origin and all proxies.
    pub async fn start(
        case: &Case,
        programs: &[Program],
        credentials: &Credentials,
        cpus: Cpus,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let missing = case.is_of_sidecars().then(missing_for_sidecars).flatten();
        let lan = (case.is_of_sidecars() && missing.is_none()).then(|| Lan::new("direct"));
        let mut lane = Self {
            case: case.clone(),
            origin: Origin::start(case, credentials, cpus.generator, lan.as_ref())?,
            _lan: lan,
            running: Vec::new(),
            quads: Vec::new(),
            left_out: case.not.clone(),
            failed: None,
        };
        for program in programs.iter().filter(|program| !case.not.contains_key(&program.peer)) {
            if let Some(why) = &missing {
                progress.note(&format!("{} {}: {why}", case.name, program.peer));
                lane.left_out.insert(program.peer, why.clone());
                continue;
            }
            match Running::start(program, case, &lane.origin, credentials, cpus).await {
                Ok(running) => lane.running.push(running),
                Err(error) => lane.leave_out(program.peer, &error, progress),
            }
        }
        Ok(lane)
    }

    /// Those that are measured.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        self.running.iter().map(|running| running.peer)
    }

    /// How many did not start.
    pub fn missing(&self, programs: &[Program]) -> usize {
        let wanted = programs.iter().filter(|program| !self.case.not.contains_key(&program.peer));
        wanted.count() - self.running.len()
    }

    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub fn quads(&self) -> &[Quad] {
        &self.quads
    }

    pub fn steady_quads(&self) -> usize {
        self.quads.iter().filter(|quad| quad.unsteady.is_none()).count()
    }

    pub fn open_quad(&mut self) {
        self.quads.push(Quad::default());
    }

    /// Notes why it does not count, if so.
    pub fn close_quad(&mut self, unsteady: Option<&str>) {
        let latency = self.case.measure == Measure::Latency;
        let quad = self.quad();
        quad.unsteady = unsteady.map(str::to_owned);
        if latency {
            quad.add_latencies();
        }
    }

    fn quad(&mut self) -> &mut Quad {
        self.quads.last_mut().expect("a quad was opened")
    }

    /// Measures one proxy once.
    pub async fn take(&mut self, peer: Peer, timing: Timing, progress: &Progress) {
        let Some(running) = self.running.iter_mut().find(|running| running.peer == peer) else {
            return;
        };
        match measure::take(running, timing).await {
            Ok(sample) => self.quad().samples.entry(peer).or_default().push(sample),
            Err(error) => self.leave_out(peer, &error, progress),
        }
    }

    /// Measures the load without a proxy: how fast the machine is just now.
    pub async fn take_direct(
        &mut self,
        credentials: &Credentials,
        timing: Timing,
    ) -> anyhow::Result<()> {
        if matches!(self.case.measure, Measure::Cost | Measure::Latency) {
            let sample = measure::direct(&self.case, &self.origin, credentials, timing).await?;
            self.quad().direct.push(sample);
        }
        Ok(())
    }

    /// The loads without a proxy in the last quad.
    pub fn direct(&self) -> &[Sample] {
        self.quads.last().map_or(&[], |quad| &quad.direct)
    }

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

    /// Half of what the slowest can do: everyone's latency is that of a proxy at ease.
    pub async fn choose_rate(&mut self, timing: Timing, progress: &Progress) {
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
        if !slowest.is_finite() {
            return;
        }
        self.case.load.rate = (slowest / 2.0).max(1.0);
        progress.note(&format!("{}: {:.0} per second", self.case.name, self.case.load.rate));
        for running in &mut self.running {
            running.case.load.rate = self.case.load.rate;
        }
    }

    pub async fn count_syscalls(&mut self, progress: &Progress) {
        for running in &self.running {
            match measure::syscalls(running).await {
                Ok(calls) => {
                    let samples = self
                        .quads
                        .iter_mut()
                        .filter_map(|quad| quad.samples.get_mut(&running.peer));
                    samples.flatten().for_each(|sample| sample.set(Figure::Syscalls, calls));
                }
                Err(error) => progress.note(&format!(
                    "{}: system calls of {} were not counted: {error:#}",
                    self.case.name, running.peer
                )),
            }
        }
    }

    /// What was found. `base`: the quads of the case that this one is compared with.
    pub fn finish(self, scenario: &Scenario, base: Option<&[Quad]>) -> CaseResult {
        let counted = result::counted(&self.quads);
        // Quads of cases that ran together are unsteady together.
        let growth = base.map(|base| result::growth(&counted, &result::counted(base)));
        let unsteady = !self.quads.is_empty() && self.steady_quads() == 0;
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
            latencies: last
                .into_iter()
                .flat_map(|quad| &quad.samples)
                .filter_map(|(peer, samples)| Some((*peer, samples.last()?.latencies.clone())))
                .filter(|(_, latencies)| !latencies.is_empty())
                .collect(),
            left_out: self.left_out,
            dropped: self.quads.iter().filter_map(|quad| quad.unsteady.clone()).collect(),
            quads_kept: counted.len(),
            unsteady,
            failed: self.failed,
        }
    }
}
