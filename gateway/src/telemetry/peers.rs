//! Who clients of the mesh are to metrics.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use weir_config::model::cluster::Workload;

use crate::connection::PeerIdentity;

/// Different identities remembered. A mesh that vouches for more has its later ones without a name.
const MAX_PEERS: usize = 10_000;

/// One value for all connections of an identity, so that they share their series.
#[derive(Debug, Default)]
pub struct Peers(Mutex<FxHashMap<Arc<str>, Arc<Workload>>>);

impl Peers {
    /// What a certificate says about the workload; `None` where it is not one of the mesh. Once per
    /// handshake: the lock is held for a look-up.
    #[must_use]
    pub fn workload(&self, peer: &PeerIdentity) -> Option<Arc<Workload>> {
        let principal = peer.principal()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workload) = known.get(principal) {
            return Some(Arc::clone(workload));
        }
        let mut parts = principal.split('/').skip_while(|part| *part != "ns").skip(1);
        let workload = match known.len() < MAX_PEERS {
            true => Workload {
                namespace: parts.next().unwrap_or_default().into(),
                principal: principal.into(),
                ..Workload::default()
            },
            false => Workload::default(),
        };
        let key = match workload.principal.is_empty() {
            true => Arc::default(),
            false => Arc::clone(&workload.principal),
        };
        Some(Arc::clone(known.entry(key).or_insert_with(|| Arc::new(workload))))
    }
}
