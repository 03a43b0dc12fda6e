//! Large bodies whose every byte is known: lost, doubled and reordered pieces are all seen.

use std::{
    io,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A prime, so that no power-of-two buffer size lines up with it.
const PERIOD: usize = 65_521;
const CHUNK: usize = 16 * 1024;

static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    (0..PERIOD + CHUNK).map(|i| (i % PERIOD % 251) as u8 ^ (i % PERIOD / 251) as u8).collect()
});

/// The bytes at `offset` of the endless pattern; fewer than `len` may be returned, never none.
fn piece(offset: u64, len: usize) -> Bytes {
    let start = (offset % PERIOD as u64) as usize;
    BLOCK.slice(start..start + len.min(CHUNK))
}

/// A body of `total` bytes of the pattern.
#[derive(Debug)]
pub struct Pattern {
    offset: u64,
    total: u64,
    sized: bool,
}

impl Pattern {
    /// With a `Content-Length`.
    #[must_use]
    pub fn sized(total: u64) -> Self {
        Self { offset: 0, total, sized: true }
    }

    /// Chunked on HTTP/1.1.
    #[must_use]
    pub fn of_unknown_length(total: u64) -> Self {
        Self { offset: 0, total, sized: false }
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let left = self.total - self.offset;
        if left == 0 {
            return Poll::Ready(None);
        }
        let data = piece(self.offset, usize::try_from(left).unwrap_or(usize::MAX));
        self.offset += data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.total
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized {
            SizeHint::with_exact(self.total - self.offset)
        } else {
            SizeHint::default()
        }
    }
}

/// Checks that what arrives is the pattern.
#[derive(Debug, Default)]
pub struct Checker {
    offset: u64,
}

impl Checker {
    /// # Panics
    /// At the first byte that is not the pattern's.
    pub fn check(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let expected = piece(self.offset, data.len());
            let (head, rest) = data.split_at(expected.len());
            assert!(head == expected, "a byte after {} is not what was sent", self.offset);
            self.offset += head.len() as u64;
            data = rest;
        }
    }

    /// Bytes checked so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }
}
