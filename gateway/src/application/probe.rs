//! One question of the kubelet, asked of the application as the kubelet would.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Application, Prober,
    settings::{Grpc, HttpGet},
};
use crate::{io::Io, upstream};

/// Kubernetes' own where none is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer to a health check is some bytes.
const MAX_HEALTH_BYTES: usize = 4 * 1024;
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: i32 = 1;

/// Why the application is not well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("connect: {0}")]
    Connect(#[from] upstream::ConnectError),
    #[error("ask: {0}")]
    Http(#[from] hyper::Error),
    #[error("the probe makes no request: {0}")]
    Request(#[from] http::Error),
    #[error("the health check is answered with {0}")]
    Health(String),
    #[error("no answer in time")]
    Timeout,
    #[error("the probe asks nothing")]
    Nothing,
}

/// The status to answer the kubelet with: what the application answers, or 500 where it does not.
pub async fn probe(application: &Application, prober: &Prober, asked: &HeaderMap) -> StatusCode {
    let limit = match prober.timeout_seconds {
        0 => DEFAULT_TIMEOUT,
        seconds => Duration::from_secs(seconds),
    };
    let answer = timeout(limit, ask(application, prober, asked)).await;
    match answer.unwrap_or(Err(Failure::Timeout)) {
        // The kubelet would follow a redirect, and would come to us.
        Ok(status) if status.is_redirection() => StatusCode::OK,
        Ok(status) => status,
        Err(error) => {
            tracing::debug!(%error, "the application does not answer a probe");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

async fn ask(
    application: &Application,
    prober: &Prober,
    asked: &HeaderMap,
) -> Result<StatusCode, Failure> {
    if let Some(get) = &prober.http_get {
        return http_get(address(application, &get.host, get.port), get, asked).await;
    }
    if let Some(socket) = &prober.tcp_socket {
        let address = address(application, &socket.host, socket.port);
        return Ok(upstream::dial_application(address, None).await.map(|_open| StatusCode::OK)?);
    }
    match &prober.grpc {
        Some(grpc) => health(address(application, "", grpc.port), grpc).await,
        None => Err(Failure::Nothing),
    }
}

/// Where the application listens: the pod's address, unless it is asked on loopback.
fn address(application: &Application, host: &str, port: u16) -> SocketAddr {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => ip,
        _ if host == "localhost" => loopback,
        _ => application.address.unwrap_or(loopback),
    };
    SocketAddr::new(ip, port)
}

async fn http_get(
    address: SocketAddr,
    get: &HttpGet,
    asked: &HeaderMap,
) -> Result<StatusCode, Failure> {
    let is_tls = get.scheme.eq_ignore_ascii_case("https");
    let io = upstream::dial_application(address, is_tls.then_some(&["h2", "http/1.1"])).await?;
    let version = match io.alpn_protocol() {
        Some(b"h2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let request = request(address, get, asked, version)?;
    Ok(exchange(io, request).await?.0.status())
}

fn request(
    address: SocketAddr,
    get: &HttpGet,
    asked: &HeaderMap,
    version: Version,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let said = |name: &HeaderName| {
        get.http_headers.iter().find(|it| name.as_str().eq_ignore_ascii_case(&it.name))
    };
    let host = said(&HOST).map_or_else(|| address.to_string(), |header| header.value.clone());
    let is_h2 = version == Version::HTTP_2;
    let target = if is_h2 { format!("https://{host}{path}") } else { path };
    let mut request = Request::get(target).version(version).body(Full::default())?;
    let headers = request.headers_mut();
    for name in [USER_AGENT, ACCEPT] {
        if let Some(value) = asked.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    for header in &get.http_headers {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        headers.insert(name, HeaderValue::from_str(&header.value)?);
    }
    headers.remove(HOST);
    if !is_h2 {
        headers.insert(HOST, HeaderValue::from_str(&host)?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(request)
}

/// Keeps the connection going for as long as its answer is read.
type Driver = AbortOnDropHandle<()>;

async fn exchange(
    io: Io,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Driver), hyper::Error> {
    // How a connection ends, its answer tells.
    if request.version() == Version::HTTP_2 {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        return Ok((sender.send_request(request).await?, driver));
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    Ok((sender.send_request(request).await?, driver))
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The gRPC health check, without TLS as the kubelet's.
async fn health(address: SocketAddr, grpc: &Grpc) -> Result<StatusCode, Failure> {
    let service = grpc.service.clone().unwrap_or_default();
    let message = HealthCheckRequest { service }.encode_to_vec();
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    let request = Request::post(format!("http://{address}{HEALTH_CHECK}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "kube-probe")
        .body(Full::from(frame.freeze()))?;
    let io = upstream::dial_application(address, None).await?;
    let (response, _driver) = exchange(io, request).await?;
    let failed = |what: &str| Failure::Health(what.to_owned());
    if response.status() != StatusCode::OK {
        return Err(failed(response.status().as_str()));
    }
    let body = Limited::new(response.into_body(), MAX_HEALTH_BYTES).collect().await;
    let body = body.map_err(|error| Failure::Health(error.to_string()))?.to_bytes();
    let answer = body.get(5..).and_then(|message| HealthCheckResponse::decode(message).ok());
    match answer {
        Some(HealthCheckResponse { status: SERVING }) => Ok(StatusCode::OK),
        Some(HealthCheckResponse { status }) => Err(Failure::Health(format!("status {status}"))),
        None => Err(failed("nothing")),
    }
}
