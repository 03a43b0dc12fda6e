//! Requests refused before there is a request: what the parser answers.

use http::StatusCode;

use crate::{local_reply::LocalReply, telemetry::ResponseFlag};

/// A message the codec does not take. Never a panic, never a guess: a status and a word for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    pub status: StatusCode,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
}

impl Rejection {
    #[must_use]
    pub const fn new(status: StatusCode, details: &'static str) -> Self {
        Self { status, details }
    }

    #[must_use]
    pub const fn bad_request(details: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, details)
    }

    /// The answer. The connection always closes after it: what follows cannot be trusted to be the
    /// start of another request.
    #[must_use]
    pub fn reply(self) -> LocalReply {
        let body = self.status.canonical_reason().unwrap_or("");
        LocalReply::new(self.status, ResponseFlag::DownstreamProtocolError, self.details, body)
            .closing()
    }
}
