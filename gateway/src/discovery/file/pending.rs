//! When a file that is being changed may be read.
//!
//! A change has to be live within 50 ms of being written, and must not be seen half done: an editor
//! truncates a file before it writes it, or renames it away before the new one is there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// After the last sign of a change, so that files written together are read together.
const SETTLE: Duration = Duration::from_millis(2);
/// Together with the first change, however many follow.
const MAX_SETTLE: Duration = Duration::from_millis(20);
/// A file that vanished is gone when it has not come back for this long.
const GONE: Duration = Duration::from_millis(30);
/// A file that is open for writing, or empty where it held objects, is read after this long anyway.
const UNFINISHED: Duration = Duration::from_millis(500);
/// Even when it is written to without a pause.
const MAX_UNFINISHED: Duration = Duration::from_secs(2);

/// What was seen of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Closed after writing, or put in place by a rename.
    Complete,
    /// Somebody writes to it.
    Writing,
    /// Not there.
    Gone,
    /// There, but empty where it was not.
    Emptied,
}

#[derive(Debug)]
struct Wait {
    sign: Sign,
    since: Instant,
    due: Instant,
}

/// Files with a change that was not taken over yet.
#[derive(Debug, Default)]
pub struct Pending {
    files: BTreeMap<PathBuf, Wait>,
    last_complete: Option<Instant>,
}

impl Pending {
    pub fn see(&mut self, path: &Path, sign: Sign, now: Instant) {
        let since = self.files.get(path).map_or(now, |wait| wait.since);
        let due = match sign {
            Sign::Complete => {
                self.last_complete = Some(now);
                now + SETTLE
            }
            Sign::Gone => now + GONE,
            Sign::Writing => (now + UNFINISHED).min(since + MAX_UNFINISHED),
            Sign::Emptied => now + UNFINISHED,
        };
        self.files.insert(path.to_owned(), Wait { sign, since, due });
    }

    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// When to look again.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let first = self.files.values().min_by_key(|wait| wait.due)?;
        // More files of the same change may be on their way.
        let quiet = self.last_complete.map_or(first.due, |last| last + SETTLE);
        Some(first.due.max(quiet.min(first.due + MAX_SETTLE - SETTLE)))
    }

    /// The files to take over now, each with the last that was seen of it. Empty before
    /// [`Self::next_due`].
    pub fn take_due(&mut self, now: Instant) -> Vec<(PathBuf, Sign)> {
        if self.next_due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let due: Vec<_> = self.files.extract_if(.., |_, wait| wait.due <= now).collect();
        due.into_iter().map(|(path, wait)| (path, wait.sign)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn taken(pending: &mut Pending, now: Instant) -> Vec<String> {
        let taken = pending.take_due(now).into_iter();
        taken.map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn a_complete_file_is_read_at_once() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.see(Path::new("a"), Sign::Complete, now);
        assert_eq!(taken(&mut pending, now + ms(1)), [""; 0]);
        assert_eq!(taken(&mut pending, now + SETTLE), ["a"]);
        assert_eq!(pending.next_due(), None);
    }

    #[test]
    fn files_written_together_are_read_together() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.see(Path::new("a"), Sign::Complete, now);
        pending.see(Path::new("b"), Sign::Complete, now + ms(1));
        assert_eq!(taken(&mut pending, now + SETTLE), [""; 0], "b has not settled");
        assert_eq!(taken(&mut pending, now + ms(1) + SETTLE), ["a", "b"]);
    }

    #[test]
    fn changes_without_end_do_not_hold_back_the_first() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.see(Path::new("a"), Sign::Complete, now);
        for i in 0..=20 {
            pending.see(Path::new("b"), Sign::Complete, now + ms(i));
        }
        assert_eq!(taken(&mut pending, now + MAX_SETTLE), ["a"]);
    }

    #[test]
    fn a_file_that_is_being_written_waits_for_its_end() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.see(Path::new("a"), Sign::Writing, now);
        pending.see(Path::new("a"), Sign::Writing, now + ms(300));
        assert_eq!(taken(&mut pending, now + ms(600)), [""; 0]);
        pending.see(Path::new("a"), Sign::Complete, now + ms(600));
        assert_eq!(taken(&mut pending, now + ms(605)), ["a"]);
    }

    #[test]
    fn a_file_that_is_never_closed_is_read_in_the_end() {
        let now = Instant::now();
        let mut pending = Pending::default();
        for i in 0..20 {
            pending.see(Path::new("a"), Sign::Writing, now + ms(100 * i));
        }
        assert_eq!(taken(&mut pending, now + ms(1_999)), [""; 0]);
        assert_eq!(taken(&mut pending, now + ms(2_000)), ["a"]);
    }

    #[test]
    fn a_file_that_comes_back_was_never_gone() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.see(Path::new("a"), Sign::Gone, now);
        pending.see(Path::new("a"), Sign::Complete, now + ms(20));
        let taken = pending.take_due(now + ms(25));
        assert_eq!(taken, [(PathBuf::from("a"), Sign::Complete)]);
    }
}
