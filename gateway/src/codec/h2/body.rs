//! The two bodies of a stream.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::super::{BodyLength, Frame, StreamError, field};

/// Shorter pieces that wait together become one DATA frame: where one frame ends and the next begins
/// means nothing (RFC 9113 section 6.1), and each costs as much as copying this many bytes.
const GATHER_BELOW: usize = 4 * 1024;

/// A body up to this long is handed over with its head, whatever the peer's window will be.
const SENT_WITH_HEAD: usize = 16 * 1024;

/// The body the peer sends. Its window opens again only when the reader comes back for more, that is
/// when the other side of the proxy has taken what was read before.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: RecvStream,
    unreleased: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Done,
}

impl Incoming {
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, unreleased: 0, state: State::Data }
    }

    /// The head was the whole message.
    pub fn is_empty(&self) -> bool {
        self.state == State::Data && self.stream.is_end_stream()
    }

    /// What still comes is not read.
    pub fn discard(&mut self) {
        self.state = State::Done;
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        self.release();
        while self.state == State::Data {
            match ready!(self.stream.poll_data(cx)).transpose()? {
                Some(data) => {
                    self.unreleased += data.len();
                    // An empty frame is no part of a body; h2 bounds how many there may be.
                    if !data.is_empty() {
                        return Poll::Ready(Ok(Some(Frame::Data(data))));
                    }
                }
                None => self.state = State::Trailers,
            }
        }
        if self.state == State::Trailers {
            let trailers = ready!(self.stream.poll_trailers(cx))?;
            self.state = State::Done;
            if let Some(trailers) = trailers.map(field::clean_trailers) {
                return Poll::Ready(Ok(Some(Frame::Trailers(trailers))));
            }
        }
        Poll::Ready(Ok(None))
    }

    fn release(&mut self) {
        if self.unreleased > 0 {
            // Refused only for more than was received, or when the stream is gone.
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
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

    /// Gives a short body along with its head. The connection tells a new stream's window only after
    /// it has sent the head, which would make a second write of it; what it is given before, it keeps
    /// until there is a window.
    pub fn send_with_head(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Result<(), StreamError> {
        if self.queued > SENT_WITH_HEAD {
            return Ok(());
        }
        match self.poll_send(stream, cx, |_, wanted, _| Poll::Ready(Ok(wanted))) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Moves to the connection what the peer's window allows.
    pub fn poll_flush(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.poll_send(stream, cx, poll_room)
    }

    /// Moves to the connection as many bytes as `room` says of a number that is wanted.
    fn poll_send(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
        room: impl Fn(
            &mut SendStream<Bytes>,
            usize,
            &mut Context<'_>,
        ) -> Poll<Result<usize, StreamError>>,
    ) -> Poll<Result<(), StreamError>> {
        loop {
            if self.queue.is_empty() {
                self.close_gathered();
            }
            let Some(front) = self.queue.front_mut() else { break };
            let room = ready!(room(stream, self.queued, cx))?;
            let piece = front.split_to(room.min(front.len()));
            self.queued -= piece.len();
            if front.is_empty() {
                self.queue.pop_front();
            }
            let last = self.queued == 0 && matches!(self.end, End::Plain);
            send(stream, cx, |stream| stream.send_data(piece, last))?;
            if last {
                self.end = End::Sent;
            }
        }
        match std::mem::replace(&mut self.end, End::Sent) {
            End::Open => self.end = End::Open,
            End::Plain => send(stream, cx, |stream| stream.send_data(Bytes::new(), true))?,
            End::Trailers(trailers) => send(stream, cx, |stream| stream.send_trailers(trailers))?,
            End::Sent => {}
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes the peer (and h2's own buffer) takes now; waits for the first one.
fn poll_room(
    stream: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, StreamError>> {
    loop {
        if stream.capacity() == 0 {
            stream.reserve_capacity(wanted);
        }
        match stream.capacity() {
            0 => {}
            room => return Poll::Ready(Ok(room)),
        }
        // Says only that something changed; what there is now is asked above.
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => return Poll::Ready(Err(reset_of(stream, cx))),
        }
    }
}

fn send(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    action: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>,
) -> Result<(), StreamError> {
    action(stream).map_err(|_inactive| reset_of(stream, cx))
}

/// Why a stream takes nothing any more.
fn reset_of(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> StreamError {
    match stream.poll_reset(cx) {
        Poll::Ready(Ok(reason)) => StreamError::Reset(reason),
        Poll::Ready(Err(error)) => error.into(),
        Poll::Pending => StreamError::Aborted,
    }
}
