//! A member of a cluster: where it is, what it has to do, and the connections to it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use weir_config::model::cluster::{EndpointAddress, Workload};

use super::{
    outlier::Monitor,
    transport::{Takes, Transports, Ways},
};
use crate::{
    telemetry::{Protocol, clusters::ClusterGauges},
    upstream::{Address, Pool, Target, WorkerPools},
};

/// Which endpoint, for as long as it is a member; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointId(u64);

impl EndpointId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    #[cfg(test)]
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// One version of a member's configuration, with the running state all versions share.
#[derive(Debug)]
pub struct Endpoint {
    id: EndpointId,
    /// Its identity from one configuration to the next.
    key: Key,
    address: Address,
    weight: u32,
    takes: Takes,
    workload: Arc<Workload>,
    pools: Pools,
    state: Arc<State>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Address(EndpointAddress),
    /// The one endpoint of a logical DNS cluster, whose address comes and goes.
    Logical,
}

/// What configuration and name resolution say about an endpoint.
#[derive(Debug)]
pub(super) struct Member {
    pub key: Key,
    pub address: Address,
    pub weight: u32,
    pub takes: Takes,
    pub workload: Arc<Workload>,
}

impl Member {
    /// One that no configuration lists: found by its address alone.
    pub(super) fn at(address: SocketAddr, workload: &Arc<Workload>) -> Self {
        Self {
            key: Key::Address(EndpointAddress::Ip(address)),
            address: Address::Ip(address),
            weight: 1,
            takes: Takes::default(),
            workload: Arc::clone(workload),
        }
    }
}

#[derive(Debug)]
struct State {
    joined: Instant,
    in_flight: AtomicU32,
    monitor: Monitor,
}

impl State {
    fn new() -> Self {
        Self {
            joined: Instant::now(),
            in_flight: AtomicU32::default(),
            monitor: Monitor::default(),
        }
    }
}

#[derive(Debug, Clone)]
enum Pools {
    One(Arc<WorkerPools>),
    /// `useClientProtocol`: upstream is spoken what downstream is.
    MatchDownstream {
        http1: Arc<WorkerPools>,
        http2: Arc<WorkerPools>,
    },
}

impl Endpoint {
    /// The endpoint for `member`, taking over the state of `prev` and, if it may, its connections.
    pub(super) fn next(
        prev: Option<&Arc<Self>>,
        member: Member,
        transports: &Transports,
        gauges: &Arc<ClusterGauges>,
    ) -> Arc<Self> {
        let Member { key, address, weight, takes, workload } = member;
        let ways = transports.ways(takes);
        let principal = Some(&workload.principal).filter(|name| !name.is_empty());
        let identity = principal.filter(|_| transports.checks_identity(takes)).cloned();
        let reusable = prev.filter(|prev| prev.pools.are_for(ways, identity.as_ref()));
        if let Some(prev) = reusable
            && prev.weight == weight
            && prev.takes == takes
            && prev.workload == workload
        {
            return Arc::clone(prev);
        }
        Arc::new(Self {
            id: prev.map_or_else(EndpointId::next, |prev| prev.id),
            pools: reusable.map_or_else(
                || Pools::new(&address, ways, identity.as_ref(), gauges),
                |prev| prev.pools.clone(),
            ),
            state: prev.map_or_else(|| Arc::new(State::new()), |prev| Arc::clone(&prev.state)),
            key,
            address,
            weight,
            takes,
            workload,
        })
    }

    /// What this endpoint was made from.
    pub(super) fn member(&self) -> Member {
        Member {
            key: self.key.clone(),
            address: self.address.clone(),
            weight: self.weight,
            takes: self.takes,
            workload: Arc::clone(&self.workload),
        }
    }

    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// When it became a member.
    pub(super) fn joined(&self) -> Instant {
        self.state.joined
    }

    /// The address as text: what hashing knows an endpoint by.
    pub(super) fn name(&self) -> String {
        match &self.key {
            Key::Address(EndpointAddress::Ip(address)) => address.to_string(),
            Key::Address(EndpointAddress::Dns { host, port }) => format!("{host}:{port}"),
            Key::Address(EndpointAddress::Unix(path)) => path.display().to_string(),
            Key::Logical => String::new(),
        }
    }

    #[must_use]
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The calling worker's connections for an exchange whose client speaks `downstream`.
    #[must_use]
    pub fn pool(&self, downstream: Protocol) -> &Arc<Pool> {
        self.pools.of(downstream).local()
    }

    /// For connections that are not pooled: what to `dial`.
    #[must_use]
    pub fn target(&self) -> &Target {
        self.pools.of(Protocol::Tcp).target()
    }

    /// Requests (or TCP connections) it has to do with at the moment.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more in flight for as long as the guard lives.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.state.monitor
    }

    /// Where a logical endpoint keeps its current address.
    pub(super) fn logical_address(&self) -> Option<&Arc<ArcSwap<Option<SocketAddr>>>> {
        match &self.address {
            Address::Logical(current) => Some(current),
            Address::Ip(_) | Address::Unix(_) => None,
        }
    }

    /// Closes what is idle and keeps no connection any more, unless `successor` goes on using them.
    pub(super) fn retire(&self, successor: Option<&Self>) {
        let kept = successor.map(|successor| &successor.pools);
        for pools in self.pools.iter() {
            if !kept.is_some_and(|kept| kept.iter().any(|other| Arc::ptr_eq(pools, other))) {
                pools.retire();
            }
        }
    }
}

impl Pools {
    fn new(
        address: &Address,
        ways: &Ways,
        identity: Option<&Arc<str>>,
        gauges: &Arc<ClusterGauges>,
    ) -> Self {
        let pool = |transport: &Arc<_>| {
            let transport = Arc::clone(transport);
            let target =
                Target { address: address.clone(), transport, identity: identity.cloned() };
            WorkerPools::new(target, Arc::clone(gauges))
        };
        match ways {
            Ways::One(transport) => Self::One(pool(transport)),
            Ways::MatchDownstream { http1, http2 } => {
                Self::MatchDownstream { http1: pool(http1), http2: pool(http2) }
            }
        }
    }

    fn of(&self, downstream: Protocol) -> &WorkerPools {
        match (self, downstream) {
            (Self::One(pools), _) => pools,
            (Self::MatchDownstream { http2, .. }, Protocol::Http2) => http2,
            (
                Self::MatchDownstream { http1, .. },
                Protocol::Http10 | Protocol::Http11 | Protocol::Tcp,
            ) => http1,
        }
    }

    fn are_for(&self, ways: &Ways, identity: Option<&Arc<str>>) -> bool {
        let is_same = self.iter().all(|pool| pool.target().identity.as_ref() == identity);
        is_same && self.are_of(ways)
    }

    fn are_of(&self, ways: &Ways) -> bool {
        match (self, ways) {
            (Self::One(pool), Ways::One(transport)) => *pool.target().transport == **transport,
            (
                Self::MatchDownstream { http1, http2 },
                Ways::MatchDownstream { http1: transport1, http2: transport2 },
            ) => {
                *http1.target().transport == **transport1
                    && *http2.target().transport == **transport2
            }
            (Self::One(_), Ways::MatchDownstream { .. })
            | (Self::MatchDownstream { .. }, Ways::One(_)) => false,
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<WorkerPools>> {
        let (first, second) = match self {
            Self::One(pool) => (pool, None),
            Self::MatchDownstream { http1, http2 } => (http1, Some(http2)),
        };
        std::iter::once(first).chain(second)
    }
}

/// One more in flight at an endpoint, until dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
