//! Bytes on their way out, in order.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Shorter pieces are copied: a place in a list of pieces costs as much.
const COPY_BELOW: usize = 4 * 1024;
/// Pieces of one write.
const MAX_SLICES: usize = 32;
/// Room made at once.
const USUAL_BYTES: usize = 1024;

/// A queue of frames. Empty, it holds no memory worth mentioning once [`Self::give_back`] was called.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// After `pieces`.
    tail: BytesMut,
    /// Bytes in both.
    length: usize,
}

impl Outgoing {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn put(&mut self, bytes: &[u8]) {
        if self.tail.capacity() == 0 {
            self.tail.reserve(USUAL_BYTES.max(bytes.len()));
        }
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len();
    }

    /// As `put`; what is long is not copied.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            self.put(&bytes);
            return;
        }
        self.length += bytes.len();
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.pieces.push_back(bytes);
    }

    /// The beginning, in pieces. Returns how many there are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let pieces = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    pub fn no_slices<'a>() -> [IoSlice<'a>; MAX_SLICES] {
        [IoSlice::new(&[]); MAX_SLICES]
    }

    /// So many bytes were written.
    pub fn advance(&mut self, mut written: usize) {
        self.length -= written;
        while let Some(front) = self.pieces.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.pieces.pop_front();
        }
        self.tail.advance(written);
        if self.tail.is_empty() {
            // The room before it is used again.
            self.tail.clear();
        }
    }

    /// An idle connection keeps no memory.
    pub fn give_back(&mut self) {
        debug_assert!(self.is_empty(), "nothing is lost");
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(outgoing: &Outgoing) -> Vec<u8> {
        let mut slices = Outgoing::no_slices();
        let count = outgoing.slices(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_however_they_are_cut() {
        let long = Bytes::from((0..=u8::MAX).cycle().take(5_000).collect::<Vec<_>>());
        for cut in [1, 7, 4_999, 5_000, 5_003, 10_010] {
            let mut outgoing = Outgoing::default();
            outgoing.put(b"abc");
            outgoing.put_shared(long.clone());
            outgoing.put_shared(Bytes::from_static(b"def"));
            outgoing.put(b"ghi");
            outgoing.put_shared(long.clone());
            outgoing.put(b"j");
            let expected = [b"abc", &long[..], b"defghi", &long[..], b"j"].concat();
            assert_eq!((outgoing.len(), bytes_of(&outgoing)), (10_010, expected.clone()));
            let mut left = Vec::new();
            while !outgoing.is_empty() {
                let all = bytes_of(&outgoing);
                let written = cut.min(all.len());
                left.extend_from_slice(&all[..written]);
                outgoing.advance(written);
            }
            assert!(left == expected, "in pieces of {cut}");
            assert_eq!(bytes_of(&outgoing), b"");
        }
    }
}
