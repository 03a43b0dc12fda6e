//! The pages, one function each.

use std::{
    borrow::Cow,
    fmt::Write,
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming};
use prometheus::{TEXT_FORMAT, TextEncoder, proto::MetricType};
use serde_json::{Value, json};
use weir_config::model::Resources;

use super::{Shared, certificates, clusters, dump, guard};
use crate::{
    bootstrap::ConfigSource,
    telemetry::{discovery::Stale, log},
};

pub(super) type Page = Response<Full<Bytes>>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// Path, method (`true`: it changes something, POST) and what the index says.
const INDEX: [(&str, bool, &str); 14] = [
    ("/ready", false, "200 once traffic can be served, 503 before and while draining"),
    ("/healthz", false, "200 as long as the process answers"),
    ("/config_dump", false, "what is in force and what is wrong with it; private keys left out"),
    ("/listeners", false, "addresses, and why one is not bound; ?format=json"),
    ("/clusters", false, "upstreams and their endpoints; ?format=json"),
    ("/certs", false, "certificates and how long they last"),
    ("/stats", false, "metrics, one per line; ?format=prometheus"),
    ("/stats/prometheus", false, "metrics for Prometheus, also at /metrics"),
    ("/server_info", false, "version, state and options"),
    ("/logging", false, "the log level"),
    ("/logging?level=debug", true, "changes the log level"),
    ("/reopen_logs", true, "opens the access log's file again, after it was moved away"),
    ("/drain_listeners", true, "ends all listeners; connections finish what they are doing"),
    ("/quitquitquit", true, "drains and ends the process"),
];

/// A page of the status port: nothing but readiness.
pub(super) fn status(request: &Request<Incoming>, shared: &Shared) -> Page {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz/ready" | "/ready") => ready(shared),
        (_, "/healthz/ready" | "/ready") => not_allowed("GET, HEAD"),
        _ => not_found(),
    }
}

/// A page of a metrics port: what may be read by whoever reaches the pod.
pub(super) fn scraped(request: &Request<Incoming>, shared: &Shared) -> Page {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/stats/prometheus" | "/metrics") => metrics(shared),
        (_, "/stats/prometheus" | "/metrics") => not_allowed("GET, HEAD"),
        _ => not_found(),
    }
}

/// A page of the admin port, which is bound to `addr`.
pub(super) async fn admin(request: &Request<Incoming>, addr: SocketAddr, shared: &Shared) -> Page {
    if let Err(refusal) = guard::check(request.method(), request.headers(), addr) {
        return page(StatusCode::FORBIDDEN, TEXT, refusal.message());
    }
    let query = Query(request.uri().query().unwrap_or_default());
    match request.method() {
        &Method::GET | &Method::HEAD => look(request.uri().path(), query, shared).await,
        &Method::POST => change(request.uri().path(), query, shared),
        _ => not_allowed("GET, HEAD, POST"),
    }
}

/// Pages that change nothing.
async fn look(path: &str, query: Query<'_>, shared: &Shared) -> Page {
    let as_json = query.find("format") == Some("json");
    let engine = &shared.state.engine;
    match path {
        "/" => page(StatusCode::OK, HTML, index()),
        "/ready" | "/healthz/ready" => ready(shared),
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
        "/stats" if query.find("format") != Some("prometheus") => stats(shared),
        "/stats" | "/stats/prometheus" | "/metrics" => metrics(shared),
        "/config_dump" => config_dump(shared),
        "/clusters" if as_json => pretty(&clusters::json(engine)),
        "/clusters" => page(StatusCode::OK, TEXT, clusters::text(engine)),
        "/listeners" => listeners(shared, as_json).await,
        "/certs" => {
            let configured = &shared.state.configured;
            let mut resources = configured.with_resources(Resources::clone);
            if let Some(identity) = configured.identity() {
                resources.secrets.insert(identity.name.clone(), identity);
            }
            pretty(&certificates::json(&resources, &configured.secret_problems()))
        }
        "/server_info" => pretty(&server_info(shared)),
        "/logging" => page(StatusCode::OK, TEXT, log::level() + "\n"),
        "/quitquitquit" | "/drain_listeners" | "/reopen_logs" => not_allowed("POST"),
        _ => not_found(),
    }
}

/// Pages that change something.
fn change(path: &str, query: Query<'_>, shared: &Shared) -> Page {
    match path {
        "/logging" => match query.decoded("level").map(|level| log::set_level(&level)) {
            Some(Ok(())) => page(StatusCode::OK, TEXT, log::level() + "\n"),
            Some(Err(error)) => page(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
            None => page(StatusCode::BAD_REQUEST, TEXT, "say which: /logging?level=debug\n"),
        },
        "/drain_listeners" => {
            let listeners = std::sync::Arc::clone(&shared.state.listeners);
            let within = shared.bootstrap.drain_time;
            if !shared.draining.swap(true, Relaxed) {
                tracing::info!("listeners are drained on request");
                // Ends with the admin thread at the latest; nobody waits for it.
                tokio::spawn(async move { listeners.drain(within).await });
            }
            page(StatusCode::OK, TEXT, "OK\n")
        }
        "/reopen_logs" => {
            shared.state.engine.telemetry.access_log.reopen();
            page(StatusCode::OK, TEXT, "OK\n")
        }
        "/quitquitquit" => {
            tracing::info!("the end is requested");
            // Full: it was requested before.
            let _ = shared.state.quit.try_send(());
            page(StatusCode::OK, TEXT, "OK\n")
        }
        _ if INDEX.iter().any(|(known, ..)| *known == path) => not_allowed("GET, HEAD"),
        _ => not_found(),
    }
}

fn state_name(shared: &Shared) -> &'static str {
    let seen = shared.state.engine.snapshot().version > 0;
    match (*shared.state.ready.borrow(), shared.draining.load(Relaxed)) {
        (true, false) => "LIVE",
        (false, false) if !seen => "INITIALIZING",
        (_, true) | (false, _) => "DRAINING",
    }
}

pub(super) fn ready(shared: &Shared) -> Page {
    let state = state_name(shared);
    let status = if state == "LIVE" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(
        status,
        TEXT,
        format!("{state}\n{}{}{}", absence(shared), bypass(shared), staleness(shared)),
    )
}

/// Why there is no configuration yet, if that is known: whoever waits shows this.
fn absence(shared: &Shared) -> String {
    let discovery = shared.state.discovery.as_ref();
    let is_absent = shared.state.engine.snapshot().version == 0;
    let problem = discovery.filter(|_| is_absent).and_then(|status| status.problem());
    problem.map_or_else(String::new, |problem| format!("no configuration: {problem}\n"))
}

/// Why the workload is kept back, where somebody else programs what brings its traffic here.
fn bypass(shared: &Shared) -> String {
    let problem = shared.state.engine.redirection.problem();
    problem.map_or_else(String::new, |problem| format!("{problem}\n"))
}

/// Beside the state: a configuration of yesterday is served, and said to be one.
fn staleness(shared: &Shared) -> String {
    let discovery = shared.state.discovery.as_ref();
    let Some(Stale { age, problem }) = discovery.and_then(|status| status.stale()) else {
        return String::new();
    };
    format!("stale for {} s: {problem}\n", age.as_secs())
}

fn metrics(shared: &Shared) -> Page {
    let families = shared.state.engine.telemetry.metrics.registry().gather();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => page(StatusCode::OK, TEXT_FORMAT, text),
        Err(error) => failed(&error),
    }
}

/// `name{label="value"}: number`; of histograms their number and sum.
fn stats(shared: &Shared) -> Page {
    let mut out = String::new();
    for family in shared.state.engine.telemetry.metrics.registry().gather() {
        for metric in family.get_metric() {
            let labels: Vec<_> = metric
                .get_label()
                .iter()
                .map(|label| format!("{}={:?}", label.name(), label.value()))
                .collect();
            let name = if labels.is_empty() {
                family.name().to_owned()
            } else {
                format!("{}{{{}}}", family.name(), labels.join(","))
            };
            // Writing to a String cannot fail.
            let _ = match family.get_field_type() {
                MetricType::COUNTER => {
                    writeln!(out, "{name}: {}", metric.get_counter().get_value())
                }
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
                    writeln!(out, "{name}: count={count} sum={sum}")
                }
                MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                    writeln!(out, "{name}: {}", metric.get_gauge().get_value())
                }
            };
        }
    }
    page(StatusCode::OK, TEXT, out)
}

fn config_dump(shared: &Shared) -> Page {
    let configured = &shared.state.configured;
    // Copied, which is cheap, so that configuration need not wait for the printing.
    let resources = configured.with_resources(Resources::clone);
    let version = shared.state.engine.snapshot().version;
    let problems = configured.secret_problems();
    match dump::json(version, &resources, &configured.diagnostics(), &problems) {
        Ok(mut dump) => {
            // Which push of the controller it is: that is what its log and status name it by.
            if let Some(push) = push(shared) {
                dump["push"] = push.into();
            }
            pretty(&dump)
        }
        Err(error) => failed(&error),
    }
}

/// `None`: the configuration comes from files.
fn push(shared: &Shared) -> Option<String> {
    shared.state.discovery.as_ref().map(|status| status.version())
}

async fn listeners(shared: &Shared, as_json: bool) -> Page {
    let all = shared.state.listeners.status().await;
    if as_json {
        let all: Vec<_> = all
            .iter()
            .map(|listener| {
                let bound = listener.bound.as_ref();
                json!({
                    "name": listener.name,
                    "address": bound.map(ToString::to_string).ok(),
                    "error": bound.err(),
                })
            })
            .collect();
        return pretty(&json!({ "listeners": all }));
    }
    let mut out = String::new();
    for listener in all {
        // Writing to a String cannot fail.
        let _ = match &listener.bound {
            Ok(address) => writeln!(out, "{}::{address}", listener.name),
            Err(why) => writeln!(out, "{}::not bound: {why}", listener.name),
        };
    }
    page(StatusCode::OK, TEXT, out)
}

fn server_info(shared: &Shared) -> Value {
    let bootstrap = &shared.bootstrap;
    let (config, mesh_config, discovery) = match &bootstrap.source {
        ConfigSource::Files { paths, mesh_config } => (Some(paths), mesh_config.as_ref(), None),
        ConfigSource::Discovery(it) => (None, None, Some(it.address.to_string())),
    };
    let since_epoch = shared.started_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state_name(shared),
        "startedAt": since_epoch.as_secs(),
        "uptimeSeconds": shared.started.elapsed().as_secs(),
        "push": push(shared),
        "configVersion": shared.state.engine.snapshot().version,
        "openConnections": shared.state.listeners.open_connections(),
        "commandLineOptions": {
            "config": config,
            "meshConfig": mesh_config,
            "discovery": discovery,
            "labels": bootstrap.labels,
            "namespace": bootstrap.namespace,
            "admin": bootstrap.admin,
            "status": bootstrap.status,
            "metrics": bootstrap.metrics,
            "workers": bootstrap.workers,
            "logLevel": bootstrap.log_level,
            "drainTimeSeconds": bootstrap.drain_time.as_secs_f64(),
        },
    })
}

fn index() -> String {
    let mut out = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>weir-gateway</title>\n\
         <h1>weir-gateway</h1>\n<table>\n",
    );
    for (path, changes, what) in INDEX {
        let link = if changes {
            format!("<code>curl -X POST localhost{path}</code>")
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "<tr><td>{link}<td>{what}");
    }
    out + "</table>\n"
}

fn pretty(value: &Value) -> Page {
    page(StatusCode::OK, JSON, format!("{value:#}\n"))
}

pub(super) fn not_found() -> Page {
    page(StatusCode::NOT_FOUND, TEXT, "there is no such page; / lists those there are\n")
}

pub(super) fn not_allowed(allowed: &'static str) -> Page {
    let text = format!("the methods of this page are: {allowed}\n");
    let mut page = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    page.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    page
}

pub(super) fn failed(error: &dyn std::error::Error) -> Page {
    page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
}

pub(super) fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers: [(HeaderName, &str); 3] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        // Text that holds names from the configuration is not to be taken for a web page.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in headers {
        page.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    page
}

/// `a=b&c=d`.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn decoded(self, name: &str) -> Option<Cow<'a, str>> {
        let value = self.find(name)?;
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy())
    }

    fn find(self, name: &str) -> Option<&'a str> {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }
}
