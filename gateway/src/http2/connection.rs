//! The task of a connection: moves bytes between the socket and the state.

use std::{
    fmt,
    future::Future,
    io::{self, ErrorKind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::{
    Config, Error, HeadBlock, Reason, RequestHead, Stream,
    frame::{DEFAULT_WINDOW, MAX_STREAM_ID, PREFACE, flag, kind},
    input::{Arrived, Input},
    outgoing::Outgoing,
    state::{Role, SHUTDOWN_PING, Shared, Shutdown, State},
};

/// What reading has come to.
struct Found {
    arrived: Option<Arrived>,
    /// There may be more to read, but too much waits to be written.
    has_stopped: bool,
}

/// Read at once.
const READ_BYTES: usize = 16 * 1024;
/// While more is there than that.
const READ_BYTES_IN_BULK: usize = 64 * 1024;

/// A request, and the stream it is answered on.
#[derive(Debug)]
pub struct Accepted {
    pub head: RequestHead,
    pub stream: Stream,
}

/// One end of a connection. Nothing of its streams moves unless it is polled.
pub struct Connection<T> {
    io: T,
    shared: Arc<Shared>,
    input: Input,
    /// The last read filled its room.
    in_bulk: bool,
    /// Taken from the state.
    writing: Outgoing,
}

impl<T> fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl<T> Drop for Connection<T> {
    /// Without it, nothing moves: its streams are told.
    fn drop(&mut self) {
        self.shared.lock().end(Error::Io(ErrorKind::BrokenPipe));
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// The server's end of a connection of which `read` was read already.
    #[must_use]
    pub fn server(io: T, read: BytesMut, config: Config) -> Self {
        Self::new(io, read, Role::Server, config)
    }

    /// The client's end, and what begins streams on it.
    #[must_use]
    pub fn client(io: T, config: Config) -> (Self, Opener) {
        let connection = Self::new(io, BytesMut::new(), Role::Client, config);
        let opener = Opener { shared: Arc::clone(&connection.shared) };
        (connection, opener)
    }

    fn new(io: T, read: BytesMut, role: Role, config: Config) -> Self {
        let mut state = State::new(role, config);
        let settings = match role {
            Role::Server => config.server(),
            Role::Client => {
                state.out.put(PREFACE);
                config.client()
            }
        };
        state.control(kind::SETTINGS, flag::NONE, 0, &settings);
        let increment = config.connection_window.saturating_sub(DEFAULT_WINDOW);
        if increment > 0 {
            state.window_update(0, increment);
        }
        Self {
            io,
            shared: Arc::new(Shared::new(state)),
            input: Input::new(role, read),
            in_bulk: false,
            writing: Outgoing::default(),
        }
    }

    /// Whether the peer has sent a frame.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.input.has_heard()
    }

    /// The next request; moves the frames of all streams meanwhile. `None`: the connection is over, and
    /// all that could be written was.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        if let Poll::Ready(Arrived { stream, head }) = self.poll_frames(cx) {
            let stream = Stream::new(Arc::clone(&self.shared), stream);
            return Poll::Ready(Some(Accepted { head, stream }));
        }
        self.poll_end(cx).map(|()| None)
    }

    /// As `poll_accept`, of a client.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _none_are_begun_by_servers = self.poll_frames(cx);
        self.poll_end(cx)
    }

    /// Says goodbye: streams that were begun go on, and the connection ends with the last of them. A
    /// client is told before streams it may have begun are refused.
    pub fn shut_down(&mut self) {
        let mut state = self.shared.lock();
        if state.shutdown != Shutdown::No || state.ended.is_some() {
            return;
        }
        match state.role {
            Role::Server => {
                state.shutdown = Shutdown::Announced;
                state.goaway(MAX_STREAM_ID, Reason::NO_ERROR);
                state.control(kind::PING, flag::NONE, 0, &SHUTDOWN_PING);
            }
            Role::Client => {
                state.shutdown = Shutdown::Final;
                state.goaway(0, Reason::NO_ERROR);
                state.wake_openers();
            }
        }
    }

    /// Ends the connection and all its streams now.
    pub fn abort(&mut self, reason: Reason) {
        self.shared.lock().fail(reason, Error::Aborted);
    }

    /// Reads until nothing is there or a request is, then writes.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Arrived> {
        loop {
            let Found { arrived, has_stopped } = self.read(cx);
            if let Some(arrived) = arrived {
                return Poll::Ready(arrived);
            }
            match self.poll_write(cx) {
                // What waits is less now.
                Poll::Ready(Ok(())) if has_stopped => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    self.shared.lock().end(Error::Io(error.kind()));
                    return Poll::Pending;
                }
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Found {
        loop {
            {
                let mut state = self.shared.lock();
                state.begin_turn(cx);
                if state.ended.is_none() && !state.may_read() {
                    return Found { arrived: None, has_stopped: true };
                }
                match self.input.next(&mut state) {
                    Ok(None) => {}
                    Ok(arrived) => return Found { arrived, has_stopped: false },
                    Err(reason) => state.fail(reason, Error::Protocol(reason)),
                }
                if state.ended.is_some() {
                    return Found { arrived: None, has_stopped: false };
                }
            }
            match self.poll_read(cx) {
                Poll::Pending => return Found { arrived: None, has_stopped: false },
                Poll::Ready(Ok(0)) => self.shared.lock().end(Error::Io(ErrorKind::BrokenPipe)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => self.shared.lock().end(Error::Io(error.kind())),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffer = &mut self.input.buffer;
        let wanted = if self.in_bulk { READ_BYTES_IN_BULK } else { READ_BYTES };
        if buffer.capacity() - buffer.len() < wanted / 2 {
            buffer.reserve(wanted);
        }
        let room = buffer.capacity() - buffer.len();
        let read = pin!(self.io.read_buf(buffer)).poll(cx);
        match &read {
            Poll::Ready(Ok(length)) => self.in_bulk = *length >= room.min(READ_BYTES),
            // An idle connection keeps no memory.
            Poll::Pending if buffer.is_empty() => *buffer = BytesMut::new(),
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
        read
    }

    /// Writes all there is, as far as the socket takes it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            {
                let mut state = self.shared.lock();
                state.in_flight = self.writing.len();
                if self.writing.is_empty() {
                    std::mem::swap(&mut self.writing, &mut state.out);
                    state.in_flight = self.writing.len();
                    if self.writing.is_empty() {
                        state.out.give_back();
                        state.share_out();
                        state.end_turn();
                        break;
                    }
                }
                state.share_out();
            }
            let written = ready!(self.poll_write_some(cx))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.writing.advance(written);
        }
        self.writing.give_back();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = Outgoing::no_slices();
        let count = self.writing.slices(&mut slices);
        let io = Pin::new(&mut self.io);
        if count > 1 && io.is_write_vectored() {
            io.poll_write_vectored(cx, &slices[..count])
        } else {
            io.poll_write(cx, &slices[0])
        }
    }

    /// Ready once the connection has ended, or nothing is left of one that was to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let state = self.shared.lock();
            match state.ended {
                Some(Error::Io(_)) => return Poll::Ready(()),
                // What the peer does not take of our reasons at once, it does not get.
                Some(_) => {}
                None => {
                    let is_left = state.shutdown == Shutdown::Final && state.active == 0;
                    if !is_left || !state.out.is_empty() || !self.writing.is_empty() {
                        return Poll::Pending;
                    }
                }
            }
        }
        // Nobody waits for it: there is nothing more to say.
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        Poll::Ready(())
    }
}

/// Begins streams on a client's connection. Copies of it do so as well.
#[derive(Clone)]
pub struct Opener {
    shared: Arc<Shared>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl Opener {
    /// Sends a request's head on a stream of its own, once the peer allows one more. `end`: it is the
    /// whole request.
    ///
    /// # Errors
    /// The connection has ended, or takes nothing new; nothing was sent.
    pub fn poll_send(
        &self,
        request: &Request<'_>,
        cx: &Context<'_>,
    ) -> Poll<Result<Stream, Error>> {
        let mut state = self.shared.lock();
        let id = ready!(state.poll_open(cx))?;
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.is_head_request = request.is_head;
        }
        state.write_block(id, request.block, request.end);
        drop(state);
        Poll::Ready(Ok(Stream::new(Arc::clone(&self.shared), id)))
    }

    /// Whether the peer takes extended CONNECT (RFC 8441), once it has said so.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn poll_connect_protocol(&self, cx: &Context<'_>) -> Poll<Result<bool, Error>> {
        self.shared.lock().poll_connect_protocol(cx)
    }

    /// Whether no stream can be begun any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().may_open().is_err()
    }

    /// Streams the peer allows, or is expected to.
    #[must_use]
    pub fn max_streams(&self) -> u32 {
        self.shared.lock().peer.max_concurrent_streams.unwrap_or(u32::MAX)
    }
}

/// What begins a stream.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub block: &'a HeadBlock,
    /// Nothing follows.
    pub end: bool,
    /// HEAD, whose response announces a body it has not.
    pub is_head: bool,
}
