//! Endpoints nobody configured: where clients were going.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use weir_config::model::cluster::Workload;

use super::{
    endpoint::{Endpoint, Member},
    transport::Transports,
};
use crate::telemetry::clusters::ClusterGauges;

/// An endpoint nobody asked for this long is forgotten, and what is pooled for it closed.
const UNUSED: Duration = Duration::from_secs(60);
/// Below this, forgetting is not worth a look.
const FEW: usize = 64;

/// The endpoints clients asked for lately.
#[derive(Debug, Default)]
pub(super) struct OriginalDst {
    /// Held for one look-up, and now and then for a pass over all.
    known: Mutex<Known>,
    /// What metrics call all of them: one, so that they have one series.
    nobody: Arc<Workload>,
}

#[derive(Debug, Default)]
struct Known {
    endpoints: FxHashMap<SocketAddr, (Arc<Endpoint>, Instant)>,
    /// How many there may be before the unused are looked for.
    room: usize,
}

impl OriginalDst {
    pub(super) fn endpoint(
        &self,
        address: SocketAddr,
        transports: &Transports,
        gauges: &Arc<ClusterGauges>,
    ) -> Arc<Endpoint> {
        let now = Instant::now();
        let mut known = self.known();
        if let Some((endpoint, used)) = known.endpoints.get_mut(&address) {
            *used = now;
            return Arc::clone(endpoint);
        }
        if known.endpoints.len() >= known.room.max(FEW) {
            known.forget_unused(now);
        }
        let member = Member::at(address, &self.nobody);
        let endpoint = Endpoint::next(None, member, transports, gauges);
        known.endpoints.insert(address, (Arc::clone(&endpoint), now));
        endpoint
    }

    /// Closes what is pooled; who has an endpoint goes on with it.
    pub(super) fn retire(&self) {
        for (endpoint, _) in self.known().endpoints.values() {
            endpoint.retire(None);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget_unused(&mut self, now: Instant) {
        self.endpoints.retain(|_, (endpoint, used)| {
            let stays = endpoint.in_flight() > 0 || now.duration_since(*used) < UNUSED;
            if !stays {
                endpoint.retire(None);
            }
            stays
        });
        // So that looking for them is a part of the cost of adding them, however many stay.
        self.room = self.endpoints.len() * 2;
    }
}
