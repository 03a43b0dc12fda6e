//! LoadBalancerSettings -> LbPolicy and what it is told by (istio-compat 1.3 "loadBalancer").

use std::fmt::Write;

use http::HeaderName;

use crate::{
    api::{
        Object,
        istio::load_balancer::{ConsistentHashLb, HttpCookie, LoadBalancerSettings, SimpleLb},
    },
    compile::finding::Findings,
    model::cluster::{HashCookie, HashKey, LbPolicy, Warmup},
};

const DEFAULT_WARMUP_PERCENT: f64 = 10.0;
const DEFAULT_RING_SIZE: u64 = 1024;
/// What a ring may take of memory; one of a thousand endpoints has a thousand places for each.
const MAX_RING_SIZE: u32 = 1 << 20;

pub(super) fn policy(settings: &LoadBalancerSettings) -> LbPolicy {
    if let Some(hash) = &settings.consistent_hash {
        return hash_policy(hash);
    }
    match settings.simple.unwrap_or_default() {
        SimpleLb::RoundRobin => LbPolicy::RoundRobin,
        SimpleLb::Random => LbPolicy::Random,
        SimpleLb::Unspecified
        | SimpleLb::LeastConn
        | SimpleLb::LeastRequest
        | SimpleLb::Passthrough => LbPolicy::LeastRequest,
    }
}

fn hash_policy(hash: &ConsistentHashLb) -> LbPolicy {
    let table_size = hash.maglev.as_ref().and_then(|maglev| maglev.table_size);
    if let Some(table_size) = table_size.and_then(|size| u32::try_from(size).ok()) {
        return LbPolicy::Maglev { table_size };
    }
    let ring = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
    let size = ring.or(hash.minimum_ring_size).filter(|&size| size != 0);
    let size = u32::try_from(size.unwrap_or(DEFAULT_RING_SIZE)).unwrap_or(MAX_RING_SIZE);
    LbPolicy::RingHash { minimum_size: size.min(MAX_RING_SIZE) }
}

/// How new endpoints come to their share; `None`: at once.
pub(super) fn warmup(settings: &LoadBalancerSettings) -> Option<Warmup> {
    if !matches!(policy(settings), LbPolicy::LeastRequest | LbPolicy::RoundRobin) {
        return None;
    }
    let (duration, minimum_percent, aggression) = match &settings.warmup {
        Some(warmup) => (warmup.duration, warmup.minimum_percent, warmup.aggression),
        None => (settings.warmup_duration_secs, None, None),
    };
    let duration = duration?.0;
    (!duration.is_zero()).then(|| Warmup {
        duration,
        minimum: minimum_percent.unwrap_or(DEFAULT_WARMUP_PERCENT) / 100.0,
        aggression: aggression.filter(|&aggression| aggression > 0.0).unwrap_or(1.0),
    })
}

/// What is hashed; `None` when nothing is named, so that the choice is random.
pub(super) fn hash_key(hash: &ConsistentHashLb) -> Option<HashKey> {
    if !hash.http_header_name.is_empty() {
        let name = HeaderName::from_bytes(hash.http_header_name.as_bytes());
        return name.ok().map(HashKey::Header);
    }
    if let Some(cookie) = &hash.http_cookie {
        return Some(HashKey::Cookie(hash_cookie(cookie)));
    }
    if hash.use_source_ip {
        return Some(HashKey::SourceIp);
    }
    let name = hash.http_query_parameter_name.as_str();
    (!name.is_empty()).then(|| HashKey::QueryParam(name.into()))
}

/// In the order Envoy writes them.
fn hash_cookie(cookie: &HttpCookie) -> HashCookie {
    let mut attributes = String::new();
    // Writing to a string cannot fail.
    if let Some(seconds) = cookie.ttl.map(|ttl| ttl.0.as_secs()).filter(|&seconds| seconds != 0) {
        let _ = write!(attributes, "; Max-Age={seconds}");
    }
    if !cookie.path.is_empty() {
        let _ = write!(attributes, "; Path={}", cookie.path);
    }
    for attribute in &cookie.attributes {
        let _ = write!(attributes, "; {}", attribute.name);
        if !attribute.value.is_empty() {
            let _ = write!(attributes, "={}", attribute.value);
        }
    }
    attributes.push_str("; HttpOnly");
    HashCookie {
        name: cookie.name.as_str().into(),
        ttl: cookie.ttl.map(|ttl| ttl.0),
        attributes: attributes.into(),
    }
}

/// Says what of the settings is not acted on.
pub(super) fn warn_unsupported(
    object: &Object,
    settings: &LoadBalancerSettings,
    field: &str,
    findings: &mut Findings,
) {
    let mut warn = |name: &str, is_set: bool, message: &str| {
        if is_set {
            findings.warn(object, format!("{field}.{name}"), message);
        }
    };
    warn(
        "simple",
        settings.simple == Some(SimpleLb::Passthrough),
        "PASSTHROUGH needs the address the client asked for, which a gateway does not have: \
         LEAST_REQUEST is used",
    );
    let locality = "localities are not taken into account yet";
    warn("localityLbSetting", settings.locality_lb_setting.is_some(), locality);
    warn("zoneAwareLbSetting", settings.zone_aware_lb_setting.is_some(), locality);
    let is_set = settings.warmup.is_some() || settings.warmup_duration_secs.is_some();
    let name = if settings.warmup.is_some() { "warmup" } else { "warmupDurationSecs" };
    let applies = matches!(policy(settings), LbPolicy::LeastRequest | LbPolicy::RoundRobin);
    let message = "has no effect: only ROUND_ROBIN and LEAST_REQUEST warm endpoints up";
    warn(name, is_set && !applies, message);
}
