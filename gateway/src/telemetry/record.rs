//! The one function from `StreamInfo` to metrics and log.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tracing::debug;
use weir_config::model::{
    Settings,
    cluster::{Destination, Workload},
};

use crate::head::{RequestHeader, ResponseHeader};

use super::{
    ResponseFlag, StreamInfo,
    access_log::{AccessLog, Counters, Entry},
    labels::{ClusterStats, Destinations, Outcome, Reporter},
    metrics::Metrics,
    peer_metadata::OwnMetadata,
    peers::Peers,
};
use crate::connection::Direction;

/// Where every exchange is told.
#[derive(Debug)]
pub struct Telemetry {
    pub metrics: Metrics,
    pub access_log: AccessLog,
    destinations: Arc<Destinations>,
    /// Of exchanges that reached no cluster.
    unrouted: Arc<ClusterStats>,
    /// The same of what was asked of the workload.
    unrouted_inbound: Arc<ClusterStats>,
    pub peers: Peers,
    /// What this proxy's workload says of itself to peers.
    pub own: OwnMetadata,
}

impl Telemetry {
    /// `workers`: the number of threads that will record.
    #[must_use]
    pub fn new(reporter: &Reporter, workers: usize) -> Self {
        let destinations = Arc::new(Destinations::new(workers));
        let metrics = Metrics::new(reporter, Arc::clone(&destinations))
            .expect("metric families have valid names, each its own");
        let counters = Counters {
            lines: metrics.access_log_lines.clone(),
            dropped: metrics.access_log_dropped.clone(),
        };
        Self {
            access_log: AccessLog::new(workers, counters),
            unrouted: destinations.resolve(&Destination::default()),
            unrouted_inbound: destinations
                .resolve(&Destination { is_own: true, ..Destination::default() }),
            peers: Peers::default(),
            own: OwnMetadata::new(reporter),
            metrics,
            destinations,
        }
    }

    /// The metric handles of a destination, to be resolved once per cluster.
    #[must_use]
    pub fn cluster_stats(&self, destination: &Destination) -> Arc<ClusterStats> {
        self.destinations.resolve(destination)
    }

    /// Who we are in the mesh, as our certificate says: known only when there is one.
    pub fn is_known_as(&self, uri: Arc<str>) {
        self.destinations.set_identity(uri);
    }

    /// Brings the access log to what the configuration says.
    pub fn apply(&self, settings: &Settings) {
        self.access_log.apply(settings.access_log.as_ref());
    }

    /// Called exactly once per exchange, after its last byte. `request` as it was sent upstream,
    /// `None` if it could not be read; `response` as it was sent downstream.
    pub fn record_http(
        &self,
        info: &StreamInfo,
        request: Option<&RequestHeader>,
        response: Option<&ResponseHeader>,
    ) {
        let duration = info.started.elapsed();
        self.stats(info).http.with(Outcome::of(info), other_side(info), |counts| {
            counts.record(duration, info.bytes_received, info.bytes_sent);
            if info.grpc {
                counts.request_messages.fetch_add(info.request_messages, Relaxed);
                counts.response_messages.fetch_add(info.response_messages, Relaxed);
            }
        });
        if info.flags.contains(ResponseFlag::DownstreamProtocolError)
            // Details that were put together may hold anything; those we have a word for are few.
            && let Cow::Borrowed(reason) = info.details
        {
            self.metrics.protocol_error(reason);
        }
        debug!(
            status = info.status,
            details = &*info.details,
            route = info.route_name.as_deref(),
            cluster = info.upstream.cluster_name.as_deref(),
            upstream = info.upstream.remote_addr.map(tracing::field::display),
            "exchange ended"
        );
        self.access_log.write(&Entry { info, duration, request, response });
    }

    /// Called exactly once per proxied TCP connection, when its upstream is connected or has failed.
    pub fn record_tcp_opened(&self, info: &StreamInfo) {
        // What will become of it is not known yet, so that its flags are not either.
        self.stats(info).tcp.with(Outcome::opened(), other_side(info), |counts| {
            counts.opened.fetch_add(1, Relaxed);
        });
    }

    /// Called exactly once per proxied TCP connection, after it closed.
    pub fn record_tcp(&self, info: &StreamInfo) {
        let duration = info.started.elapsed();
        self.stats(info).tcp.with(Outcome::of(info), other_side(info), |counts| {
            counts.closed.fetch_add(1, Relaxed);
            counts.received_bytes.fetch_add(info.bytes_received, Relaxed);
            counts.sent_bytes.fetch_add(info.bytes_sent, Relaxed);
        });
        self.access_log.write(&Entry { info, duration, request: None, response: None });
    }

    /// Waits, at most `timeout`, for what was recorded to be written. For the end of the process.
    pub fn flush(&self, timeout: Duration) {
        self.access_log.flush(timeout);
    }

    fn stats<'a>(&'a self, info: &'a StreamInfo) -> &'a ClusterStats {
        let unrouted = match info.connection.direction {
            Direction::Gateway | Direction::Outbound => &self.unrouted,
            Direction::Inbound => &self.unrouted_inbound,
        };
        info.upstream.stats.as_ref().unwrap_or(unrouted)
    }
}

/// The workload that is not the proxy's own: who asks, of what comes in.
fn other_side(info: &StreamInfo) -> Option<&Arc<Workload>> {
    match info.connection.direction {
        Direction::Gateway | Direction::Outbound => info.upstream.workload.as_ref(),
        Direction::Inbound => info.connection.peer_workload(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use prometheus::TextEncoder;

    use super::*;
    use crate::{
        connection::{ConnectionInfo, Peer},
        telemetry::Protocol,
    };

    fn telemetry() -> Telemetry {
        let labels = [("app".to_owned(), "edge".to_owned())].into();
        Telemetry::new(&Reporter::new("infra", &labels), 2)
    }

    fn info(protocol: Protocol) -> StreamInfo {
        let connection = ConnectionInfo {
            server_name: None,
            peer_addr: ([192, 0, 2, 1], 4000).into(),
            local_addr: ([192, 0, 2, 2], 80).into(),
            direction: Direction::Gateway,
            transparent_source: None,
            peer: Peer::default(),
            listener: weir_config::model::ListenerName::new("0.0.0.0_80"),
            port: 80,
            tls: None,
        };
        StreamInfo::start(Arc::new(connection), protocol)
    }

    fn reviews(telemetry: &Telemetry) -> Option<Arc<ClusterStats>> {
        Some(telemetry.cluster_stats(&Destination {
            service: "reviews.shop.svc.cluster.local".into(),
            service_name: "reviews".into(),
            service_namespace: "shop".into(),
            is_own: false,
        }))
    }

    fn scrape(telemetry: &Telemetry) -> String {
        TextEncoder::new().encode_to_string(&telemetry.metrics.registry().gather()).unwrap()
    }

    /// The value of the one sample whose line has all of these parts.
    fn sample(text: &str, name: &str, parts: &[&str]) -> String {
        let mut found = text.lines().filter(|line| {
            line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part))
        });
        let line =
            found.next().unwrap_or_else(|| panic!("{name} {parts:?} is in no line of\n{text}"));
        assert_eq!(found.next(), None, "more than one {name} {parts:?}");
        line.rsplit_once(' ').unwrap().1.to_owned()
    }

    #[test]
    fn an_exchange_is_counted_under_istios_names_and_labels() {
        let telemetry = telemetry();
        let mut info = info(Protocol::Http11);
        info.status = 200;
        info.bytes_received = 3;
        info.bytes_sent = 70;
        info.started = Instant::now() - Duration::from_millis(30);
        info.upstream.stats = reviews(&telemetry);
        info.upstream.workload = Some(Arc::new(Workload {
            name: "reviews-v2".into(),
            namespace: "shop".into(),
            app: "reviews".into(),
            version: "v2".into(),
            ..Workload::default()
        }));
        telemetry.record_http(&info, None, None);
        telemetry.record_http(&info, None, None);

        let text = scrape(&telemetry);
        let labels = [
            "reporter=\"source\"",
            "source_workload=\"edge\"",
            "source_workload_namespace=\"infra\"",
            "source_canonical_service=\"edge\"",
            "destination_service=\"reviews.shop.svc.cluster.local\"",
            "destination_service_name=\"reviews\"",
            "destination_service_namespace=\"shop\"",
            "destination_workload=\"reviews-v2\"",
            "destination_workload_namespace=\"shop\"",
            "destination_app=\"reviews\"",
            "destination_version=\"v2\"",
            "destination_canonical_service=\"reviews\"",
            "destination_canonical_revision=\"v2\"",
            "destination_principal=\"unknown\"",
            "request_protocol=\"http\"",
            "response_code=\"200\"",
            "response_flags=\"-\"",
            "connection_security_policy=\"unknown\"",
        ];
        assert_eq!(sample(&text, "istio_requests_total", &labels), "2");
        let duration =
            |le: &str| sample(&text, "istio_request_duration_milliseconds_bucket", &[le]);
        assert_eq!(duration("le=\"25\""), "0");
        assert_eq!(duration("le=\"3600000\""), "2");
        assert_eq!(duration("le=\"+Inf\""), "2");
        assert_eq!(sample(&text, "istio_request_bytes_sum", &[]), "6");
        assert_eq!(sample(&text, "istio_response_bytes_bucket", &["le=\"100\""]), "2");
        assert_eq!(sample(&text, "istio_response_bytes_bucket", &["le=\"50\""]), "0");
    }

    #[test]
    fn an_exchange_without_a_cluster_is_counted_as_unknown() {
        let telemetry = telemetry();
        let mut info = info(Protocol::Http2);
        info.status = 404;
        info.flags.set(ResponseFlag::NoRoute);
        info.details = Cow::Borrowed("route_not_found");
        telemetry.record_http(&info, None, None);

        let labels = [
            "destination_service=\"unknown\"",
            "destination_workload=\"unknown\"",
            "destination_canonical_revision=\"unknown\"",
            "response_code=\"404\"",
            "response_flags=\"NR\"",
        ];
        assert_eq!(sample(&scrape(&telemetry), "istio_requests_total", &labels), "1");
    }

    #[test]
    fn the_grpc_status_is_a_label_of_grpc_only() {
        let telemetry = telemetry();
        let mut info = info(Protocol::Http2);
        info.status = 200;
        info.grpc_status = Some(14);
        telemetry.record_http(&info, None, None);
        info.grpc = true;
        info.request_messages = 3;
        info.response_messages = 1;
        telemetry.record_http(&info, None, None);

        let text = scrape(&telemetry);
        let grpc = ["request_protocol=\"grpc\"", "grpc_response_status=\"14\""];
        assert_eq!(sample(&text, "istio_requests_total", &grpc), "1");
        assert_eq!(text.matches("istio_requests_total{").count(), 2);
        assert_eq!(sample(&text, "istio_requests_total", &["request_protocol=\"http\""]), "1");
        // So are messages: only gRPC has them. The sample would not be the only one otherwise.
        assert_eq!(sample(&text, "istio_request_messages_total", &[]), "3");
        assert_eq!(sample(&text, "istio_response_messages_total", &grpc), "1");
    }

    #[test]
    fn broken_requests_are_counted_by_the_proxys_own_words_only() {
        let telemetry = telemetry();
        let mut info = info(Protocol::Http11);
        info.status = 400;
        info.flags.set(ResponseFlag::DownstreamProtocolError);
        info.details = Cow::Borrowed("http1.bad_request_line");
        telemetry.record_http(&info, None, None);
        info.details = Cow::Owned("made up by a client".to_owned());
        telemetry.record_http(&info, None, None);

        let text = scrape(&telemetry);
        let reason = ["reason=\"http1.bad_request_line\""];
        assert_eq!(sample(&text, "weir_downstream_protocol_errors_total", &reason), "1");
        assert!(!text.contains("made up"), "{text}");
    }

    #[test]
    fn a_tcp_connection_is_counted_when_it_opens_and_when_it_closes() {
        let telemetry = telemetry();
        let mut info = info(Protocol::Tcp);
        info.upstream.stats = reviews(&telemetry);
        telemetry.record_tcp_opened(&info);
        assert_eq!(sample(&scrape(&telemetry), "istio_tcp_connections_opened_total", &[]), "1");

        info.bytes_received = 5;
        info.bytes_sent = 7;
        telemetry.record_tcp(&info);
        let text = scrape(&telemetry);
        let tcp = ["request_protocol=\"tcp\"", "destination_service_name=\"reviews\""];
        assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &tcp), "1");
        assert_eq!(sample(&text, "istio_tcp_received_bytes_total", &tcp), "5");
        assert_eq!(sample(&text, "istio_tcp_sent_bytes_total", &tcp), "7");
        assert!(!text.contains("istio_requests_total{"), "TCP is no request");
    }
}
