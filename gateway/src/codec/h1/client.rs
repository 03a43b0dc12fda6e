//! The upstream's end of an HTTP/1 connection: one request, its response, and then perhaps the next.

use std::task::{Context, Poll, ready};

use http::{HeaderValue, Method, StatusCode, header};

use super::{
    super::{BodyLength, Frame, Options, StreamError, Upgrade, websocket},
    body::{self, BodyReader, BodyWriter},
    buffer::ReadBuffer,
    encode,
    head::HeadScan,
    message::MessageWriter,
    response::{self, Asked, ResponseHead},
};
use crate::{
    head::{RequestHeader, ResponseHeader},
    io::Io,
};

/// 1xx heads of one response: more than any server has reason for (hardening H19).
const MAX_INFORMATIONAL: u8 = 16;

#[derive(Debug)]
pub struct ClientSession {
    io: Io,
    read: ReadBuffer,
    write: MessageWriter,
    options: Options,
    scan: HeadScan,
    exchange: Exchange,
}

#[derive(Debug)]
struct Exchange {
    asked: Asked,
    response: Response,
    response_started: bool,
    informational: u8,
    body_length: BodyLength,
    keep_alive: bool,
    /// Of a WebSocket handshake the client did not make itself: the stream it has was HTTP/2.
    own_key: Option<HeaderValue>,
}

#[derive(Debug)]
enum Response {
    Head,
    Body(BodyReader),
}

impl Exchange {
    fn new() -> Self {
        Self {
            asked: Asked { head: false, upgrade: None },
            response: Response::Head,
            response_started: false,
            informational: 0,
            body_length: BodyLength::Empty,
            keep_alive: false,
            own_key: None,
        }
    }
}

impl ClientSession {
    /// A session on a fresh connection.
    #[must_use]
    pub fn new(io: Io, options: Options) -> Self {
        Self {
            io,
            read: ReadBuffer::default(),
            write: MessageWriter::new(options.write_high_watermark),
            options,
            scan: HeadScan::default(),
            exchange: Exchange::new(),
        }
    }

    /// Makes a reusable session ready for the next exchange and gives its memory back. Call it when
    /// the connection goes to the pool.
    pub fn recycle(&mut self) {
        debug_assert!(self.is_reusable(), "only a finished exchange can be followed by another");
        self.exchange = Exchange::new();
        self.scan = HeadScan::default();
        self.read.release();
        self.write.restart();
    }

    /// While the connection waits in a pool: ready when it can no longer be used, because the
    /// upstream closed it or said something nobody asked. Costs no system call while nothing happened.
    pub fn poll_unusable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.read.is_empty() {
            return Poll::Ready(());
        }
        // Data, the end of the stream, an error: no difference.
        self.read.poll_fill(&mut self.io, cx).map(|_| ())
    }

    pub fn io(&self) -> &Io {
        &self.io
    }

    #[cfg(test)]
    pub fn buffer_capacity(&self) -> usize {
        self.read.capacity() + self.write.capacity()
    }

    pub fn write_head(
        &mut self,
        head: &RequestHeader,
        body: BodyLength,
    ) -> Result<(), StreamError> {
        let upgrade = match head.method {
            Method::CONNECT => Some(Upgrade::Connect),
            _ if head.headers.contains_key(header::UPGRADE) => Some(Upgrade::WebSocket),
            _ => None,
        };
        let own_key = (upgrade == Some(Upgrade::WebSocket)
            && !head.headers.contains_key(header::SEC_WEBSOCKET_KEY))
        .then(websocket::new_key);
        encode::request(head, body, (upgrade, own_key.as_ref()), self.write.head()?)?;
        self.exchange.own_key = own_key;
        self.exchange.asked = Asked { head: head.method == Method::HEAD, upgrade };
        self.write.start_body(match body {
            BodyLength::Empty => BodyWriter::Exact(0),
            BodyLength::Exact(length) => BodyWriter::Exact(length),
            BodyLength::Unknown => BodyWriter::Chunked,
        });
        Ok(())
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        self.write.write(frame)
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.write.finish()
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let ready = ready!(self.write.poll_ready(&mut self.io, cx));
        Poll::Ready(self.unless_answerable(ready))
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let flushed = ready!(self.write.poll_flush(&mut self.io, cx));
        Poll::Ready(self.unless_answerable(flushed))
    }

    /// A server that has closed may have answered before; if it has not, reading will say so.
    fn unless_answerable(&mut self, result: Result<(), StreamError>) -> Result<(), StreamError> {
        match result {
            Err(_) if self.write.discard() => Ok(()),
            result => result,
        }
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHeader, StreamError>> {
        // Writing goes on whatever reading finds; its errors show when there is no response.
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if let Some(head) = self.parse_head()? {
                return Poll::Ready(self.accept_head(head));
            }
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) => {
                    let started = self.exchange.response_started;
                    return Poll::Ready(Err(StreamError::Closed { started }));
                }
                Ok(_) => self.exchange.response_started = true,
                Err(error) => return Poll::Ready(Err(StreamError::Io(error))),
            }
        }
    }

    fn parse_head(&mut self) -> Result<Option<ResponseHead>, StreamError> {
        if self.read.is_empty() || !self.scan.is_due(self.read.bytes()) {
            return Ok(None);
        }
        let head = response::parse(self.read.bytes(), self.exchange.asked, &self.options)?;
        if head.is_some() {
            self.scan = HeadScan::default();
        }
        Ok(head)
    }

    fn accept_head(&mut self, head: ResponseHead) -> Result<ResponseHeader, StreamError> {
        let status = head.header.status;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            self.exchange.informational += 1;
            if self.exchange.informational > MAX_INFORMATIONAL {
                return Err(StreamError::Protocol("too_many_informational_responses"));
            }
            return Ok(head.header);
        }
        if head.tunnel
            && let Some(key) = &self.exchange.own_key
            && head.header.headers.get(header::SEC_WEBSOCKET_ACCEPT)
                != Some(&websocket::accept(key))
        {
            // RFC 6455 section 4.1: whoever asked has to check, and that was us.
            return Err(StreamError::Protocol("websocket_accept"));
        }
        self.exchange.keep_alive = head.keep_alive && !head.tunnel;
        self.exchange.body_length = body::length_of(&head.body);
        self.exchange.response = Response::Body(head.body);
        Ok(head.header)
    }

    #[must_use]
    pub fn response_body_length(&self) -> BodyLength {
        self.exchange.body_length
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        match &mut self.exchange.response {
            Response::Head => Poll::Ready(Err(StreamError::Aborted)),
            Response::Body(body) => body.poll(&mut self.read, &mut self.io, cx),
        }
    }

    pub fn abort(&mut self) {
        self.exchange.keep_alive = false;
        self.write.abort();
    }

    pub fn start_tunnel(&mut self) {
        self.write.start_tunnel();
        self.exchange.response = Response::Body(BodyReader::UntilClose);
        self.exchange.keep_alive = false;
    }

    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        !self.write.sent_any()
    }

    #[must_use]
    pub fn response_started(&self) -> bool {
        self.exchange.response_started
    }

    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.exchange.keep_alive
            && matches!(&self.exchange.response, Response::Body(body) if body.is_done())
            && self.write.is_sent()
            && self.read.is_empty()
            && !self.read.at_eof()
    }
}
