//! Room for bodies: what the peer's windows and our queue allow, shared out among the streams that wait
//! for it.

use std::task::{Context, Poll};

use super::State;

/// Bytes waiting to be written above which bodies wait with their streams.
const MAX_OUTGOING: usize = 256 * 1024;
/// With more waiting nothing is read: what is read has to be answered.
const MAX_OUTGOING_TO_READ: usize = 2 * MAX_OUTGOING;
/// What a stream gets at least when several share what is left of a window.
const MIN_SHARE: i64 = 1024;

impl State {
    /// What all streams together may hand over now.
    fn room(&self) -> i64 {
        let waiting = self.out.len() + self.in_flight;
        let queue = i64::try_from(MAX_OUTGOING.saturating_sub(waiting)).unwrap_or(i64::MAX);
        self.send_window.min(queue)
    }

    /// Bytes of a body `id` may hand over, up to `wanted`; otherwise it is woken when it may.
    pub fn poll_room(&mut self, id: u32, wanted: usize, cx: &Context<'_>) -> Poll<usize> {
        let shared = self.room();
        let others = self.waiting.iter().filter(|other| **other != id).count();
        let turn = self.turn;
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Pending };
        if stream.send_window <= 0 {
            stream.writer.wait(cx);
            return Poll::Pending;
        }
        let had_its_share = others > 0 && stream.turn == Some(turn);
        if shared <= 0 || had_its_share {
            stream.writer.wait(cx);
            if !self.waiting.contains(&id) {
                self.waiting.push(id);
            }
            if had_its_share {
                // What others leave is shared out again.
                self.wake_connection();
            }
            return Poll::Pending;
        }
        let share = match i64::try_from(others) {
            Ok(0) | Err(_) => shared,
            Ok(others) => {
                stream.turn = Some(turn);
                (shared / (others + 1)).max(MIN_SHARE).min(shared)
            }
        };
        let room = stream.send_window.min(share);
        if others < self.waiting.len() {
            self.waiting.retain(|other| *other != id);
        }
        Poll::Ready(usize::try_from(room).map_or(wanted, |room| room.min(wanted)))
    }

    /// Wakes who waits for room, if there is some.
    pub fn share_out(&mut self) {
        if self.waiting.is_empty() || self.room() <= 0 {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        for id in &self.waiting {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.writer.wake();
            }
        }
    }

    pub fn may_read(&self) -> bool {
        self.out.len() + self.in_flight < MAX_OUTGOING_TO_READ
    }
}
