//! The state of each cluster's connections and requests, as gauges whoever keeps that state holds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};
use weir_config::model::ClusterName;

use super::exposition::{Family, describe, label};

/// The numbers of one cluster. Written by `cluster` and `upstream`, read by scrapes and `/clusters`.
#[derive(Debug, Default)]
pub struct ClusterGauges {
    /// Requests sent and not yet answered to the end.
    pub requests_active: AtomicI64,
    /// Requests waiting for a connection.
    pub requests_pending: AtomicI64,
    pub requests_overflow: AtomicU64,
    pub retries: AtomicU64,
    pub connections_active: AtomicI64,
    /// Of those, kept for the next request.
    pub connections_idle: AtomicI64,
    pub connects: AtomicU64,
    pub connect_failures: AtomicU64,
    pub endpoints_healthy: AtomicI64,
    pub endpoints: AtomicI64,
}

impl ClusterGauges {
    /// Whether there was ever a connection or a request.
    #[must_use]
    pub fn is_used(&self) -> bool {
        [&self.connects, &self.requests_overflow].iter().any(|count| count.load(Relaxed) > 0)
            || [&self.requests_active, &self.connections_active]
                .iter()
                .any(|count| count.load(Relaxed) > 0)
    }

    /// Every number with the name it is exported under.
    #[must_use]
    pub fn values(&self) -> [(&'static Family, f64); 10] {
        let Self {
            requests_active,
            requests_pending,
            requests_overflow,
            retries,
            connections_active,
            connections_idle,
            connects,
            connect_failures,
            endpoints_healthy,
            endpoints,
        } = self;
        let gauge = |value: &AtomicI64| value.load(Relaxed) as f64;
        let counter = |value: &AtomicU64| value.load(Relaxed) as f64;
        let values = [
            gauge(requests_active),
            gauge(requests_pending),
            counter(requests_overflow),
            counter(retries),
            gauge(connections_active),
            gauge(connections_idle),
            counter(connects),
            counter(connect_failures),
            gauge(endpoints_healthy),
            gauge(endpoints),
        ];
        std::array::from_fn(|i| (&FAMILIES[i], values[i]))
    }
}

/// Without what all of them begin with.
#[must_use]
pub fn short_name(family: &Family) -> &'static str {
    family.name.strip_prefix("weir_cluster_").unwrap_or(family.name)
}

/// In the order of [`ClusterGauges::values`].
static FAMILIES: [Family; 10] = [
    Family::gauge(
        "weir_cluster_requests_active",
        "Requests sent to the cluster and not yet answered to the end.",
    ),
    Family::gauge(
        "weir_cluster_requests_pending",
        "Requests waiting for a connection to the cluster.",
    ),
    Family::counter(
        "weir_cluster_requests_overflow_total",
        "Requests refused by the cluster's circuit breakers.",
    ),
    Family::counter("weir_cluster_retries_total", "Requests sent to the cluster again."),
    Family::gauge("weir_cluster_connections_active", "Connections to the cluster that are open."),
    Family::gauge(
        "weir_cluster_connections_idle",
        "Connections to the cluster kept for the next request.",
    ),
    Family::counter("weir_cluster_connects_total", "Connections to the cluster that were begun."),
    Family::counter(
        "weir_cluster_connect_failures_total",
        "Connections to the cluster that could not be made.",
    ),
    Family::gauge(
        "weir_cluster_endpoints_healthy",
        "Endpoints of the cluster that are given requests.",
    ),
    Family::gauge("weir_cluster_endpoints", "Endpoints of the cluster."),
];

/// Exports the clusters that are alive. One that never had anything to do is left out: a mesh has
/// thousands of those.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    clusters: Arc<Mutex<BTreeMap<ClusterName, Weak<ClusterGauges>>>>,
    families: Vec<Desc>,
}

impl ClusterMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let families = describe(&FAMILIES)?;
        Ok(Self { clusters: Arc::default(), families })
    }

    /// The one set of numbers of a name, also while an old configuration of it drains.
    pub(super) fn resolve(&self, name: &ClusterName) -> Arc<ClusterGauges> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gauges) = clusters.get(name).and_then(Weak::upgrade) {
            return gauges;
        }
        let gauges = Arc::new(ClusterGauges::default());
        clusters.insert(name.clone(), Arc::downgrade(&gauges));
        gauges
    }

    fn live(&self) -> Vec<(ClusterName, Arc<ClusterGauges>)> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|_, gauges| gauges.strong_count() > 0);
        clusters
            .iter()
            .filter_map(|(name, gauges)| Some((name.clone(), gauges.upgrade()?)))
            .collect()
    }
}

impl Collector for ClusterMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = FAMILIES.each_ref().map(Family::empty);
        for (name, gauges) in self.live() {
            if !gauges.is_used() {
                continue;
            }
            for (family, (described, value)) in families.iter_mut().zip(gauges.values()) {
                let labels = vec![label("cluster", name.as_str())];
                family.mut_metric().push(described.sample(labels, value));
            }
        }
        families.into()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::proto::{Metric, MetricType};

    use super::*;

    fn exported(metrics: &ClusterMetrics) -> Vec<(String, String, f64)> {
        let value = |metric: &Metric, kind| match kind {
            MetricType::COUNTER => metric.get_counter().get_value(),
            _ => metric.get_gauge().get_value(),
        };
        metrics
            .collect()
            .iter()
            .flat_map(|family| {
                family.get_metric().iter().map(|metric| {
                    let cluster = metric.get_label()[0].value().to_owned();
                    let value = value(metric, family.get_field_type());
                    (family.name().to_owned(), cluster, value)
                })
            })
            .filter(|(_, _, value)| *value != 0.0)
            .collect()
    }

    #[test]
    fn a_clusters_numbers_last_as_long_as_someone_holds_them() {
        let metrics = ClusterMetrics::new().unwrap();
        let name = ClusterName::new("outbound|80||a");
        let gauges = metrics.resolve(&name);
        gauges.connects.fetch_add(2, Relaxed);
        metrics.resolve(&name).requests_active.fetch_add(1, Relaxed);

        let expected = [
            ("weir_cluster_requests_active".to_owned(), name.to_string(), 1.0),
            ("weir_cluster_connects_total".to_owned(), name.to_string(), 2.0),
        ];
        assert_eq!(exported(&metrics), expected);

        drop(gauges);
        assert_eq!(exported(&metrics), []);
    }

    #[test]
    fn a_cluster_that_was_never_used_is_not_exported() {
        let metrics = ClusterMetrics::new().unwrap();
        let idle = metrics.resolve(&ClusterName::new("idle"));
        idle.endpoints.store(3, Relaxed);
        assert!(metrics.collect().iter().all(|family| family.get_metric().is_empty()));
    }
}
