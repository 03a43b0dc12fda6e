//! The connections to one endpoint, parted among the workers.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use super::{Pool, Target};
use crate::{telemetry::clusters::ClusterGauges, worker};

/// The pools of one endpoint over one TLS context: of each worker its own, so that what an upstream sends
/// wakes the worker it is for. Where the transport says so it is one for all, and exact about its limits.
/// A pool is made when it is first asked for.
#[derive(Debug)]
pub struct WorkerPools {
    target: Target,
    gauges: Arc<ClusterGauges>,
    is_retired: AtomicBool,
    pools: Box<[OnceLock<Arc<Pool>>]>,
}

impl WorkerPools {
    #[must_use]
    pub fn new(target: Target, gauges: Arc<ClusterGauges>) -> Arc<Self> {
        let pools = (0..target.transport.pools.max(1)).map(|_| OnceLock::new()).collect();
        Arc::new(Self { target, gauges, is_retired: AtomicBool::new(false), pools })
    }

    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The calling worker's.
    #[must_use]
    pub fn local(&self) -> &Arc<Pool> {
        worker::own(&self.pools).get_or_init(|| {
            let pool = Pool::new(self.target.clone(), Arc::clone(&self.gauges));
            // One that is missed here by a hair keeps what is idle until the last request has let go of
            // the endpoint.
            if self.is_retired.load(Ordering::SeqCst) {
                pool.retire();
            }
            pool
        })
    }

    /// As [`Pool::retire`], of all.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::SeqCst);
        self.pools.iter().filter_map(OnceLock::get).for_each(|pool| pool.retire());
    }
}
