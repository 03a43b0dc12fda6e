//! What can go wrong on one stream, seen from the side that holds the session.

use std::io;

use crate::http2::{self, Reason};

/// Why a message could not be read or written. Whose fault it is follows from which session said it:
/// a `ServerSession` speaks of the client, a `ClientSession` of the upstream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("read or write on the connection")]
    Io(#[source] io::Error),
    /// End of the stream where more was announced.
    #[error("the peer closed the connection early")]
    Closed {
        /// Something of the message had arrived.
        started: bool,
    },
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// RST_STREAM from the peer.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// GOAWAY that excludes the stream: the peer has not looked at it.
    #[error("the peer is going away")]
    GoAway,
    #[error("{0} larger than allowed")]
    TooLarge(&'static str),
    /// Our side handed over a body that is not as long as its head said.
    #[error("the body written does not have the length announced")]
    Length,
    /// The session was used after `abort` or after an error.
    #[error("the stream is over")]
    Aborted,
    #[error("timed out: {0}")]
    Timeout(&'static str),
}

impl StreamError {
    /// The peer said that it did nothing with the request, so any request may be sent again.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::GoAway => true,
            Self::Reset(reason) => *reason == Reason::REFUSED_STREAM,
            Self::Io(_)
            | Self::Closed { .. }
            | Self::Protocol(_)
            | Self::TooLarge(_)
            | Self::Length
            | Self::Aborted
            | Self::Timeout(_) => false,
        }
    }
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<http2::Error> for StreamError {
    fn from(error: http2::Error) -> Self {
        match error {
            http2::Error::Reset(reason) => Self::Reset(reason),
            http2::Error::GoAway => Self::GoAway,
            http2::Error::Protocol(Reason::FLOW_CONTROL_ERROR) => {
                Self::Protocol("http2.flow_control")
            }
            http2::Error::Protocol(_) => Self::Protocol("http2.protocol_error"),
            http2::Error::Io(kind) => Self::Io(kind.into()),
            http2::Error::Aborted => Self::Aborted,
        }
    }
}
