//! A stream: what its owner holds, and what the connection knows of it.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    Error, HeadBlock, Reason, ResponseHead,
    state::{Shared, State},
    window::ReceiveWindow,
};

/// Unread pieces of a body from which on short ones are put together.
const MANY_PIECES: usize = 16;
/// As long as that.
const GATHERED_BYTES: usize = 4 * 1024;

/// Who is to be woken.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    waker: Option<Waker>,
    waits: bool,
}

impl Waiter {
    pub fn wait(&mut self, cx: &Context<'_>) {
        self.waits = true;
        match &mut self.waker {
            // Costs nothing while it is the same task.
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    pub fn wake(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// A server's final head is still to come.
    Head,
    Body,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// A client waits for the final head.
    Head,
    Body,
    Ended,
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub sending: Sending,
    pub receiving: Receiving,
    pub send_window: i64,
    pub receive_window: ReceiveWindow,
    /// Why nothing more comes or goes, unless all did.
    pub error: Option<Error>,
    /// Counts against a limit of concurrent streams.
    pub is_counted: bool,
    /// Received, and not taken yet: heads of a response, its body or the request's, trailers.
    pub heads: VecDeque<ResponseHead>,
    pub data: VecDeque<Bytes>,
    pub trailers: Option<HeaderMap>,
    /// Bytes that count against the connection's window.
    pub unreleased: u32,
    /// Bytes of the body that `content-length` announced and that have not come.
    pub owed: Option<u64>,
    /// A response to HEAD announces what it has not.
    pub is_head_request: bool,
    pub reader: Waiter,
    pub writer: Waiter,
    /// The turn in which it had its share of the connection's room.
    pub turn: Option<u32>,
}

impl StreamState {
    pub fn new(sending: Sending, send_window: i64, receive_window: ReceiveWindow) -> Self {
        Self {
            sending,
            receiving: if sending == Sending::Head { Receiving::Body } else { Receiving::Head },
            send_window,
            receive_window,
            error: None,
            is_counted: true,
            heads: VecDeque::new(),
            data: VecDeque::new(),
            trailers: None,
            unreleased: 0,
            owed: None,
            is_head_request: false,
            reader: Waiter::default(),
            writer: Waiter::default(),
            turn: None,
        }
    }

    /// Nothing more comes or goes.
    pub fn is_over(&self) -> bool {
        let is_complete = self.sending == Sending::Ended && self.receiving == Receiving::Ended;
        self.error.is_some() || is_complete
    }

    pub fn fail(&mut self, error: Error) {
        if !self.is_over() {
            self.error = Some(error);
        }
        self.reader.wake();
        self.writer.wake();
    }

    /// Keeps data for the reader. Short pieces cost more than what is in them: of many, one is made.
    pub fn keep(&mut self, data: Bytes) {
        let are_many = self.data.len() >= MANY_PIECES;
        match self.data.back_mut() {
            Some(last) if are_many && last.len() + data.len() <= GATHERED_BYTES => {
                *last = [&last[..], &data[..]].concat().into();
            }
            _ => self.data.push_back(data),
        }
        self.reader.wake();
    }
}

/// Part of a body.
#[derive(Debug)]
pub enum Received {
    Data(Bytes),
    /// The last.
    Trailers(HeaderMap),
}

/// One stream of a connection. Dropped before both sides have said all, it is reset: with NO_ERROR by a
/// server that has answered (RFC 9113 section 8.1), else with CANCEL.
///
/// Reading and writing may be waited for by one task each.
pub struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().forget(self.id);
    }
}

impl Stream {
    /// Of a stream that is in the state.
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id }
    }

    /// Whether the peer's message is over, and all of it was taken.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.shared.lock().streams.get(&self.id).is_none_or(|stream| {
            stream.receiving == Receiving::Ended
                && stream.data.is_empty()
                && stream.trailers.is_none()
        })
    }

    /// A server's head; `end`: there is nothing else. A 1xx head is followed by another.
    ///
    /// # Errors
    /// The stream is over.
    pub fn send_head(&mut self, block: &HeadBlock, end: bool) -> Result<(), Error> {
        let mut state = self.shared.lock();
        sendable(&mut state, self.id)?.sending = Sending::Body;
        state.write_block(self.id, block, end);
        Ok(())
    }

    /// A 1xx head.
    ///
    /// # Errors
    /// The stream is over.
    pub fn send_informational(&mut self, block: &HeadBlock) -> Result<(), Error> {
        let mut state = self.shared.lock();
        sendable(&mut state, self.id)?;
        state.write_block(self.id, block, false);
        Ok(())
    }

    /// How many bytes of a body can be sent now, at least one and up to `wanted`.
    ///
    /// # Errors
    /// The stream is over.
    pub fn poll_room(&mut self, wanted: usize, cx: &Context<'_>) -> Poll<Result<usize, Error>> {
        let mut state = self.shared.lock();
        sendable(&mut state, self.id)?;
        state.poll_room(self.id, wanted, cx).map(Ok)
    }

    /// Sends bytes of the body, at most as many as `poll_room` has just said; `end`: the last.
    ///
    /// # Errors
    /// The stream is over.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), Error> {
        let mut state = self.shared.lock();
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        let stream = sendable(&mut state, self.id)?;
        debug_assert!(length <= stream.send_window.max(0), "more than there is room for");
        stream.send_window -= length;
        state.send_window -= length;
        state.write_data(self.id, data, end);
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The stream is over.
    pub fn send_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Error> {
        let mut block = HeadBlock::trailers();
        for (name, value) in trailers {
            block.field(name, value);
        }
        let mut state = self.shared.lock();
        sendable(&mut state, self.id)?;
        state.write_block(self.id, &block, true);
        Ok(())
    }

    /// RST_STREAM, unless the stream is over.
    pub fn send_reset(&mut self, reason: Reason) {
        self.shared.lock().reset(self.id, reason);
    }

    /// Why the stream ended before both sides had said all. Pending as long as it has not.
    pub fn poll_error(&mut self, cx: &Context<'_>) -> Poll<Error> {
        let mut state = self.shared.lock();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Error::Aborted);
        };
        match stream.error {
            Some(error) => Poll::Ready(error),
            None => {
                stream.writer.wait(cx);
                Poll::Pending
            }
        }
    }

    /// A client's next head: any number of 1xx, then the final one.
    ///
    /// # Errors
    /// The stream ended without one.
    pub fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let mut state = self.shared.lock();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(Error::Aborted));
        };
        if let Some(head) = stream.heads.pop_front() {
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Err(error));
        }
        stream.reader.wait(cx);
        Poll::Pending
    }

    /// The next part of the peer's body; `None` is its clean end. Data is taken from the peer's window
    /// until it is released.
    ///
    /// # Errors
    /// The stream ended in the middle.
    pub fn poll_receive(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Received>, Error>> {
        let mut state = self.shared.lock();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(Error::Aborted));
        };
        if let Some(data) = stream.data.pop_front() {
            return Poll::Ready(Ok(Some(Received::Data(data))));
        }
        if stream.receiving == Receiving::Ended {
            return Poll::Ready(Ok(stream.trailers.take().map(Received::Trailers)));
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Err(error));
        }
        stream.reader.wait(cx);
        Poll::Pending
    }

    /// Data was used up: as much may come again.
    pub fn release(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.shared.lock().release(self.id, bytes);
    }
}

/// The stream, if something can be sent on it.
fn sendable(state: &mut State, id: u32) -> Result<&mut StreamState, Error> {
    let stream = state.streams.get_mut(&id).ok_or(Error::Aborted)?;
    match stream.error {
        Some(error) => Err(error),
        None if stream.sending == Sending::Ended => Err(Error::Aborted),
        None => Ok(stream),
    }
}
