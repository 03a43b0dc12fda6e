//! Port 15014: what the controller says about itself. It only answers; nothing is changed here, and
//! no Secret is shown.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST},
    uri::Authority,
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::info;
use weir_config::api::Kind;

use crate::{
    discovery::{
        Proxies,
        push::{State, Writer},
    },
    metrics::Metrics,
    watch::{Listed, WATCHED},
};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
const HEADERS: Duration = Duration::from_secs(10);

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Admin {
    pub metrics: Arc<Metrics>,
    pub proxies: Arc<Proxies>,
    pub writer: Writer,
    pub listed: Listed,
    /// Cancelled while the process ends: it is not ready then.
    pub ending: CancellationToken,
}

/// Starts to serve.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(address: SocketAddr, admin: Admin) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for monitoring"))?;
    let address = listener.local_addr().context("find out where monitoring listens")?;
    info!(%address, "monitoring");
    tokio::spawn(accept(listener, Arc::new(admin)));
    Ok(address)
}

async fn accept(listener: TcpListener, admin: Arc<Admin>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((socket, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        let is_local = peer.ip().to_canonical().is_loopback();
        let service = service_fn(move |request| {
            let admin = Arc::clone(&admin);
            async move { Ok::<_, Infallible>(admin.respond(&request, is_local).await) }
        });
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(socket), service);
            // A client that leaves early is nobody's concern.
            let _ = connection.await;
            drop(slot);
        });
    }
}

type Page = Response<Full<Bytes>>;

impl Admin {
    /// The debug pages show what all tenants wrote, so they are for who can reach the pod's loopback,
    /// as `kubectl port-forward` does; and not for a web site whose name was made to lead there.
    async fn respond(&self, request: &Request<Incoming>, is_local: bool) -> Page {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            path if path.starts_with("/debug/") && !is_local => {
                text(StatusCode::FORBIDDEN, "only from loopback; use kubectl port-forward\n")
            }
            path if path.starts_with("/debug/") && !is_this_machine(request.headers()) => {
                text(StatusCode::FORBIDDEN, "this host name is not served here; use localhost\n")
            }
            "/metrics" => {
                if self.is_listed() {
                    self.writer.visit(|state| state.count_objects()).await;
                }
                page(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.exposition())
            }
            "/ready" => self.ready(),
            "/version" => text(StatusCode::OK, concat!(env!("CARGO_PKG_VERSION"), "\n")),
            "/debug/syncz" => json_page(&json!(self.proxies.snapshot())),
            "/debug/configz" if self.is_listed() => self.objects().await,
            "/debug/configz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    fn is_listed(&self) -> bool {
        self.listed.borrow().iter().all(|done| *done)
    }

    fn ready(&self) -> Page {
        if self.ending.is_cancelled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "ending\n");
        }
        let listed = *self.listed.borrow();
        let missing: Vec<&str> = WATCHED
            .iter()
            .zip(listed)
            .filter(|(_, done)| !done)
            .map(|(watched, _)| watched.kind.name())
            .collect();
        if missing.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        let message = format!("waiting for the first list of {}\n", missing.join(", "));
        page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", message.into_bytes())
    }

    /// The objects that are known, and for whom.
    async fn objects(&self) -> Page {
        match self.writer.visit(|state| dump(state)).await {
            Some(dump) => json_page(&dump),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "ending\n"),
        }
    }
}

/// HTTP/1.0 clients send no name, and no browser does.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|it| {
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| it.host().eq_ignore_ascii_case(own))
    })
}

fn dump(state: &State) -> Value {
    let audiences = state.audiences().map(|(audience, objects, proxies)| {
        json!({
            "namespace": &*audience.namespace,
            "labels": &*audience.labels,
            "readsSecrets": audience.reads_secrets,
            "objects": objects,
            "proxies": proxies,
        })
    });
    let objects = state.store.entries().map(|entry| {
        let mut object = if entry.key.kind == Kind::Secret { Map::new() } else { entry.object() };
        object.insert("name".to_owned(), Value::String(entry.resource.name.to_string()));
        object.insert("version".to_owned(), Value::String(entry.resource.version.to_string()));
        if !entry.findings.is_empty() {
            let findings = entry.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
            object.insert("findings".to_owned(), json!(findings));
        }
        Value::Object(object)
    });
    let unreadable = state.store.unreadable().map(
        |(key, refused)| json!({ "object": key.to_string(), "reason": refused.reason.to_string() }),
    );
    json!({
        "audiences": audiences.collect::<Vec<_>>(),
        "objects": objects.collect::<Vec<_>>(),
        "unreadable": unreadable.collect::<Vec<_>>(),
    })
}

fn text(status: StatusCode, text: &'static str) -> Page {
    page(status, "text/plain", text.as_bytes().to_vec())
}

fn json_page(value: &Value) -> Page {
    let mut body = value.to_string().into_bytes();
    body.push(b'\n');
    page(StatusCode::OK, "application/json", body)
}

fn page(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Page {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
