//! Where traffic runs.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

const WORKER: &str = "worker";

/// The runtime of connections and whatever serves them.
///
/// One worker has nobody to share work with: its runtime is one of a single thread, which knows
/// neither stealing nor waking others and costs less for each task and each wait.
pub(super) struct DataPlane {
    handle: Handle,
    workers: Workers,
}

enum Workers {
    Several(Runtime),
    One {
        /// Dropped to end it.
        stop: oneshot::Sender<()>,
        /// Hangs up once all its tasks are gone.
        ended: mpsc::Receiver<()>,
    },
}

impl DataPlane {
    /// # Errors
    /// The operating system gives no threads or no epoll.
    pub(super) fn start(workers: usize) -> anyhow::Result<Self> {
        let started = if workers > 1 { several(workers) } else { one() };
        started.context("start the data plane runtime")
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends what still runs, and waits for that no longer than `limit`.
    pub(super) fn shutdown(self, limit: Duration) {
        match self.workers {
            Workers::Several(runtime) => runtime.shutdown_timeout(limit),
            Workers::One { stop, ended } => {
                drop(stop);
                if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    tracing::debug!("a task does not give way, left behind");
                }
            }
        }
    }
}

fn several(workers: usize) -> anyhow::Result<DataPlane> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name(WORKER)
        .enable_all()
        .build()?;
    Ok(DataPlane { handle: runtime.handle().clone(), workers: Workers::Several(runtime) })
}

fn one() -> anyhow::Result<DataPlane> {
    let runtime = Builder::new_current_thread().thread_name(WORKER).enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let (end, ended) = mpsc::channel::<()>();
    thread::Builder::new().name(WORKER.to_owned()).spawn(move || {
        // An error: the other end was dropped, which is what is waited for.
        let _ = runtime.block_on(stopped);
        runtime.shutdown_background();
        drop(end);
    })?;
    Ok(DataPlane { handle, workers: Workers::One { stop, ended } })
}
