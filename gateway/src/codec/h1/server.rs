//! The client's end of an HTTP/1 connection.
//!
//! One session lives as long as its connection. Between two exchanges it is a socket and a few flags:
//! the owner calls `poll_request` until one arrives, runs the exchange, and calls
//! `poll_after_exchange` to learn whether there may be another.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use http::{Method, StatusCode, Version};
use tokio::time::{Sleep, sleep};

use super::{
    super::{BodyLength, Frame, Options, Rejection, StreamError, Upgrade},
    body::{self, BodyReader, BodyWriter},
    buffer::ReadBuffer,
    encode::{self, Framing, Persistence},
    head::HeadScan,
    message::{MessageWriter, Progress},
    request::{self, RequestHead},
};
use crate::{
    drain::DrainSignal,
    head::{RequestHeader, ResponseHeader},
    io::Io,
    telemetry::Protocol,
};

/// Bytes read ahead while an exchange runs: enough to see a reset, no queue to fill.
const MAX_READ_AHEAD: usize = 16 * 1024;
/// How long a client that has ended its side is waited for while nothing is written to it. It may
/// have closed one half and read on, or be gone and the upstream work for nobody: TCP tells the two
/// apart only by what becomes of a write.
const HALF_CLOSED_LIMIT: Duration = Duration::from_secs(5);

/// What came of waiting for a request.
#[derive(Debug)]
pub enum Arrival {
    Request,
    /// The client closed, or reset, between requests.
    Closed,
    /// Not a request. The connection is of no further use.
    Rejected(Rejection, Box<RequestHeader>),
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExchange {
    /// Another request may come.
    Reuse,
    Close,
    /// Close, but only after reading on for a while: closing a socket with unread bytes in it makes
    /// the kernel send a reset that can overtake the response.
    Linger,
    /// The response is incomplete: close at once.
    Abort,
    /// As `Abort`, with a reset: the end of the stream would look like the end of the body.
    Reset,
}

#[derive(Debug)]
pub struct ServerSession {
    io: Io,
    read: ReadBuffer,
    write: MessageWriter,
    options: Options,
    drain: DrainSignal,
    scan: HeadScan,
    /// No request after this one.
    close: bool,
    /// Runs while the client has ended its side and nothing is written to it.
    half_closed: Option<Pin<Box<Sleep>>>,
    exchange: Exchange,
}

/// What is known of the exchange in progress.
#[derive(Debug)]
struct Exchange {
    request: Option<RequestHeader>,
    body_length: BodyLength,
    body: BodyReader,
    http10: bool,
    is_head: bool,
    upgrade: Option<Upgrade>,
    expects_continue: bool,
    drained: u64,
}

impl Exchange {
    fn none() -> Self {
        Self {
            request: None,
            body_length: BodyLength::Empty,
            body: BodyReader::Done,
            http10: false,
            is_head: false,
            upgrade: None,
            expects_continue: false,
            drained: 0,
        }
    }

    fn start(head: RequestHead) -> Self {
        Self {
            body_length: body::length_of(&head.body),
            body: head.body,
            http10: head.header.version == Version::HTTP_10,
            is_head: head.header.method == Method::HEAD,
            upgrade: head.upgrade,
            expects_continue: head.expects_continue,
            drained: 0,
            request: Some(head.header),
        }
    }
}

impl ServerSession {
    #[must_use]
    pub fn new(io: Io, options: Options, drain: DrainSignal) -> Self {
        Self {
            io,
            read: ReadBuffer::default(),
            write: MessageWriter::new(options.write_high_watermark),
            options,
            drain,
            scan: HeadScan::default(),
            close: false,
            half_closed: None,
            exchange: Exchange::none(),
        }
    }

    /// Reads until a request's head is complete. Needs no memory while nothing has arrived.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        loop {
            if !self.read.is_empty() && self.scan.is_due(self.read.bytes()) {
                match request::parse(self.read.bytes(), &self.options) {
                    Ok(Some(head)) => {
                        self.start(head);
                        return Poll::Ready(Arrival::Request);
                    }
                    Ok(None) => {}
                    Err(refused) => {
                        return Poll::Ready(Arrival::Rejected(
                            refused.rejection,
                            Box::new(refused.request),
                        ));
                    }
                }
            }
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Arrival::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Something of a request's head has arrived.
    #[must_use]
    pub fn head_started(&self) -> bool {
        !self.read.is_empty()
    }

    /// What can be said of a request that never became one.
    pub fn salvage(&mut self) -> RequestHeader {
        request::salvage(self.read.bytes())
    }

    /// The bytes at the front of the connection, for telling protocols apart before the first
    /// request. `None`: the client closed.
    pub fn poll_first_bytes(&mut self, cx: &mut Context<'_>, more: bool) -> Poll<Option<&[u8]>> {
        if more || self.read.is_empty() {
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(None),
                Ok(_) => {}
            }
        }
        Poll::Ready(Some(self.read.bytes()))
    }

    /// Gives the connection up to another protocol, with what was read of it.
    #[must_use]
    pub fn into_parts(mut self) -> (BytesMut, Io) {
        (std::mem::take(self.read.bytes()), self.io)
    }

    fn start(&mut self, head: RequestHead) {
        self.scan = HeadScan::default();
        self.close |= !head.keep_alive;
        self.exchange = Exchange::start(head);
    }

    /// Brings the connection to where another request could start: everything written, the request
    /// body read or given up.
    pub fn poll_after_exchange(
        &mut self,
        max_drain_bytes: u64,
        cx: &mut Context<'_>,
    ) -> Poll<AfterExchange> {
        match self.write.progress() {
            Progress::Complete => {}
            Progress::Tunnel => return Poll::Ready(AfterExchange::Close),
            Progress::Unfinished => return Poll::Ready(AfterExchange::Abort),
            Progress::UnfinishedUntilClose => return Poll::Ready(AfterExchange::Reset),
        }
        if ready!(self.write.poll_flush(&mut self.io, cx)).is_err() {
            return Poll::Ready(AfterExchange::Abort);
        }
        // A client that was not told to continue may send the body or not, one whose upgrade was
        // refused may have sent what was meant for the other protocol.
        let may_send_more = self.exchange.expects_continue || self.exchange.upgrade.is_some();
        if may_send_more || self.close && !self.exchange.body.is_done() {
            return Poll::Ready(AfterExchange::Linger);
        }
        if !ready!(self.poll_drain_body(max_drain_bytes, cx)) {
            return Poll::Ready(AfterExchange::Linger);
        }
        Poll::Ready(match (self.close, self.read.is_empty()) {
            (false, _) => {
                self.exchange = Exchange::none();
                self.read.release();
                self.write.restart();
                AfterExchange::Reuse
            }
            (true, true) => AfterExchange::Close,
            (true, false) => AfterExchange::Linger,
        })
    }

    /// Reads the rest of the request body; false: it is too long or broken.
    fn poll_drain_body(&mut self, max_drain_bytes: u64, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.exchange.body.is_done() {
            match ready!(self.exchange.body.poll(&mut self.read, &mut self.io, cx)) {
                Ok(Some(Frame::Data(data))) => self.exchange.drained += data.len() as u64,
                Ok(Some(Frame::Trailers(_)) | None) => {}
                Err(_) => return Poll::Ready(false),
            }
            if self.exchange.drained > max_drain_bytes {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    /// Reads and forgets until the client closes.
    pub fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.read.bytes().clear();
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    #[cfg(test)]
    pub fn buffer_capacity(&self) -> usize {
        self.read.capacity() + self.write.capacity()
    }

    #[must_use]
    pub fn request(&self) -> &RequestHeader {
        self.exchange.request.as_ref().expect("the head is taken once, when the exchange starts")
    }

    #[must_use]
    pub fn take_request(&mut self) -> RequestHeader {
        self.exchange.request.take().expect("the head is taken once, when the exchange starts")
    }

    #[must_use]
    pub fn protocol(&self) -> Protocol {
        if self.exchange.http10 { Protocol::Http10 } else { Protocol::Http11 }
    }

    #[must_use]
    pub fn request_body_length(&self) -> BodyLength {
        self.exchange.body_length
    }

    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.exchange.expects_continue
    }

    #[must_use]
    pub fn wants_upgrade(&self) -> Option<Upgrade> {
        self.exchange.upgrade
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        let frame = ready!(self.exchange.body.poll(&mut self.read, &mut self.io, cx))?;
        // The body came without the 100, or after it: either way nobody waits for it any more.
        self.exchange.expects_continue = false;
        Poll::Ready(Ok(frame))
    }

    pub fn write_head(
        &mut self,
        head: &ResponseHeader,
        body: BodyLength,
    ) -> Result<(), StreamError> {
        self.half_closed = None;
        let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if head.status.is_informational() && !switching {
            return self.write_informational(head);
        }
        if switching && self.exchange.upgrade != Some(Upgrade::WebSocket) {
            return Err(StreamError::Protocol("unasked_101"));
        }
        let accepts_connect =
            self.exchange.upgrade == Some(Upgrade::Connect) && head.status.is_success();
        let (writer, framing) = if switching || accepts_connect {
            (BodyWriter::UntilClose, Framing::Silent)
        } else {
            self.framing(head.status, body)
        };
        self.close |= self.must_close(&writer);
        let persistence = match (switching || accepts_connect, self.close, self.exchange.http10) {
            (false, true, _) => Persistence::Close,
            (false, false, true) => Persistence::KeepAlive,
            (false, false, false) | (true, _, _) => Persistence::Silent,
        };
        encode::response(head, framing, persistence, self.write.head()?);
        self.write.start_body(writer);
        Ok(())
    }

    fn write_informational(&mut self, head: &ResponseHeader) -> Result<(), StreamError> {
        let is_continue = head.status == StatusCode::CONTINUE;
        // HTTP/1.0 has none (RFC 9110 section 15.2), and one 100 is all a client can use.
        if self.exchange.http10 || is_continue && !self.exchange.expects_continue {
            return Ok(());
        }
        if is_continue {
            self.exchange.expects_continue = false;
        }
        encode::response(head, Framing::Silent, Persistence::Silent, self.write.head()?);
        Ok(())
    }

    /// How the client will know where the response ends (RFC 9112 section 6.3).
    fn framing(&self, status: StatusCode, body: BodyLength) -> (BodyWriter, Framing) {
        if status == StatusCode::NO_CONTENT {
            return (BodyWriter::Dropped, Framing::Silent);
        }
        if self.exchange.is_head || status == StatusCode::NOT_MODIFIED {
            return match body {
                BodyLength::Exact(length) => (BodyWriter::Dropped, Framing::Length(length)),
                BodyLength::Empty | BodyLength::Unknown => (BodyWriter::Dropped, Framing::AsHead),
            };
        }
        match body {
            BodyLength::Empty => (BodyWriter::Exact(0), Framing::Length(0)),
            BodyLength::Exact(length) => (BodyWriter::Exact(length), Framing::Length(length)),
            BodyLength::Unknown if self.exchange.http10 => {
                (BodyWriter::UntilClose, Framing::Silent)
            }
            BodyLength::Unknown => (BodyWriter::Chunked, Framing::Chunked),
        }
    }

    fn must_close(&self, writer: &BodyWriter) -> bool {
        matches!(writer, BodyWriter::UntilClose)
            || self.exchange.expects_continue
            // What is sent behind a refused upgrade was not meant as HTTP (hardening H18).
            || self.exchange.upgrade.is_some()
            || self.drain.is_draining()
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        self.half_closed = None;
        self.write.write(frame)
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.write.finish()
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.write.poll_ready(&mut self.io, cx)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.write.poll_flush(&mut self.io, cx)
    }

    /// Ready when nobody is left to answer: the client reset the connection, or ended its side and
    /// nothing could be written to it for a while.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.read.at_eof() {
            if self.read.len() >= MAX_READ_AHEAD {
                return Poll::Pending;
            }
            if ready!(self.read.poll_fill(&mut self.io, cx)).is_err() {
                self.abort();
                return Poll::Ready(());
            }
        }
        // What waits to be written will fail if nobody takes it, and what was sent before the end are
        // requests still to be answered.
        if !self.read.is_empty() || !self.write.is_flushed() {
            self.half_closed = None;
            return Poll::Pending;
        }
        let limit = self.half_closed.get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED_LIMIT)));
        ready!(limit.as_mut().poll(cx));
        self.abort();
        Poll::Ready(())
    }

    pub fn abort(&mut self) {
        self.write.abort();
        self.close = true;
    }

    pub fn set_close(&mut self) {
        self.close = true;
    }

    pub fn start_tunnel(&mut self) {
        self.write.start_tunnel();
        self.exchange.body = BodyReader::UntilClose;
        self.close = true;
    }
}
