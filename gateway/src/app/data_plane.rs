//! Where traffic runs.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::worker::{self, Workers};

/// The workers, for as long as traffic runs.
///
/// Each is a runtime of a single thread, which knows neither stealing nor waking others and costs less
/// for each task and each wait than a runtime of several.
pub(super) struct DataPlane {
    workers: Workers,
    threads: Vec<Worker>,
}

struct Worker {
    runtime: Handle,
    /// Dropped to end it.
    _stop: oneshot::Sender<()>,
    /// Hangs up once all its tasks are gone.
    ended: mpsc::Receiver<()>,
}

impl DataPlane {
    /// # Errors
    /// The operating system gives no threads or no epoll.
    pub(super) fn start(workers: usize) -> anyhow::Result<Self> {
        let threads: io::Result<Vec<_>> = (0..workers.max(1)).map(Worker::start).collect();
        let threads = threads.context("start the workers")?;
        let workers = Workers::new(threads.iter().map(|worker| worker.runtime.clone()));
        Ok(Self { workers, threads })
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Ends what still runs, and waits for that no longer than `limit`.
    pub(super) fn shutdown(self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // All are told before the first is waited for.
        let ending: Vec<_> = self.threads.into_iter().map(|Worker { ended, .. }| ended).collect();
        for ended in ending {
            let left = deadline.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::debug!("a task does not give way, left behind");
            }
        }
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let name = format!("worker-{number}");
        let runtime =
            Builder::new_current_thread().thread_name(name.as_str()).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = mpsc::channel::<()>();
        thread::Builder::new().name(name).spawn(move || {
            worker::enlist(number);
            // An error: the other end was dropped, which is what is waited for.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
            drop(end);
        })?;
        Ok(Self { runtime: handle, _stop: stop, ended })
    }
}
