//! What keeps a flood of connections or handshakes from taking everything: a cap on connections
//! below the limit of open files, a cap on handshakes, and turns for their expensive part.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prometheus::IntGauge;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{limits::Limits, telemetry::metrics::Metrics, worker};

/// Files that are not connections: logs, configuration, admin, listening sockets.
const OTHER_FILES: usize = 64;

/// Shared by all listeners of a process.
#[derive(Debug)]
pub(super) struct Overload {
    open: Arc<AtomicUsize>,
    max_open: usize,
    /// Handshakes whose ClientHello has arrived; slow ClientHellos do not take from it.
    handshakes: Semaphore,
    workers: Box<[Arc<Load>]>,
}

/// What one worker has to do.
#[derive(Debug)]
struct Load {
    open: IntGauge,
    /// Of all workers.
    all_open: Arc<AtomicUsize>,
    /// For the handshake that is computing right now. One for each worker: the next handshake queues up
    /// behind the requests that are ready, so that these lose about one signature's time to a flood, however
    /// large.
    turn: Semaphore,
}

/// A connection that counts against the cap, and as its worker's, until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<Load>);

impl Overload {
    /// `workers`: how many there are.
    pub(super) fn new(limits: &Limits, workers: usize, metrics: &Metrics) -> Arc<Self> {
        let open = Arc::<AtomicUsize>::default();
        let idle = |number| {
            let (open, all_open) = (metrics.worker_connections(number), Arc::clone(&open));
            Arc::new(Load { open, all_open, turn: Semaphore::new(1) })
        };
        Arc::new(Self {
            max_open: limits.max_connections.min(connections_for_open_files()),
            handshakes: Semaphore::new(limits.max_handshakes),
            workers: (0..workers).map(idle).collect(),
            open,
        })
    }

    /// The worker with the fewest connections; of several the calling one, because another would have to
    /// be woken.
    pub(super) fn idlest_worker(&self) -> usize {
        let (here, count) = (worker::current(), self.workers.len());
        let candidates = (0..count).map(|offset| (here + offset) % count);
        candidates.min_by_key(|worker| self.workers[*worker].open.get()).unwrap_or(0)
    }

    /// A connection that `worker` is to serve. `None`: as many are open as may be.
    pub(super) fn admit(&self, worker: usize) -> Option<OpenConnection> {
        let admitted = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < self.max_open).then_some(open + 1)
        });
        admitted.is_ok().then(|| {
            let load = Arc::clone(&self.workers[worker]);
            load.open.inc();
            OpenConnection(load)
        })
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
        let turn = worker::own(&self.workers).turn.acquire().await.ok();
        // Behind the requests that are ready; a woken waiter would run before them.
        tokio::task::yield_now().await;
        turn
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.dec();
        self.0.all_open.fetch_sub(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::telemetry::{Telemetry, labels::Reporter};

    #[test]
    fn the_idlest_worker_is_the_calling_one_or_one_with_fewer_connections() {
        let telemetry = Telemetry::new(&Reporter::new("test", &BTreeMap::new()), 3);
        let overload = Overload::new(&Limits::default(), 3, &telemetry.metrics);
        worker::enlist(1);
        assert_eq!(overload.idlest_worker(), 1);
        let first = overload.admit(1).unwrap();
        assert_eq!(overload.idlest_worker(), 2);
        let _second = overload.admit(2).unwrap();
        assert_eq!(overload.idlest_worker(), 0);
        drop(first);
        assert_eq!(overload.idlest_worker(), 1);
        assert_eq!(overload.open_connections(), 1);
    }
}
