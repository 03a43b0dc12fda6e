//! The pages of a sidecar's pod (port 15020): what the kubelet asks the application through the sidecar,
//! the metrics of both, and the end.
//!
//! Every pod of the cluster reaches it. What ends something is for those on loopback: the containers of
//! the pod, and its hooks.

use std::{net::IpAddr, time::Duration};

use http::{HeaderMap, Method, StatusCode};
use hyper::{Request, body::Incoming};
use prometheus::{TEXT_FORMAT, TextEncoder};

use super::{
    Shared,
    pages::{Page, TEXT, failed, not_allowed, not_found, page, ready},
};
use crate::application::{self, Application, Scraped};

/// What Prometheus gives a scrape, unless it says so itself.
const SCRAPE_LIMIT: Duration = Duration::from_secs(10);
const SCRAPE_LIMIT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// Families that every program has: of the two in the pod it is the application's that are asked for.
const OF_EVERY_PROCESS: &str = "process_";

/// A page for `peer`.
pub(super) async fn page_of(request: &Request<Incoming>, peer: IpAddr, shared: &Shared) -> Page {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/healthz/ready" | "/ready") => ready(shared),
        (&Method::GET | &Method::HEAD, "/stats/prometheus" | "/metrics") => {
            metrics(request.headers(), shared).await
        }
        (&Method::GET | &Method::HEAD, path) if is_probe(path) => {
            probe(path, request.headers(), shared).await
        }
        (&Method::POST, "/drain" | "/quitquitquit") => end(path, peer, shared),
        (_, "/drain" | "/quitquitquit") => not_allowed("POST"),
        (_, "/healthz/ready" | "/ready" | "/stats/prometheus" | "/metrics") => {
            not_allowed("GET, HEAD")
        }
        _ => not_found(),
    }
}

fn is_probe(path: &str) -> bool {
    path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/")
}

async fn probe(path: &str, asked: &HeaderMap, shared: &Shared) -> Page {
    let application = &shared.bootstrap.application;
    let Some(prober) = application.settings.probers.get(path) else {
        return page(StatusCode::BAD_REQUEST, TEXT, "the application has no such probe\n");
    };
    let status = application::probe(application, prober, asked).await;
    page(status, TEXT, "")
}

fn end(path: &str, peer: IpAddr, shared: &Shared) -> Page {
    if !peer.to_canonical().is_loopback() {
        return page(StatusCode::FORBIDDEN, TEXT, "only for the containers of this pod\n");
    }
    // Who asks for the end has no work left that would have to be moved elsewhere first.
    shared.state.drain.send_replace(true);
    tracing::info!(path, "the end is requested");
    if path == "/quitquitquit" {
        // Full: it was requested before.
        let _ = shared.state.quit.try_send(());
    }
    page(StatusCode::OK, TEXT, "OK\n")
}

async fn metrics(asked: &HeaderMap, shared: &Shared) -> Page {
    let Application { settings, .. } = &shared.bootstrap.application;
    let metrics = &shared.state.engine.telemetry.metrics;
    let mut families = metrics.registry().gather();
    let mut scraped = None;
    if let Some(target) = &settings.scraped {
        families.retain(|family| !family.name().starts_with(OF_EVERY_PROCESS));
        match application::scrape(target, scrape_limit(asked)).await {
            Ok(of_application) => scraped = Some(of_application),
            Err(error) => {
                metrics.scrape_failures.inc();
                tracing::debug!(%error, "the application's metrics cannot be had");
            }
        }
    }
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => page(StatusCode::OK, TEXT_FORMAT, merged(text, scraped)),
        Err(error) => failed(&error),
    }
}

fn merged(mut own: String, scraped: Option<Scraped>) -> Vec<u8> {
    if !own.ends_with('\n') {
        own.push('\n');
    }
    let mut text = own.into_bytes();
    if let Some(Scraped(of_application)) = scraped {
        text.extend_from_slice(&of_application);
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
    }
    text
}

/// A little less than Prometheus waits, so that the sidecar's metrics come without the application's.
fn scrape_limit(asked: &HeaderMap) -> Duration {
    let said = asked.get(SCRAPE_LIMIT_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let said = said.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds * 0.9).ok());
    said.unwrap_or(SCRAPE_LIMIT).min(SCRAPE_LIMIT)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn metrics_of_both_are_whole_lines() {
        let scraped = |text| Some(Scraped(Bytes::from_static(text)));
        assert_eq!(merged("a 1\n".to_owned(), scraped(b"b 2")), b"a 1\nb 2\n");
        assert_eq!(merged("a 1".to_owned(), None), b"a 1\n");
    }

    #[test]
    fn the_application_is_given_less_time_than_prometheus_waits() {
        let limit = |text: &str| {
            scrape_limit(&HeaderMap::from_iter([(
                http::HeaderName::from_static(SCRAPE_LIMIT_HEADER),
                text.parse().unwrap(),
            )]))
        };
        assert_eq!(limit("5"), Duration::from_millis(4500));
        assert_eq!(limit("60"), SCRAPE_LIMIT);
        assert_eq!(limit("-1"), SCRAPE_LIMIT);
        assert_eq!(scrape_limit(&HeaderMap::new()), SCRAPE_LIMIT);
    }
}
