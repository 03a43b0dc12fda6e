//! HTTP/1.1 and HTTP/2 requests over connections the test owns.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

use super::{connect_tls_to, connect_to};
use crate::{backend::echo::Received, pattern::Pattern};

pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request of a test, for either protocol.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    scheme: &'static str,
    host: String,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: RequestBody,
}

#[derive(Debug, Clone)]
enum RequestBody {
    Bytes(Bytes),
    Pattern { bytes: u64, sized: bool },
}

impl Request {
    #[must_use]
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            scheme: "http",
            host: host.into(),
            path: path.into(),
            headers: Vec::new(),
            body: RequestBody::Bytes(Bytes::new()),
        }
    }

    #[must_use]
    pub fn post(host: &str, path: &str, body: impl Into<Bytes>) -> Self {
        Self { body: RequestBody::Bytes(body.into()), ..Self::get(host, path) }.method("POST")
    }

    /// A POST of `bytes` bytes of the pattern; without a length if not `sized`.
    #[must_use]
    pub fn post_pattern(host: &str, path: &str, bytes: u64, sized: bool) -> Self {
        Self { body: RequestBody::Pattern { bytes, sized }, ..Self::get(host, path) }.method("POST")
    }

    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.parse().expect("a method");
        self
    }

    /// What `:scheme` says on HTTP/2.
    #[must_use]
    pub fn https(mut self) -> Self {
        self.scheme = "https";
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = name.parse().expect("a header name");
        self.headers.push((name, value.parse().expect("a header value")));
        self
    }

    fn build(&self, version: Version) -> http::Request<Body> {
        let target = if version == Version::HTTP_2 {
            format!("{}://{}{}", self.scheme, self.host, self.path)
        } else {
            self.path.clone()
        };
        let mut request = http::Request::new(self.body());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target.parse::<Uri>().expect("a request target");
        *request.version_mut() = version;
        if version != Version::HTTP_2 {
            let host = self.host.parse().expect("a Host value");
            request.headers_mut().insert(http::header::HOST, host);
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        request
    }

    fn body(&self) -> Body {
        match &self.body {
            RequestBody::Bytes(bytes) => {
                Full::from(bytes.clone()).map_err(|never| match never {}).boxed_unsync()
            }
            RequestBody::Pattern { bytes, sized: true } => Pattern::sized(*bytes).boxed_unsync(),
            RequestBody::Pattern { bytes, sized: false } => {
                Pattern::of_unknown_length(*bytes).boxed_unsync()
            }
        }
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// The value of a header that must be there at most once.
    ///
    /// # Panics
    /// When it is there more than once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers.get_all(name);
        assert!(values.iter().count() <= 1, "{name} is there more than once");
        Some(values.iter().next()?.to_str().expect("a text value"))
    }

    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text body")
    }

    /// The request as the echo backend received it.
    #[must_use]
    pub fn echo(&self) -> Received {
        assert_eq!(self.status, 200, "not an echo: {}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).expect("the echo's record")
    }

    /// The name of the backend that answered; empty if none did.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.header("x-backend").unwrap_or_default()
    }
}

/// One connection, carrying any number of requests.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    pub local_addr: SocketAddr,
    driver: Arc<Driver>,
}

/// The task that moves a connection's bytes; the connection ends with its last handle.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// HTTP/1.1 in clear text.
    pub async fn http1(port: u16) -> anyhow::Result<Self> {
        Self::http1_to((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// HTTP/2 by prior knowledge.
    pub async fn http2(port: u16) -> anyhow::Result<Self> {
        Self::http2_to((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// HTTP/1.1 in clear text, to that address.
    pub async fn http1_to(address: SocketAddr) -> anyhow::Result<Self> {
        Self::plain(address, Version::HTTP_11).await
    }

    /// HTTP/2 by prior knowledge, to that address.
    pub async fn http2_to(address: SocketAddr) -> anyhow::Result<Self> {
        Self::plain(address, Version::HTTP_2).await
    }

    async fn plain(address: SocketAddr, version: Version) -> anyhow::Result<Self> {
        let stream = connect_to(address).await.context("connect")?;
        let local_addr = stream.local_addr()?;
        Box::pin(Self::over(stream, local_addr, version)).await
    }

    /// Over TLS, in the protocol negotiated by ALPN.
    pub async fn tls(port: u16, config: &ClientConfig, server_name: &str) -> anyhow::Result<Self> {
        Self::tls_to((Ipv4Addr::LOCALHOST, port).into(), config, server_name).await
    }

    /// Over TLS, to that address.
    pub async fn tls_to(
        address: SocketAddr,
        config: &ClientConfig,
        server_name: &str,
    ) -> anyhow::Result<Self> {
        let stream = connect_tls_to(address, config, server_name).await.context("TLS handshake")?;
        let (tcp, tls) = stream.get_ref();
        let local_addr = tcp.local_addr()?;
        let version = match tls.alpn_protocol() {
            Some(b"h2") => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        Box::pin(Self::over(stream, local_addr, version)).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        local_addr: SocketAddr,
        version: Version,
    ) -> anyhow::Result<Self> {
        let io = TokioIo::new(stream);
        let (sender, driver) = if version == Version::HTTP_2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.context("HTTP/2 preface")?;
            (Sender::Http2(sender), tokio::spawn(async { connection.await.ok() }))
        } else {
            let (sender, connection) = http1::handshake(io).await.context("HTTP/1.1")?;
            (Sender::Http1(sender), tokio::spawn(async { connection.await.ok() }))
        };
        Ok(Self { sender, local_addr, driver: Arc::new(Driver(driver.abort_handle())) })
    }

    #[must_use]
    pub fn version(&self) -> Version {
        match self.sender {
            Sender::Http1(_) => Version::HTTP_11,
            Sender::Http2(_) => Version::HTTP_2,
        }
    }

    /// Whether the server ended the connection (or asked for its end).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request and reads the head of its response.
    pub async fn open(&mut self, request: &Request) -> anyhow::Result<http::Response<Incoming>> {
        let request = request.build(self.version());
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.context("the connection is closed")?;
                sender.send_request(request).await.context("send the request")
            }
            Sender::Http2(sender) => {
                sender.ready().await.context("the connection is closed")?;
                sender.send_request(request).await.context("send the request")
            }
        }
    }

    /// Sends a request and reads its whole response.
    pub async fn send(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let (head, mut incoming) = self.open(request).await?.into_parts();
        let mut body = Vec::new();
        let mut trailers = None;
        while let Some(frame) = incoming.frame().await {
            match frame.context("read the body")?.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => match frame.into_trailers() {
                    Ok(fields) => trailers = Some(fields),
                    Err(frame) => bail!("unknown frame {frame:?}"),
                },
            }
        }
        Ok(Reply {
            status: head.status.as_u16(),
            version: head.version,
            headers: head.headers,
            body: body.into(),
            trailers,
        })
    }

    /// A second handle on an HTTP/2 connection, for requests at the same time.
    ///
    /// # Panics
    /// On HTTP/1.1.
    #[must_use]
    pub fn share(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else {
            panic!("HTTP/1.1 carries one request at a time")
        };
        Self {
            sender: Sender::Http2(sender.clone()),
            local_addr: self.local_addr,
            driver: Arc::clone(&self.driver),
        }
    }
}

/// Whether nothing of the request has left: the connection had ended, or did while it waited.
#[must_use]
pub fn was_not_sent(error: &anyhow::Error) -> bool {
    let has_ended = |cause: &hyper::Error| cause.is_canceled() || cause.is_closed();
    error.chain().filter_map(|cause| cause.downcast_ref()).any(has_ended)
}
