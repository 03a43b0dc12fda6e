//! The message an end of a connection sends: head, body, end; or, after an upgrade, plain bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::{
    super::{Frame, StreamError},
    body::BodyWriter,
    buffer::WriteBuffer,
};
use crate::io::Io;

/// Writes one message after another. It knows what may come next and refuses the rest, so that a
/// message can end early but never end wrong.
#[derive(Debug)]
pub(super) struct MessageWriter {
    buffer: WriteBuffer,
    state: State,
    high_watermark: usize,
}

#[derive(Debug)]
enum State {
    /// No (final) head yet.
    Head,
    Body(BodyWriter),
    Complete,
    /// The peer takes no more, and what it said matters more than what it did not hear.
    Discarding,
    /// Bytes, until our direction is ended.
    Tunnel(Outgoing),
    /// Given up; the flag: where only the end of the stream would have been the end of the body.
    Aborted {
        until_close: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    Open,
    /// To be ended once everything is written.
    Ending,
    Ended,
}

/// How far a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Complete,
    Tunnel,
    Unfinished,
    /// Unfinished, and the end of the stream would look like its end.
    UnfinishedUntilClose,
}

impl MessageWriter {
    pub fn new(high_watermark: usize) -> Self {
        Self { buffer: WriteBuffer::default(), state: State::Head, high_watermark }
    }

    /// Where the head is written. `start_body` follows the final one.
    pub fn head(&mut self) -> Result<&mut BytesMut, StreamError> {
        match self.state {
            State::Head => Ok(self.buffer.tail()),
            State::Body(_)
            | State::Complete
            | State::Discarding
            | State::Tunnel(_)
            | State::Aborted { .. } => Err(StreamError::Aborted),
        }
    }

    pub fn start_body(&mut self, body: BodyWriter) {
        self.state = State::Body(body);
    }

    pub fn start_tunnel(&mut self) {
        self.state = State::Tunnel(Outgoing::Open);
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        let data = match frame {
            Frame::Data(data) => data,
            Frame::Trailers(trailers) => return self.end(Some(trailers)),
        };
        match &mut self.state {
            State::Body(body) => {
                let written = body.write(data, &mut self.buffer);
                self.abort_if_failed(written)
            }
            State::Tunnel(Outgoing::Open) => {
                self.buffer.push(data);
                Ok(())
            }
            State::Discarding => Ok(()),
            State::Head | State::Complete | State::Tunnel(_) | State::Aborted { .. } => {
                Err(StreamError::Aborted)
            }
        }
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.end(None)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), StreamError> {
        match &mut self.state {
            State::Body(body) => {
                let ended = body.finish(trailers, &mut self.buffer);
                if ended.is_ok() {
                    self.state = State::Complete;
                }
                self.abort_if_failed(ended)
            }
            State::Tunnel(outgoing) => {
                if *outgoing == Outgoing::Open {
                    *outgoing = Outgoing::Ending;
                }
                Ok(())
            }
            State::Complete | State::Discarding => Ok(()),
            State::Head | State::Aborted { .. } => Err(StreamError::Aborted),
        }
    }

    fn abort_if_failed(&mut self, result: Result<(), StreamError>) -> Result<(), StreamError> {
        if result.is_err() {
            self.abort();
        }
        result
    }

    /// What is not written yet will not be.
    pub fn abort(&mut self) {
        let until_close = self.progress() == Progress::UnfinishedUntilClose
            || matches!(self.state, State::Tunnel(_));
        self.buffer.clear();
        self.state = State::Aborted { until_close };
    }

    pub fn progress(&self) -> Progress {
        match self.state {
            State::Complete => Progress::Complete,
            State::Tunnel(_) => Progress::Tunnel,
            State::Body(BodyWriter::UntilClose) | State::Aborted { until_close: true } => {
                Progress::UnfinishedUntilClose
            }
            State::Head
            | State::Body(_)
            | State::Discarding
            | State::Aborted { until_close: false } => Progress::Unfinished,
        }
    }

    /// Complete, and all of it with the socket.
    pub fn is_sent(&self) -> bool {
        self.progress() == Progress::Complete && self.is_flushed()
    }

    /// Nothing waits for the socket.
    pub fn is_flushed(&self) -> bool {
        self.buffer.len() == 0
    }

    /// A byte of this message has left.
    pub fn sent_any(&self) -> bool {
        self.buffer.sent_any()
    }

    /// Between two messages: gives the memory back.
    pub fn restart(&mut self) {
        self.buffer.restart();
        self.state = State::Head;
    }

    /// Room below the watermark. Asks the socket only when there is none.
    pub fn poll_ready(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if self.buffer.len() < self.high_watermark {
            return Poll::Ready(Ok(()));
        }
        match self.poll_flush(io, cx) {
            Poll::Pending if self.buffer.len() < self.high_watermark => Poll::Ready(Ok(())),
            flushed => flushed,
        }
    }

    pub fn poll_flush(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        ready!(self.buffer.poll_flush(io, cx))?;
        if let State::Tunnel(outgoing @ Outgoing::Ending) = &mut self.state {
            ready!(poll_shutdown(io, cx))?;
            *outgoing = Outgoing::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// A peer may answer and close before it has read everything: from here on its answer counts.
    /// False: there is no answer to wait for.
    pub fn discard(&mut self) -> bool {
        let answerable = matches!(self.state, State::Body(_) | State::Complete | State::Discarding);
        if answerable {
            self.buffer.clear();
            self.state = State::Discarding;
        }
        answerable
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

/// Ends our direction of the stream; the other one lives on.
fn poll_shutdown(io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match ready!(Pin::new(io).poll_shutdown(cx)) {
        // The peer has closed already, which is as good.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        shut => Poll::Ready(shut),
    }
}
