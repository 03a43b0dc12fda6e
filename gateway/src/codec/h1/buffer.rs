//! The bytes between the socket and the codec. An idle connection holds none.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::io::Io;

/// A read into the stack: what an idle connection waits with, and enough for most messages.
const STACK_READ: usize = 8 * 1024;
/// A read of a large body. The largest size jemalloc keeps in its thread caches.
const BULK_READ: usize = 32 * 1024;
/// Shorter pieces are copied next to what is there, longer ones are written from where they are.
const COPY_BELOW: usize = 4 * 1024;
/// Pieces given to one `writev`.
const MAX_SLICES: usize = 16;
/// What a head usually needs.
const HEAD_CAPACITY: usize = 512;

/// Bytes read and not yet understood.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    bytes: BytesMut,
    /// The last read filled what it was given: the peer is sending much.
    bulk: bool,
    eof: bool,
}

impl ReadBuffer {
    pub fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The peer has sent all it will.
    pub fn at_eof(&self) -> bool {
        self.eof
    }

    /// Gives the memory back if nothing is in it.
    pub fn release(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.bulk = false;
        }
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds what the socket has. `Ok(0)` is the end of the stream.
    ///
    /// While it waits it needs no memory: the first read of a message goes to the stack and is
    /// copied to a buffer of its size. This holds for TLS as for TCP.
    pub fn poll_fill(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let filled = match self.bulk {
            true => self.poll_fill_in_place(io, cx),
            false => self.poll_fill_from_stack(io, cx),
        };
        if filled.is_pending() && self.bytes.is_empty() {
            // Nobody knows how long this wait will be.
            self.bytes = BytesMut::new();
        }
        let read = ready!(filled)?;
        self.bulk = read >= STACK_READ;
        self.eof = read == 0;
        Poll::Ready(Ok(read))
    }

    fn poll_fill_from_stack(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut stack = [const { MaybeUninit::uninit() }; STACK_READ];
        let mut stack = ReadBuf::uninit(&mut stack);
        ready!(Pin::new(io).poll_read(cx, &mut stack))?;
        self.bytes.extend_from_slice(stack.filled());
        Poll::Ready(Ok(stack.filled().len()))
    }

    fn poll_fill_in_place(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() - self.bytes.len() < STACK_READ {
            self.bytes.reserve(BULK_READ);
        }
        // The future keeps nothing between polls, so it may be made anew each time.
        pin!(io.read_buf(&mut self.bytes)).poll(cx)
    }
}

/// Bytes to be written, in order: `queue`, then `tail`.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Heads, chunk sizes and short pieces, gathered.
    tail: BytesMut,
    /// The socket took bytes that it may not have passed on (TLS).
    unflushed: bool,
    sent_any: bool,
}

impl WriteBuffer {
    pub fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// A byte has gone to the socket since the last `restart`.
    pub fn sent_any(&self) -> bool {
        self.sent_any
    }

    /// Where heads and other short pieces are written.
    pub fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail.reserve(HEAD_CAPACITY);
        }
        &mut self.tail
    }

    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            self.tail().extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            let gathered = self.tail.split().freeze();
            self.queued += gathered.len();
            self.queue.push_back(gathered);
        }
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Everything not yet written is forgotten.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.tail.clear();
    }

    /// Between two messages: gives the memory back.
    pub fn restart(&mut self) {
        self.queue = VecDeque::new();
        self.tail = BytesMut::new();
        self.sent_any = false;
    }

    pub fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let written = ready!(self.poll_write(io, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent_any = true;
            self.unflushed = true;
            self.consume(written);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.queued + self.tail.capacity()
    }

    #[cfg(test)]
    pub fn contents(&self) -> Vec<u8> {
        self.queue
            .iter()
            .map(|piece| &piece[..])
            .chain([&self.tail[..]])
            .collect::<Vec<_>>()
            .concat()
    }

    fn poll_write(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.queue.is_empty() {
            return Pin::new(io).poll_write(cx, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let pieces = self.queue.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..count])
    }

    fn consume(&mut self, mut written: usize) {
        while let Some(piece) = self.queue.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                self.queued -= written;
                return;
            }
            written -= piece.len();
            self.queued -= piece.len();
            self.queue.pop_front();
        }
        self.tail.advance(written);
    }
}
