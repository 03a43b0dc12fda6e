//! What a peer may send that is neither a message nor a part of one.
//!
//! Frames like PING and WINDOW_UPDATE cost their sender next to nothing and us a little; sent without
//! end they are an attack (CVE-2019-9511 to 9518, hardening T04). What they make us keep is bounded
//! elsewhere; here they are counted: each has to be paid for by a request, by something we sent, or by
//! time.

use std::time::{Duration, Instant};

use super::frame::{FrameHeader, flag, kind};

/// What a connection may owe at any time.
const ALLOWANCE: u64 = 1_000;
/// Allowed in addition for every second the connection has lived: keep-alives of any client.
const PER_SECOND: u64 = 10;
/// Paid for by a HEADERS frame received: priorities, window updates, the reset.
const PER_REQUEST: u64 = 100;
/// Paid for by a DATA or HEADERS frame sent: clients open windows again frame by frame.
const PER_FRAME_SENT: u64 = 10;

/// The account of one connection.
#[derive(Debug)]
pub(super) struct Flood {
    began: Instant,
    owed: u64,
    paid: u64,
}

impl Flood {
    pub fn new() -> Self {
        Self { began: Instant::now(), owed: 0, paid: 0 }
    }

    pub fn receive(&mut self, frame: FrameHeader) {
        match frame.kind {
            kind::HEADERS => self.paid += PER_REQUEST,
            // How many a block may be made of is limited.
            kind::CONTINUATION => {}
            kind::DATA if frame.length > 0 || frame.has(flag::END_STREAM) => {}
            _ => self.owed += 1,
        }
    }

    /// DATA or HEADERS.
    pub fn send(&mut self) {
        self.paid += PER_FRAME_SENT;
    }

    pub fn is_exceeded(&self) -> bool {
        let allowed = self.paid.saturating_add(ALLOWANCE);
        self.owed > allowed && self.owed > allowed.saturating_add(earned(self.began.elapsed()))
    }
}

fn earned(lived: Duration) -> u64 {
    lived.as_secs().saturating_mul(PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> FrameHeader {
        FrameHeader { length, kind, flags, stream: 1 }
    }

    #[test]
    fn only_what_carries_nothing_is_owed() {
        let mut flood = Flood::new();
        for (kind, flags, length) in [
            (kind::HEADERS, 0, 300),
            (kind::CONTINUATION, 0, 0),
            (kind::DATA, flag::END_STREAM, 0),
            (kind::DATA, 0, 20),
        ] {
            flood.receive(frame(kind, flags, length));
        }
        assert_eq!((flood.owed, flood.paid), (0, PER_REQUEST));
        for (kind, length) in [(kind::PING, 8), (kind::DATA, 0), (0xfa, 1)] {
            flood.receive(frame(kind, 0, length));
        }
        assert_eq!((flood.owed, flood.paid), (3, PER_REQUEST));
    }

    #[test]
    fn what_carries_nothing_has_to_be_paid_for() {
        let mut flood = Flood::new();
        let pings = |flood: &mut Flood, count| {
            (0..count).for_each(|_| flood.receive(frame(kind::PING, 0, 8)));
        };
        pings(&mut flood, 1_000);
        assert!(!flood.is_exceeded());
        pings(&mut flood, 1);
        assert!(flood.is_exceeded());
        flood.send();
        assert!(!flood.is_exceeded());
        flood.began -= Duration::from_secs(100);
        pings(&mut flood, 1_000);
        assert!(!flood.is_exceeded(), "ten in a second are nobody's flood");
        pings(&mut flood, 10);
        assert!(flood.is_exceeded());
    }
}
