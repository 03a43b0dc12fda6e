//! What an HTTP/2 client may send that is neither a request nor a part of one.
//!
//! Frames like PING and WINDOW_UPDATE cost their sender next to nothing and us a little; sent without
//! end they are an attack (CVE-2019-9511 to 9518, hardening T04). The h2 crate bounds what they make
//! it keep, not how many there are, so they are counted where the bytes pass: each has to be paid for
//! by a request, by something we sent, or by time.

use std::time::{Duration, Instant};

/// What a connection may owe at any time.
const ALLOWANCE: u64 = 1_000;
/// Allowed in addition for every second the connection has lived: keep-alives of any client.
const PER_SECOND: u64 = 10;
/// Paid for by a HEADERS frame received: priorities, window updates, the reset.
const PER_REQUEST: u64 = 100;
/// Paid for by a DATA or HEADERS frame sent: clients open windows again frame by frame.
const PER_FRAME_SENT: u64 = 10;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;

/// The account of one connection.
#[derive(Debug)]
pub(super) struct FrameBudget {
    began: Instant,
    received: FrameScan,
    sent: FrameScan,
    owed: u64,
    paid: u64,
    heard: bool,
}

impl FrameBudget {
    /// `preface`: bytes that come before the first frame.
    pub fn new(preface: usize) -> Self {
        Self {
            began: Instant::now(),
            received: FrameScan { skip: preface, ..FrameScan::default() },
            sent: FrameScan::default(),
            owed: 0,
            paid: 0,
            heard: false,
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        let Self { received, owed, paid, heard, .. } = self;
        received.scan(bytes, |frame| {
            *heard = true;
            match frame.kind {
                HEADERS => *paid += PER_REQUEST,
                // The h2 crate counts these itself.
                CONTINUATION => {}
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
                _ => *owed += 1,
            }
        });
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let Self { sent, paid, .. } = self;
        sent.scan(bytes, |frame| {
            if matches!(frame.kind, DATA | HEADERS) {
                *paid += PER_FRAME_SENT;
            }
        });
    }

    /// Whether anything but the preface has come.
    pub fn has_heard(&self) -> bool {
        self.heard
    }

    pub fn is_exceeded(&self) -> bool {
        let allowed = self.paid.saturating_add(ALLOWANCE);
        self.owed > allowed && self.owed > allowed.saturating_add(self.earned(self.began.elapsed()))
    }

    fn earned(&self, lived: Duration) -> u64 {
        lived.as_secs().saturating_mul(PER_SECOND)
    }
}

/// The part of a frame's header that matters here (RFC 9113 section 4.1).
struct FrameHeader {
    length: usize,
    kind: u8,
    flags: u8,
}

/// Follows the frames of one direction through bytes that are cut anywhere.
#[derive(Debug, Default)]
struct FrameScan {
    header: [u8; 9],
    /// Bytes of `header` that are there.
    filled: usize,
    /// Bytes until the next header begins.
    skip: usize,
}

impl FrameScan {
    fn scan(&mut self, mut bytes: &[u8], mut each: impl FnMut(FrameHeader)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = bytes.len().min(self.header.len() - self.filled);
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.header.len() {
                let [a, b, c, kind, flags, ..] = self.header;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                each(FrameHeader { length, kind, flags });
                self.filled = 0;
                self.skip = length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 0x6;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let announced = u32::try_from(length).unwrap().to_be_bytes();
        [&announced[1..], &[kind, flags, 0, 0, 0, 1], &vec![0xff; length]].concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(PING, 0, 8),
            frame(HEADERS, 0, 300),
            frame(DATA, 0, 0),
            frame(DATA, END_STREAM, 0),
            frame(DATA, 0, 20),
            frame(0xfa, 0, 1),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut budget = FrameBudget::new(24);
            bytes.chunks(size).for_each(|piece| budget.receive(piece));
            assert_eq!((budget.owed, budget.paid), (3, PER_REQUEST), "in pieces of {size}");
        }
    }

    #[test]
    fn what_carries_nothing_has_to_be_paid_for() {
        let mut budget = FrameBudget::new(0);
        assert!(!budget.has_heard());
        let pings = frame(PING, 0, 8).repeat(1_000);
        budget.receive(&pings);
        assert!(budget.has_heard() && !budget.is_exceeded());
        budget.receive(&frame(PING, 0, 8));
        assert!(budget.is_exceeded());
        budget.send(&frame(PING, 1, 8));
        assert!(budget.is_exceeded(), "an acknowledgement pays for nothing");
        budget.send(&frame(DATA, 0, 8));
        assert!(!budget.is_exceeded());
        budget.began -= Duration::from_secs(100);
        budget.receive(&pings);
        assert!(!budget.is_exceeded(), "ten in a second are nobody's flood");
        budget.receive(&pings[..17 * 10]);
        assert!(budget.is_exceeded());
    }
}
