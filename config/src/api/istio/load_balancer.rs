use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::Duration;

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerSettings {
    /// Exclusive with `consistentHash`.
    pub simple: Option<SimpleLb>,
    pub consistent_hash: Option<ConsistentHashLb>,
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Exclusive with `localityLbSetting`.
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    /// Deprecated for `warmup`.
    pub warmup_duration_secs: Option<Duration>,
    pub warmup: Option<WarmupConfiguration>,
}

/// A balancing algorithm without affinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// As `LEAST_REQUEST`.
    #[default]
    Unspecified,
    /// Deprecated for `LEAST_REQUEST`.
    LeastConn,
    Random,
    /// To the address the client asked for.
    Passthrough,
    RoundRobin,
    /// The less loaded of two random endpoints.
    LeastRequest,
}

/// Sends equal keys to the same endpoint. Exactly one key is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHashLb {
    pub http_header_name: String,
    pub http_cookie: Option<HttpCookie>,
    pub use_source_ip: bool,
    pub http_query_parameter_name: String,
    pub ring_hash: Option<RingHash>,
    pub maglev: Option<Maglev>,
    /// Deprecated for `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

/// A cookie as hash key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCookie {
    pub name: String,
    pub path: String,
    /// When set, a client without the cookie is given one with this lifetime; `0s` is a session
    /// cookie.
    pub ttl: Option<Duration>,
    /// Further attributes of a cookie that is given out.
    pub attributes: Vec<HttpCookieAttribute>,
}

/// An attribute of a cookie, `SameSite=Strict`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCookieAttribute {
    pub name: String,
    pub value: String,
}

/// Ring-hash consistent hashing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// 1024 when absent.
    pub minimum_ring_size: Option<u64>,
}

/// Maglev consistent hashing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// A prime number below 5000011.
    pub table_size: Option<u64>,
}

/// How the locality of endpoints counts. The lists exclude each other as documented.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLoadBalancerSetting {
    pub distribute: Vec<Distribute>,
    pub failover: Vec<Failover>,
    /// Label keys, most important first; `key=value` compares with a fixed value.
    pub failover_priority: Vec<String>,
    /// Overrides the mesh setting.
    pub enabled: Option<bool>,
}

/// Shares by locality for clients in `from`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Distribute {
    /// `region/zone/subzone`, each may be `*`.
    pub from: String,
    /// Percent by locality; together 100.
    pub to: BTreeMap<String, u32>,
}

/// The region that takes over for another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    pub from: String,
    pub to: String,
}

/// Zone-aware balancing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneAwareLoadBalancerSetting {
    pub enabled: Option<bool>,
    pub failover: Vec<Failover>,
    pub failover_priority: Vec<String>,
    /// Endpoints below which zones do not count.
    pub min_cluster_size: Option<u64>,
}

/// New endpoints get their share little by little.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WarmupConfiguration {
    pub duration: Option<Duration>,
    /// Share a new endpoint starts with, in percent of its weight; 10 when absent.
    pub minimum_percent: Option<f64>,
    /// 1 grows linearly, more starts slower; 1 when absent.
    pub aggression: Option<f64>,
}
