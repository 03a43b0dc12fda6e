//! A client's stream.

use std::task::{Context, Poll, ready};

use http::{HeaderName, Method, StatusCode, header};

use super::{
    super::{BodyLength, Frame, Options, Rejection, StreamError, Upgrade, get_cached_date},
    announced_length,
    body::{Incoming, Outgoing},
    encode_fields,
    request::{self, Checked},
};
use crate::{
    head::{RequestHeader, ResponseHeader},
    http2::{Accepted, Error, HeadBlock, Reason, Stream},
};

#[derive(Debug)]
pub struct ServerSession {
    request: Option<RequestHeader>,
    body_length: BodyLength,
    incoming: Incoming,
    is_head: bool,
    expects_continue: bool,
    upgrade: Option<Upgrade>,
    write_high_watermark: usize,
    stream: Stream,
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
        block: HeadBlock,
        out: Outgoing,
        drops_body: bool,
    },
    Body {
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
    /// Checks a request and brings it into the shape all later stages see.
    ///
    /// What RFC 9113 calls malformed, `http2` has reset: upper-case names, misplaced or repeated
    /// pseudo-headers, connection-specific fields, `te` other than `trailers`, impossible content
    /// lengths.
    pub fn accept(accepted: Accepted, options: &Options) -> Result<Self, Box<Malformed>> {
        let Accepted { head, stream } = accepted;
        let is_empty = stream.is_end_stream();
        let (request, checked) = request::check(head, is_empty, options);
        let (found, checked) = match checked {
            Ok(found) => (found, Ok(())),
            Err(rejection) => (Checked::default(), Err(rejection)),
        };
        // What follows an upgrade is no body.
        let body_length = match is_empty || found.upgrade.is_some() {
            true => BodyLength::Empty,
            false => announced_length(&request.headers),
        };
        let mut session = Self {
            body_length,
            incoming: Incoming::default(),
            is_head: request.method == Method::HEAD,
            expects_continue: found.expects_continue,
            upgrade: found.upgrade,
            write_high_watermark: options.write_high_watermark,
            stream,
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
        let frame = ready!(self.incoming.poll(&mut self.stream, cx))?;
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
        let status = head.status;
        if status == StatusCode::SWITCHING_PROTOCOLS && self.upgrade.is_some() {
            self.write_switch(head);
            return Ok(());
        }
        if status.is_informational() {
            return self.write_informational(head);
        }
        if self.upgrade.is_some() {
            // Declined. What the client sends nevertheless is no part of any message.
            self.incoming.discard();
        }
        let bodyless =
            self.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.response = Response::Ready {
            block: encode(head, body, self.is_head),
            out: Outgoing::new(if bodyless { BodyLength::Empty } else { body }),
            drops_body: bodyless,
        };
        Ok(())
    }

    /// HTTP/2's word for 101 is 200, and the stream stays open both ways.
    fn write_switch(&mut self, head: &ResponseHeader) {
        let mut block = HeadBlock::response(StatusCode::OK);
        let not_here = [header::SEC_WEBSOCKET_ACCEPT, header::CONTENT_LENGTH];
        encode_fields(&mut block, &head.headers, &not_here);
        let out = Outgoing::new(BodyLength::Unknown);
        self.response = Response::Ready { block, out, drops_body: false };
    }

    fn write_informational(&mut self, head: &ResponseHeader) -> Result<(), StreamError> {
        let wanted = match head.status {
            // RFC 9113 section 8.6: HTTP/2 has no such thing.
            StatusCode::SWITCHING_PROTOCOLS => return Err(StreamError::Protocol("unasked_101")),
            StatusCode::CONTINUE => std::mem::take(&mut self.expects_continue),
            _ => true,
        };
        if wanted {
            let mut block = HeadBlock::response(head.status);
            encode_fields(&mut block, &head.headers, &[]);
            self.stream.send_informational(&block)?;
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
            Response::Body { out, .. } if !out.is_sent() => out.poll_flush(&mut self.stream, cx),
            Response::Body { .. } | Response::Head => Poll::Ready(Ok(())),
            Response::Ready { .. } | Response::Aborted => Poll::Ready(Err(StreamError::Aborted)),
        }
    }

    fn send_head(&mut self) -> Result<(), StreamError> {
        if !matches!(self.response, Response::Ready { .. }) {
            return Ok(());
        }
        let ready = std::mem::replace(&mut self.response, Response::Aborted);
        if let Response::Ready { block, mut out, drops_body } = ready {
            let only_head = out.is_only_end();
            self.stream.send_head(&block, only_head)?;
            if only_head {
                out.mark_sent();
            }
            self.response = Response::Body { out, drops_body };
        }
        Ok(())
    }

    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.response, Response::Aborted) {
            let error = ready!(self.stream.poll_error(cx));
            self.reset_by_client |= matches!(error, Error::Reset(_));
        }
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
        if let Response::Body { out, .. } = &self.response
            && out.is_sent()
        {
            return;
        }
        self.response = Response::Aborted;
        self.stream.send_reset(Reason::INTERNAL_ERROR);
    }
}

/// A final head as it is sent.
fn encode(head: &ResponseHeader, body: BodyLength, is_head: bool) -> HeadBlock {
    let mut block = HeadBlock::response(head.status);
    let elsewhere: &[HeaderName] =
        if keeps_length(head, body, is_head) { &[] } else { &[header::CONTENT_LENGTH] };
    encode_fields(&mut block, &head.headers, elsewhere);
    if let BodyLength::Exact(length) = body
        && head.status != StatusCode::NO_CONTENT
    {
        block.content_length(length);
    }
    if !head.headers.contains_key(header::DATE) {
        block.field(&header::DATE, &get_cached_date());
    }
    block
}

/// Whether `content-length` stays as it is, whatever the body: without one it may still say what a GET
/// would have got.
fn keeps_length(head: &ResponseHeader, body: BodyLength, is_head: bool) -> bool {
    let describes_get = is_head || head.status == StatusCode::NOT_MODIFIED;
    match body {
        _ if head.status == StatusCode::NO_CONTENT => false,
        BodyLength::Exact(_) => false,
        BodyLength::Empty | BodyLength::Unknown if describes_get => true,
        BodyLength::Empty => {
            head.headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0")
        }
        BodyLength::Unknown => false,
    }
}
