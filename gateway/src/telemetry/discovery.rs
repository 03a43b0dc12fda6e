//! How the controller's configuration fares, for metrics and for `/ready`.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::exposition::{Family, describe};

const CONNECTED: Family =
    Family::gauge("weir_discovery_connected", "1 while there is a stream to the controller.");
const STALE: Family = Family::gauge(
    "weir_discovery_stale_seconds",
    "For how long the configuration in force may have been out of date; 0 while it is not.",
);
const PUSHES: Family =
    Family::counter("weir_discovery_pushes_total", "Pushes of the controller put in force.");
const REJECTIONS: Family = Family::counter(
    "weir_discovery_rejections_total",
    "Resources of pushes that were refused; their last good versions stay in force.",
);

const FAILURES: Family =
    Family::counter("weir_discovery_failures_total", "Streams that broke or could not be opened.");

const OLDER: Family = Family::counter(
    "weir_discovery_older_controllers_total",
    "Streams that ended because the controller knew less than what is in force.",
);

/// What is known of the stream. Shared by whoever writes it and those who read.
#[derive(Debug)]
pub struct DiscoveryStatus {
    families: Vec<Desc>,
    state: Mutex<State>,
    pushes: AtomicU64,
    rejections: AtomicU64,
    failures: AtomicU64,
    older: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    is_connected: bool,
    freshness: Freshness,
    /// Why there is no stream.
    problem: Option<String>,
    /// Of the push in force.
    version: String,
}

#[derive(Debug, Default, Clone, Copy)]
enum Freshness {
    #[default]
    Nothing,
    Current,
    /// It was right at this time, and may have been since.
    AsOf(SystemTime),
}

/// Something that is served although it may be out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    pub age: Duration,
    /// Empty while nothing is known but that it is so.
    pub problem: String,
}

impl DiscoveryStatus {
    /// # Errors
    /// Names that are none, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            families: describe(&[CONNECTED, STALE, PUSHES, REJECTIONS, FAILURES, OLDER])?,
            state: Mutex::default(),
            pushes: AtomicU64::default(),
            rejections: AtomicU64::default(),
            failures: AtomicU64::default(),
            older: AtomicU64::default(),
        })
    }

    /// What was written down at that time, with the push `version`, is in force.
    pub fn restored(&self, as_of: SystemTime, version: &str) {
        let mut state = self.state();
        state.freshness = Freshness::AsOf(as_of);
        version.clone_into(&mut state.version);
    }

    pub fn connected(&self) {
        let mut state = self.state();
        state.is_connected = true;
        state.problem = None;
    }

    /// The configuration in force is the controller's, with its push `version`.
    pub fn synced(&self, version: &str, rejections: usize) {
        let mut state = self.state();
        state.freshness = Freshness::Current;
        version.clone_into(&mut state.version);
        drop(state);
        self.pushes.fetch_add(1, Relaxed);
        self.rejections.fetch_add(rejections as u64, Relaxed);
    }

    pub fn disconnected(&self, problem: String) {
        self.failures.fetch_add(1, Relaxed);
        let mut state = self.state();
        state.is_connected = false;
        state.problem = Some(problem);
        if matches!(state.freshness, Freshness::Current) {
            state.freshness = Freshness::AsOf(SystemTime::now());
        }
    }

    /// A controller knew less than what is in force.
    pub fn found_older(&self) {
        self.older.fetch_add(1, Relaxed);
    }

    /// `None`: what is in force is current, or nothing is in force.
    #[must_use]
    pub fn stale(&self) -> Option<Stale> {
        let state = self.state();
        let Freshness::AsOf(then) = state.freshness else { return None };
        // A clock that was put back makes it young, not current.
        let age = SystemTime::now().duration_since(then).unwrap_or_default();
        Some(Stale { age, problem: state.problem.clone().unwrap_or_default() })
    }

    /// Why there is no stream, while there is none.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    /// The last push that is in force; empty: there is none.
    #[must_use]
    pub fn version(&self) -> String {
        self.state().version.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The collector that the registry owns.
#[derive(Debug)]
pub(super) struct Shared(pub(super) std::sync::Arc<DiscoveryStatus>);

impl Collector for Shared {
    fn desc(&self) -> Vec<&Desc> {
        self.0.families.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let connected = self.0.state().is_connected;
        let stale = self.0.stale();
        let values = [
            (CONNECTED, f64::from(u8::from(connected))),
            // Never 0 while it is stale.
            (STALE, stale.map_or(0.0, |stale| stale.age.as_secs_f64().max(0.001))),
            (PUSHES, self.0.pushes.load(Relaxed) as f64),
            (REJECTIONS, self.0.rejections.load(Relaxed) as f64),
            (FAILURES, self.0.failures.load(Relaxed) as f64),
            (OLDER, self.0.older.load(Relaxed) as f64),
        ];
        values
            .into_iter()
            .map(|(described, value)| {
                let mut family = described.empty();
                family.set_metric(vec![described.sample(Vec::new(), value)]);
                family
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn values(status: &Arc<DiscoveryStatus>) -> Vec<f64> {
        let families = Shared(Arc::clone(status)).collect();
        let value = |family: &MetricFamily| {
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        families.iter().map(value).collect()
    }

    #[test]
    fn a_configuration_is_stale_from_the_end_of_its_stream_to_the_next_sync() {
        let status = Arc::new(DiscoveryStatus::new().unwrap());
        assert_eq!(status.stale(), None, "nothing is in force");
        status.connected();
        status.synced("push 1", 2);
        assert_eq!(status.version(), "push 1");
        assert_eq!(values(&status), [1.0, 0.0, 1.0, 2.0, 0.0, 0.0]);

        status.disconnected("gone".to_owned());
        assert_eq!(status.problem().as_deref(), Some("gone"));
        assert_eq!(status.stale().unwrap().problem, "gone");
        let [connected, stale, ..] = values(&status)[..] else { panic!("four values") };
        assert_eq!(connected, 0.0);
        assert!(stale > 0.0);

        status.connected();
        assert_eq!(status.problem(), None);
        assert!(status.stale().is_some(), "a stream alone says nothing of the configuration");
        status.synced("push 2", 0);
        assert_eq!(values(&status), [1.0, 0.0, 2.0, 2.0, 1.0, 0.0]);
    }

    #[test]
    fn what_was_written_down_is_as_old_as_that() {
        let status = DiscoveryStatus::new().unwrap();
        status.restored(SystemTime::now() - Duration::from_secs(3600), "push 7");
        assert_eq!(status.version(), "push 7");
        status.disconnected("gone".to_owned());
        assert!(status.stale().unwrap().age >= Duration::from_secs(3600));
    }
}
