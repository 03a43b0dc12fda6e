//! How failures below the exchange become outcomes: every one of them, in one place.

use std::borrow::Cow;

use crate::{local_reply::LocalReply, telemetry::ResponseFlag};

/// Why an exchange ends before its regular end.
#[derive(Debug)]
pub enum Stop {
    /// The client gets this answer.
    Reply(LocalReply),
    /// The response has begun, or nobody is left to read one: the stream is cut, which the client can
    /// tell from a clean end.
    Abort { flag: ResponseFlag, details: Cow<'static, str> },
}

impl From<LocalReply> for Stop {
    fn from(reply: LocalReply) -> Self {
        Self::Reply(reply)
    }
}

/// One exhaustive mapping per source of failures (hardening C14).
pub mod classify {
    use http::StatusCode;

    use super::{Cow, LocalReply, ResponseFlag, Stop};
    use crate::{
        cluster,
        codec::StreamError,
        http::{deadline::Expired, stream::Failure},
        upstream::ConnectError,
    };

    const DRAIN_TIMEOUT: &str = "drain_timeout";

    /// No connection could be had.
    #[must_use]
    pub fn connect(error: ConnectError) -> LocalReply {
        if error.is_overflow() {
            return cluster::overflow();
        }
        LocalReply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.flag(),
            "upstream_reset_before_response_started{connection_failure}",
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        )
    }

    /// The upstream's stream broke before its response began.
    #[must_use]
    pub fn upstream(error: &StreamError) -> LocalReply {
        match Break::of(error) {
            Break::Protocol => LocalReply::new(
                StatusCode::BAD_GATEWAY,
                ResponseFlag::UpstreamProtocolError,
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            ),
            Break::Reset => LocalReply::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamReset,
                "upstream_reset_before_response_started{remote_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
            ),
            Break::Termination => LocalReply::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamConnectionTermination,
                "upstream_reset_before_response_started{connection_termination}",
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
            ),
        }
    }

    /// The client's side broke while its request was read.
    #[must_use]
    pub fn downstream(error: &StreamError) -> Stop {
        match Break::of(error) {
            Break::Protocol => Stop::Reply(
                LocalReply::new(
                    StatusCode::BAD_REQUEST,
                    ResponseFlag::DownstreamProtocolError,
                    "http1.codec_error",
                    "Bad Request",
                )
                .closing(),
            ),
            Break::Reset | Break::Termination => Stop::Abort {
                flag: ResponseFlag::DownstreamTermination,
                details: Cow::Borrowed("downstream_remote_disconnect"),
            },
        }
    }

    /// How a stream can break.
    enum Break {
        /// What was sent cannot be.
        Protocol,
        /// The peer gave the stream up.
        Reset,
        /// The connection ended.
        Termination,
    }

    impl Break {
        fn of(error: &StreamError) -> Self {
            match error {
                StreamError::Protocol(_) | StreamError::TooLarge(_) => Self::Protocol,
                StreamError::Reset(_) => Self::Reset,
                StreamError::Io(_)
                | StreamError::Closed { .. }
                | StreamError::GoAway
                | StreamError::Length
                | StreamError::Aborted
                | StreamError::Timeout(_) => Self::Termination,
            }
        }
    }

    /// The stream broke after the response had begun: it can only be cut.
    #[must_use]
    pub fn cut(failure: &Failure) -> Stop {
        let (flag, details) = match failure {
            Failure::Downstream(_) => {
                (ResponseFlag::DownstreamTermination, "downstream_remote_disconnect")
            }
            Failure::Upstream(error) => match Break::of(error) {
                Break::Protocol => (
                    ResponseFlag::UpstreamProtocolError,
                    "upstream_reset_after_response_started{protocol_error}",
                ),
                Break::Reset => (
                    ResponseFlag::UpstreamReset,
                    "upstream_reset_after_response_started{remote_reset}",
                ),
                Break::Termination => (
                    ResponseFlag::UpstreamConnectionTermination,
                    "upstream_reset_after_response_started{connection_termination}",
                ),
            },
            Failure::Expired(Expired::Idle) => {
                (ResponseFlag::StreamIdleTimeout, "stream_idle_timeout")
            }
            Failure::Expired(Expired::Route | Expired::Try) => {
                (ResponseFlag::UpstreamRequestTimeout, "response_timeout")
            }
            Failure::Expired(Expired::Drain) => (ResponseFlag::LocalReset, DRAIN_TIMEOUT),
        };
        Stop::Abort { flag, details: Cow::Borrowed(details) }
    }

    /// A deadline passed before the response began.
    #[must_use]
    pub fn expired(expired: Expired) -> LocalReply {
        match expired {
            Expired::Route => LocalReply::new(
                StatusCode::GATEWAY_TIMEOUT,
                ResponseFlag::UpstreamRequestTimeout,
                "response_timeout",
                "upstream request timeout",
            ),
            Expired::Try => LocalReply::new(
                StatusCode::GATEWAY_TIMEOUT,
                ResponseFlag::UpstreamRequestTimeout,
                "upstream_per_try_timeout",
                "upstream request timeout",
            ),
            Expired::Idle => LocalReply::new(
                StatusCode::GATEWAY_TIMEOUT,
                ResponseFlag::StreamIdleTimeout,
                "stream_idle_timeout",
                "stream timeout",
            ),
            Expired::Drain => LocalReply::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::LocalReset,
                DRAIN_TIMEOUT,
                "the proxy is shutting down",
            )
            .closing(),
        }
    }

    /// The client stopped in the middle of its request.
    #[must_use]
    pub fn request_timeout() -> LocalReply {
        LocalReply::new(
            StatusCode::REQUEST_TIMEOUT,
            ResponseFlag::StreamIdleTimeout,
            "stream_idle_timeout",
            "stream timeout",
        )
        .closing()
    }

    /// A stage panicked, which is a bug: the client has no part in it. `answered`: something was
    /// written to it that a reply cannot follow.
    #[must_use]
    pub fn panicked(answered: bool) -> Stop {
        const DETAILS: &str = "internal_error";
        let flag = ResponseFlag::LocalReset;
        if answered {
            return Stop::Abort { flag, details: Cow::Borrowed(DETAILS) };
        }
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Stop::Reply(LocalReply::new(status, flag, DETAILS, "internal error").closing())
    }
}
