//! The HTTP upstream of most tests: HTTP/1.1 and HTTP/2 on one port, tells what it received, and
//! does what the request's `x-echo-*` headers say.
//!
//! | header | effect |
//! |---|---|
//! | `x-echo-status: N` | answers with that status |
//! | `x-echo-header: name=value` | adds a response header |
//! | `x-echo-body: stream` | the response body is the request body, as it arrives |
//! | `x-echo-bytes: N` | the response body is N bytes of [`Pattern`], without a length |
//! | `x-echo-abort: N` | the response body breaks off after N bytes |
//! | `x-echo-trailer: name=value` | ends the response with a trailer |
//! | `x-echo-delay: MS` | waits before answering |
//! | `upgrade: websocket` | echoes WebSocket messages; so does HTTP/2's extended CONNECT |
//! | `te: trailers`, and gRPC's content type | echoes the messages of any method, with status OK |

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body as _, Frame, Incoming},
    ext::Protocol,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::{Server, relay::Next};
use crate::pattern::Pattern;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request as the upstream saw it; also the body of the plain answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The name the backend was started with.
    pub backend: String,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `Host`, or `:authority`.
    pub host: String,
    pub version: String,
    pub headers: BTreeMap<String, Vec<String>>,
    /// Length of the body; 0 in records, which are made when the head has arrived.
    pub body_bytes: u64,
}

impl Received {
    /// The value of a header that must be there at most once.
    ///
    /// # Panics
    /// When it is there more than once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers.get(name)?;
        assert!(values.len() == 1, "{name} is there {} times: {values:?}", values.len());
        Some(&values[0])
    }
}

/// A running backend.
#[derive(Debug)]
pub struct Echo {
    server: Server,
    requests: Arc<Mutex<Vec<Received>>>,
    ending: Arc<watch::Sender<bool>>,
}

impl Echo {
    /// In clear text.
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, 0).await
    }

    /// In clear text, on that port.
    pub async fn start_at(name: &str, port: u16) -> Self {
        Self::start_service(Service::new(name), (Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// In clear text, on that address of a pod, which every answer names in `x-pod`, and who asked in
    /// `x-peer`.
    pub async fn start_in_pod(name: &str, pod: &str, address: SocketAddr) -> Self {
        let service = Service { pod: Some(header_value(pod)), ..Service::new(name) };
        Self::start_service(service, address).await
    }

    async fn start_service(service: Service, address: SocketAddr) -> Self {
        let requests = Arc::clone(&service.requests);
        let ending = Arc::clone(&service.ending);
        let server = Server::start_on(address, move |stream| {
            let peer = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
            Service { peer, ..service.clone() }.serve(stream)
        })
        .await;
        Self { server, requests, ending }
    }

    /// In clear text, on that address of a pod; every request is passed on to the host at `next` first,
    /// and only its good answer is one here.
    pub async fn start_relay_in_pod(
        name: &str,
        pod: &str,
        address: SocketAddr,
        next: Next,
    ) -> Self {
        let service = Service {
            pod: Some(header_value(pod)),
            next: Some(Arc::new(next)),
            ..Service::new(name)
        };
        Self::start_service(service, address).await
    }

    /// Over TLS.
    pub async fn start_tls(name: &str, config: ServerConfig) -> Self {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        Self::start_tls_service(Service::new(name), address, config).await
    }

    /// Over TLS, on that address of a pod, which every answer names in `x-pod`.
    pub async fn start_tls_in_pod(
        name: &str,
        pod: &str,
        address: SocketAddr,
        config: ServerConfig,
    ) -> Self {
        let service = Service { pod: Some(header_value(pod)), ..Service::new(name) };
        Self::start_tls_service(service, address, config).await
    }

    async fn start_tls_service(
        service: Service,
        address: SocketAddr,
        config: ServerConfig,
    ) -> Self {
        let requests = Arc::clone(&service.requests);
        let ending = Arc::clone(&service.ending);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = Server::start_on(address, move |stream| {
            let (service, acceptor) = (service.clone(), acceptor.clone());
            async move {
                // Clients that refuse our certificate are part of some tests.
                if let Ok(stream) = acceptor.accept(stream).await {
                    service.serve(stream).await;
                }
            }
        })
        .await;
        Self { server, requests, ending }
    }

    /// Tells every client to send its next request over another connection, and returns when the
    /// last one has ended.
    pub async fn drain(&self) {
        self.ending.send_replace(true);
        self.ending.closed().await;
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Requests whose head has arrived so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Service {
    name: Arc<str>,
    pod: Option<HeaderValue>,
    /// Who asks, in a pod.
    peer: Option<IpAddr>,
    /// Who is asked before a request is answered.
    next: Option<Arc<Next>>,
    requests: Arc<Mutex<Vec<Received>>>,
    /// Its receivers are the connections that are served.
    ending: Arc<watch::Sender<bool>>,
}

impl Service {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            pod: None,
            peer: None,
            next: None,
            requests: Arc::default(),
            ending: Arc::new(watch::Sender::new(false)),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut ending = self.ending.subscribe();
        let service = service_fn(move |request| {
            let service = self.clone();
            async move { Ok::<_, Infallible>(service.answer(request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        // Errors are clients going away and responses told to break off.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = ending.wait_for(|ending| *ending) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let received = self.received(&request);
        if let Some(next) = &self.next {
            // Nothing is recorded: what is passed on is much.
            return self.named(match next.ask(&received.target).await {
                Ok(body) => {
                    Response::new(Full::from(body).map_err(|it| match it {}).boxed_unsync())
                }
                Err(error) => failed(&error),
            });
        }
        self.requests.lock().unwrap().push(received.clone());
        let orders = Orders::read(request.headers());
        tokio::time::sleep(orders.delay).await;
        if request.extensions().get::<Protocol>().is_some_and(|to| to.as_str() == "websocket") {
            // RFC 8441: HTTP/2's way to ask for the same.
            tokio::spawn(echo_messages(hyper::upgrade::on(&mut request)));
            return Response::new(empty());
        }
        if request.headers().get(header::UPGRADE).is_some_and(|value| value == "websocket") {
            let upgrade = hyper::upgrade::on(&mut request);
            return upgrade_to_websocket(request.headers(), upgrade);
        }
        if is_grpc(request.headers()) {
            return self.named(echo_grpc(request.into_body()));
        }
        let is_head = request.method() == http::Method::HEAD;
        let mut response = Response::new(orders.body(request.into_body(), received).await);
        if is_head {
            // hyper leaves a body out over HTTP/1 only.
            let length = response.body().size_hint().exact();
            *response.body_mut() = empty();
            response.headers_mut().extend(length.map(|it| (header::CONTENT_LENGTH, it.into())));
        }
        *response.status_mut() = orders.status;
        response.headers_mut().extend(orders.headers.map(|(name, value)| (Some(name), value)));
        self.named(response)
    }

    fn named(&self, mut response: Response<Body>) -> Response<Body> {
        response.headers_mut().insert("x-backend", header_value(&self.name));
        if let Some(pod) = &self.pod {
            response.headers_mut().insert("x-pod", pod.clone());
            if let Some(peer) = self.peer {
                response.headers_mut().insert("x-peer", header_value(&peer.to_string()));
            }
        }
        response
    }

    fn received(&self, request: &Request<Incoming>) -> Received {
        let mut headers = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.to_string()).or_default().push(value);
        }
        let uri = request.uri();
        let host = headers.get("host").map(|values| values.join(", "));
        Received {
            backend: self.name.to_string(),
            method: request.method().to_string(),
            target: uri.path_and_query().map_or("", |target| target.as_str()).to_owned(),
            host: host.or_else(|| uri.authority().map(ToString::to_string)).unwrap_or_default(),
            version: format!("{:?}", request.version()),
            headers,
            body_bytes: 0,
        }
    }
}

/// The answer of who depends on somebody that did not answer.
fn failed(error: &anyhow::Error) -> Response<Body> {
    let reason = Bytes::from(format!("{error:#}"));
    let mut response = Response::new(Full::from(reason).map_err(|it| match it {}).boxed_unsync());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

/// What the `x-echo-*` headers ask for.
struct Orders {
    status: StatusCode,
    delay: Duration,
    stream: bool,
    bytes: Option<u64>,
    abort_after: Option<u64>,
    headers: Option<(HeaderName, HeaderValue)>,
    trailer: Option<(HeaderName, HeaderValue)>,
}

impl Orders {
    fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
        let pair = |name: &str| {
            let (name, value) = text(name)?.split_once('=')?;
            Some((name.parse().ok()?, header_value(value)))
        };
        Self {
            status: text("x-echo-status").map_or(StatusCode::OK, |code| code.parse().unwrap()),
            delay: Duration::from_millis(number("x-echo-delay").unwrap_or_default()),
            stream: text("x-echo-body") == Some("stream"),
            bytes: number("x-echo-bytes"),
            abort_after: number("x-echo-abort"),
            headers: pair("x-echo-header"),
            trailer: pair("x-echo-trailer"),
        }
    }

    async fn body(&self, request: Incoming, mut received: Received) -> Body {
        if let Some(bytes) = self.abort_after {
            return aborted(bytes);
        }
        let body = if self.stream {
            request.map_err(io::Error::other).boxed_unsync()
        } else if let Some(bytes) = self.bytes {
            Pattern::of_unknown_length(bytes).boxed_unsync()
        } else {
            received.body_bytes = length(request).await;
            let json = serde_json::to_vec(&received).expect("a record is JSON");
            Full::from(json).map_err(|never| match never {}).boxed_unsync()
        };
        match self.trailer.clone() {
            Some(trailer) => {
                let trailers = HeaderMap::from_iter([trailer]);
                body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync()
            }
            None => body,
        }
    }
}

/// What only gRPC's clients send; tests of the gateway send its content type alone.
fn is_grpc(headers: &HeaderMap) -> bool {
    let is = |name, value: &str| headers.get(name).is_some_and(|it| it == value);
    is(header::TE, "trailers") && is(header::CONTENT_TYPE, "application/grpc")
}

/// Sends every message back as it arrives.
fn echo_grpc(request: Incoming) -> Response<Body> {
    let ok = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    let body = request
        .map_err(io::Error::other)
        .with_trailers(std::future::ready(Some(Ok(HeaderMap::from_iter([ok])))))
        .boxed_unsync();
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

async fn length(mut body: Incoming) -> u64 {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    bytes
}

/// A body that ends with an error, which cuts the connection or resets the stream.
fn aborted(bytes: u64) -> Body {
    let data = Bytes::from(vec![b'x'; usize::try_from(bytes).expect("a small number")]);
    let frames = [Ok(Frame::data(data)), Err(io::Error::other("told to break off"))];
    // The pause lets the first part leave before the connection is cut.
    let frames = futures_util::stream::iter(frames).then(|frame| async {
        if frame.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        frame
    });
    StreamBody::new(frames).boxed_unsync()
}

fn upgrade_to_websocket(headers: &HeaderMap, upgrade: OnUpgrade) -> Response<Body> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).expect("a WebSocket key");
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(echo_messages(upgrade));
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, header_value(&accept));
    response
}

async fn echo_messages(upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let stream = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let is_text = message.is_text() || message.is_binary();
        if is_text && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn empty() -> Body {
    Full::default().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn header_value(text: &str) -> HeaderValue {
    text.parse().expect("a header value")
}
