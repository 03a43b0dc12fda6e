//! Istio's standard metrics, so that its dashboards, Kiali and alerts read us unchanged
//! (<https://istio.io/latest/docs/reference/config/metrics/>).

use std::{sync::Arc, time::Instant};

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily},
};
use weir_config::model::cluster::Workload;

use super::{
    ResponseFlags,
    exposition::{Family, describe, label},
    labels::{ClusterStats, Destinations, Outcome, Reporter, RequestProtocol, UNKNOWN},
    series::{BUCKETS, HistogramTotal},
};

const REQUESTS: Family =
    Family::counter("istio_requests_total", "HTTP requests answered or ended, by their outcome.");
const DURATION: Family = Family::histogram(
    "istio_request_duration_milliseconds",
    "From the first byte of a request to the last byte of its response.",
);
const REQUEST_BYTES: Family =
    Family::histogram("istio_request_bytes", "Body bytes of HTTP requests.");
const RESPONSE_BYTES: Family =
    Family::histogram("istio_response_bytes", "Body bytes of HTTP responses.");
const REQUEST_MESSAGES: Family =
    Family::counter("istio_request_messages_total", "gRPC messages received from clients.");
const RESPONSE_MESSAGES: Family =
    Family::counter("istio_response_messages_total", "gRPC messages sent to clients.");
const TCP_OPENED: Family = Family::counter(
    "istio_tcp_connections_opened_total",
    "TCP connections opened through the proxy.",
);
const TCP_CLOSED: Family = Family::counter(
    "istio_tcp_connections_closed_total",
    "TCP connections through the proxy that ended.",
);
const TCP_SENT: Family = Family::counter(
    "istio_tcp_sent_bytes_total",
    "Bytes sent to clients over proxied TCP connections.",
);
const TCP_RECEIVED: Family = Family::counter(
    "istio_tcp_received_bytes_total",
    "Bytes received from clients over proxied TCP connections.",
);

/// Reads the counts of every destination at each scrape.
#[derive(Debug)]
pub struct StandardMetrics {
    reporter: Reporter,
    destinations: Arc<Destinations>,
    families: Vec<Desc>,
}

impl StandardMetrics {
    /// # Errors
    /// Never in practice: the names of the families are valid.
    pub fn new(
        reporter: &Reporter,
        destinations: Arc<Destinations>,
    ) -> Result<Self, prometheus::Error> {
        let families = describe(&[
            REQUESTS,
            DURATION,
            REQUEST_BYTES,
            RESPONSE_BYTES,
            REQUEST_MESSAGES,
            RESPONSE_MESSAGES,
            TCP_OPENED,
            TCP_CLOSED,
            TCP_SENT,
            TCP_RECEIVED,
        ])?;
        Ok(Self { reporter: reporter.clone(), destinations, families })
    }

    fn own_part(&self) -> OwnPart {
        let principal = self.destinations.identity();
        let principal = principal.unwrap_or_else(|| Arc::clone(&self.reporter.principal));
        let reporter = Reporter { principal, ..self.reporter.clone() };
        OwnPart {
            as_source: reporter_source(&reporter),
            as_destination: reporter_destination(&reporter),
        }
    }
}

/// This proxy's part, of what its workload (or a gateway) asks and of what it is asked.
struct OwnPart {
    as_source: Vec<LabelPair>,
    as_destination: Vec<LabelPair>,
}

impl OwnPart {
    fn labels(
        &self,
        stats: &ClusterStats,
        workload: Option<&Workload>,
        outcome: Outcome,
    ) -> Vec<LabelPair> {
        let mut labels = match stats.destination.is_own {
            false => self.as_source.clone(),
            true => self.as_destination.clone(),
        };
        match stats.destination.is_own {
            false => labels.extend(destination_labels(workload)),
            true => labels.extend(source_labels(workload)),
        }
        labels.extend(service_labels(stats));
        labels.extend(outcome_labels(outcome));
        labels
    }
}

impl Collector for StandardMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut requests = REQUESTS.empty();
        let mut duration = DURATION.empty();
        let mut request_bytes = REQUEST_BYTES.empty();
        let mut response_bytes = RESPONSE_BYTES.empty();
        let mut request_messages = REQUEST_MESSAGES.empty();
        let mut response_messages = RESPONSE_MESSAGES.empty();
        let mut opened = TCP_OPENED.empty();
        let mut closed = TCP_CLOSED.empty();
        let mut sent = TCP_SENT.empty();
        let mut received = TCP_RECEIVED.empty();

        let own = self.own_part();
        for stats in self.destinations.sweep(Instant::now()) {
            for series in stats.http.series() {
                let labels = own.labels(&stats, series.workload.as_ref(), series.outcome);
                let totals = series.counts.totals();
                push(&mut requests, REQUESTS, &labels, totals.duration.count());
                duration.mut_metric().push(histogram(&labels, &totals.duration));
                request_bytes.mut_metric().push(histogram(&labels, &totals.request_bytes));
                response_bytes.mut_metric().push(histogram(&labels, &totals.response_bytes));
                if series.outcome.protocol == RequestProtocol::Grpc {
                    let (requests, responses) = (totals.request_messages, totals.response_messages);
                    push(&mut request_messages, REQUEST_MESSAGES, &labels, requests);
                    push(&mut response_messages, RESPONSE_MESSAGES, &labels, responses);
                }
            }
            for series in stats.tcp.series() {
                let labels = own.labels(&stats, series.workload.as_ref(), series.outcome);
                let totals = series.counts.totals();
                push(&mut opened, TCP_OPENED, &labels, totals.opened);
                push(&mut closed, TCP_CLOSED, &labels, totals.closed);
                push(&mut sent, TCP_SENT, &labels, totals.sent_bytes);
                push(&mut received, TCP_RECEIVED, &labels, totals.received_bytes);
            }
        }
        vec![
            requests,
            duration,
            request_bytes,
            response_bytes,
            request_messages,
            response_messages,
            opened,
            closed,
            sent,
            received,
        ]
    }
}

fn reporter_source(reporter: &Reporter) -> Vec<LabelPair> {
    let Reporter {
        workload,
        namespace,
        app,
        version,
        canonical_service,
        canonical_revision,
        principal,
        instance: _,
    } = reporter;
    vec![
        pair("reporter", "source"),
        pair("source_workload", workload),
        pair("source_workload_namespace", namespace),
        pair("source_principal", principal),
        pair("source_app", app),
        pair("source_version", version),
        pair("source_canonical_service", canonical_service),
        pair("source_canonical_revision", canonical_revision),
        pair("source_cluster", UNKNOWN),
        // Only the receiving side can vouch for it.
        pair("connection_security_policy", UNKNOWN),
    ]
}

fn reporter_destination(reporter: &Reporter) -> Vec<LabelPair> {
    let Reporter {
        workload,
        namespace,
        app,
        version,
        canonical_service,
        canonical_revision,
        principal,
        instance: _,
    } = reporter;
    vec![
        pair("reporter", "destination"),
        pair("destination_workload", workload),
        pair("destination_workload_namespace", namespace),
        pair("destination_principal", principal),
        pair("destination_app", app),
        pair("destination_version", version),
        pair("destination_canonical_service", canonical_service),
        pair("destination_canonical_revision", canonical_revision),
        pair("destination_cluster", UNKNOWN),
    ]
}

/// Who the client is: by its certificate, and by what it says of itself. Without a certificate it may be
/// anybody.
fn source_labels(workload: Option<&Workload>) -> [LabelPair; 9] {
    let none = Workload::default();
    let Workload { name, namespace, app, version, principal, .. } = workload.unwrap_or(&none);
    let (canonical_service, canonical_revision) = canonical(workload.unwrap_or(&none));
    [
        pair("source_workload", name),
        pair("source_workload_namespace", namespace),
        pair("source_principal", &spiffe(principal)),
        pair("source_app", app),
        pair("source_version", version),
        pair("source_canonical_service", canonical_service),
        pair("source_canonical_revision", canonical_revision),
        pair("source_cluster", UNKNOWN),
        pair("connection_security_policy", if workload.is_some() { "mutual_tls" } else { "none" }),
    ]
}

/// The canonical service and revision; of a workload that says none, its app or name and version.
fn canonical(workload: &Workload) -> (&str, &str) {
    let Workload { name, app, version, canonical_service, canonical_revision, .. } = workload;
    let service = [canonical_service, app, name].into_iter().find(|it| !it.is_empty());
    let revision = [canonical_revision, version].into_iter().find(|it| !it.is_empty());
    match (service, revision) {
        (None, None) => ("", ""),
        (None, Some(revision)) => ("", revision),
        (Some(service), revision) => (service, revision.map_or("latest", |revision| &**revision)),
    }
}

fn service_labels(stats: &ClusterStats) -> [LabelPair; 3] {
    let destination = &stats.destination;
    [
        pair("destination_service", &destination.service),
        pair("destination_service_name", &destination.service_name),
        pair("destination_service_namespace", &destination.service_namespace),
    ]
}

fn destination_labels(workload: Option<&Workload>) -> [LabelPair; 8] {
    let none = Workload::default();
    let Workload { name, namespace, app, version, principal, .. } = workload.unwrap_or(&none);
    let (canonical_service, canonical_revision) = canonical(workload.unwrap_or(&none));
    [
        pair("destination_workload", name),
        pair("destination_workload_namespace", namespace),
        pair("destination_principal", &spiffe(principal)),
        pair("destination_app", app),
        pair("destination_version", version),
        pair("destination_canonical_service", canonical_service),
        pair("destination_canonical_revision", canonical_revision),
        pair("destination_cluster", UNKNOWN),
    ]
}

/// As certificates have it.
fn spiffe(principal: &str) -> String {
    match principal.is_empty() {
        true => String::new(),
        false => format!("spiffe://{principal}"),
    }
}

fn outcome_labels(outcome: Outcome) -> Vec<LabelPair> {
    let Outcome { protocol, status, flags, grpc_status } = outcome;
    let mut labels = vec![
        pair("request_protocol", protocol.as_str()),
        pair("response_flags", &flags_text(flags)),
    ];
    if protocol != RequestProtocol::Tcp {
        labels.push(pair("response_code", &status.to_string()));
    }
    if let Some(code) = grpc_status {
        labels.push(pair("grpc_response_status", &code.to_string()));
    }
    labels
}

/// Envoy's codes with commas between; `-` for none.
fn flags_text(flags: ResponseFlags) -> String {
    if flags.is_empty() {
        return "-".to_owned();
    }
    flags.iter().map(super::ResponseFlag::code).collect::<Vec<_>>().join(",")
}

fn pair(name: &str, value: &str) -> LabelPair {
    label(name, if value.is_empty() { UNKNOWN } else { value })
}

fn push(family: &mut MetricFamily, described: Family, labels: &[LabelPair], value: u64) {
    family.mut_metric().push(described.sample(labels.to_vec(), value as f64));
}

fn histogram(labels: &[LabelPair], total: &HistogramTotal) -> Metric {
    let mut cumulative = 0;
    let buckets = BUCKETS.iter().zip(&total.buckets).map(|(upper_bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*upper_bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(total.count());
    histogram.set_sample_sum(total.sum);
    let mut metric = Metric::from_label(labels.to_vec());
    metric.set_histogram(histogram);
    metric
}
