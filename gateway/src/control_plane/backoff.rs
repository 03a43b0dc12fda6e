//! How long to wait before the next try.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// All are back within five seconds of a controller that was away for long.
const LONGEST: Duration = Duration::from_secs(4);

/// Twice as long after each failure, and never exactly as long as others wait: when a controller
/// comes back, its proxies do not all come at once.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// Between half and all of the time that is due.
    pub fn wait(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(LONGEST);
        due.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_vary() {
        let waits = || {
            let mut backoff = Backoff::default();
            (0..12).map(|_| backoff.wait()).collect::<Vec<_>>()
        };
        let some = waits();
        let mut due = FIRST;
        for wait in &some {
            assert!(due / 2 <= *wait && *wait <= due, "{wait:?} of {due:?}");
            due = (due * 2).min(LONGEST);
        }
        assert_ne!(some, waits());
    }
}
