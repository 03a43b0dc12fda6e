//! Label sets of the standard metrics and their cached handles.
//!
//! A destination's labels are resolved when its cluster is configured. What else tells two series
//! apart (status, flags, workload ...) is a small `Copy` key, looked up in a map that is replaced and
//! never changed: recording is one lookup and a few additions, without a lock, an allocation or a
//! formatted number. Nothing a client chooses is a label, so their number is bounded by the
//! configuration and by what upstreams answer (reference `hardening` D12).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustc_hash::FxHashMap;
use weir_config::model::cluster::{Destination, Workload};

use super::{
    Protocol, ResponseFlags, StreamInfo,
    series::{HttpCounts, Sharded, TcpCounts},
};

/// A series nobody can add to any more is exported this long, so that its last additions are scraped.
pub const EXPIRY: Duration = Duration::from_secs(600);

/// The value of a label that is not known.
pub const UNKNOWN: &str = "unknown";

/// Who reports: the `source_*` labels of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    /// `spiffe://...`; empty: nobody in the mesh, or not known to be.
    pub principal: Arc<str>,
    /// The pod.
    pub instance: Arc<str>,
}

impl Reporter {
    /// From the labels a pod of this proxy would have; Istio's order of preference.
    #[must_use]
    pub fn new(namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        Self::named(namespace, labels, None)
    }

    /// Of a workload that is called so, whatever its labels say.
    #[must_use]
    pub fn named(
        namespace: &str,
        labels: &BTreeMap<String, String>,
        workload: Option<&str>,
    ) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| labels.get(*name));
        let label = |names: &[&str], default: &str| -> Arc<str> {
            first(names).map_or(default, String::as_str).into()
        };
        let app = label(&["app", "app.kubernetes.io/name"], UNKNOWN);
        let by_labels = || label(&["service.istio.io/workload-name", "app"], "weir-gateway");
        let workload = workload.map_or_else(by_labels, Into::into);
        let canonical_service =
            label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"], &workload);
        let canonical_revision = label(
            &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
            "latest",
        );
        Self {
            workload,
            namespace: namespace.into(),
            app,
            version: label(&["version", "app.kubernetes.io/version"], UNKNOWN),
            canonical_service,
            canonical_revision,
            principal: Arc::default(),
            instance: Arc::default(),
        }
    }
}

/// `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestProtocol {
    Http,
    Grpc,
    Tcp,
}

impl RequestProtocol {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    fn of(info: &StreamInfo) -> Self {
        match (info.protocol, info.grpc) {
            (Protocol::Tcp, _) => Self::Tcp,
            (Protocol::Http10 | Protocol::Http11 | Protocol::Http2, true) => Self::Grpc,
            (Protocol::Http10 | Protocol::Http11 | Protocol::Http2, false) => Self::Http,
        }
    }
}

/// What tells apart the series of one destination, beside the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub protocol: RequestProtocol,
    /// 0 on TCP.
    pub status: u16,
    pub flags: ResponseFlags,
    pub grpc_status: Option<u8>,
}

impl Outcome {
    #[must_use]
    pub fn of(info: &StreamInfo) -> Self {
        let protocol = RequestProtocol::of(info);
        Self {
            protocol,
            status: info.status,
            flags: info.flags,
            grpc_status: info.grpc_status.filter(|_| protocol == RequestProtocol::Grpc),
        }
    }

    /// A TCP connection that has only just begun.
    #[must_use]
    pub fn opened() -> Self {
        Self {
            protocol: RequestProtocol::Tcp,
            status: 0,
            flags: ResponseFlags::default(),
            grpc_status: None,
        }
    }
}

/// One label set and its numbers.
#[derive(Debug)]
pub struct Series<T> {
    pub outcome: Outcome,
    pub workload: Option<Workload>,
    pub counts: Sharded<T>,
}

/// The metric handles of one destination.
#[derive(Debug)]
pub struct ClusterStats {
    pub destination: Destination,
    pub http: SeriesMap<HttpCounts>,
    pub tcp: SeriesMap<TcpCounts>,
}

impl ClusterStats {
    fn new(destination: Destination, slots: usize) -> Self {
        Self { destination, http: SeriesMap::new(slots), tcp: SeriesMap::new(slots) }
    }

    fn sweep(&self, now: Instant) {
        self.http.sweep(now);
        self.tcp.sweep(now);
    }
}

impl Default for ClusterStats {
    /// Of an unknown destination; seen by no scrape.
    fn default() -> Self {
        Self::new(Destination::default(), 1)
    }
}

/// A workload is known by its address while an `Arc` of it is held here, so that the hot path need
/// not compare its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SeriesKey {
    workload: usize,
    outcome: Outcome,
}

fn address(workload: Option<&Arc<Workload>>) -> usize {
    workload.map_or(0, |workload| Arc::as_ptr(workload) as usize)
}

type Lookup<T> = FxHashMap<SeriesKey, Arc<Series<T>>>;

/// The series of one destination. Generic because HTTP and TCP count different things.
#[derive(Debug)]
pub struct SeriesMap<T> {
    lookup: ArcSwap<Lookup<T>>,
    /// Taken when a label set is seen for the first time and by scrapes.
    known: Mutex<Known<T>>,
    slots: usize,
}

#[derive(Debug)]
struct Known<T> {
    series: Vec<(Arc<Series<T>>, Option<Instant>)>,
    /// The workloads whose addresses appear in `lookup`.
    workloads: Vec<Arc<Workload>>,
}

impl<T: Default> SeriesMap<T> {
    fn new(slots: usize) -> Self {
        Self {
            lookup: ArcSwap::default(),
            known: Mutex::new(Known { series: Vec::new(), workloads: Vec::new() }),
            slots,
        }
    }

    /// Runs `count` on the numbers of this label set.
    pub fn with(&self, outcome: Outcome, workload: Option<&Arc<Workload>>, count: impl FnOnce(&T)) {
        let key = SeriesKey { workload: address(workload), outcome };
        match self.lookup.load().get(&key) {
            Some(series) => count(series.counts.local()),
            None => count(self.add(key, workload).counts.local()),
        }
    }

    /// Every series, for a scrape.
    #[must_use]
    pub fn series(&self) -> Vec<Arc<Series<T>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.series.iter().map(|(series, _)| Arc::clone(series)).collect()
    }

    /// Makes the label set known. An equal one of a workload that was configured anew is the same.
    fn add(&self, key: SeriesKey, workload: Option<&Arc<Workload>>) -> Arc<Series<T>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let lookup = self.lookup.load_full();
        if let Some(series) = lookup.get(&key) {
            return Arc::clone(series);
        }
        let labels = workload.map(Arc::as_ref);
        let found = known.series.iter().find(|(series, _)| {
            series.outcome == key.outcome && series.workload.as_ref() == labels
        });
        let series = if let Some((series, _)) = found {
            Arc::clone(series)
        } else {
            let counts = Sharded::new(self.slots);
            let series = Series { outcome: key.outcome, workload: labels.cloned(), counts };
            let series = Arc::new(series);
            known.series.push((Arc::clone(&series), None));
            series
        };
        if let Some(workload) = workload
            && !known.workloads.iter().any(|held| Arc::ptr_eq(held, workload))
        {
            known.workloads.push(Arc::clone(workload));
        }
        let mut next = (*lookup).clone();
        next.insert(key, Arc::clone(&series));
        self.lookup.store(Arc::new(next));
        series
    }

    /// Forgets workloads that are no longer configured, and in time their series.
    fn sweep(&self, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { series, workloads } = &mut *known;

        let (live, gone): (Vec<_>, Vec<_>) = std::mem::take(workloads)
            .into_iter()
            .partition(|workload| Arc::strong_count(workload) > 1);
        if !gone.is_empty() {
            let gone: Vec<usize> = gone.iter().map(|workload| address(Some(workload))).collect();
            let mut next = (*self.lookup.load_full()).clone();
            next.retain(|key, _| !gone.contains(&key.workload));
            self.lookup.store(Arc::new(next));
        }
        // After the addresses left the map: from here on they may be used for another workload.
        drop(gone);
        *workloads = live;

        series.retain_mut(|(series, gone_since)| {
            let live = series
                .workload
                .as_ref()
                .is_none_or(|labels| workloads.iter().any(|workload| **workload == *labels));
            !expired(live, gone_since, now)
        });
    }
}

/// Whether something not in use has been so for [`EXPIRY`].
fn expired(in_use: bool, gone_since: &mut Option<Instant>, now: Instant) -> bool {
    if in_use {
        *gone_since = None;
        return false;
    }
    now.duration_since(*gone_since.get_or_insert(now)) >= EXPIRY
}

/// All destinations with metrics. Clusters of the same service share one entry.
#[derive(Debug)]
pub struct Destinations {
    entries: Mutex<HashMap<DestinationKey, Entry>>,
    slots: usize,
    /// Who we are in the mesh, as far as a certificate says.
    identity: ArcSwapOption<Arc<str>>,
}

type DestinationKey = (Arc<str>, Arc<str>, Arc<str>, bool);

#[derive(Debug)]
struct Entry {
    stats: Arc<ClusterStats>,
    gone_since: Option<Instant>,
}

impl Destinations {
    /// `slots`: the number of worker threads.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { entries: Mutex::default(), slots, identity: ArcSwapOption::empty() }
    }

    pub(super) fn set_identity(&self, uri: Arc<str>) {
        self.identity.store(Some(Arc::new(uri)));
    }

    pub(super) fn identity(&self) -> Option<Arc<str>> {
        self.identity.load().as_deref().cloned()
    }

    #[must_use]
    pub fn resolve(&self, destination: &Destination) -> Arc<ClusterStats> {
        let Destination { service, service_name, service_namespace, is_own } = destination;
        let key = (service.clone(), service_name.clone(), service_namespace.clone(), *is_own);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key).or_insert_with(|| Entry {
            stats: Arc::new(ClusterStats::new(destination.clone(), self.slots)),
            gone_since: None,
        });
        Arc::clone(&entry.stats)
    }

    /// Every destination still exported at `now`; forgets those no cluster has used for [`EXPIRY`].
    #[must_use]
    pub fn sweep(&self, now: Instant) -> Vec<Arc<ClusterStats>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            let in_use = Arc::strong_count(&entry.stats) > 1;
            !expired(in_use, &mut entry.gone_since, now)
        });
        let stats: Vec<_> = entries.values().map(|entry| Arc::clone(&entry.stats)).collect();
        drop(entries);
        for stats in &stats {
            stats.sweep(now);
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ResponseFlag;

    fn destination(service: &str) -> Destination {
        Destination { service: service.into(), ..Destination::default() }
    }

    fn workload(name: &str) -> Arc<Workload> {
        Arc::new(Workload { name: name.into(), ..Workload::default() })
    }

    fn http(status: u16) -> Outcome {
        Outcome { protocol: RequestProtocol::Http, status, ..Outcome::opened() }
    }

    fn count(stats: &ClusterStats, outcome: Outcome, workload: Option<&Arc<Workload>>) {
        stats.http.with(outcome, workload, |counts| counts.record(Duration::ZERO, 0, 0));
    }

    fn requests(stats: &ClusterStats) -> Vec<(u16, Option<String>, u64)> {
        let mut all: Vec<_> = stats
            .http
            .series()
            .iter()
            .map(|series| {
                let workload = series.workload.as_ref().map(|workload| workload.name.to_string());
                (series.outcome.status, workload, series.counts.totals().duration.count())
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn clusters_of_one_service_share_their_series() {
        let destinations = Destinations::new(1);
        let v1 = destinations.resolve(&destination("reviews"));
        let v2 = destinations.resolve(&destination("reviews"));
        assert!(Arc::ptr_eq(&v1, &v2));
        assert!(!Arc::ptr_eq(&v1, &destinations.resolve(&destination("ratings"))));
    }

    #[test]
    fn outcomes_and_workloads_are_counted_apart() {
        let stats = ClusterStats::default();
        let (v1, v2) = (workload("v1"), workload("v2"));
        let failed = {
            let mut flags = ResponseFlags::default();
            flags.set(ResponseFlag::UpstreamConnectionFailure);
            Outcome { flags, ..http(503) }
        };
        count(&stats, http(200), Some(&v1));
        count(&stats, http(200), Some(&v1));
        count(&stats, http(200), Some(&v2));
        count(&stats, http(503), None);
        count(&stats, failed, None);

        let expected = [
            (200, Some("v1".to_owned()), 2),
            (200, Some("v2".to_owned()), 1),
            (503, None, 1),
            (503, None, 1),
        ];
        assert_eq!(requests(&stats), expected);
    }

    #[test]
    fn a_workload_configured_anew_continues_its_series() {
        let stats = ClusterStats::default();
        count(&stats, http(200), Some(&workload("v1")));
        stats.sweep(Instant::now());
        count(&stats, http(200), Some(&workload("v1")));
        assert_eq!(requests(&stats), [(200, Some("v1".to_owned()), 2)]);
    }

    #[test]
    fn a_workload_at_the_address_of_a_forgotten_one_is_not_taken_for_it() {
        let stats = ClusterStats::default();
        for i in 0..100 {
            // Freed and allocated again, these tend to lie at the same address.
            count(&stats, http(200), Some(&workload(&format!("pod-{i}"))));
            stats.sweep(Instant::now());
        }
        assert_eq!(requests(&stats).len(), 100);
    }

    #[test]
    fn the_series_of_a_gone_workload_expire() {
        let stats = ClusterStats::default();
        let (old, new) = (workload("old"), workload("new"));
        count(&stats, http(200), Some(&old));
        count(&stats, http(200), Some(&new));
        drop(old);

        let now = Instant::now();
        stats.sweep(now);
        assert_eq!(requests(&stats).len(), 2, "the last additions are still to be scraped");
        stats.sweep(now + EXPIRY);
        assert_eq!(requests(&stats), [(200, Some("new".to_owned()), 1)]);
    }

    #[test]
    fn the_series_of_a_removed_cluster_expire() {
        let destinations = Destinations::new(1);
        let kept = destinations.resolve(&destination("kept"));
        drop(destinations.resolve(&destination("removed")));

        let now = Instant::now();
        assert_eq!(destinations.sweep(now).len(), 2);
        let left = destinations.sweep(now + EXPIRY);
        assert_eq!(left.len(), 1);
        assert!(Arc::ptr_eq(&left[0], &kept));
    }

    #[test]
    fn a_cluster_that_comes_back_in_time_keeps_its_counts() {
        let destinations = Destinations::new(1);
        count(&destinations.resolve(&destination("a")), http(200), None);
        let now = Instant::now();
        drop(destinations.sweep(now));
        let again = destinations.resolve(&destination("a"));
        drop(destinations.sweep(now + EXPIRY));
        assert_eq!(requests(&again), [(200, None, 1)]);
    }

    #[test]
    fn the_reporter_is_named_by_istio_labels() {
        let labels =
            [("app", "edge"), ("service.istio.io/canonical-name", "front"), ("version", "v3")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let reporter = Reporter::new("infra", &labels);
        assert_eq!(
            (&*reporter.workload, &*reporter.app, &*reporter.canonical_service),
            ("edge", "edge", "front")
        );
        assert_eq!((&*reporter.version, &*reporter.canonical_revision), ("v3", "v3"));
        assert_eq!(&*reporter.namespace, "infra");
    }
}
