//! Clusters: sets of endpoints, which of them a request goes to, and how much they are given to do.
//!
//! A cluster's configuration is replaced, its running state is kept by name: endpoints that stay keep
//! their connections, their requests in flight and their history of failures.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use fastrand::Rng;
use http::StatusCode;
use tokio::time::Instant;
use weir_config::model::{self, cluster::Discovery};

use self::{
    circuit_breaker::CircuitBreaker,
    dns::{Members, Resolution},
    dynamic_dns::DynamicDns,
    endpoint_set::{EndpointSet, Location, Membership},
    original_dst::OriginalDst,
    transport::Transports,
};
use crate::{
    local_reply::LocalReply,
    telemetry::{ResponseFlag, clusters::ClusterGauges, labels::ClusterStats},
    upstream::Slot,
};

mod balancer;
mod circuit_breaker;
mod clusters;
mod dns;
mod dynamic_dns;
mod endpoint;
mod endpoint_set;
mod hash_table;
mod on_demand;
mod original_dst;
mod outlier;
mod resolver;
mod transport;
mod warmup;

pub use self::{
    circuit_breaker::{Permit, RetryPermit, overflow},
    clusters::{Clusters, Environment},
    dns::MAX_STALE,
    endpoint::{Endpoint, EndpointId, InFlight},
    outlier::Outcome,
    resolver::{Resolver, system_name_servers},
};

/// A cluster in use: its configuration and what runs because of it.
pub struct Cluster {
    config: Arc<model::Cluster>,
    stats: Arc<ClusterStats>,
    transports: Transports,
    breaker: Arc<CircuitBreaker>,
    endpoints: ArcSwap<EndpointSet>,
    /// Taken to change members and ejections, never to pick; held for one pass over the members.
    membership: Mutex<Membership>,
    /// When outlier detection or a warmup has something to do, in milliseconds after `started`.
    sweep_due: AtomicU64,
    started: Instant,
    resolution: OnceLock<Resolution>,
    /// Endpoints that are where clients were going.
    original_dst: OriginalDst,
    /// Names that requests have.
    dynamic_dns: Option<DynamicDns>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of `config`. What `prev`, the cluster of that name until now, has running is
    /// taken over as far as the configurations allow; the rest of it is retired.
    fn next(
        prev: Option<&Arc<Self>>,
        config: &Arc<model::Cluster>,
        members: &Members,
        environment: &Environment,
    ) -> Arc<Self> {
        let transports = Transports::next(
            prev.map(|prev| (&*prev.config, &prev.transports)),
            config,
            &environment.secrets,
            &environment.limits,
        );
        let breaker = prev.map_or_else(
            || Arc::new(CircuitBreaker::new(environment.telemetry.metrics.cluster(&config.name))),
            |prev| Arc::clone(&prev.breaker),
        );
        let detection = config.outlier_detection.as_ref();
        let membership = prev.map_or_else(
            || Membership::new(detection),
            |prev| prev.membership().successor(detection, &transports, breaker.gauges()),
        );
        let cluster = Arc::new(Self {
            stats: environment.telemetry.cluster_stats(&config.destination),
            config: Arc::clone(config),
            transports,
            breaker,
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
            membership: Mutex::new(membership),
            sweep_due: AtomicU64::new(u64::MAX),
            started: Instant::now(),
            resolution: OnceLock::new(),
            original_dst: OriginalDst::default(),
            dynamic_dns: match &config.discovery {
                Discovery::DynamicDns(names) => {
                    Some(DynamicDns::new(Arc::clone(names), environment.resolver.clone()))
                }
                Discovery::Static
                | Discovery::StrictDns { .. }
                | Discovery::LogicalDns { .. }
                | Discovery::OriginalDst { .. } => None,
            },
        });
        cluster.publish(&cluster.membership());
        if cluster.dns_refresh().is_some() {
            let resolver = environment.resolver.clone();
            let known = prev.and_then(|prev| prev.resolution.get());
            let resolution = Resolution::start(&cluster, Arc::clone(members), resolver, known);
            // Nobody else has the cluster yet, so nobody else has set it.
            let _ = cluster.resolution.set(resolution);
        }
        cluster.set_members(members);
        if let Some(prev) = prev {
            prev.retire(Some(&cluster));
        }
        cluster
    }

    #[must_use]
    pub fn config(&self) -> &Arc<model::Cluster> {
        &self.config
    }

    /// Metric handles of the destination.
    #[must_use]
    pub fn stats(&self) -> &Arc<ClusterStats> {
        &self.stats
    }

    /// Room for a request, retries included, until the permit is dropped.
    ///
    /// # Errors
    /// 503 `UO` beyond `http2MaxRequests`.
    pub fn admit(&self) -> Result<Permit<'_>, LocalReply> {
        self.breaker.admit(&self.config.circuit_breakers)
    }

    /// Room for one more retry; `None`: the response at hand has to do.
    #[must_use]
    pub fn admit_retry(&self) -> Option<RetryPermit<'_>> {
        self.breaker.admit_retry(&self.config.circuit_breakers)
    }

    /// Room for a proxied TCP connection; `None`: `UO`.
    #[must_use]
    pub fn admit_connection(&self) -> Option<Slot> {
        self.breaker.admit_connection(&self.config.circuit_breakers)
    }

    /// As [`Self::pick`]; where the endpoints are those of a name, `host` (with or without a port) is
    /// looked up first.
    ///
    /// # Errors
    /// As `pick`, or the name is none that may be asked for, or leads nowhere.
    pub async fn select(
        &self,
        hash: Option<u64>,
        tried: &[EndpointId],
        original_dst: Option<SocketAddr>,
        host: Option<&str>,
    ) -> Result<Arc<Endpoint>, LocalReply> {
        match &self.dynamic_dns {
            None => self.pick(hash, tried, original_dst),
            // Boxed, so that others do not hold the room for it.
            Some(names) => Box::pin(names.pick(self, host, tried)).await,
        }
    }

    /// An endpoint for the next attempt, one not in `tried` if there is one. `hash` is that of the key
    /// the cluster hashes, where the request has it. `original_dst` is where the client was going, which
    /// clusters of that kind go to.
    ///
    /// # Errors
    /// 503 `UH` without any endpoint to choose from.
    pub fn pick(
        &self,
        hash: Option<u64>,
        tried: &[EndpointId],
        original_dst: Option<SocketAddr>,
    ) -> Result<Arc<Endpoint>, LocalReply> {
        self.sweep_if_due();
        if let Discovery::OriginalDst { members_only } = self.config.discovery {
            let address = original_dst.ok_or_else(no_healthy_upstream)?;
            let member = self.endpoints.load().find(address).cloned();
            return match member {
                Some(member) => Ok(member),
                None if members_only => Err(no_healthy_upstream()),
                None => Ok(self.original_dst.endpoint(address, &self.transports, self.gauges())),
            };
        }
        let set = self.endpoints.load();
        set.pick(hash, tried, &mut Rng::new()).cloned().ok_or_else(no_healthy_upstream)
    }

    /// Tells outlier detection how an attempt at `endpoint` ended.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome) {
        let Some(detection) = &self.config.outlier_detection else { return };
        if !endpoint.monitor().count(detection, outcome) {
            return;
        }
        let mut membership = self.membership();
        if membership.eject(endpoint, Instant::now()) {
            tracing::info!(cluster = %self.config.name, endpoint = ?endpoint.address(), "ejected");
            self.publish(&membership);
        }
    }

    /// All members, with whether each is ejected; for the admin endpoint.
    #[must_use]
    pub fn members(&self) -> Vec<(Arc<Endpoint>, bool)> {
        let membership = self.membership();
        let with_health =
            |member: &Arc<Endpoint>| (Arc::clone(member), membership.is_ejected(member.id()));
        membership.members().iter().map(with_health).collect()
    }

    /// What of the circuit breaker's limits is used, and the rest of the cluster's numbers.
    #[must_use]
    pub fn gauges(&self) -> &Arc<ClusterGauges> {
        self.breaker.gauges()
    }

    /// Returns once the endpoints' names were asked for, or `deadline` has passed; true in the first
    /// case. Clusters without names are resolved from the start.
    pub async fn resolved(&self, deadline: Instant) -> bool {
        match self.resolution.get() {
            Some(resolution) => resolution.resolved(deadline).await,
            None => true,
        }
    }

    /// New members as configured; names among them are resolved first.
    fn set_members(&self, members: &Members) {
        if let Some(resolution) = self.resolution.get() {
            resolution.update(Arc::clone(members));
            return;
        }
        let located: Vec<_> = members
            .iter()
            .map(|member| (Location::Address(member.address.clone()), member))
            .collect();
        self.update(&located);
    }

    /// New members, resolved.
    fn update(&self, members: &[(Location, &model::cluster::Endpoint)]) {
        let mut membership = self.membership();
        membership.update(members, &self.transports, self.breaker.gauges());
        self.publish(&membership);
    }

    fn dns_refresh(&self) -> Option<Duration> {
        match self.config.discovery {
            Discovery::Static | Discovery::OriginalDst { .. } | Discovery::DynamicDns(_) => None,
            Discovery::StrictDns { refresh, .. } | Discovery::LogicalDns { refresh, .. } => {
                Some(refresh)
            }
        }
    }

    /// Ends what runs, except for what `successor` goes on using.
    fn retire(&self, successor: Option<&Self>) {
        if let Some(resolution) = self.resolution.get() {
            resolution.stop();
        }
        self.original_dst.retire();
        if let Some(names) = &self.dynamic_dns {
            names.retire();
        }
        let successors = successor.map(|successor| successor.membership().members().to_vec());
        self.membership().retire(&successors.unwrap_or_default());
    }

    /// Without endpoints ejected this is one relaxed load.
    fn sweep_if_due(&self) {
        let due = self.sweep_due.load(Ordering::Relaxed);
        if due == u64::MAX {
            return;
        }
        let now = Instant::now();
        if now < self.started + Duration::from_millis(due) {
            return;
        }
        let mut membership = self.membership();
        let has_changed = membership.detector_mut().is_some_and(|detector| detector.sweep(now));
        if has_changed || self.config.warmup.is_some() {
            self.publish(&membership);
        } else {
            self.schedule_sweep(&membership, now);
        }
    }

    fn schedule_sweep(&self, membership: &Membership, now: Instant) {
        let sweep = membership.detector().and_then(outlier::Detector::next_sweep);
        let step = self.config.warmup.as_ref().filter(|warmup| {
            membership.members().iter().any(|it| warmup::is_warming(warmup, it.joined(), now))
        });
        let step = step.map(|warmup| warmup::next_step(warmup, now));
        let due = sweep.into_iter().chain(step).min().map_or(u64::MAX, |due| {
            let after = due.saturating_duration_since(self.started).as_millis();
            u64::try_from(after).unwrap_or(u64::MAX)
        });
        self.sweep_due.store(due, Ordering::Relaxed);
    }

    /// What is picked from, from now on.
    fn publish(&self, membership: &Membership) {
        let now = Instant::now();
        let set = membership.candidates(&self.config, now, &mut Rng::new());
        self.endpoints.store(Arc::new(set));
        let healthy = membership.members().len() - membership.ejected();
        let gauges = self.gauges();
        gauges.endpoints.store(membership.members().len() as i64, Ordering::Relaxed);
        gauges.endpoints_healthy.store(healthy as i64, Ordering::Relaxed);
        self.schedule_sweep(membership, now);
    }

    fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_healthy_upstream() -> LocalReply {
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ResponseFlag::NoHealthyUpstream,
        "no_healthy_upstream",
        "no healthy upstream",
    )
}

#[cfg(test)]
pub(crate) mod tests;
