//! Clusters whose endpoints are names: one task each resolves them, off the request path.
//!
//! A failure never takes endpoints away. Only when the name server keeps saying that the name does
//! not exist are its last known addresses given up, after [`MAX_STALE`].

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use weir_config::model::{
    self,
    cluster::{Discovery, EndpointAddress, is_local},
};

use super::{
    Cluster,
    endpoint_set::Location,
    resolver::{Failure, Resolver},
};

/// How long the addresses of a name that is said not to exist are kept.
pub const MAX_STALE: Duration = Duration::from_secs(300);
/// A name is not asked for more often, whatever its TTL.
pub(super) const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Names of one cluster asked for at once.
const CONCURRENCY: usize = 16;

/// The members of a cluster as configured: addresses, and names to resolve.
pub(super) type Members = Arc<[model::cluster::Endpoint]>;

/// The task of one cluster; ends with it.
#[derive(Debug)]
pub(super) struct Resolution {
    members: watch::Sender<Members>,
    resolved: watch::Receiver<bool>,
    names: SharedNames,
    task: AbortOnDropHandle<()>,
}

impl Resolution {
    /// Begins with what `prev` knows, so that a change of the cluster's configuration does not cost
    /// it its endpoints.
    pub(super) fn start(
        cluster: &Arc<Cluster>,
        members: Members,
        resolver: Resolver,
        prev: Option<&Self>,
    ) -> Self {
        let mut known = prev.map(|prev| prev.names.lock().clone()).unwrap_or_default();
        if refuses_local(cluster) {
            known.0.values_mut().for_each(|name| name.addresses.retain(|it| !is_local(*it)));
        }
        let names = SharedNames(Arc::new(Mutex::new(known)));
        let (members, members_rx) = watch::channel(members);
        let (resolved_tx, resolved) = watch::channel(false);
        let run = run(Arc::downgrade(cluster), resolver, members_rx, names.clone(), resolved_tx);
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        Self { members, resolved, names, task }
    }

    pub(super) fn update(&self, members: Members) {
        self.members.send_replace(members);
    }

    /// No further change of the cluster comes from here: its successor has a task of its own.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Returns once every name was asked for, successfully or not, or at `deadline`.
    pub(super) async fn resolved(&self, deadline: Instant) -> bool {
        let mut resolved = self.resolved.clone();
        let resolved = resolved.wait_for(|resolved| *resolved);
        timeout_at(deadline, resolved).await.is_ok_and(|resolved| resolved.is_ok())
    }
}

async fn run(
    cluster: Weak<Cluster>,
    resolver: Resolver,
    mut members: watch::Receiver<Members>,
    names: SharedNames,
    resolved: watch::Sender<bool>,
) {
    loop {
        let wanted = Arc::clone(&members.borrow_and_update());
        names.lock().retain(&wanted);
        // What is known is used at once, and new names follow. While nothing is known the cluster
        // keeps what it has from the configuration before.
        let known = names.lock().any_known();
        if known && !publish(&cluster, &wanted, &names) {
            return;
        }
        let Some(refresh) = cluster.upgrade().and_then(|cluster| cluster.dns_refresh()) else {
            return;
        };
        let refuses_local = cluster.upgrade().is_some_and(|cluster| refuses_local(&cluster));
        let changed = names.resolve_due(&resolver, refresh, refuses_local).await;
        if (changed || !known) && !publish(&cluster, &wanted, &names) {
            return;
        }
        resolved.send_replace(true);
        let due = names.lock().next_due();
        tokio::select! {
            () = until(due) => {}
            changed = members.changed() => if changed.is_err() { return },
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Tells the cluster its endpoints; false when it is gone.
fn publish(
    cluster: &Weak<Cluster>,
    members: &[model::cluster::Endpoint],
    names: &SharedNames,
) -> bool {
    let Some(cluster) = cluster.upgrade() else { return false };
    let located = {
        let names = names.lock();
        match &cluster.config().discovery {
            Discovery::Static
            | Discovery::OriginalDst { .. }
            | Discovery::DynamicDns(_)
            | Discovery::StrictDns { .. } => names.every_address(members),
            Discovery::LogicalDns { .. } => names.first_address(members).into_iter().collect(),
        }
    };
    cluster.update(&located);
    true
}

fn refuses_local(cluster: &Cluster) -> bool {
    match cluster.config().discovery {
        Discovery::StrictDns { refuses_local, .. }
        | Discovery::LogicalDns { refuses_local, .. } => refuses_local,
        Discovery::Static | Discovery::OriginalDst { .. } | Discovery::DynamicDns(_) => false,
    }
}

/// Those of the addresses that are not this host's own.
fn elsewhere(host: &str, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let count = addresses.len();
    addresses.retain(|address| !is_local(*address));
    if addresses.len() < count {
        tracing::debug!(host, "leads to this host, where no object of another namespace may");
    }
    addresses
}

/// Written by the task alone; read by the task of the cluster's next configuration. Held to look at
/// or change one answer.
#[derive(Debug, Clone)]
struct SharedNames(Arc<Mutex<Names>>);

impl SharedNames {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for every name that is due; true if any addresses changed.
    async fn resolve_due(
        &self,
        resolver: &Resolver,
        refresh: Duration,
        refuses_local: bool,
    ) -> bool {
        let due = self.lock().due(Instant::now());
        let mut changed = false;
        for hosts in due.chunks(CONCURRENCY) {
            let mut lookups = JoinSet::new();
            for host in hosts {
                let (host, resolver) = (Arc::clone(host), resolver.clone());
                lookups.spawn(async move {
                    let answer = resolver.resolve(&host).await;
                    (host, answer)
                });
            }
            for (host, answer) in lookups.join_all().await {
                if let Some(name) = self.lock().0.get_mut(&host) {
                    let answer = answer.map(|(addresses, ttl)| match refuses_local {
                        true => (elsewhere(&host, addresses), ttl),
                        false => (addresses, ttl),
                    });
                    changed |= name.answered(&host, answer, refresh, Instant::now());
                }
            }
        }
        changed
    }
}

/// What is known of the names of one cluster.
#[derive(Debug, Clone, Default)]
struct Names(FxHashMap<Arc<str>, Name>);

#[derive(Debug, Clone)]
struct Name {
    addresses: Vec<IpAddr>,
    /// When to ask again.
    due: Instant,
    failures: u32,
    not_found_since: Option<Instant>,
}

type Located<'a> = (Location, &'a model::cluster::Endpoint);

impl Names {
    /// Exactly the names of `members`; new ones are due.
    fn retain(&mut self, members: &[model::cluster::Endpoint]) {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.0);
        for member in members {
            if let EndpointAddress::Dns { host, .. } = &member.address {
                let name = known.remove(host);
                self.0
                    .entry(Arc::clone(host))
                    .or_insert_with(|| name.unwrap_or_else(|| Name::unknown(now)));
            }
        }
    }

    fn any_known(&self) -> bool {
        self.0.values().any(|name| !name.addresses.is_empty())
    }

    fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let due = self.0.iter().filter(|(_, name)| name.due <= now);
        due.map(|(host, _)| Arc::clone(host)).collect()
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|name| name.due).min()
    }

    /// Strict DNS: every address of every name is an endpoint.
    fn every_address<'a>(&self, members: &'a [model::cluster::Endpoint]) -> Vec<Located<'a>> {
        let mut located = Vec::new();
        for member in members {
            match &member.address {
                EndpointAddress::Dns { host, port } => {
                    let addresses = self.0.get(host).map_or(&[][..], |name| &name.addresses);
                    located.extend(addresses.iter().map(|ip| {
                        let address = EndpointAddress::Ip(SocketAddr::new(*ip, *port));
                        (Location::Address(address), member)
                    }));
                }
                address @ (EndpointAddress::Ip(_) | EndpointAddress::Unix(_)) => {
                    located.push((Location::Address(address.clone()), member));
                }
            }
        }
        located
    }

    /// Logical DNS: one endpoint, whose new connections go to the first address.
    fn first_address<'a>(&self, members: &'a [model::cluster::Endpoint]) -> Option<Located<'a>> {
        let member = members.first()?;
        let location = match &member.address {
            EndpointAddress::Dns { host, port } => {
                let first = self.0.get(host)?.addresses.first()?;
                Location::Logical(SocketAddr::new(*first, *port))
            }
            address @ (EndpointAddress::Ip(_) | EndpointAddress::Unix(_)) => {
                Location::Address(address.clone())
            }
        };
        Some((location, member))
    }
}

impl Name {
    fn unknown(now: Instant) -> Self {
        Self { addresses: Vec::new(), due: now, failures: 0, not_found_since: None }
    }

    /// Takes an answer in; true if the addresses changed.
    fn answered(
        &mut self,
        host: &str,
        answer: Result<(Vec<IpAddr>, Duration), Failure>,
        refresh: Duration,
        now: Instant,
    ) -> bool {
        let max = refresh.max(MIN_REFRESH);
        let before = self.addresses.clone();
        match answer {
            Ok((addresses, ttl)) => {
                if self.failures > 0 {
                    tracing::info!(host, "resolves again");
                }
                self.addresses = usable(addresses);
                self.failures = 0;
                self.not_found_since = None;
                self.due = now + jittered(ttl.clamp(MIN_REFRESH, max));
            }
            Err(failure) => {
                if self.failures == 0 {
                    tracing::warn!(host, %failure, "does not resolve; its last addresses stay");
                }
                match failure {
                    Failure::NotFound => {
                        let since = *self.not_found_since.get_or_insert(now);
                        if now.duration_since(since) >= MAX_STALE {
                            self.addresses.clear();
                        }
                    }
                    Failure::Unavailable => {}
                }
                let backoff = MIN_REFRESH.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                self.due = now + jittered(backoff.min(max));
            }
        }
        self.addresses != before
    }
}

/// Of the addresses those that can be reached from here: IPv4 where there is any (Istio's default),
/// else IPv6. Without routes all are kept, for the failure to be seen.
pub(super) fn usable(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.iter().any(|address| has_route(*address)) {
        addresses.retain(|address| has_route(*address));
    }
    if addresses.iter().any(IpAddr::is_ipv4) {
        addresses.retain(IpAddr::is_ipv4);
    }
    addresses
}

/// Asks the kernel; "connecting" a UDP socket sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9))).is_ok()
}

/// Up to a tenth later, so that proxies started together do not ask together.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(60);

    fn addresses(text: &[&str]) -> Vec<IpAddr> {
        text.iter().map(|address| address.parse().expect("an address")).collect()
    }

    fn known(now: Instant) -> Name {
        Name { addresses: addresses(&["127.0.0.1"]), ..Name::unknown(now) }
    }

    #[test]
    fn a_name_is_asked_for_again_when_its_ttl_is_over_within_bounds() {
        let now = Instant::now();
        for (ttl, wanted) in [(0, 1), (5, 5), (3600, 60)] {
            let mut name = Name::unknown(now);
            let answer = Ok((addresses(&["127.0.0.1"]), Duration::from_secs(ttl)));
            assert!(name.answered("a", answer, REFRESH, now));
            let delay = (name.due - now).as_secs_f64();
            let wanted = f64::from(wanted);
            assert!((wanted..=wanted * 1.1).contains(&delay), "TTL {ttl}: {delay}");
        }
    }

    #[test]
    fn an_unavailable_name_server_never_takes_addresses_away() {
        let now = Instant::now();
        let mut name = known(now);
        assert!(!name.answered("a", Err(Failure::Unavailable), REFRESH, now));
        let later = now + MAX_STALE * 10;
        assert!(!name.answered("a", Err(Failure::Unavailable), REFRESH, later));
        assert_eq!(name.addresses, addresses(&["127.0.0.1"]));
    }

    #[test]
    fn a_name_that_is_gone_keeps_its_addresses_for_the_stale_period() {
        let now = Instant::now();
        let mut name = known(now);
        assert!(!name.answered("a", Err(Failure::NotFound), REFRESH, now));
        let almost = now + MAX_STALE - Duration::from_secs(1);
        assert!(!name.answered("a", Err(Failure::NotFound), REFRESH, almost));
        assert!(name.answered("a", Err(Failure::NotFound), REFRESH, now + MAX_STALE));
        assert_eq!(name.addresses, addresses(&[]));
    }

    #[test]
    fn an_answer_begins_the_stale_period_anew() {
        let now = Instant::now();
        let mut name = known(now);
        name.answered("a", Err(Failure::NotFound), REFRESH, now);
        let answer = Ok((addresses(&["127.0.0.1"]), REFRESH));
        name.answered("a", answer, REFRESH, now + Duration::from_secs(10));
        assert!(!name.answered("a", Err(Failure::NotFound), REFRESH, now + MAX_STALE));
    }

    #[test]
    fn failures_are_retried_ever_more_slowly_up_to_the_refresh_rate() {
        let now = Instant::now();
        let mut name = known(now);
        for wanted in [1, 2, 4, 8, 16, 32, 60, 60] {
            name.answered("a", Err(Failure::Unavailable), REFRESH, now);
            let delay = (name.due - now).as_secs_f64();
            let wanted = f64::from(wanted);
            assert!((wanted..=wanted * 1.1).contains(&delay), "{delay} instead of {wanted}");
        }
    }

    #[test]
    fn version_4_addresses_are_preferred_and_version_6_used_where_there_is_no_other() {
        assert_eq!(usable(addresses(&["::1", "127.0.0.1"])), addresses(&["127.0.0.1"]));
        assert_eq!(usable(addresses(&["::1"])), addresses(&["::1"]));
    }
}
