//! The two bodies of a stream.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::super::{BodyLength, Frame, StreamError, field};
use crate::http2::{Received, Stream};

/// Shorter pieces that wait together become one DATA frame: where one frame ends and the next begins
/// means nothing (RFC 9113 section 6.1), and each costs as much as copying this many bytes.
const GATHER_BELOW: usize = 4 * 1024;

/// The body the peer sends. Its window opens again only when the reader comes back for more, that is
/// when the other side of the proxy has taken what was read before.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    unreleased: usize,
    is_done: bool,
}

impl Incoming {
    /// What still comes is not read.
    pub fn discard(&mut self) {
        self.is_done = true;
    }

    pub fn poll(
        &mut self,
        stream: &mut Stream,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<Frame>, StreamError>> {
        if self.unreleased > 0 {
            stream.release(std::mem::take(&mut self.unreleased));
        }
        if self.is_done {
            return Poll::Ready(Ok(None));
        }
        let frame = match ready!(stream.poll_receive(cx))? {
            Some(Received::Data(data)) => {
                self.unreleased = data.len();
                Some(Frame::Data(data))
            }
            Some(Received::Trailers(trailers)) => {
                self.is_done = true;
                Some(Frame::Trailers(field::clean_trailers(trailers)))
            }
            None => {
                self.is_done = true;
                None
            }
        };
        Poll::Ready(Ok(frame))
    }
}

/// The body we send: a bounded queue in front of the peer's window.
#[derive(Debug)]
pub(super) struct Outgoing {
    queue: VecDeque<Bytes>,
    /// Short pieces that came while others were waiting; after `queue`.
    gathered: BytesMut,
    /// Bytes in both.
    queued: usize,
    /// Bytes still owed of an announced length.
    owed: Option<u64>,
    end: End,
}

#[derive(Debug)]
enum End {
    /// More may come.
    Open,
    /// END_STREAM with the last of the queue.
    Plain,
    Trailers(HeaderMap),
    Sent,
}

impl Outgoing {
    pub fn new(length: BodyLength) -> Self {
        let owed = match length {
            BodyLength::Empty => Some(0),
            BodyLength::Exact(length) => Some(length),
            BodyLength::Unknown => None,
        };
        Self { queue: VecDeque::new(), gathered: BytesMut::new(), queued: 0, owed, end: End::Open }
    }

    pub fn len(&self) -> usize {
        self.queued
    }

    pub fn is_sent(&self) -> bool {
        matches!(self.end, End::Sent)
    }

    /// Nothing to send but the end: END_STREAM can go with the head.
    pub fn is_only_end(&self) -> bool {
        self.queued == 0 && matches!(self.end, End::Plain)
    }

    pub fn mark_sent(&mut self) {
        self.end = End::Sent;
    }

    pub fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        if !matches!(self.end, End::Open) {
            return Err(StreamError::Aborted);
        }
        let data = match frame {
            Frame::Data(data) => data,
            Frame::Trailers(trailers) => {
                return self.end_with(End::Trailers(field::clean_trailers(trailers)));
            }
        };
        if let Some(owed) = &mut self.owed {
            *owed = owed.checked_sub(data.len() as u64).ok_or(StreamError::Length)?;
        }
        self.push(data);
        Ok(())
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.queued += data.len();
        if data.len() >= GATHER_BELOW {
            self.close_gathered();
            self.queue.push_back(data);
        } else if self.queue.is_empty() && self.gathered.is_empty() {
            self.queue.push_back(data);
        } else {
            self.gathered.extend_from_slice(&data);
        }
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.queue.push_back(self.gathered.split().freeze());
        }
    }

    pub fn finish(&mut self) -> Result<(), StreamError> {
        match self.end {
            End::Open => self.end_with(End::Plain),
            End::Plain | End::Trailers(_) | End::Sent => Ok(()),
        }
    }

    fn end_with(&mut self, end: End) -> Result<(), StreamError> {
        if self.owed.is_some_and(|owed| owed > 0) {
            return Err(StreamError::Length);
        }
        self.end = end;
        Ok(())
    }

    /// Moves to the connection what the peer's window allows.
    pub fn poll_flush(
        &mut self,
        stream: &mut Stream,
        cx: &Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        loop {
            if self.queue.is_empty() {
                self.close_gathered();
            }
            let Some(front) = self.queue.front_mut() else { break };
            let room = ready!(stream.poll_room(front.len(), cx))?;
            let piece = front.split_to(room);
            self.queued -= piece.len();
            if front.is_empty() {
                self.queue.pop_front();
            }
            let last = self.queued == 0 && matches!(self.end, End::Plain);
            stream.send_data(piece, last)?;
            if last {
                self.end = End::Sent;
            }
        }
        match std::mem::replace(&mut self.end, End::Sent) {
            End::Open => self.end = End::Open,
            End::Plain => stream.send_data(Bytes::new(), true)?,
            End::Trailers(trailers) => stream.send_trailers(&trailers)?,
            End::Sent => {}
        }
        Poll::Ready(Ok(()))
    }
}
