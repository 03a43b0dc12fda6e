//! Looks at everything there is, for what a watch does not tell (network file systems, links that lead
//! out of the folder), in a thread of their own: a look at 10,000 files takes tens of milliseconds, in
//! which changes go on being taken over.

use std::{
    path::PathBuf,
    sync::mpsc::Sender,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{tree::Tree, watch::Notice};

/// How often, or less often where it takes long.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same where nothing can be watched.
const INTERVAL_UNWATCHED: Duration = Duration::from_secs(1);
/// A look may take one part in so many of the time.
const SHARE: u32 = 200;

/// When to look, and the look that is under way.
#[derive(Debug)]
pub struct Looks {
    interval: Duration,
    due: Instant,
    running: Option<Look>,
}

#[derive(Debug)]
struct Look {
    started: Instant,
    thread: JoinHandle<Tree>,
}

impl Looks {
    /// `is_watched`: most changes are told as they happen.
    #[must_use]
    pub fn new(is_watched: bool) -> Self {
        let interval = if is_watched { INTERVAL } else { INTERVAL_UNWATCHED };
        Self { interval, due: Instant::now() + interval, running: None }
    }

    /// Something has happened that only a look can tell. One that is under way may have passed it.
    pub fn ask(&mut self, now: Instant) {
        self.due = now;
    }

    /// When there is something to start; a look that ends says so itself.
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Instant {
        if self.running.is_some() { now + self.interval } else { self.due }
    }

    /// Looks at `roots` if it is time; [`Notice::Looked`] says that [`Self::end`] has the result.
    pub fn start_if_due(&mut self, now: Instant, roots: &[PathBuf], told: &Sender<Notice>) {
        if self.running.is_some() || now < self.due {
            return;
        }
        self.due = now + self.interval;
        let (roots, told) = (roots.to_vec(), told.clone());
        let look = move || {
            let _told = Told(told);
            Tree::walk(&roots)
        };
        match thread::Builder::new().name("config-look".to_owned()).spawn(look) {
            Ok(thread) => self.running = Some(Look { started: now, thread }),
            Err(error) => warn!(%error, "the configuration cannot be looked at now"),
        }
    }

    /// What the look that has ended found.
    pub fn end(&mut self, now: Instant) -> Option<Tree> {
        let Look { started, thread } = self.running.take()?;
        // One that was asked for meanwhile starts at once.
        if self.due > now {
            let took = now.saturating_duration_since(started);
            self.due = now + self.interval.max(took * SHARE);
        }
        // One that panicked has said so.
        thread.join().ok()
    }
}

/// Tells that a look has ended, however it ended.
struct Told(Sender<Notice>);

impl Drop for Told {
    fn drop(&mut self) {
        // The source may be gone.
        let _ = self.0.send(Notice::Looked);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn a_look_is_taken_when_asked_for_and_tells_its_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "").unwrap();
        let roots = [folder.path().to_owned()];
        let (told, notices) = mpsc::channel();
        let now = Instant::now();
        let mut looks = Looks::new(true);
        looks.start_if_due(now, &roots, &told);
        assert!(looks.running.is_none(), "not yet");
        looks.ask(now);
        looks.start_if_due(now, &roots, &told);
        assert_eq!(notices.recv_timeout(DEADLINE), Ok(Notice::Looked));
        let tree = looks.end(now).unwrap();
        assert_eq!(tree.files.into_keys().collect::<Vec<_>>(), [folder.path().join("a.yaml")]);
        assert_eq!(looks.next_due(now), now + INTERVAL);
    }

    #[test]
    fn what_is_asked_for_during_a_look_takes_another_one() {
        let (told, notices) = mpsc::channel();
        let now = Instant::now();
        let mut looks = Looks::new(true);
        looks.ask(now);
        looks.start_if_due(now, &[], &told);
        looks.ask(now);
        assert!(looks.next_due(now) > now, "one at a time");
        assert_eq!(notices.recv_timeout(DEADLINE), Ok(Notice::Looked));
        assert!(looks.end(now).is_some());
        assert_eq!(looks.next_due(now), now);
    }
}
