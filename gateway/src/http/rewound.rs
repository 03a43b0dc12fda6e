//! The bytes of an HTTP/2 connection, those that were read to tell the protocol included, and the
//! account of what its client sends.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_budget::FrameBudget;
use crate::io::Io;

/// What an HTTP/2 client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which the first bytes may have been read already.
pub(super) struct Rewound {
    bytes: BytesMut,
    io: Io,
    budget: SharedBudget,
}

/// The account is kept where the bytes pass, inside the h2 crate's connection, and asked for by its
/// owner. Both are one task, so the lock is never waited for.
#[derive(Debug, Clone)]
pub(super) struct SharedBudget(Arc<Mutex<FrameBudget>>);

impl SharedBudget {
    pub fn is_exceeded(&self) -> bool {
        self.lock().is_exceeded()
    }

    pub fn has_heard(&self) -> bool {
        self.lock().has_heard()
    }

    fn lock(&self) -> MutexGuard<'_, FrameBudget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rewound {
    pub fn new(io: Io) -> Self {
        Self::with(BytesMut::new(), io)
    }

    pub fn with(bytes: BytesMut, io: Io) -> Self {
        let budget = FrameBudget::new(PREFACE.len());
        Self { bytes, io, budget: SharedBudget(Arc::new(Mutex::new(budget))) }
    }

    pub fn budget(&self) -> SharedBudget {
        self.budget.clone()
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut budget = this.budget.lock();
        if budget.is_exceeded() {
            // Nothing more is read. Nobody has to be woken: the connection's owner asks right after
            // having polled it, and ends it.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = if this.bytes.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let length = this.bytes.len().min(buf.remaining());
            buf.put_slice(&this.bytes[..length]);
            this.bytes.advance(length);
            if this.bytes.is_empty() {
                this.bytes = BytesMut::new();
            }
            Poll::Ready(Ok(()))
        };
        budget.receive(&buf.filled()[before..]);
        read
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = written {
            this.budget.lock().send(&buf[..written]);
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut left)) = written {
            let mut budget = this.budget.lock();
            for buf in bufs {
                let length = left.min(buf.len());
                budget.send(&buf[..length]);
                left -= length;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
