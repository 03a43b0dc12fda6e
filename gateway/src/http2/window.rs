//! Flow control of what is received (RFC 9113 section 5.2): of one stream, and of a connection.

use super::frame::DEFAULT_WINDOW;

/// How much the peer may still send, and how much of what it sent was taken.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    available: i64,
    /// Taken by the reader, and not told the peer yet.
    released: u32,
    /// Of an empty window.
    size: u32,
}

impl ReceiveWindow {
    /// Of a size the peer knows, or will: until then it may think of the default.
    pub fn new(size: u32, is_known: bool) -> Self {
        let available = if is_known { size } else { size.max(DEFAULT_WINDOW) };
        Self { available: i64::from(available), released: 0, size }
    }

    /// Whether it may send that much.
    #[must_use]
    pub fn receive(&mut self, bytes: u32) -> bool {
        self.available -= i64::from(bytes);
        self.available >= 0
    }

    /// What the peer is to be told, once that is half a window.
    pub fn release(&mut self, bytes: u32) -> Option<u32> {
        self.released = self.released.saturating_add(bytes);
        if self.released == 0 || self.released < self.size / 2 {
            return None;
        }
        let increment = std::mem::take(&mut self.released);
        self.available += i64::from(increment);
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_when_half_of_it_was_taken() {
        let mut window = ReceiveWindow::new(100, true);
        assert!(window.receive(100) && !window.receive(1));
        let mut window = ReceiveWindow::new(100, true);
        assert!(window.receive(100));
        assert_eq!(window.release(49), None);
        assert_eq!(window.release(1), Some(50));
        assert!(window.receive(50) && !window.receive(1));
    }

    #[test]
    fn a_peer_that_does_not_know_yet_may_send_what_everybody_may() {
        assert!(ReceiveWindow::new(100, false).receive(DEFAULT_WINDOW));
        assert!(!ReceiveWindow::new(100, false).receive(DEFAULT_WINDOW + 1));
        assert!(ReceiveWindow::new(70_000, false).receive(70_000));
    }

    #[test]
    fn a_window_of_nothing_is_never_opened_by_nothing() {
        assert_eq!(ReceiveWindow::new(0, true).release(0), None);
        assert_eq!(ReceiveWindow::new(1, true).release(1), Some(1));
    }
}
