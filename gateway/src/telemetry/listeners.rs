//! What listeners count. Exported for as long as the listener is there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};
use weir_config::model::ListenerName;

use super::exposition::{Family, describe, label};

const ACTIVE: Family = Family::gauge("weir_listener_connections_active", "Connections open now.");
const ACCEPTED: Family =
    Family::counter("weir_listener_connections_total", "Connections accepted.");
const REFUSED: Family = Family::counter(
    "weir_listener_connections_refused_total",
    "Connections closed before their first byte was used, by reason.",
);
const HANDSHAKE_ERRORS: Family = Family::counter(
    "weir_listener_tls_handshake_errors_total",
    "TLS handshakes with clients that failed, by reason.",
);

/// The handles of one listener; clones count together.
#[derive(Debug, Clone, Default)]
pub struct ListenerMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    active: AtomicI64,
    accepted: AtomicU64,
    refused: Mutex<ByReason>,
    handshake_errors: Mutex<ByReason>,
}

/// Taken per connection that fails, for an addition.
type ByReason = BTreeMap<&'static str, u64>;

impl ListenerMetrics {
    /// Counts a connection as open until the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> ConnectionGuard {
        self.0.accepted.fetch_add(1, Relaxed);
        self.0.active.fetch_add(1, Relaxed);
        ConnectionGuard(self.clone())
    }

    /// Closed without being served. `reason`: from a closed set.
    pub fn refused(&self, reason: &'static str) {
        *lock(&self.0.refused).entry(reason).or_default() += 1;
    }

    /// `reason`: from a closed set.
    pub fn handshake_error(&self, reason: &'static str) {
        *lock(&self.0.handshake_errors).entry(reason).or_default() += 1;
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub struct ConnectionGuard(ListenerMetrics);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.0.active.fetch_sub(1, Relaxed);
    }
}

/// Exports the listeners that are there.
#[derive(Debug, Clone)]
pub struct ListenerFamilies {
    listeners: Arc<Mutex<BTreeMap<ListenerName, Weak<Counts>>>>,
    descriptions: Vec<Desc>,
}

impl ListenerFamilies {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[ACTIVE, ACCEPTED, REFUSED, HANDSHAKE_ERRORS])?;
        Ok(Self { listeners: Arc::default(), descriptions })
    }

    /// The one set of counts of a name, also while an old listener of it drains.
    pub(super) fn resolve(&self, name: &ListenerName) -> ListenerMetrics {
        let mut listeners = lock(&self.listeners);
        if let Some(counts) = listeners.get(name).and_then(Weak::upgrade) {
            return ListenerMetrics(counts);
        }
        let metrics = ListenerMetrics::default();
        listeners.insert(name.clone(), Arc::downgrade(&metrics.0));
        metrics
    }

    fn live(&self) -> Vec<(ListenerName, Arc<Counts>)> {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|_, counts| counts.strong_count() > 0);
        listeners
            .iter()
            .filter_map(|(name, counts)| Some((name.clone(), counts.upgrade()?)))
            .collect()
    }
}

impl Collector for ListenerFamilies {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut active = ACTIVE.empty();
        let mut accepted = ACCEPTED.empty();
        let mut refused = REFUSED.empty();
        let mut handshake_errors = HANDSHAKE_ERRORS.empty();
        for (name, counts) in self.live() {
            let listener = label("listener", name.as_str());
            let only = || vec![listener.clone()];
            let open = counts.active.load(Relaxed) as f64;
            active.mut_metric().push(ACTIVE.sample(only(), open));
            let total = counts.accepted.load(Relaxed) as f64;
            accepted.mut_metric().push(ACCEPTED.sample(only(), total));
            let by_reason = |family: &mut MetricFamily, of: Family, counts: &Mutex<ByReason>| {
                for (reason, count) in &*lock(counts) {
                    let labels = vec![listener.clone(), label("reason", reason)];
                    family.mut_metric().push(of.sample(labels, *count as f64));
                }
            };
            by_reason(&mut refused, REFUSED, &counts.refused);
            by_reason(&mut handshake_errors, HANDSHAKE_ERRORS, &counts.handshake_errors);
        }
        vec![active, accepted, refused, handshake_errors]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    /// The samples, without comments.
    fn exported(families: &ListenerFamilies) -> Vec<String> {
        let families: Vec<_> =
            families.collect().into_iter().filter(|it| !it.get_metric().is_empty()).collect();
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_listener_counts_its_connections_and_those_it_refused() {
        let families = ListenerFamilies::new().unwrap();
        let metrics = families.resolve(&ListenerName::new("http"));
        drop(metrics.connection());
        let _open = metrics.connection();
        metrics.refused("overload");
        metrics.refused("overload");
        metrics.handshake_error("no_certificate");
        let expected = [
            "weir_listener_connections_active{listener=\"http\"} 1",
            "weir_listener_connections_total{listener=\"http\"} 2",
            "weir_listener_connections_refused_total{listener=\"http\",reason=\"overload\"} 2",
            "weir_listener_tls_handshake_errors_total{listener=\"http\",reason=\"no_certificate\"} 1",
        ];
        assert_eq!(exported(&families), expected);
    }

    #[test]
    fn a_listener_that_is_gone_is_not_exported() {
        let families = ListenerFamilies::new().unwrap();
        let name = ListenerName::new("http");
        let metrics = families.resolve(&name);
        let open = metrics.connection();
        drop(metrics);
        assert_eq!(exported(&families).len(), 2, "its last connection is still open");
        let again = families.resolve(&name);
        drop(open);
        let expected = [
            "weir_listener_connections_active{listener=\"http\"} 0",
            "weir_listener_connections_total{listener=\"http\"} 1",
        ];
        assert_eq!(exported(&families), expected, "it came back in time");
        drop(again);
        assert_eq!(exported(&families), [""; 0]);
    }
}
