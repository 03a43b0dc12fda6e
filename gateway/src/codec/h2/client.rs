//! An exchange on an upstream's HTTP/2 connection. The connection itself is driven by its pool.

use std::task::{Context, Poll, ready};

use http::{HeaderValue, Method, StatusCode, Version, header, uri::PathAndQuery};

use crate::{
    head::{RequestHeader, ResponseHeader},
    http2::{HeadBlock, Opener, Reason, Request, Stream},
};

use super::{
    super::{BodyLength, Frame, Options, StreamError, target, websocket},
    announced_length,
    body::{Incoming, Outgoing},
    encode_fields,
};

/// 1xx heads of one response: more than any server has reason for (hardening H19).
const MAX_INFORMATIONAL: u8 = 16;

/// A WebSocket on a stream (RFC 8441).
#[derive(Debug)]
struct WebSocket {
    /// Of the client's handshake, if it speaks HTTP/1: what its answer is made of.
    key: Option<HeaderValue>,
}

#[derive(Debug)]
pub struct ClientSession {
    opener: Opener,
    websocket: Option<WebSocket>,
    is_https: bool,
    write_high_watermark: usize,
    is_head: bool,
    sent: Sent,
    /// Since the head was sent.
    stream: Option<Stream>,
    has_final_head: bool,
    informational: u8,
    incoming: Incoming,
    body_length: BodyLength,
}

#[derive(Debug)]
enum Sent {
    Nothing,
    /// Waits for the first flush, so that head and body leave together.
    Ready {
        block: HeadBlock,
        out: Outgoing,
    },
    Body(Outgoing),
    /// The upstream wants no more of the body and will answer without it.
    Refused,
    Aborted,
}

impl ClientSession {
    /// An exchange on the connection of `opener`. `options.scheme` is what `:scheme` says: whether the
    /// connection is TLS.
    #[must_use]
    pub fn new(opener: Opener, options: Options) -> Self {
        Self {
            opener,
            websocket: None,
            is_https: options.scheme == "https",
            write_high_watermark: options.write_high_watermark,
            is_head: false,
            sent: Sent::Nothing,
            stream: None,
            has_final_head: false,
            informational: 0,
            incoming: Incoming::default(),
            body_length: BodyLength::Empty,
        }
    }

    pub fn write_head(
        &mut self,
        head: &RequestHeader,
        body: BodyLength,
    ) -> Result<(), StreamError> {
        if !matches!(self.sent, Sent::Nothing) {
            return Err(StreamError::Aborted);
        }
        if head.headers.contains_key(header::UPGRADE) {
            return self.write_extended_connect(head);
        }
        let mut block = HeadBlock::request(&head.method);
        if head.method == Method::CONNECT {
            block.authority(authority(head)?);
        } else {
            self.write_target(&mut block, head)?;
        }
        // `host` is `:authority` here, and a client's explicit zero stays: END_STREAM says it as well.
        encode_fields(&mut block, &head.headers, &[header::HOST, header::CONTENT_LENGTH]);
        match body {
            BodyLength::Exact(length) => block.content_length(length),
            BodyLength::Empty if head.headers.contains_key(header::CONTENT_LENGTH) => {
                block.content_length(0);
            }
            BodyLength::Empty | BodyLength::Unknown => {}
        }
        self.is_head = head.method == Method::HEAD;
        self.sent = Sent::Ready { block, out: Outgoing::new(body) };
        Ok(())
    }

    fn write_extended_connect(&mut self, head: &RequestHeader) -> Result<(), StreamError> {
        let mut block = HeadBlock::request(&Method::CONNECT);
        block.protocol("websocket");
        self.write_target(&mut block, head)?;
        let elsewhere = [header::HOST, header::CONTENT_LENGTH, header::SEC_WEBSOCKET_KEY];
        encode_fields(&mut block, &head.headers, &elsewhere);
        let key = head.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        self.websocket = Some(WebSocket { key });
        self.sent = Sent::Ready { block, out: Outgoing::new(BodyLength::Unknown) };
        Ok(())
    }

    fn write_target(&self, block: &mut HeadBlock, head: &RequestHeader) -> Result<(), StreamError> {
        block.scheme(self.is_https);
        block.authority(authority(head)?);
        block.path(head.uri.path_and_query().map_or("/", PathAndQuery::as_str));
        Ok(())
    }

    /// RFC 8441 section 3: not before the peer has said that it can.
    fn poll_extended_connect(&self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.websocket.is_none() || ready!(self.opener.poll_connect_protocol(cx))? {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(StreamError::Protocol("extended_connect_not_enabled")))
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        let written = match &mut self.sent {
            Sent::Ready { out, .. } | Sent::Body(out) => out.write(frame),
            Sent::Refused => Ok(()),
            Sent::Nothing | Sent::Aborted => Err(StreamError::Aborted),
        };
        self.abort_if_failed(written)
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        let ended = match &mut self.sent {
            Sent::Ready { out, .. } | Sent::Body(out) => out.finish(),
            Sent::Refused => Ok(()),
            Sent::Nothing | Sent::Aborted => Err(StreamError::Aborted),
        };
        self.abort_if_failed(ended)
    }

    fn abort_if_failed(&mut self, result: Result<(), StreamError>) -> Result<(), StreamError> {
        if result.is_err() {
            self.abort();
        }
        result
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.queued() < self.write_high_watermark {
            return Poll::Ready(Ok(()));
        }
        match self.poll_flush(cx) {
            Poll::Pending if self.queued() < self.write_high_watermark => Poll::Ready(Ok(())),
            flushed => flushed,
        }
    }

    fn queued(&self) -> usize {
        match &self.sent {
            Sent::Ready { out, .. } | Sent::Body(out) => out.len(),
            Sent::Nothing | Sent::Refused | Sent::Aborted => 0,
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        ready!(self.poll_send_head(cx))?;
        let (Sent::Body(out), Some(stream)) = (&mut self.sent, &mut self.stream) else {
            return Poll::Ready(Ok(()));
        };
        if out.is_sent() {
            return Poll::Ready(Ok(()));
        }
        match ready!(out.poll_flush(stream, cx)) {
            // RFC 9113 section 8.1: the response is complete without the rest of the request.
            Err(StreamError::Reset(Reason::NO_ERROR)) => {
                self.sent = Sent::Refused;
                Poll::Ready(Ok(()))
            }
            flushed => Poll::Ready(flushed),
        }
    }

    /// Opens the stream once the connection has one to give.
    fn poll_send_head(&mut self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        let Sent::Ready { block, out } = &self.sent else { return Poll::Ready(Ok(())) };
        ready!(self.poll_extended_connect(cx))?;
        let end = out.is_only_end();
        let request = Request { block, end, is_head: self.is_head };
        self.stream = Some(ready!(self.opener.poll_send(&request, cx))?);
        if let Sent::Ready { mut out, .. } = std::mem::replace(&mut self.sent, Sent::Aborted) {
            if end {
                out.mark_sent();
            }
            self.sent = Sent::Body(out);
        }
        Poll::Ready(Ok(()))
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHeader, StreamError>> {
        // Writing goes on whatever reading finds; why the stream failed is reading's to tell, unless
        // there is no stream.
        let flushed = self.poll_flush(cx);
        let Some(stream) = self.stream.as_mut().filter(|_| !self.has_final_head) else {
            return match flushed {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => Poll::Ready(Err(StreamError::Aborted)),
                Poll::Pending => Poll::Pending,
            };
        };
        let received = ready!(stream.poll_head(cx))?;
        let mut head = ResponseHeader {
            status: received.status,
            version: Version::HTTP_2,
            headers: received.headers,
        };
        if head.status.is_informational() {
            self.informational += 1;
            if self.informational > MAX_INFORMATIONAL {
                return Poll::Ready(Err(StreamError::Protocol("too_many_informational_responses")));
            }
            return Poll::Ready(Ok(head));
        }
        self.has_final_head = true;
        if let Some(websocket) = self.websocket.as_ref().filter(|_| head.status.is_success()) {
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if let Some(key) = &websocket.key {
                head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, websocket::accept(key));
            }
        }
        self.body_length = match self.is_head || stream.is_end_stream() {
            true => BodyLength::Empty,
            false => announced_length(&head.headers),
        };
        Poll::Ready(Ok(head))
    }

    #[must_use]
    pub fn response_body_length(&self) -> BodyLength {
        self.body_length
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        match &mut self.stream {
            Some(stream) if self.has_final_head => self.incoming.poll(stream, cx),
            Some(_) | None => Poll::Ready(Err(StreamError::Aborted)),
        }
    }

    pub fn abort(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(Reason::CANCEL);
        }
        self.sent = Sent::Aborted;
    }

    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        self.stream.is_none()
    }

    #[must_use]
    pub fn response_started(&self) -> bool {
        self.informational > 0 || self.has_final_head
    }
}

/// What `:authority` says.
fn authority(head: &RequestHeader) -> Result<&[u8], StreamError> {
    let host = head.headers.get(header::HOST).map(HeaderValue::as_bytes);
    host.filter(|host| target::is_authority(host)).ok_or(StreamError::Protocol("target_to_write"))
}
