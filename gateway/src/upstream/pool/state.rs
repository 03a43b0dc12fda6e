//! What a pool has: its lanes, and whether anybody looks after what is idle in them.

use std::{sync::Arc, task::Waker};

use rustc_hash::FxHashMap;

use super::lane::{Deadline, Lane};

/// Whose connections may stand in for each other: `None` where connections serve any host, else those
/// whose TLS was made for the same host.
pub(super) type Host = Option<Arc<str>>;

/// Connections are kept for no more hosts than this. Where hosts come from requests a client could
/// otherwise make us keep any number.
const MAX_HOSTS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct State {
    any_host: Lane,
    /// Hosts without connections are not kept: clients choose them.
    per_host: FxHashMap<Arc<str>, Lane>,
    pub retired: bool,
    pub watcher: Watcher,
    last_id: u64,
}

/// The task that closes idle connections in time.
#[derive(Debug, Default)]
pub(super) enum Watcher {
    #[default]
    Absent,
    /// Looks at everything as soon as it runs.
    Starting,
    Waiting {
        waker: Waker,
        until: Deadline,
    },
}

impl State {
    /// A lane that is there already. Does not allocate.
    pub(super) fn find_lane(&mut self, host: Option<&str>) -> Option<(Host, &mut Lane)> {
        let Some(host) = host else { return Some((None, &mut self.any_host)) };
        let host = Arc::clone(self.per_host.get_key_value(host)?.0);
        let lane = self.per_host.get_mut(&host)?;
        Some((Some(host), lane))
    }

    pub(super) fn lane(&mut self, host: &Host) -> &mut Lane {
        match host {
            None => &mut self.any_host,
            Some(host) => self.per_host.entry(Arc::clone(host)).or_default(),
        }
    }

    pub(super) fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        std::iter::once(&mut self.any_host).chain(self.per_host.values_mut())
    }

    pub(super) fn forget_empty_lanes(&mut self) {
        self.per_host.retain(|_, lane| !lane.is_empty());
    }

    pub(super) fn forget_if_empty(&mut self, host: &Host) {
        if let Some(host) = host
            && self.per_host.get(host).is_some_and(Lane::is_empty)
        {
            self.per_host.remove(host);
        }
    }

    /// Whether connections are kept for later.
    pub(super) fn keeps_connections(&self) -> bool {
        !self.retired && self.per_host.len() <= MAX_HOSTS
    }

    /// An id nothing else in this pool has.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
