//! Counting what is in use against a limit. The limit is configuration and comes with each call; the
//! count is a metric of the cluster's name and outlives configurations.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::telemetry::clusters::ClusterGauges;

/// One more of `count`, unless `max` are in use already.
#[must_use]
pub fn take(count: &AtomicI64, max: u32) -> Option<Taken<'_>> {
    try_increment(count, max).then(|| Taken(count))
}

/// One in use, until dropped.
#[derive(Debug)]
pub struct Taken<'a>(&'a AtomicI64);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection of a cluster, for as long as it is open.
#[derive(Debug)]
pub struct Slot {
    gauges: Arc<ClusterGauges>,
    idle: bool,
}

impl Slot {
    /// A place for one more connection, unless `max` are open already.
    #[must_use]
    pub fn take(gauges: &Arc<ClusterGauges>, max: u32) -> Option<Self> {
        try_increment(&gauges.connections_active, max).then(|| Self::of(gauges))
    }

    /// One more connection, whatever the limit.
    #[must_use]
    pub(super) fn force(gauges: &Arc<ClusterGauges>) -> Self {
        gauges.connections_active.fetch_add(1, Ordering::Relaxed);
        Self::of(gauges)
    }

    fn of(gauges: &Arc<ClusterGauges>) -> Self {
        Self { gauges: Arc::clone(gauges), idle: false }
    }

    /// Whether the connection waits for its next request.
    pub(super) fn set_idle(&mut self, idle: bool) {
        let change = i64::from(idle) - i64::from(self.idle);
        self.gauges.connections_idle.fetch_add(change, Ordering::Relaxed);
        self.idle = idle;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.idle {
            self.gauges.connections_idle.fetch_sub(1, Ordering::Relaxed);
        }
        self.gauges.connections_active.fetch_sub(1, Ordering::Relaxed);
    }
}

fn try_increment(count: &AtomicI64, max: u32) -> bool {
    if max == u32::MAX {
        // Without a limit, the usual case, an addition cannot fail and needs no loop.
        count.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    let increment = |in_use: i64| (in_use < i64::from(max)).then_some(in_use + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_nothing_is_taken() {
        let count = AtomicI64::new(0);
        let first = take(&count, 2);
        let second = take(&count, 2);
        assert!(first.is_some() && second.is_some());
        assert!(take(&count, 2).is_none());
        drop(first);
        assert!(take(&count, 2).is_some());
    }

    #[test]
    fn a_forced_slot_counts_against_the_limit() {
        let gauges = Arc::new(ClusterGauges::default());
        let forced = Slot::force(&gauges);
        assert!(Slot::take(&gauges, 1).is_none());
        drop(forced);
        assert!(Slot::take(&gauges, 1).is_some());
    }
}
