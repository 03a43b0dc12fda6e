//! Before anything is timed: does the proxy do all that the others do? A feature that is quietly off
//! would be a fast one.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Peer, Running, sidecar::Pair};
use crate::{
    certs::{Credentials, SERVER_NAME},
    lan::CLIENT_IDENTITY,
    load::{self, Http1Connection, Place, Work},
    scenario::{Case, Feature, Listener, Measure, Protocol, Reconnect, Upstream},
};

/// Logs are written in batches.
const LOG: Duration = Duration::from_secs(20);

/// Checks each feature from the outside.
pub async fn features(running: &Running, credentials: &Credentials) -> anyhow::Result<()> {
    let case = &running.case;
    if let Some(pair) = &running.pair {
        return both(running, pair, credentials).await;
    }
    let http = matches!(case.proxy.listener, Listener::Http | Listener::Https);
    if http && case.has(Feature::Metrics) {
        metrics(running.peer, running.settings.admin.into()).await?;
    }
    if http && case.proxy.upstream == Upstream::Http1 {
        let work = http1(case, credentials, running.settings.listen)?;
        headers(&work, case).await?;
        refusals(&work, case).await?;
    }
    if http && case.has(Feature::Log) {
        access_log(&running.settings.access_log()).await?;
    }
    Ok(())
}

/// Of two sidecars: that both count and log, and that the origin learns who calls, which only a client's
/// certificate says.
async fn both(running: &Running, pair: &Pair, credentials: &Credentials) -> anyhow::Result<()> {
    let case = &running.case;
    metrics(running.peer, running.admin()).await?;
    let server =
        Place { addr: pair.server.admin, namespace: Some(std::rc::Rc::clone(&pair.lan.server)) };
    metrics(running.peer, server).await?;
    if case.proxy.upstream == Upstream::Http1 && case.load.protocol == Protocol::Http1 {
        let work = http1(case, credentials, running.work.target.place.clone())?;
        let (status, body, _) = ask(&work, &request(&work, "x-probe: 1\r\n", None)).await?;
        let head = String::from_utf8_lossy(&body);
        ensure!(status == 200, "status {status} to a probe");
        for wanted in [&format!("URI={CLIENT_IDENTITY}"), "x-request-id: "] {
            ensure!(head.contains(wanted), "{wanted} should be seen at the origin: {head:?}");
        }
    }
    if case.load.protocol == Protocol::Tcp && case.measure == Measure::Idle {
        // A connection is logged when it ends, and none does.
        return Ok(());
    }
    access_log(&running.settings.access_log()).await?;
    access_log(&pair.server.access_log()).await
}

/// The same case for an HTTP/1.1 client.
fn http1(
    case: &Case,
    credentials: &Credentials,
    to: impl Into<Place>,
) -> anyhow::Result<std::rc::Rc<Work>> {
    let mut case = case.clone();
    case.load.protocol = Protocol::Http1;
    case.load.reconnect = Reconnect::Never;
    case.load.request_bytes = 0;
    Work::new(&case, credentials, to)
}

async fn metrics(peer: Peer, admin: Place) -> anyhow::Result<()> {
    let path = match peer {
        Peer::Weir | Peer::Envoy => "/stats/prometheus",
        Peer::Nginx | Peer::Haproxy => "/metrics",
    };
    page(&load::plain(admin), path).await.context("metrics are not served").map(drop)
}

/// A page of a proxy about itself, as it comes.
pub async fn page(admin: &Work, path: &str) -> anyhow::Result<String> {
    let mut stream = admin.target.connect().await.context("connect")?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "{status:?} for {path}");
    Ok(answer)
}

/// What arrives at the origin.
async fn headers(work: &Work, case: &Case) -> anyhow::Result<()> {
    let (status, body, _) = ask(work, &request(work, "x-probe: 1\r\n", None)).await?;
    let head = String::from_utf8_lossy(&body).to_ascii_lowercase();
    ensure!(status == 200, "status {status} to a probe");
    ensure!(head.contains("x-probe: 1"), "the origin answered something else: {head:?}");
    for name in ["x-forwarded-for: 127.0.", "x-forwarded-proto: http", "x-request-id: "] {
        let wanted = case.has(Feature::Headers);
        let optional = !wanted && !name.starts_with("x-request-id");
        ensure!(
            optional || head.contains(name) == wanted,
            "{name} should be {} at the origin: {head:?}",
            if wanted { "seen" } else { "absent" }
        );
    }
    Ok(())
}

/// What has to be refused is.
async fn refusals(work: &Work, case: &Case) -> anyhow::Result<()> {
    if case.proxy.jwt.is_some() {
        let head = format!("GET / HTTP/1.1\r\nhost: {SERVER_NAME}\r\n\r\n");
        let (status, ..) = ask(work, &head).await?;
        ensure!(matches!(status, 401 | 403), "status {status} without a token");
    }
    if case.proxy.routes > 0 || case.proxy.hosts > 0 {
        let host = if case.proxy.hosts > 0 { "h-1.example.test" } else { SERVER_NAME };
        let head = format!("GET /r/-1 HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let (status, ..) = ask(work, &head).await?;
        ensure!(status == 404, "status {status} where there is no route");
    }
    Ok(())
}

async fn access_log(path: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + LOG;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().any(|line| line.contains("200") || line.contains(" 0 - ")) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("nothing in the access log {}", path.display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The head of a request of the work with more fields.
fn request(work: &Work, fields: &str, host: Option<&str>) -> String {
    let request = &work.requests[0];
    let host = host.unwrap_or(&request.host);
    let token = request.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
    let (path, token) = (&request.path, token.unwrap_or_default());
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{token}{fields}\r\n")
}

async fn ask(work: &Work, head: &str) -> anyhow::Result<(u16, Vec<u8>, Option<Vec<u8>>)> {
    let stream = work.target.connect().await.context("connect")?;
    let answer = Http1Connection::new(stream).get(head.as_bytes()).await;
    answer.map_err(|failure| anyhow::anyhow!("{failure}"))
}
