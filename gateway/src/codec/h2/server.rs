//! A client's stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use pingora_core::protocols::http::v2::server::default_h2_options;

use super::{
    super::{BodyLength, Frame, Options, Rejection, StreamError, Upgrade, get_cached_date},
    announced_length,
    body::{Incoming, Outgoing},
    request::{self, Checked},
    to_map,
};
use crate::{
    head::{RequestHeader, ResponseHeader},
    limits::Limits,
};

/// Settings of a downstream connection: Pingora's bounded defaults, then our limits.
#[must_use]
pub fn server_options(limits: &Limits) -> Builder {
    let mut options = default_h2_options();
    let header_bytes = u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX);
    options
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(header_bytes)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_send_buffer_size(limits.write_high_watermark)
        // WebSockets (RFC 8441).
        .enable_connect_protocol();
    options
}

#[derive(Debug)]
pub struct ServerSession {
    request: Option<RequestHeader>,
    body_length: BodyLength,
    incoming: Incoming,
    is_head: bool,
    expects_continue: bool,
    upgrade: Option<Upgrade>,
    write_high_watermark: usize,
    respond: SendResponse<Bytes>,
    response: Response,
    /// RST_STREAM came while we were working.
    reset_by_client: bool,
}

#[derive(Debug)]
enum Response {
    /// No final head yet.
    Head,
    /// Waits for the first flush, so that head and body leave together.
    Ready {
        head: http::Response<()>,
        out: Outgoing,
        drops_body: bool,
    },
    Body {
        stream: SendStream<Bytes>,
        out: Outgoing,
        drops_body: bool,
    },
    Aborted,
}

/// A request that must not be served; `reply` answers it.
#[derive(Debug)]
pub struct Malformed {
    pub rejection: Rejection,
    /// As far as it was understood, for the record.
    pub request: RequestHeader,
    pub session: ServerSession,
}

impl ServerSession {
    /// Checks a request h2 has accepted and brings it into the shape all later stages see.
    ///
    /// h2 itself has reset streams with upper-case names, misplaced or repeated pseudo-headers,
    /// connection-specific fields, `te` other than `trailers` and impossible content lengths.
    pub fn accept(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        options: &Options,
    ) -> Result<Self, Box<Malformed>> {
        let (mut parts, body) = request.into_parts();
        let incoming = Incoming::new(body);
        let protocol = parts.extensions.remove::<h2::ext::Protocol>();
        let mut request = RequestHeader::from(parts);
        let checked = request::check(&mut request, protocol, incoming.is_empty(), options);
        let (found, checked) = match checked {
            Ok(found) => (found, Ok(())),
            Err(rejection) => (Checked::default(), Err(rejection)),
        };
        // What follows an upgrade is no body.
        let body_length = match incoming.is_empty() || found.upgrade.is_some() {
            true => BodyLength::Empty,
            false => announced_length(&request.headers),
        };
        let mut session = Self {
            body_length,
            incoming,
            is_head: request.method == Method::HEAD,
            expects_continue: found.expects_continue,
            upgrade: found.upgrade,
            write_high_watermark: options.write_high_watermark,
            respond,
            response: Response::Head,
            reset_by_client: false,
            request: None,
        };
        match checked {
            Ok(()) => {
                session.request = Some(request);
                Ok(session)
            }
            Err(rejection) => Err(Box::new(Malformed { rejection, request, session })),
        }
    }

    #[must_use]
    pub fn request(&self) -> &RequestHeader {
        self.request.as_ref().expect("the head is taken once, when the exchange starts")
    }

    #[must_use]
    pub fn take_request(&mut self) -> RequestHeader {
        self.request.take().expect("the head is taken once, when the exchange starts")
    }

    #[must_use]
    pub fn request_body_length(&self) -> BodyLength {
        self.body_length
    }

    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    #[must_use]
    pub fn wants_upgrade(&self) -> Option<Upgrade> {
        self.upgrade
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        let frame = ready!(self.incoming.poll(cx))?;
        self.expects_continue = false;
        Poll::Ready(Ok(frame))
    }

    pub fn write_head(
        &mut self,
        head: &ResponseHeader,
        body: BodyLength,
    ) -> Result<(), StreamError> {
        if !matches!(self.response, Response::Head) {
            return Err(StreamError::Aborted);
        }
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = head.status;
        parts.headers = to_map(&head.headers);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS && self.upgrade.is_some() {
            return self.write_switch(parts);
        }
        if parts.status.is_informational() {
            return self.write_informational(parts);
        }
        if self.upgrade.is_some() {
            // Declined. What the client sends nevertheless is no part of any message.
            self.incoming.discard();
        }
        let bodyless = self.is_head
            || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        settle_length(&mut parts, body, self.is_head);
        if !parts.headers.contains_key(header::DATE) {
            parts.headers.insert(header::DATE, get_cached_date());
        }
        self.response = Response::Ready {
            head: http::Response::from_parts(parts, ()),
            out: Outgoing::new(if bodyless { BodyLength::Empty } else { body }),
            drops_body: bodyless,
        };
        Ok(())
    }

    /// HTTP/2's word for 101 is 200, and the stream stays open both ways.
    fn write_switch(&mut self, mut parts: http::response::Parts) -> Result<(), StreamError> {
        parts.status = StatusCode::OK;
        parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        parts.headers.remove(header::CONTENT_LENGTH);
        let head = http::Response::from_parts(parts, ());
        let out = Outgoing::new(BodyLength::Unknown);
        self.response = Response::Ready { head, out, drops_body: false };
        Ok(())
    }

    fn write_informational(&mut self, parts: http::response::Parts) -> Result<(), StreamError> {
        let wanted = match parts.status {
            // RFC 9113 section 8.6: HTTP/2 has no such thing.
            StatusCode::SWITCHING_PROTOCOLS => return Err(StreamError::Protocol("unasked_101")),
            StatusCode::CONTINUE => std::mem::take(&mut self.expects_continue),
            _ => true,
        };
        if wanted {
            self.respond.send_informational(http::Response::from_parts(parts, ()))?;
        }
        Ok(())
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        let written = match &mut self.response {
            Response::Ready { drops_body: true, out, .. }
            | Response::Body { drops_body: true, out, .. } => match frame {
                Frame::Data(_) => Ok(()),
                Frame::Trailers(_) => out.finish(),
            },
            Response::Ready { out, .. } | Response::Body { out, .. } => out.write(frame),
            Response::Head | Response::Aborted => Err(StreamError::Aborted),
        };
        self.abort_if_failed(written)
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        let ended = match &mut self.response {
            Response::Ready { out, .. } | Response::Body { out, .. } => out.finish(),
            Response::Head | Response::Aborted => Err(StreamError::Aborted),
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
        match &self.response {
            Response::Ready { out, .. } | Response::Body { out, .. } => out.len(),
            Response::Head | Response::Aborted => 0,
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.send_head()?;
        match &mut self.response {
            Response::Body { stream, out, .. } if !out.is_sent() => out.poll_flush(stream, cx),
            Response::Body { .. } | Response::Head => Poll::Ready(Ok(())),
            Response::Ready { .. } | Response::Aborted => Poll::Ready(Err(StreamError::Aborted)),
        }
    }

    fn send_head(&mut self) -> Result<(), StreamError> {
        if !matches!(self.response, Response::Ready { .. }) {
            return Ok(());
        }
        let ready = std::mem::replace(&mut self.response, Response::Aborted);
        if let Response::Ready { head, mut out, drops_body } = ready {
            let only_head = out.is_only_end();
            let stream = self.respond.send_response(head, only_head)?;
            if only_head {
                out.mark_sent();
            }
            self.response = Response::Body { stream, out, drops_body };
        }
        Ok(())
    }

    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.response {
            Response::Head | Response::Ready { .. } => ready!(self.respond.poll_reset(cx)),
            Response::Body { stream, .. } => ready!(stream.poll_reset(cx)),
            Response::Aborted => return Poll::Ready(()),
        };
        self.reset_by_client |= reset.is_ok();
        Poll::Ready(())
    }

    /// The client reset the stream before it had its answer.
    pub fn is_given_up(&mut self, cx: &mut Context<'_>) -> bool {
        match &self.response {
            Response::Body { out, .. } if out.is_sent() => {}
            Response::Head | Response::Ready { .. } | Response::Body { .. } => {
                // Sets the flag.
                let _ = self.poll_closed(cx);
            }
            Response::Aborted => {}
        }
        self.reset_by_client
    }

    pub fn abort(&mut self) {
        match std::mem::replace(&mut self.response, Response::Aborted) {
            Response::Body { out, stream, drops_body } if out.is_sent() => {
                self.response = Response::Body { stream, out, drops_body };
            }
            Response::Body { mut stream, .. } => stream.send_reset(Reason::INTERNAL_ERROR),
            Response::Head | Response::Ready { .. } => {
                self.respond.send_reset(Reason::INTERNAL_ERROR);
            }
            Response::Aborted => {}
        }
    }
}

/// `content-length` as the body has it. Without a body it may still say what a GET would have got.
fn settle_length(parts: &mut http::response::Parts, body: BodyLength, is_head: bool) {
    let describes_get = is_head || parts.status == StatusCode::NOT_MODIFIED;
    match body {
        _ if parts.status == StatusCode::NO_CONTENT => {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        BodyLength::Exact(length) => {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        BodyLength::Empty | BodyLength::Unknown if describes_get => {}
        BodyLength::Empty => {
            let zero = parts.headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0");
            if !zero {
                parts.headers.remove(header::CONTENT_LENGTH);
            }
        }
        BodyLength::Unknown => {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
    }
}
