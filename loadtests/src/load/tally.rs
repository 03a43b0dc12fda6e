//! What came of a load: counts, latencies, and what was wrong.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// Latencies beyond are counted as this.
const MAX_LATENCY: Duration = Duration::from_secs(120);

/// Different failures that are told in words; the rest is counted.
const MAX_FAILURES: usize = 20;

/// Why an exchange did not give the right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There was an answer, and it was not the right one.
    Wrong(String),
    /// There was none: the connection could not be made, or broke.
    Broken(String),
}

impl Failure {
    pub fn broken(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Broken(format!("{what}: {error}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(what) => write!(f, "wrong answer: {what}"),
            Self::Broken(what) => write!(f, "no answer: {what}"),
        }
    }
}

/// What an exchange was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Messages of a stream; 1 otherwise.
    pub units: u64,
    /// Of bodies, both ways.
    pub bytes: u64,
}

/// Filled by the workers of one load.
#[derive(Debug, Clone)]
pub struct Tally {
    pub exchanges: u64,
    pub units: u64,
    pub bytes: u64,
    /// Exchanges that were answered later than after [`Tally::deadline`].
    pub late: u64,
    /// Exchanges on a connection whose TLS session was resumed.
    pub resumed: u64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// From the intended time to the last byte, in nanoseconds.
    pub latencies: Histogram<u64>,
    deadline: Duration,
}

impl Tally {
    pub fn new(deadline: Duration) -> Self {
        let max = u64::try_from(MAX_LATENCY.as_nanos()).expect("two minutes fit");
        Self {
            exchanges: 0,
            units: 0,
            bytes: 0,
            late: 0,
            resumed: 0,
            failed: 0,
            failures: BTreeMap::new(),
            latencies: Histogram::new_with_bounds(1_000, max, 3).expect("the bounds are in order"),
            deadline,
        }
    }

    pub fn done(&mut self, due: Instant, done: Done) {
        let latency = due.elapsed();
        self.exchanges += 1;
        self.units += done.units;
        self.bytes += done.bytes;
        self.late += u64::from(latency > self.deadline);
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.failed += 1;
        let text = failure.to_string();
        if self.failures.len() < MAX_FAILURES || self.failures.contains_key(&text) {
            *self.failures.entry(text).or_default() += 1;
        }
    }

    /// Answers in time.
    pub fn good(&self) -> u64 {
        self.exchanges - self.late
    }

    /// Latency in microseconds by quantile, in steps that get finer towards the end.
    #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let steps = self.latencies.iter_quantiles(2);
        steps.map(|step| (step.quantile(), step.value_iterated_to() as f64 / 1_000.0)).collect()
    }

    /// Microseconds, at a quantile.
    #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1_000.0
    }
}
