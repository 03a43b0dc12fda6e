//! A time of day of its own for a process under test. What it measures time with goes on as it does.

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use tempfile::TempDir;

/// What processes that are started with it take for the time of day. `clock.c` is preloaded into them:
/// Debian's libfaketime allocates, and waits for ever for an allocator that asks for the time while it
/// starts.
#[derive(Debug)]
pub struct Clock(TempDir);

impl Clock {
    /// One that is so many seconds ahead; behind, if it is less than zero.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn off_by(seconds: i64) -> Self {
        let clock = Self(tempfile::tempdir().expect("make a folder"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(clock.library()).arg(source);
        let output = compiler.output().expect("run cc");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        clock.set(seconds);
        clock
    }

    /// Sets it, also for processes that run.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) {
        // As a whole: it is read all the time.
        let next = self.0.path().join("next");
        fs::write(&next, seconds.to_string()).expect("write a file");
        fs::rename(next, self.seconds()).expect("rename a file");
    }

    /// The environment of processes that go by it.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library().into()), ("WEIR_TEST_CLOCK", self.seconds().into())]
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("clock.so")
    }

    fn seconds(&self) -> PathBuf {
        self.0.path().join("seconds")
    }
}
