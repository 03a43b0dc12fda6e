//! What is going on: on standard error while it runs, the tables on standard output.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command's output")]

use std::time::{Duration, Instant};

/// Counts steps and says how many are left.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    done: usize,
    total: usize,
}

impl Progress {
    pub fn start(total: usize) -> Self {
        Self { start: Instant::now(), done: 0, total }
    }

    /// Something is about to be done that is one of the counted steps.
    pub fn step(&mut self, what: &str) {
        self.done += 1;
        let left =
            self.left().map_or(String::new(), |left| format!(", about {} left", short(left)));
        eprintln!("[{:>3}/{}{left}] {what}", self.done, self.total);
    }

    /// Steps that fall away.
    pub fn skip(&mut self, steps: usize) {
        self.total = self.total.saturating_sub(steps).max(self.done);
    }

    /// Steps that come on top.
    pub fn add(&mut self, steps: usize) {
        self.total += steps;
    }

    pub fn note(&self, what: &str) {
        eprintln!("{what}");
    }

    pub fn print(&self, text: &str) {
        println!("{text}");
    }

    /// As long for each step to come as for those done.
    fn left(&self) -> Option<Duration> {
        let done = u32::try_from(self.done.checked_sub(1)?).ok().filter(|done| *done > 0)?;
        let to_come = u32::try_from(self.total - self.done + 1).ok()?;
        Some(self.start.elapsed() / done * to_come)
    }
}

fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}
