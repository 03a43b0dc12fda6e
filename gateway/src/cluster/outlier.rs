//! Outlier detection: endpoints that keep failing are ejected for a while (Envoy's outlier detector
//! with the parts Istio configures; istio-compat 1.3).
//!
//! A small state machine without clock, task or lock of its own: counting is atomic and per endpoint,
//! everything else happens when a threshold is reached or a sweep is due, with the time as argument.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use weir_config::model::cluster::OutlierDetection;

use super::endpoint::EndpointId;

/// No ejection is longer.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
/// A sweep looks at every endpoint with a history; more often buys nothing.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// How one attempt at an endpoint ended, as far as the endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered with this status.
    Response(u16),
    /// No connection, or one that was lost before the answer.
    ConnectFailure,
    /// No answer in time.
    Timeout,
}

/// The running counts of one endpoint.
#[derive(Debug, Default)]
pub struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_errors: AtomicU32,
    consecutive_local_failures: AtomicU32,
}

impl Monitor {
    /// Counts `outcome`; true when a threshold was reached just now.
    pub(super) fn count(&self, config: &OutlierDetection, outcome: Outcome) -> bool {
        let split = config.split_external_local_origin_errors;
        match outcome {
            Outcome::Response(status) => {
                if split {
                    reset(&self.consecutive_local_failures);
                }
                self.count_status(config, status)
            }
            // Unless they are told apart, failures of our own count as the statuses the client gets.
            Outcome::ConnectFailure if !split => self.count_status(config, 503),
            Outcome::Timeout if !split => self.count_status(config, 504),
            Outcome::ConnectFailure | Outcome::Timeout => {
                reaches(&self.consecutive_local_failures, config.consecutive_local_origin_failures)
            }
        }
    }

    fn count_status(&self, config: &OutlierDetection, status: u16) -> bool {
        if !(500..600).contains(&status) {
            reset(&self.consecutive_5xx);
            reset(&self.consecutive_gateway_errors);
            return false;
        }
        let gateway_error = if matches!(status, 502..=504) {
            let threshold = config.consecutive_gateway_errors.unwrap_or(0);
            reaches(&self.consecutive_gateway_errors, threshold)
        } else {
            reset(&self.consecutive_gateway_errors);
            false
        };
        reaches(&self.consecutive_5xx, config.consecutive_5xx) || gateway_error
    }

    fn clear(&self) {
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway_errors);
        reset(&self.consecutive_local_failures);
    }
}

/// Loads before storing: the usual case, zero already, leaves the cache line shared.
fn reset(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// A threshold of 0 is off. Exactly at it, so that of a burst of failures one reports.
fn reaches(count: &AtomicU32, threshold: u32) -> bool {
    count.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == threshold && threshold != 0
}

/// Which endpoints of a cluster are ejected, and their history.
#[derive(Debug)]
pub(super) struct Detector {
    config: OutlierDetection,
    histories: FxHashMap<EndpointId, History>,
    last_sweep: Instant,
}

#[derive(Debug, Clone, Copy)]
struct History {
    /// Ejection times are the base time this often; healthy intervals count it down.
    backoff: u32,
    ejected_at: Option<Instant>,
}

impl Detector {
    pub(super) fn new(config: OutlierDetection, now: Instant) -> Self {
        Self { config, histories: FxHashMap::default(), last_sweep: now }
    }

    pub(super) fn config(&self) -> &OutlierDetection {
        &self.config
    }

    /// The same history under another configuration.
    pub(super) fn reconfigured(&self, config: &OutlierDetection) -> Self {
        Self {
            config: config.clone(),
            histories: self.histories.clone(),
            last_sweep: self.last_sweep,
        }
    }

    pub(super) fn is_ejected(&self, endpoint: EndpointId) -> bool {
        self.histories.get(&endpoint).is_some_and(|history| history.ejected_at.is_some())
    }

    /// Ejects an endpoint of `members`, unless too many are already. One always may be (unless the
    /// configuration says 0 %).
    pub(super) fn eject(
        &mut self,
        endpoint: EndpointId,
        monitor: &Monitor,
        members: usize,
        now: Instant,
    ) -> bool {
        // The counts begin anew either way, so that the next bout of failures is noticed.
        monitor.clear();
        let ejected = self.ejected();
        let share = 100 * (ejected + 1);
        let allowed = usize::from(self.config.max_ejection_percent.min(100)) * members;
        let may_eject = share <= allowed || (ejected == 0 && allowed > 0);
        if !may_eject || self.is_ejected(endpoint) {
            return false;
        }
        if self.histories.is_empty() {
            // Nothing was there to be swept, so the intervals begin here.
            self.last_sweep = now;
        }
        let base = self.config.base_ejection_time;
        let history =
            self.histories.entry(endpoint).or_insert(History { backoff: 0, ejected_at: None });
        if base.saturating_mul(history.backoff) < MAX_EJECTION_TIME.max(base) {
            history.backoff += 1;
        }
        history.ejected_at = Some(now);
        true
    }

    /// Takes back the endpoints that have served their time; true when there were any. Intervals
    /// nobody looked at are made up for.
    pub(super) fn sweep(&mut self, now: Instant) -> bool {
        let interval = self.config.interval.max(MIN_INTERVAL);
        let elapsed = now.saturating_duration_since(self.last_sweep);
        let intervals = u32::try_from(elapsed.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        if intervals == 0 {
            return false;
        }
        self.last_sweep += interval.saturating_mul(intervals);
        let base = self.config.base_ejection_time;
        let max = MAX_EJECTION_TIME.max(base);
        let mut any = false;
        self.histories.retain(|_, history| {
            match history.ejected_at {
                Some(ejected_at) => {
                    let term = base.saturating_mul(history.backoff).min(max);
                    if now.saturating_duration_since(ejected_at) >= term {
                        history.ejected_at = None;
                        any = true;
                    }
                }
                None => history.backoff = history.backoff.saturating_sub(intervals),
            }
            history.ejected_at.is_some() || history.backoff > 0
        });
        any
    }

    /// When `sweep` has something to do next; `None`: not before an ejection.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        let interval = self.config.interval.max(MIN_INTERVAL);
        (!self.histories.is_empty()).then(|| self.last_sweep + interval)
    }

    /// Forgets endpoints that are no longer members.
    pub(super) fn retain(&mut self, is_member: impl Fn(EndpointId) -> bool) {
        self.histories.retain(|endpoint, _| is_member(*endpoint));
    }

    pub(super) fn ejected(&self) -> usize {
        self.histories.values().filter(|history| history.ejected_at.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_errors: None,
            split_external_local_origin_errors: false,
            consecutive_local_origin_failures: 2,
            interval: 10 * SECOND,
            base_ejection_time: 30 * SECOND,
            max_ejection_percent: 100,
            min_health_percent: 0,
        }
    }

    fn id(number: u64) -> EndpointId {
        EndpointId::from_number(number)
    }

    fn counts(config: &OutlierDetection, outcomes: &[Outcome]) -> Vec<bool> {
        let monitor = Monitor::default();
        outcomes.iter().map(|outcome| monitor.count(config, *outcome)).collect()
    }

    #[test]
    fn only_consecutive_5xx_reach_the_threshold() {
        let [bad, good] = [Outcome::Response(500), Outcome::Response(404)];
        assert_eq!(
            counts(&config(), &[bad, bad, good, bad, bad, bad, bad]),
            [false, false, false, false, false, true, false]
        );
    }

    #[test]
    fn a_threshold_of_zero_is_off() {
        let config = OutlierDetection { consecutive_5xx: 0, ..config() };
        assert_eq!(counts(&config, &[Outcome::Response(500); 4]), [false; 4]);
    }

    #[test]
    fn gateway_errors_have_a_threshold_of_their_own() {
        let config = OutlierDetection {
            consecutive_5xx: 0,
            consecutive_gateway_errors: Some(2),
            ..config()
        };
        let [gateway, server] = [Outcome::Response(502), Outcome::Response(500)];
        assert_eq!(
            counts(&config, &[gateway, server, gateway, gateway]),
            [false, false, false, true]
        );
    }

    #[test]
    fn our_own_failures_count_as_5xx_unless_they_are_split() {
        let failures = [Outcome::ConnectFailure, Outcome::Timeout, Outcome::ConnectFailure];
        assert_eq!(counts(&config(), &failures), [false, false, true]);
        let split = OutlierDetection { split_external_local_origin_errors: true, ..config() };
        assert_eq!(counts(&split, &failures), [false, true, false]);
        let mixed = [Outcome::ConnectFailure, Outcome::Response(500), Outcome::ConnectFailure];
        assert_eq!(counts(&split, &mixed), [false; 3], "an answer ends the run of failures");
    }

    #[test]
    fn an_ejection_lasts_its_base_time_and_the_next_one_longer() {
        let start = Instant::now();
        let mut detector = Detector::new(config(), start);
        let monitor = Monitor::default();
        assert!(detector.eject(id(1), &monitor, 3, start));
        assert!(!detector.sweep(start + 20 * SECOND));
        assert!(detector.is_ejected(id(1)));
        assert!(detector.sweep(start + 30 * SECOND));
        assert!(!detector.is_ejected(id(1)));

        let again = start + 31 * SECOND;
        assert!(detector.eject(id(1), &monitor, 3, again));
        assert!(!detector.sweep(start + 70 * SECOND), "the second time lasts twice as long");
        assert!(detector.sweep(start + 100 * SECOND));
    }

    #[test]
    fn an_ejection_never_lasts_longer_than_five_minutes() {
        let mut now = Instant::now();
        let mut detector = Detector::new(config(), now);
        let monitor = Monitor::default();
        for _ in 0..20 {
            assert!(detector.eject(id(1), &monitor, 1, now));
            assert!(detector.sweep(now + 310 * SECOND));
            now += 310 * SECOND;
        }
    }

    #[test]
    fn healthy_intervals_shorten_the_next_ejection() {
        let start = Instant::now();
        let mut detector = Detector::new(config(), start);
        let monitor = Monitor::default();
        detector.eject(id(1), &monitor, 3, start);
        detector.sweep(start + 30 * SECOND);
        detector.sweep(start + 50 * SECOND);
        assert_eq!(detector.next_sweep(), None, "one ejection is forgotten after one interval");
        detector.eject(id(1), &monitor, 3, start + 60 * SECOND);
        assert!(detector.sweep(start + 90 * SECOND));
    }

    #[test]
    fn at_most_the_given_share_is_ejected_but_always_one() {
        let now = Instant::now();
        let monitor = Monitor::default();
        let ten_percent = OutlierDetection { max_ejection_percent: 10, ..config() };
        let mut detector = Detector::new(ten_percent, now);
        assert!(detector.eject(id(1), &monitor, 4, now));
        assert!(!detector.eject(id(2), &monitor, 4, now));

        let half = OutlierDetection { max_ejection_percent: 50, ..config() };
        let mut detector = Detector::new(half, now);
        assert!(detector.eject(id(1), &monitor, 4, now));
        assert!(detector.eject(id(2), &monitor, 4, now));
        assert!(!detector.eject(id(3), &monitor, 4, now));

        let none = OutlierDetection { max_ejection_percent: 0, ..config() };
        let mut detector = Detector::new(none, now);
        assert!(!detector.eject(id(1), &monitor, 4, now));
    }

    #[test]
    fn a_refused_ejection_begins_counting_anew() {
        let now = Instant::now();
        let mut detector =
            Detector::new(OutlierDetection { max_ejection_percent: 0, ..config() }, now);
        let monitor = Monitor::default();
        let run = || (0..3).map(|_| monitor.count(&config(), Outcome::Response(500))).collect();
        let first: Vec<bool> = run();
        detector.eject(id(1), &monitor, 1, now);
        let second: Vec<bool> = run();
        assert_eq!(first, second);
    }

    #[test]
    fn endpoints_that_left_do_not_count_as_ejected() {
        let now = Instant::now();
        let mut detector = Detector::new(config(), now);
        detector.eject(id(1), &Monitor::default(), 2, now);
        detector.retain(|endpoint| endpoint == id(2));
        assert_eq!(detector.ejected(), 0);
    }
}
