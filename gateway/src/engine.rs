//! What every connection shares.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{limits::Limits, redirection::Redirection, snapshot::Snapshot, telemetry::Telemetry};

/// One proxy: its configuration, its limits, its telemetry.
#[derive(Debug)]
pub struct Engine {
    snapshot: ArcSwap<Snapshot>,
    pub limits: Limits,
    pub telemetry: Arc<Telemetry>,
    pub redirection: Redirection,
}

impl Engine {
    #[must_use]
    pub fn new(limits: Limits, telemetry: Arc<Telemetry>) -> Self {
        let snapshot = ArcSwap::from_pointee(Snapshot::default());
        Self { snapshot, limits, telemetry, redirection: Redirection::default() }
    }

    /// The configuration in force. An exchange takes it once and keeps it to its end.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }
}
