//! What a run found, as it is written to `result.json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    environment::Environment,
    measure::{Figure, Sample},
    peer::Peer,
    scenario::{Case, Measure, Scenario, Set},
    statistics::{Ratio, centre},
};

/// Raised when an older reader would misread a newer file.
const FORMAT: u32 = 1;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunResult {
    pub format: u32,
    pub set: Set,
    pub quads: usize,
    pub seconds: f64,
    pub environment: Environment,
    pub cases: Vec<CaseResult>,
}

/// One case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseResult {
    pub name: String,
    pub title: String,
    pub scenario: String,
    pub measure: Measure,
    /// What is counted.
    pub unit: String,
    pub figures: BTreeMap<Peer, BTreeMap<Figure, Value>>,
    /// Weir's figure divided by the peer's.
    pub ratios: BTreeMap<Peer, BTreeMap<Figure, Ratio>>,
    /// A proxy's figure divided by the same proxy's in the first case of the scenario, where these
    /// ran in the same quads.
    pub growth: BTreeMap<Peer, BTreeMap<Figure, Ratio>>,
    /// The same load without a proxy.
    pub direct: BTreeMap<Figure, f64>,
    /// Of the last sample.
    pub latencies: BTreeMap<Peer, Latencies>,
    /// Peers that were not measured, and why.
    pub left_out: BTreeMap<Peer, String>,
    /// Why quads were dropped; those that count are `quads_kept`.
    pub dropped: Vec<String>,
    pub quads_kept: usize,
    /// No quad was steady: the figures are of unsteady ones.
    pub unsteady: bool,
    /// A run that failed has no figures that mean anything.
    pub failed: Option<String>,
}

/// Latency in microseconds by quantile.
pub type Latencies = Vec<(f64, f64)>;

/// A figure of one proxy over all samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value {
    pub value: f64,
    pub samples: Vec<f64>,
}

/// Each proxy measured twice, in an order and back, so that a drift of the machine cancels out.
#[derive(Debug, Clone, Default)]
pub struct Quad {
    pub samples: BTreeMap<Peer, Vec<Sample>>,
    pub direct: Vec<Sample>,
    /// Why it does not count.
    pub unsteady: Option<String>,
}

impl RunResult {
    pub fn new(set: Set, quads: usize, seconds: f64, environment: Environment) -> Self {
        Self { format: FORMAT, set, quads, seconds, environment, cases: Vec::new() }
    }

    /// Reads a result.
    ///
    /// # Errors
    /// When it is none, or one of another format.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let result: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not a result", path.display()))?;
        ensure!(result.format == FORMAT, "{} has format {}", path.display(), result.format);
        Ok(result)
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", path.display()))
    }
}

impl CaseResult {
    /// Of a case that no peer takes part in, with all that was found of each figure.
    pub fn of_control_plane(
        scenario: &Scenario,
        case: &Case,
        figures: BTreeMap<Figure, Vec<f64>>,
        latencies: Latencies,
        failed: Option<String>,
    ) -> Self {
        let value = |samples: Vec<f64>| Some(Value { value: centre(&samples)?, samples });
        let figures = figures.into_iter().filter_map(|(figure, s)| Some((figure, value(s)?)));
        Self {
            name: case.name.clone(),
            title: case.title.clone(),
            scenario: scenario.name.clone(),
            measure: case.measure,
            unit: case.unit().to_owned(),
            figures: [(Peer::Weir, figures.collect())].into(),
            ratios: BTreeMap::new(),
            growth: BTreeMap::new(),
            direct: BTreeMap::new(),
            latencies: [(Peer::Weir, latencies)]
                .into_iter()
                .filter(|(_, l)| !l.is_empty())
                .collect(),
            left_out: BTreeMap::new(),
            dropped: Vec::new(),
            quads_kept: 0,
            unsteady: false,
            failed,
        }
    }
}

impl Quad {
    /// Sets what each proxy adds to the latency there is without one.
    pub fn add_latencies(&mut self) {
        for (latency, added) in Figure::ADDED {
            let direct: Vec<f64> = self
                .direct
                .iter()
                .filter_map(|sample| sample.figures.get(&latency).copied())
                .collect();
            let Some(direct) = centre(&direct) else { continue };
            for sample in self.samples.values_mut().flatten() {
                if let Some(with_proxy) = sample.figures.get(&latency).copied() {
                    sample.set(added, with_proxy - direct);
                }
            }
        }
    }

    fn figures(&self) -> BTreeSet<Figure> {
        let samples = self.samples.values().flatten();
        samples.flat_map(|sample| sample.figures.keys().copied()).collect()
    }

    /// A figure of a proxy, in the order it was taken.
    fn values(&self, peer: Peer, figure: Figure) -> impl Iterator<Item = f64> {
        let samples = self.samples.get(&peer).into_iter().flatten();
        samples.filter_map(move |sample| sample.figures.get(&figure).copied())
    }
}

/// Those quads that count: the steady ones, or all of them when none is.
pub fn counted(quads: &[Quad]) -> Vec<&Quad> {
    let steady: Vec<&Quad> = quads.iter().filter(|quad| quad.unsteady.is_none()).collect();
    if steady.is_empty() { quads.iter().collect() } else { steady }
}

/// Each proxy's figures.
pub fn figures(quads: &[&Quad]) -> BTreeMap<Peer, BTreeMap<Figure, Value>> {
    let mut all: BTreeMap<Peer, BTreeMap<Figure, Vec<f64>>> = BTreeMap::new();
    for quad in quads {
        for (peer, samples) in &quad.samples {
            for (figure, value) in samples.iter().flat_map(|sample| &sample.figures) {
                all.entry(*peer).or_default().entry(*figure).or_default().push(*value);
            }
        }
    }
    let value = |samples: Vec<f64>| Some(Value { value: centre(&samples)?, samples });
    all.into_iter()
        .map(|(peer, figures)| {
            let figures = figures.into_iter();
            (peer, figures.filter_map(|(figure, s)| Some((figure, value(s)?))).collect())
        })
        .collect()
}

/// Weir's figures over each peer's, paired within quads.
pub fn ratios(quads: &[&Quad]) -> BTreeMap<Peer, BTreeMap<Figure, Ratio>> {
    let peers: BTreeSet<Peer> =
        quads.iter().flat_map(|quad| quad.samples.keys().copied()).collect();
    let others = peers.into_iter().filter(|peer| *peer != Peer::Weir);
    others
        .map(|peer| (peer, paired(quads, quads, Peer::Weir, peer)))
        .filter(|(_, ratios)| !ratios.is_empty())
        .collect()
}

/// Each proxy's figures over its own in another case, paired within quads.
pub fn growth(quads: &[&Quad], base: &[&Quad]) -> BTreeMap<Peer, BTreeMap<Figure, Ratio>> {
    let peers: BTreeSet<Peer> =
        quads.iter().flat_map(|quad| quad.samples.keys().copied()).collect();
    peers.into_iter().map(|peer| (peer, paired(quads, base, peer, peer))).collect()
}

/// What was measured on the way there with what was measured on the way there, and so back: a drift
/// moves the two apart in opposite directions, and widens the interval, not the mean.
fn paired(above: &[&Quad], below: &[&Quad], a: Peer, b: Peer) -> BTreeMap<Figure, Ratio> {
    let figures: BTreeSet<Figure> = above.iter().flat_map(|quad| quad.figures()).collect();
    let mut ratios = BTreeMap::new();
    for (seed, figure) in figures.into_iter().enumerate() {
        let pairs: Vec<f64> = above
            .iter()
            .zip(below)
            .flat_map(|(x, y)| x.values(a, figure).zip(y.values(b, figure)))
            .map(|(x, y)| x / y)
            .collect();
        if let Some(ratio) = Ratio::of(&pairs, seed as u64) {
            ratios.insert(figure, ratio);
        }
    }
    ratios
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu: f64) -> Sample {
        Sample { figures: [(Figure::Cpu, cpu)].into(), latencies: Vec::new() }
    }

    fn quad(weir: [f64; 2], nginx: [f64; 2]) -> Quad {
        let samples = [(Peer::Weir, weir), (Peer::Nginx, nginx)];
        Quad {
            samples: samples.map(|(peer, pair)| (peer, pair.map(sample).into())).into(),
            ..Quad::default()
        }
    }

    #[test]
    fn a_drift_within_a_quad_cancels_out() {
        // The machine gets slower by the same factor with each measurement: weir, nginx, nginx, weir.
        let quads = [quad([10.0, 80.0], [20.0, 40.0])];
        let ratios = ratios(&quads.iter().collect::<Vec<_>>());
        assert!((ratios[&Peer::Nginx][&Figure::Cpu].ratio - 1.0).abs() < 1e-9);
    }

    #[test]
    fn unsteady_quads_do_not_count_unless_all_are() {
        let mut quads = vec![quad([10.0, 10.0], [10.0, 10.0]), quad([90.0, 90.0], [10.0, 10.0])];
        quads[1].unsteady = Some("stolen".into());
        assert_eq!(counted(&quads).len(), 1);
        quads[0].unsteady = Some("stolen".into());
        assert_eq!(counted(&quads).len(), 2);
    }

    #[test]
    fn growth_is_against_the_same_proxy() {
        let (one, many) = ([quad([10.0, 10.0], [5.0, 5.0])], [quad([11.0, 11.0], [50.0, 50.0])]);
        let grown = growth(&[&many[0]], &[&one[0]]);
        assert!((grown[&Peer::Weir][&Figure::Cpu].ratio - 1.1).abs() < 1e-9);
        assert!((grown[&Peer::Nginx][&Figure::Cpu].ratio - 10.0).abs() < 1e-9);
    }
}
