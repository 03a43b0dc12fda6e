//! An answer the proxy gives itself: the only way a stage ends an exchange early.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use smallvec::SmallVec;

use crate::{
    head::{Headers, ResponseHeader},
    telemetry::ResponseFlag,
};

/// What the client gets and what is recorded. Not an error: an outcome.
#[derive(Debug, Clone)]
pub struct LocalReply {
    pub status: StatusCode,
    pub headers: SmallVec<[(HeaderName, HeaderValue); 2]>,
    /// Chosen from a closed set or from configuration; never the text of an internal error.
    pub body: Bytes,
    /// `None` for outcomes the configuration asked for (redirect, direct response).
    pub flag: Option<ResponseFlag>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// The connection is in no state to carry another request.
    pub close: bool,
}

impl LocalReply {
    /// A reply with a plain text body.
    #[must_use]
    pub fn new(
        status: StatusCode,
        flag: ResponseFlag,
        details: &'static str,
        body: &'static str,
    ) -> Self {
        Self {
            status,
            headers: SmallVec::new(),
            body: Bytes::from_static(body.as_bytes()),
            flag: Some(flag),
            details: Cow::Borrowed(details),
            close: false,
        }
    }

    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The head and the body of the answer. A gRPC client gets 200 and a status it understands, as a
    /// trailers-only response.
    #[must_use]
    pub fn encode(&self, grpc: bool) -> (ResponseHeader, Bytes) {
        let mut headers: Headers = self.headers.iter().cloned().collect();
        let (status, body) = if grpc {
            self.encode_grpc(&mut headers);
            (StatusCode::OK, Bytes::new())
        } else {
            if !self.body.is_empty() {
                let text = || HeaderValue::from_static("text/plain");
                headers.insert_if_absent(header::CONTENT_TYPE, text);
            }
            (self.status, self.body.clone())
        };
        (ResponseHeader { headers, ..ResponseHeader::new(status) }, body)
    }

    fn encode_grpc(&self, headers: &mut Headers) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // An injected fault names its own.
        let status = || HeaderValue::from(u16::from(grpc_status(self.status)));
        headers.insert_if_absent(HeaderName::from_static("grpc-status"), status);
        let text = String::from_utf8_lossy(&self.body);
        let message = utf8_percent_encode(&text, NOT_IN_GRPC_MESSAGE).to_string();
        if let Ok(message) = HeaderValue::from_maybe_shared(Bytes::from(message))
            && !message.is_empty()
        {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
    }
}

/// gRPC over HTTP/2, `Status-Message`: visible ASCII but for the percent sign; everything else is
/// percent-encoded.
const NOT_IN_GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Envoy's `Utility::httpToGrpcStatus`: what a gRPC client is told for an HTTP status.
#[must_use]
pub fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        // INTERNAL
        400 => 13,
        // UNAUTHENTICATED
        401 => 16,
        // PERMISSION_DENIED
        403 => 7,
        // UNIMPLEMENTED
        404 => 12,
        // UNAVAILABLE
        429 | 502..=504 => 14,
        // UNKNOWN
        _ => 2,
    }
}
