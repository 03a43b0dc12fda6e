//! The members of a cluster and those of them that are chosen from.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use fastrand::Rng;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;
use weir_config::model::{
    self,
    cluster::{EndpointAddress, OutlierDetection},
};

use super::{
    balancer::Balancer,
    endpoint::{Endpoint, EndpointId, Key, Member},
    hash_table::Place,
    outlier::Detector,
    transport::{Takes, Transports},
    warmup,
};
use crate::{telemetry::clusters::ClusterGauges, upstream::Address};

/// Envoy's `host_selection_retry_max_attempts` as Istio sets it.
const SELECTION_ATTEMPTS: usize = 5;

/// Where a member is, once names are resolved.
#[derive(Debug, Clone)]
pub(super) enum Location {
    Address(EndpointAddress),
    /// The address behind a name, of which new connections use the latest.
    Logical(SocketAddr),
}

impl Location {
    fn key(&self) -> Key {
        match self {
            Self::Address(address) => Key::Address(address.clone()),
            Self::Logical(_) => Key::Logical,
        }
    }

    /// What to dial; `None` for a name nobody resolves (a static cluster has no resolver).
    fn address(&self, prev: Option<&Endpoint>) -> Option<Address> {
        match self {
            Self::Address(EndpointAddress::Ip(address)) => Some(Address::Ip(*address)),
            Self::Address(EndpointAddress::Unix(path)) => Some(Address::Unix(Arc::clone(path))),
            Self::Address(EndpointAddress::Dns { .. }) => None,
            Self::Logical(address) => {
                let current = prev
                    .and_then(Endpoint::logical_address)
                    .map_or_else(|| Arc::new(ArcSwap::from_pointee(None)), Arc::clone);
                current.store(Arc::new(Some(*address)));
                Some(Address::Logical(current))
            }
        }
    }
}

/// What picking needs; immutable, replaced when members come, go, are ejected or return.
#[derive(Debug, Default)]
pub(super) struct EndpointSet {
    candidates: Box<[Arc<Endpoint>]>,
    balancer: Balancer,
}

impl EndpointSet {
    fn new(
        config: &model::Cluster,
        candidates: Box<[Arc<Endpoint>]>,
        now: Instant,
        rng: &mut Rng,
    ) -> Self {
        let warming = config.warmup.as_ref().filter(|warmup| {
            candidates.iter().any(|endpoint| warmup::is_warming(warmup, endpoint.joined(), now))
        });
        let weight = |endpoint: &Endpoint| match warming {
            Some(warmup) => warmup::weight(warmup, endpoint.weight(), endpoint.joined(), now),
            None => endpoint.weight(),
        };
        let names: Vec<String> = candidates.iter().map(|endpoint| endpoint.name()).collect();
        let places: Vec<Place<'_>> = candidates
            .iter()
            .zip(&names)
            .map(|(endpoint, name)| Place { name, weight: weight(endpoint) })
            .collect();
        Self { balancer: Balancer::new(config.lb_policy, &places, rng), candidates }
    }

    /// The endpoint for a key, else the next one that is not in `tried`.
    fn pick_keyed(&self, hash: u64, tried: &[EndpointId]) -> Option<&Arc<Endpoint>> {
        let mut endpoints = self.balancer.keyed(hash)?.map(|position| &self.candidates[position]);
        if tried.is_empty() {
            return endpoints.next();
        }
        endpoints.find(|endpoint| !tried.contains(&endpoint.id()))
    }

    /// The endpoint with this address.
    pub(super) fn find(&self, address: SocketAddr) -> Option<&Arc<Endpoint>> {
        let is_there =
            |endpoint: &&Arc<Endpoint>| endpoint.address().socket_addr() == Some(address);
        self.candidates.iter().find(is_there)
    }

    /// An endpoint, one not in `tried` where there is one; `None` when the set is empty. Requests with
    /// the same `hash` get the same one, if the policy is to look at it.
    pub(super) fn pick(
        &self,
        hash: Option<u64>,
        tried: &[EndpointId],
        rng: &mut Rng,
    ) -> Option<&Arc<Endpoint>> {
        if let Some(endpoint) = hash.and_then(|hash| self.pick_keyed(hash, tried)) {
            return Some(endpoint);
        }
        let mut picked = None;
        for _ in 0..SELECTION_ATTEMPTS {
            let in_flight = |position: usize| self.candidates[position].in_flight();
            let endpoint = &self.candidates[self.balancer.pick(in_flight, rng)?];
            if !tried.contains(&endpoint.id()) {
                return Some(endpoint);
            }
            picked = Some(endpoint);
        }
        // Envoy gives up here and uses the last one. A retry that goes to the endpoint that just
        // failed although another was there costs the client an error; a scan costs microseconds.
        let start = rng.usize(..self.candidates.len());
        let (before, after) = self.candidates.split_at(start);
        let untried = |endpoint: &&Arc<Endpoint>| !tried.contains(&endpoint.id());
        after.iter().chain(before).find(untried).or(picked)
    }
}

/// The writer's side: all members, and who of them is ejected.
#[derive(Debug)]
pub(super) struct Membership {
    members: Vec<Arc<Endpoint>>,
    detector: Option<Detector>,
}

impl Membership {
    pub(super) fn new(detection: Option<&OutlierDetection>) -> Self {
        let detector = detection.map(|config| Detector::new(config.clone(), Instant::now()));
        Self { members: Vec::new(), detector }
    }

    /// The same members and ejections under another configuration.
    pub(super) fn successor(
        &self,
        detection: Option<&OutlierDetection>,
        transports: &Transports,
        gauges: &Arc<ClusterGauges>,
    ) -> Self {
        let detector = detection.map(|config| {
            self.detector.as_ref().map_or_else(
                || Detector::new(config.clone(), Instant::now()),
                |detector| detector.reconfigured(config),
            )
        });
        let next =
            |prev: &Arc<Endpoint>| Endpoint::next(Some(prev), prev.member(), transports, gauges);
        Self { members: self.members.iter().map(next).collect(), detector }
    }

    pub(super) fn members(&self) -> &[Arc<Endpoint>] {
        &self.members
    }

    pub(super) fn detector(&self) -> Option<&Detector> {
        self.detector.as_ref()
    }

    pub(super) fn detector_mut(&mut self) -> Option<&mut Detector> {
        self.detector.as_mut()
    }

    pub(super) fn ejected(&self) -> usize {
        self.detector.as_ref().map_or(0, Detector::ejected)
    }

    pub(super) fn is_ejected(&self, endpoint: EndpointId) -> bool {
        self.detector.as_ref().is_some_and(|detector| detector.is_ejected(endpoint))
    }

    /// Ejects `endpoint`, if it is still a member and may be; true if it was.
    pub(super) fn eject(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        let is_member = self.members.iter().any(|member| member.id() == endpoint.id());
        let members = self.members.len();
        let Some(detector) = self.detector.as_mut() else { return false };
        is_member && detector.eject(endpoint.id(), endpoint.monitor(), members, now)
    }

    /// Makes `wanted` the members. Those that stay keep their state; those that leave are retired:
    /// what they have in flight is finished, what is idle is closed.
    pub(super) fn update(
        &mut self,
        wanted: &[(Location, &model::cluster::Endpoint)],
        transports: &Transports,
        gauges: &Arc<ClusterGauges>,
    ) {
        let mut previous: FxHashMap<Key, Arc<Endpoint>> =
            self.members.drain(..).map(|endpoint| (endpoint.key().clone(), endpoint)).collect();
        let mut seen = FxHashSet::default();
        for (location, config) in wanted {
            let key = location.key();
            // The same address twice is one endpoint.
            if !seen.insert(key.clone()) {
                continue;
            }
            let prev = previous.remove(&key);
            let Some(address) = location.address(prev.as_deref()) else { continue };
            let workload = match &prev {
                Some(prev) if *prev.workload() == config.workload => Arc::clone(prev.workload()),
                _ => Arc::clone(&config.workload),
            };
            let takes = Takes { mesh_tls: config.mesh_tls, hbone: config.hbone };
            let member = Member { key, address, weight: config.weight, takes, workload };
            let next = Endpoint::next(prev.as_ref(), member, transports, gauges);
            if let Some(prev) = prev {
                prev.retire(Some(&next));
            }
            self.members.push(next);
        }
        for left in previous.values() {
            left.retire(None);
        }
        if let Some(detector) = &mut self.detector {
            detector.retain(|id| self.members.iter().any(|member| member.id() == id));
        }
    }

    /// The set to pick from: members that are not ejected, or, when fewer than the configured share
    /// of them is left, all (panic).
    pub(super) fn candidates(
        &self,
        config: &model::Cluster,
        now: Instant,
        rng: &mut Rng,
    ) -> EndpointSet {
        let healthy: Vec<_> =
            self.members.iter().filter(|member| !self.is_ejected(member.id())).cloned().collect();
        let min_health = self
            .detector
            .as_ref()
            .map_or(0, |detector| usize::from(detector.config().min_health_percent));
        let panic = healthy.len() * 100 < min_health * self.members.len();
        let candidates = if panic { self.members.clone() } else { healthy };
        EndpointSet::new(config, candidates.into_boxed_slice(), now, rng)
    }

    /// Retires all connections that no endpoint of `successors` goes on using.
    pub(super) fn retire(&self, successors: &[Arc<Endpoint>]) {
        for member in &self.members {
            let successor = successors.iter().find(|next| next.id() == member.id());
            member.retire(successor.map(|next| &**next));
        }
    }
}
