//! What a pool has: its lanes, and whether anybody looks after what is idle in them.

use std::{net::IpAddr, sync::Arc, task::Waker};

use rustc_hash::FxHashMap;

use super::lane::{Deadline, Lane};

/// Whose connections may stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// They serve everybody.
    Anybody,
    /// Their TLS was made for this host.
    Host(Arc<str>),
    /// They come from this address, in the client's name.
    Client(IpAddr),
}

/// The same, of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    Anybody,
    Host(&'a str),
    Client(IpAddr),
}

impl Whose {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        match self {
            Self::Anybody => Wanted::Anybody,
            Self::Host(host) => Wanted::Host(host),
            Self::Client(client) => Wanted::Client(*client),
        }
    }

    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Host(host) => Some(host),
            Self::Anybody | Self::Client(_) => None,
        }
    }

    pub(super) fn client(&self) -> Option<IpAddr> {
        match self {
            Self::Client(client) => Some(*client),
            Self::Anybody | Self::Host(_) => None,
        }
    }
}

impl From<Wanted<'_>> for Whose {
    fn from(wanted: Wanted<'_>) -> Self {
        match wanted {
            Wanted::Anybody => Self::Anybody,
            Wanted::Host(host) => Self::Host(host.into()),
            Wanted::Client(client) => Self::Client(client),
        }
    }
}

/// Connections are kept for no more hosts, or clients, than this. Where hosts come from requests a
/// client could otherwise make us keep any number.
const MAX_LANES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct State {
    anybody: Lane,
    /// Hosts without connections are not kept: clients choose them.
    per_host: FxHashMap<Arc<str>, Lane>,
    per_client: FxHashMap<IpAddr, Lane>,
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
    pub(super) fn find_lane(&mut self, wanted: Wanted<'_>) -> Option<(Whose, &mut Lane)> {
        match wanted {
            Wanted::Anybody => Some((Whose::Anybody, &mut self.anybody)),
            Wanted::Host(host) => {
                let host = Arc::clone(self.per_host.get_key_value(host)?.0);
                let lane = self.per_host.get_mut(&host)?;
                Some((Whose::Host(host), lane))
            }
            Wanted::Client(client) => {
                Some((Whose::Client(client), self.per_client.get_mut(&client)?))
            }
        }
    }

    pub(super) fn lane(&mut self, whose: &Whose) -> &mut Lane {
        match whose {
            Whose::Anybody => &mut self.anybody,
            Whose::Host(host) => self.per_host.entry(Arc::clone(host)).or_default(),
            Whose::Client(client) => self.per_client.entry(*client).or_default(),
        }
    }

    pub(super) fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        let others = self.per_host.values_mut().chain(self.per_client.values_mut());
        std::iter::once(&mut self.anybody).chain(others)
    }

    pub(super) fn forget_empty_lanes(&mut self) {
        self.per_host.retain(|_, lane| !lane.is_empty());
        self.per_client.retain(|_, lane| !lane.is_empty());
    }

    pub(super) fn forget_if_empty(&mut self, whose: &Whose) {
        match whose {
            Whose::Anybody => {}
            Whose::Host(host) => {
                if self.per_host.get(host).is_some_and(Lane::is_empty) {
                    self.per_host.remove(host);
                }
            }
            Whose::Client(client) => {
                if self.per_client.get(client).is_some_and(Lane::is_empty) {
                    self.per_client.remove(client);
                }
            }
        }
    }

    /// Whether connections are kept for later.
    pub(super) fn keeps_connections(&self) -> bool {
        !self.retired && self.per_host.len() + self.per_client.len() <= MAX_LANES
    }

    /// An id nothing else in this pool has.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
