//! Every metric family of the proxy, with its help text.
//!
//! Names and labels of traffic are Istio's (`standard.rs`); what is ours begins with `weir_`. Labels
//! come from the configuration or from closed sets of words, never from a client.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};
use weir_config::model::{ClusterName, ListenerName};

pub use super::listeners::{ConnectionGuard, ListenerMetrics};
use super::{
    clusters::{ClusterGauges, ClusterMetrics},
    discovery::{DiscoveryStatus, Shared},
    labels::{Destinations, Reporter},
    listeners::ListenerFamilies,
    process::ProcessMetrics,
    standard::StandardMetrics,
};

/// All families, registered.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    listeners: ListenerFamilies,
    worker_connections: IntGaugeVec,
    protocol_errors: IntCounterVec,
    clusters: ClusterMetrics,
    pub config: ConfigMetrics,
    /// Panics caught at the border of a connection's task. Each one is a bug.
    pub panics: IntCounter,
    pub access_log_lines: IntCounter,
    pub access_log_dropped: IntCounter,
    /// Of the application beside a sidecar.
    pub scrape_failures: IntCounter,
}

impl Metrics {
    /// # Errors
    /// Two families with one name, which a test excludes.
    pub fn new(
        reporter: &Reporter,
        destinations: Arc<Destinations>,
    ) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(StandardMetrics::new(reporter, destinations)?))?;
        registry.register(Box::new(ProcessMetrics::new()?))?;
        let listeners = register(&registry, ListenerFamilies::new()?)?;
        let clusters = register(&registry, ClusterMetrics::new()?)?;
        register(&registry, build_info()?)?;

        let protocol_errors = Opts::new(
            "weir_downstream_protocol_errors_total",
            "Requests refused because they break the protocol, by reason.",
        );
        let worker_connections = Opts::new(
            "weir_worker_connections_active",
            "Connections open now, by the worker that serves them.",
        );
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        Ok(Self {
            protocol_errors: register(
                &registry,
                IntCounterVec::new(protocol_errors, &["reason"])?,
            )?,
            worker_connections: register(
                &registry,
                IntGaugeVec::new(worker_connections, &["worker"])?,
            )?,
            config: ConfigMetrics::new(&registry)?,
            panics: counter(
                "weir_panics_total",
                "Panics caught; each ended one connection and is a bug.",
            )?,
            access_log_lines: counter("weir_access_log_lines_total", "Access log lines written.")?,
            access_log_dropped: counter(
                "weir_access_log_dropped_total",
                "Access log lines lost because the log's file or pipe did not take them.",
            )?,
            scrape_failures: counter(
                "weir_application_scrape_failures_total",
                "Metrics of the application that could not be merged with those of the sidecar.",
            )?,
            listeners,
            clusters,
            registry,
        })
    }

    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The handles of a listener, to be resolved once when it is bound. Its series exist for as long
    /// as anyone holds them.
    #[must_use]
    pub fn listener(&self, name: &ListenerName) -> ListenerMetrics {
        self.listeners.resolve(name)
    }

    /// How many connections the worker of that number has.
    #[must_use]
    pub fn worker_connections(&self, number: usize) -> IntGauge {
        self.worker_connections.with_label_values(&[number.to_string()])
    }

    /// The handles of a cluster. Its series exist for as long as anyone holds them.
    #[must_use]
    pub fn cluster(&self, name: &ClusterName) -> Arc<ClusterGauges> {
        self.clusters.resolve(name)
    }

    /// The families of a stream to a controller, for a proxy that has one. To be called once.
    ///
    /// # Errors
    /// It was called before.
    pub fn discovery(&self) -> Result<Arc<DiscoveryStatus>, prometheus::Error> {
        let status = Arc::new(DiscoveryStatus::new()?);
        self.registry.register(Box::new(Shared(Arc::clone(&status))))?;
        Ok(status)
    }

    /// `reason`: from the closed set of things the parser refuses.
    pub fn protocol_error(&self, reason: &'static str) {
        self.protocol_errors.with_label_values(&[reason]).inc();
    }
}

/// How the configuration fares.
#[derive(Debug)]
pub struct ConfigMetrics {
    objects: IntGaugeVec,
    errors: IntGauge,
    warnings: IntGauge,
    applies: IntCounter,
    last_apply: Gauge,
    last_apply_duration: Gauge,
    version: IntGauge,
}

/// One application of a change, told once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    pub version: u64,
    /// From the change being noticed to the snapshot being published.
    pub duration: Duration,
    /// Objects in force, and objects of which the newest version is not.
    pub accepted: usize,
    pub rejected: usize,
    pub errors: usize,
    pub warnings: usize,
}

impl ConfigMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| register(registry, Gauge::new(name, help)?);
        let count = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let objects = Opts::new(
            "weir_config_objects",
            "Configuration objects; `rejected`: the newest version is not in force.",
        );
        Ok(Self {
            objects: register(registry, IntGaugeVec::new(objects, &["state"])?)?,
            errors: count(
                "weir_config_errors",
                "What keeps something of the configuration from being in force; /config_dump has it.",
            )?,
            warnings: count(
                "weir_config_warnings",
                "What is in force other than it seems; /config_dump has it.",
            )?,
            applies: register(
                registry,
                IntCounter::new("weir_config_applies_total", "Configurations put in force.")?,
            )?,
            last_apply: gauge(
                "weir_config_last_apply_timestamp_seconds",
                "When the configuration in force was applied.",
            )?,
            last_apply_duration: gauge(
                "weir_config_last_apply_duration_seconds",
                "From the last change being noticed to its being in force.",
            )?,
            version: count(
                "weir_config_snapshot_version",
                "Number of the configuration in force.",
            )?,
        })
    }

    pub fn applied(&self, applied: &Applied) {
        let Applied { version, duration, accepted, rejected, errors, warnings } = *applied;
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.objects.with_label_values(&["accepted"]).set(number(accepted));
        self.objects.with_label_values(&["rejected"]).set(number(rejected));
        self.errors.set(number(errors));
        self.warnings.set(number(warnings));
        self.applies.inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_apply.set(now.as_secs_f64());
        self.last_apply_duration.set(duration.as_secs_f64());
        self.version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }
}

/// Generic over the families of the `prometheus` crate, which share only their traits.
fn register<T: Collector + Clone + 'static>(
    registry: &Registry,
    family: T,
) -> Result<T, prometheus::Error> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn build_info() -> Result<IntGaugeVec, prometheus::Error> {
    let help = "Version of this proxy, as Istio's dashboards ask for it.";
    let family = IntGaugeVec::new(Opts::new("istio_build", help), &["component", "tag"])?;
    family.with_label_values(&["proxy", env!("CARGO_PKG_VERSION")]).set(1);
    Ok(family)
}
