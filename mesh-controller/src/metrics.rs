//! What the controller counts. Names are istiod's where they mean the same.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

/// Every series.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Objects that came in by a watch.
    pub watch_events: IntCounterVec,
    pub watch_failures: IntCounterVec,
    /// Lists that were not believed.
    pub doubted_deletions: IntCounterVec,
    /// Proxies with a stream.
    pub connected: IntGauge,
    /// Those of them that wait until this replica knows what they were sent before.
    pub waiting: IntGauge,
    /// Streams that ended because that took too long.
    pub behind: IntCounter,
    /// Pushes with something of a type.
    pub pushes: IntCounterVec,
    /// Resources that proxies refused, by type.
    pub rejects: IntCounterVec,
    /// Streams that ended because of who asked.
    pub unauthenticated: IntCounter,
    /// From the change in the store until the last response of the push is answered.
    pub convergence: Histogram,
    /// From the change in the store until it is handed to every stream.
    pub push_time: Histogram,
    pub push_size: Histogram,
    pub objects: IntGaugeVec,
    pub services: IntGauge,
    pub virtual_services: IntGauge,
    pub scopes: IntGauge,
    pub is_leader: IntGauge,
    /// Admission requests, by their outcome.
    pub validation_passed: IntCounterVec,
    pub validation_failed: IntCounterVec,
    /// Pods that were asked about, by what became of them.
    pub injection_requests: IntCounter,
    pub injection_success: IntCounter,
    pub injection_failure: IntCounter,
    pub injection_skip: IntCounter,
    pub status_writes: IntCounterVec,
    /// Each is a bug.
    pub panics: IntCounter,
}

const SECONDS: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0];
const BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7, 1e8];

impl Metrics {
    /// All of them, at zero.
    ///
    /// # Errors
    /// Two have the same name.
    #[expect(clippy::too_many_lines, reason = "a table, one row for each series")]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, Histogram::with_opts(options)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let info = gauges("pilot_info", "The version of the controller.", &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            watch_events: counters(
                "pilot_k8s_cfg_events",
                "Changes of objects in Kubernetes.",
                &["type", "event"],
            )?,
            watch_failures: counters(
                "weir_controller_watch_failures_total",
                "Requests to the API server that a watch could not be made with.",
                &["type"],
            )?,
            doubted_deletions: counters(
                "weir_controller_doubted_lists_total",
                "Lists after a failure that lacked so much that nothing was deleted.",
                &["type"],
            )?,
            connected: gauge("pilot_xds", "Proxies that are connected.")?,
            waiting: gauge(
                "weir_controller_waiting_proxies",
                "Proxies that were sent newer things by another replica, and wait for this one.",
            )?,
            behind: counter(
                "weir_controller_behind_total",
                "Streams that ended because this replica did not reach what the proxy has.",
            )?,
            pushes: counters(
                "pilot_xds_pushes",
                "Pushes that were sent, by what is in them.",
                &["type"],
            )?,
            rejects: counters(
                "pilot_total_xds_rejects",
                "Resources that proxies did not apply.",
                &["type"],
            )?,
            unauthenticated: counter(
                "pilot_xds_unauthenticated_total",
                "Streams that were refused because of their credentials.",
            )?,
            convergence: histogram(
                "pilot_proxy_convergence_time",
                "Seconds from a change until a proxy has applied it.",
                SECONDS,
            )?,
            push_time: histogram(
                "pilot_xds_push_time",
                "Seconds from a change until it is handed to every stream.",
                SECONDS,
            )?,
            push_size: histogram(
                "pilot_xds_config_size_bytes",
                "Bytes of a push to a proxy.",
                BYTES,
            )?,
            objects: gauges(
                "weir_controller_objects",
                "Objects of Kubernetes that are known.",
                &["type"],
            )?,
            services: gauge("pilot_services", "Services and ServiceEntries that are known.")?,
            virtual_services: gauge("pilot_virt_services", "VirtualServices that are known.")?,
            scopes: gauge("weir_controller_scopes", "Sets of objects that proxies share.")?,
            is_leader: gauge("weir_controller_leader", "Whether this replica writes.")?,
            validation_passed: counters(
                "galley_validation_passed",
                "Objects that admission let pass.",
                &["kind"],
            )?,
            validation_failed: counters(
                "galley_validation_failed",
                "Objects that admission refused.",
                &["kind"],
            )?,
            injection_requests: counter("sidecar_injection_requests_total", "Pods asked about.")?,
            injection_success: counter("sidecar_injection_success_total", "Pods injected.")?,
            injection_failure: counter("sidecar_injection_failure_total", "Pods refused.")?,
            injection_skip: counter("sidecar_injection_skip_total", "Pods left alone.")?,
            status_writes: counters(
                "weir_controller_status_writes_total",
                "Attempts to write the status of an object.",
                &["result"],
            )?,
            panics: counter(
                "weir_controller_panics_total",
                "Panics; each is a bug and cost one object, request or connection.",
            )?,
            registry,
        })
    }

    /// In the text format of Prometheus.
    #[must_use]
    pub fn exposition(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory does not fail, and families were checked when they were registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// For metrics of other parts, such as the certificate authority's.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn register<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        register(&self.registry, collector)
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
