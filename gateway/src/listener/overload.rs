//! What keeps a flood of connections or handshakes from taking everything: a cap on connections
//! below the limit of open files, a cap on handshakes, and turns for their expensive part.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::Limits;

/// Files that are not connections: logs, configuration, admin, listening sockets.
const OTHER_FILES: usize = 64;

/// Shared by all listeners of a process.
#[derive(Debug)]
pub(super) struct Overload {
    open: AtomicUsize,
    max_open: usize,
    /// Handshakes whose ClientHello has arrived; slow ClientHellos do not take from it.
    handshakes: Semaphore,
    /// Handshakes computing right now.
    turns: Semaphore,
}

/// A connection that counts against the cap until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<Overload>);

impl Overload {
    /// `workers`: the threads connections are served by.
    pub(super) fn new(limits: &Limits, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max_open: limits.max_connections.min(connections_for_open_files()),
            handshakes: Semaphore::new(limits.max_handshakes),
            // One for each worker: the next handshake queues up behind the requests that are ready,
            // so that these lose about one signature's time to a flood, however large.
            turns: Semaphore::new(workers.max(1)),
        })
    }

    /// `None`: as many connections are open as may be.
    pub(super) fn admit(self: &Arc<Self>) -> Option<OpenConnection> {
        let admitted = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < self.max_open).then_some(open + 1)
        });
        admitted.is_ok().then(|| OpenConnection(Arc::clone(self)))
    }

    pub(super) fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until there is room for another handshake.
    pub(super) async fn handshake(&self) -> Option<SemaphorePermit<'_>> {
        // `None` only if the semaphore was closed, which nobody does.
        self.handshakes.acquire().await.ok()
    }

    /// Waits for the turn to sign and derive keys. Must be given back before waiting for the client.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.turns.acquire().await.ok();
        // Behind the requests that are ready; a woken waiter would run before them.
        tokio::task::yield_now().await;
        turn
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A quarter of the files is kept for connections to upstreams. Idle connections need none there, and
/// of HTTP connections only those with a request in flight do, so half would refuse clients for
/// nothing; a dial that finds no file is one request's 503.
fn connections_for_open_files() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES) / 4 * 3
}

/// Raises the soft limit of open files to the hard one and returns it; shells and service managers
/// often leave it at 1024, which is 720 connections. To be called at start, before listeners are.
pub fn raise_open_file_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files could not be raised");
            soft
        }
    }
}
