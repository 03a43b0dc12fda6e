//! An exchange on an upstream's HTTP/2 connection. The connection itself is driven by its pool.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{
    HeaderValue, Method, Request, StatusCode, Uri, header,
    uri::{Authority, Scheme},
};
use tokio::sync::SetOnce;

use crate::head::{RequestHeader, ResponseHeader};

use super::{
    super::{BodyLength, Frame, Options, StreamError, websocket},
    announced_length,
    body::{Incoming, Outgoing},
    has_place, to_map,
};

/// 1xx heads of one response: more than any server has reason for (hardening H19).
const MAX_INFORMATIONAL: u8 = 16;

/// Whether the SETTINGS of a connection's peer have come. They are the first it says, but a request may
/// be there before; most do not care.
#[derive(Debug, Clone, Default)]
pub struct PeerSettings(Arc<SetOnce<()>>);

impl PeerSettings {
    /// To be called when the peer has answered anything.
    pub fn have_come(&self) {
        // The second time says nothing new.
        let _ = self.0.set(());
    }
}

/// A WebSocket on a stream (RFC 8441).
struct WebSocket {
    /// Of the client's handshake, if it speaks HTTP/1: what its answer is made of.
    key: Option<HeaderValue>,
    /// Until it is known whether the peer can do this. Boxed, because it is rarely there.
    settings: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    settings_known: bool,
}

pub struct ClientSession {
    sender: SendRequest<Bytes>,
    peer: PeerSettings,
    websocket: Option<WebSocket>,
    scheme: Scheme,
    write_high_watermark: usize,
    is_head: bool,
    sent: Sent,
    response: Response,
    informational: u8,
    body_length: BodyLength,
}

#[derive(Debug)]
enum Sent {
    Nothing,
    /// Waits for the first flush, so that head and body leave together.
    Ready {
        head: Request<()>,
        out: Outgoing,
    },
    Body {
        stream: SendStream<Bytes>,
        out: Outgoing,
    },
    /// The upstream wants no more of the body and will answer without it.
    Refused,
    Aborted,
}

#[derive(Debug)]
enum Response {
    None,
    Head(ResponseFuture),
    Body(Incoming),
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession")
            .field("sent", &self.sent)
            .field("response", &self.response)
            .finish_non_exhaustive()
    }
}

impl ClientSession {
    /// An exchange on the connection `sender` and `peer` belong to. `options.scheme` is what `:scheme`
    /// says: whether the connection is TLS.
    #[must_use]
    pub fn new(sender: SendRequest<Bytes>, peer: PeerSettings, options: Options) -> Self {
        Self {
            sender,
            peer,
            websocket: None,
            scheme: if options.scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP },
            write_high_watermark: options.write_high_watermark,
            is_head: false,
            sent: Sent::Nothing,
            response: Response::None,
            informational: 0,
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
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = head.method.clone();
        parts.version = http::Version::HTTP_2;
        parts.uri = self.uri(head)?;
        parts.headers = to_map(&head.headers);
        // It is `:authority` here.
        parts.headers.remove(header::HOST);
        if head.headers.contains_key(header::UPGRADE) {
            self.write_extended_connect(parts);
            return Ok(());
        }
        match body {
            BodyLength::Exact(length) => {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            // END_STREAM says it; a client's explicit zero stays.
            BodyLength::Empty if parts.headers.contains_key(header::CONTENT_LENGTH) => {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            BodyLength::Empty => {}
            BodyLength::Unknown => {
                parts.headers.remove(header::CONTENT_LENGTH);
            }
        }
        self.is_head = parts.method == Method::HEAD;
        self.sent = Sent::Ready { head: Request::from_parts(parts, ()), out: Outgoing::new(body) };
        Ok(())
    }

    fn write_extended_connect(&mut self, mut parts: http::request::Parts) {
        parts.method = Method::CONNECT;
        parts.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        parts.headers.remove(header::CONTENT_LENGTH);
        let settings = Arc::clone(&self.peer.0);
        self.websocket = Some(WebSocket {
            key: parts.headers.remove(header::SEC_WEBSOCKET_KEY),
            settings: Box::pin(async move {
                settings.wait().await;
            }),
            settings_known: false,
        });
        let out = Outgoing::new(BodyLength::Unknown);
        self.sent = Sent::Ready { head: Request::from_parts(parts, ()), out };
    }

    /// RFC 8441 section 3: not before the peer has said that it can.
    fn poll_extended_connect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some(websocket) = &mut self.websocket else { return Poll::Ready(Ok(())) };
        if !websocket.settings_known {
            ready!(websocket.settings.as_mut().poll(cx));
            websocket.settings_known = true;
        }
        Poll::Ready(match self.sender.is_extended_connect_protocol_enabled() {
            true => Ok(()),
            false => Err(StreamError::Protocol("extended_connect_not_enabled")),
        })
    }

    /// `:scheme`, `:authority` and `:path` as one value, which is how h2 takes them.
    fn uri(&self, head: &RequestHeader) -> Result<Uri, StreamError> {
        let invalid = || StreamError::Protocol("target_to_write");
        let host = head.headers.get(header::HOST).ok_or_else(invalid)?;
        let authority = Authority::try_from(host.as_bytes()).map_err(|_invalid| invalid())?;
        if head.method == Method::CONNECT {
            return Ok(Uri::from(authority));
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(authority);
        uri.path_and_query = head.uri.path_and_query().cloned();
        Uri::from_parts(uri).map_err(|_invalid| invalid())
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        let written = match &mut self.sent {
            Sent::Ready { out, .. } | Sent::Body { out, .. } => out.write(frame),
            Sent::Refused => Ok(()),
            Sent::Nothing | Sent::Aborted => Err(StreamError::Aborted),
        };
        self.abort_if_failed(written)
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        let ended = match &mut self.sent {
            Sent::Ready { out, .. } | Sent::Body { out, .. } => out.finish(),
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
            Sent::Ready { out, .. } | Sent::Body { out, .. } => out.len(),
            Sent::Nothing | Sent::Refused | Sent::Aborted => 0,
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        ready!(self.poll_send_head(cx))?;
        let Sent::Body { stream, out } = &mut self.sent else {
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
    fn poll_send_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if !matches!(self.sent, Sent::Ready { .. }) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_extended_connect(cx))?;
        ready!(self.sender.poll_ready(cx))?;
        if let Sent::Ready { head, mut out } = std::mem::replace(&mut self.sent, Sent::Aborted) {
            let only_head = out.is_only_end();
            let (response, mut stream) = self.sender.send_request(head, only_head)?;
            self.response = Response::Head(response);
            if only_head {
                out.mark_sent();
            } else {
                out.send_with_head(&mut stream, cx)?;
            }
            self.sent = Sent::Body { stream, out };
        }
        Poll::Ready(Ok(()))
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHeader, StreamError>> {
        // Writing goes on whatever reading finds; why the stream failed is reading's to tell, unless
        // there is no stream.
        let flushed = self.poll_flush(cx);
        let Response::Head(response) = &mut self.response else {
            return match flushed {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => Poll::Ready(Err(StreamError::Aborted)),
                Poll::Pending => Poll::Pending,
            };
        };
        if let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
            let (parts, ()) = informational?.into_parts();
            self.informational += 1;
            if self.informational > MAX_INFORMATIONAL {
                return Poll::Ready(Err(StreamError::Protocol("too_many_informational_responses")));
            }
            return Poll::Ready(Ok(ResponseHeader::from(parts)));
        }
        let (parts, body) = ready!(Pin::new(response).poll(cx))?.into_parts();
        let mut head = ResponseHeader::from(parts);
        head.headers.retain(has_place);
        if let Some(websocket) = self.websocket.as_ref().filter(|_| head.status.is_success()) {
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if let Some(key) = &websocket.key {
                head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, websocket::accept(key));
            }
        }
        let body = Incoming::new(body);
        self.body_length = match self.is_head || body.is_empty() {
            true => BodyLength::Empty,
            false => announced_length(&head.headers),
        };
        self.response = Response::Body(body);
        Poll::Ready(Ok(head))
    }

    #[must_use]
    pub fn response_body_length(&self) -> BodyLength {
        self.body_length
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        match &mut self.response {
            Response::Body(body) => body.poll(cx),
            Response::None | Response::Head(_) => Poll::Ready(Err(StreamError::Aborted)),
        }
    }

    pub fn abort(&mut self) {
        if let Sent::Body { stream, .. } = &mut self.sent {
            stream.send_reset(Reason::CANCEL);
        }
        self.sent = Sent::Aborted;
    }

    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        matches!(self.response, Response::None)
    }

    #[must_use]
    pub fn response_started(&self) -> bool {
        self.informational > 0 || matches!(self.response, Response::Body(_))
    }
}
