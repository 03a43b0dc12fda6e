//! HTTP messages on the wire. Both sides are symmetrical: a session has a head and a body to read and
//! a head and a body to write, and the two directions never wait for each other.
//!
//! Writes go into a bounded buffer and never block: `poll_ready` says whether there is room,
//! `poll_flush` moves bytes to the socket. Nothing is sent before a flush, so a head and the body
//! that is there already leave together.
//!
//! Heads come out of a session in one shape, whatever the protocol: origin-form target, `host`
//! present, lower-case names, no connection-specific field (RFC 9110 section 7.6.1) except `upgrade`
//! of a valid WebSocket handshake and `te: trailers`. Framing fields of heads handed in are ignored:
//! `BodyLength` decides.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    head::{RequestHeader, ResponseHeader},
    limits::Limits,
    local_reply::LocalReply,
    telemetry::Protocol,
};

pub mod h1;
pub mod h2;

mod error;
mod field;
mod rejection;
mod target;
mod websocket;

pub use error::StreamError;
/// The `date` field of this second (RFC 9110 section 5.6.7).
pub use pingora_core::protocols::http::date::get_cached_date;
pub use rejection::Rejection;

/// A part of a message body.
#[derive(Debug)]
pub enum Frame {
    Data(Bytes),
    /// Always the last frame.
    Trailers(HeaderMap),
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// The head is the whole message.
    Empty,
    Exact(u64),
    /// Chunked on HTTP/1.1, until the end of the stream elsewhere.
    Unknown,
}

/// What a request asks its connection (HTTP/2: its stream) to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// RFC 6455; the connection changes with the 101. RFC 8441's extended CONNECT takes the same shape
    /// here: a GET with `upgrade`, and 101 for its 2xx.
    WebSocket,
    /// RFC 9110 section 9.3.6; the connection changes with the 2xx.
    Connect,
}

/// What to do with header names that contain `_` (hardening H22). Many servers read `_` as `-`, so
/// `content_length` or `x_forwarded_for` would speak for a header the proxy has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// Refuse the names that collide with a framing, routing or identity header, pass the rest:
    /// applications do use names like `session_id`.
    RejectCollisions,
    Allow,
}

/// What the codec allows a peer. Copied into each connection.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Of a head, in bytes.
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// Of a request target, in bytes.
    pub max_target_bytes: usize,
    /// Bytes waiting to be written before `poll_ready` says no.
    pub write_high_watermark: usize,
    /// `http` or `https`: the only scheme an absolute-form target may have.
    pub scheme: &'static str,
    pub underscores: Underscores,
    /// Otherwise CONNECT is answered 405.
    pub connect: bool,
}

impl Options {
    #[must_use]
    pub fn new(limits: &Limits, scheme: &'static str) -> Self {
        Self {
            max_header_bytes: limits.max_header_bytes,
            max_headers: limits.max_headers,
            max_target_bytes: limits.max_target_bytes,
            write_high_watermark: limits.write_high_watermark,
            scheme,
            underscores: Underscores::RejectCollisions,
            connect: false,
        }
    }
}

/// The client's side of one exchange. On HTTP/1 the same session serves one exchange after another.
#[derive(Debug)]
pub enum ServerSession {
    H1(Box<h1::ServerSession>),
    H2(Box<h2::ServerSession>),
}

/// The upstream's side of one exchange.
#[derive(Debug)]
pub enum ClientSession {
    H1(Box<h1::ClientSession>),
    H2(Box<h2::ClientSession>),
}

macro_rules! each {
    ($self:expr, $session:ident => $body:expr) => {
        match $self {
            Self::H1($session) => $body,
            Self::H2($session) => $body,
        }
    };
}

impl ServerSession {
    /// # Panics
    /// After `take_request`.
    #[must_use]
    pub fn request(&self) -> &RequestHeader {
        each!(self, session => session.request())
    }

    /// The request's head, for the exchange to own and change.
    ///
    /// # Panics
    /// The second time.
    #[must_use]
    pub fn take_request(&mut self) -> RequestHeader {
        each!(self, session => session.take_request())
    }

    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::H1(session) => session.protocol(),
            Self::H2(_) => Protocol::Http2,
        }
    }

    #[must_use]
    pub fn request_body_length(&self) -> BodyLength {
        each!(self, session => session.request_body_length())
    }

    /// The client waits for `100 Continue` before it sends the body. False once any of it came.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        each!(self, session => session.expects_continue())
    }

    #[must_use]
    pub fn wants_upgrade(&self) -> Option<Upgrade> {
        match self {
            Self::H1(session) => session.wants_upgrade(),
            Self::H2(session) => session.wants_upgrade(),
        }
    }

    /// Whether a client that asked for an upgrade takes any 2xx for the beginning of it.
    #[must_use]
    pub fn upgrades_with_success(&self) -> bool {
        match self {
            Self::H1(session) => session.wants_upgrade() == Some(Upgrade::Connect),
            Self::H2(session) => session.wants_upgrade().is_some(),
        }
    }

    /// The next part of the request body; `None` is its clean end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        each!(self, session => session.poll_read(cx))
    }

    /// Buffers a head. After a 1xx other than 101 another head follows.
    pub fn write_head(
        &mut self,
        head: &ResponseHeader,
        body: BodyLength,
    ) -> Result<(), StreamError> {
        each!(self, session => session.write_head(head, body))
    }

    /// Room below the write watermark; moves bytes to the socket only when there is none.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        each!(self, session => session.poll_ready(cx))
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        each!(self, session => session.write(frame))
    }

    /// The end of the body. Trailers end it too; saying it twice is harmless.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        each!(self, session => session.finish())
    }

    /// All that was buffered is with the socket (HTTP/2: with the connection).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        each!(self, session => session.poll_flush(cx))
    }

    /// The client is gone: nobody will read the response. On HTTP/1 the end of the client's stream,
    /// with nothing of another request before it, is taken for that.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        each!(self, session => session.poll_closed(cx))
    }

    /// Ends the response so that the client cannot take it for complete.
    pub fn abort(&mut self) {
        each!(self, session => session.abort());
    }

    /// No further request on this connection. Before the head is written the client is told.
    pub fn set_close(&mut self) {
        match self {
            Self::H1(session) => session.set_close(),
            // A stream has no say over its connection; draining is GOAWAY's business.
            Self::H2(_) => {}
        }
    }

    /// From here on both directions are bytes. After the head that accepts the upgrade.
    pub fn start_tunnel(&mut self) {
        match self {
            Self::H1(session) => session.start_tunnel(),
            // DATA frames are bytes already.
            Self::H2(_) => {}
        }
    }

    /// Buffers an answer of our own, as gRPC understands it where the request is gRPC. Returns the
    /// head that was written, for the record.
    pub fn write_reply(
        &mut self,
        reply: &LocalReply,
        grpc: bool,
    ) -> Result<ResponseHeader, StreamError> {
        if reply.close {
            self.set_close();
        }
        let (head, body) = reply.encode(grpc);
        let length = match body.len() {
            0 => BodyLength::Empty,
            len => BodyLength::Exact(len as u64),
        };
        self.write_head(&head, length)?;
        if !body.is_empty() {
            self.write(Frame::Data(body))?;
        }
        self.finish()?;
        Ok(head)
    }

    pub(crate) fn as_h1(&mut self) -> Option<&mut h1::ServerSession> {
        match self {
            Self::H1(session) => Some(session),
            Self::H2(_) => None,
        }
    }
}

impl ClientSession {
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::H1(_) => Protocol::Http11,
            Self::H2(_) => Protocol::Http2,
        }
    }

    /// Buffers the request's head.
    pub fn write_head(
        &mut self,
        head: &RequestHeader,
        body: BodyLength,
    ) -> Result<(), StreamError> {
        each!(self, session => session.write_head(head, body))
    }

    /// Room below the write watermark; moves bytes to the socket only when there is none. Once the
    /// upstream takes no more of the request it is always ready and what is written is dropped: the
    /// response decides.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        each!(self, session => session.poll_ready(cx))
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        each!(self, session => session.write(frame))
    }

    /// The end of the body. Trailers end it too; saying it twice is harmless.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        each!(self, session => session.finish())
    }

    /// All that was buffered is with the socket (HTTP/2: with the connection).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        each!(self, session => session.poll_flush(cx))
    }

    /// The response's head, or one of the 1xx heads before it. Drives writing as well.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHeader, StreamError>> {
        each!(self, session => session.poll_head(cx))
    }

    /// Known after the final head.
    #[must_use]
    pub fn response_body_length(&self) -> BodyLength {
        each!(self, session => session.response_body_length())
    }

    /// The next part of the response body; `None` is its clean end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        each!(self, session => session.poll_read(cx))
    }

    /// Gives the exchange up: h1 the connection is not used again, h2 RST_STREAM CANCEL.
    pub fn abort(&mut self) {
        each!(self, session => session.abort());
    }

    /// From here on both directions are bytes. After the head that accepts the upgrade.
    pub fn start_tunnel(&mut self) {
        match self {
            Self::H1(session) => session.start_tunnel(),
            // DATA frames are bytes already.
            Self::H2(_) => {}
        }
    }

    /// No byte of the request has left: it may be sent elsewhere whatever its method.
    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        each!(self, session => session.nothing_sent())
    }

    /// The upstream has begun to answer: too late for another attempt.
    #[must_use]
    pub fn response_started(&self) -> bool {
        each!(self, session => session.response_started())
    }

    /// h1: both messages are complete, the peer keeps the connection and sent nothing else. h2
    /// connections are shared and live on their own.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        match self {
            Self::H1(session) => session.is_reusable(),
            Self::H2(_) => true,
        }
    }
}
