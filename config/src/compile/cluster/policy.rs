//! TrafficPolicy of one port and subset, and what its blocks mean (istio-compat 1.3).

use std::time::Duration;

use super::{CompiledService, load_balancer, rule::Merged, tls};
use crate::{
    api::{
        self, Object,
        istio::{
            connection_pool::{ConnectionPoolSettings, HttpSettings, OutlierDetection},
            destination_rule::{
                ClientTlsSettings, DestinationRule, LoadBalancerSettings, SimpleLb, TrafficPolicy,
            },
            load_balancer::ConsistentHashLb,
        },
    },
    compile::{View, finding::Findings},
    model::{
        self,
        cluster::{CircuitBreakers, LbPolicy, TcpKeepalive, UpstreamTls, Warmup},
    },
};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const DEFAULT_MAX_CONCURRENT_STREAMS: u32 = i32::MAX as u32;

/// The blocks that apply to one cluster.
#[derive(Default)]
pub(super) struct Policy<'a> {
    mesh: Option<&'a api::MeshConfig>,
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a OutlierDetection>,
    /// The settings, the DestinationRule they are from, and where.
    tls: Option<(&'a ClientTlsSettings, &'a Object, String)>,
}

/// The part of the model's Cluster that `connectionPool` decides.
pub(in crate::compile) struct ConnectionPool {
    pub(in crate::compile) connect_timeout: Duration,
    pub(in crate::compile) idle_timeout: Option<Duration>,
    pub(in crate::compile) tcp_idle_timeout: Option<Duration>,
    pub(in crate::compile) max_connection_duration: Option<Duration>,
    pub(in crate::compile) tcp_keepalive: Option<TcpKeepalive>,
    pub(in crate::compile) max_requests_per_connection: u32,
    pub(in crate::compile) max_concurrent_streams: u32,
    pub(in crate::compile) circuit_breakers: CircuitBreakers,
}

impl<'a> Policy<'a> {
    /// The rule's policy for `port`, overridden by the subset's block by block.
    pub(super) fn of(view: &'a View, rule: Option<&Merged<'a>>, port: u16, subset: &str) -> Self {
        let base = rule
            .and_then(|rule| rule.policy)
            .map(|(object, policy)| Self::for_port(object, policy, "spec.trafficPolicy", port).0);
        let mut merged = base.unwrap_or_default();
        let own = rule.and_then(|rule| {
            let mut subsets = rule.subsets.iter();
            let (object, index, found) = subsets.find(|(_, _, own)| own.name == subset)?;
            let field = format!("spec.subsets[{index}].trafficPolicy");
            Some(Self::for_port(object, found.traffic_policy.as_ref()?, &field, port))
        });
        match own {
            // An entry for the port takes all four blocks with it.
            Some((own, true)) => merged = own,
            Some((own, false)) => {
                merged.load_balancer = own.load_balancer.or(merged.load_balancer);
                merged.connection_pool = own.connection_pool.or(merged.connection_pool);
                merged.outlier_detection = own.outlier_detection.or(merged.outlier_detection);
                merged.tls = own.tls.or(merged.tls);
            }
            None => {}
        }
        merged.mesh = Some(&view.mesh);
        if let Some(default) = &view.mesh.default_traffic_policy {
            merged.connection_pool = merged.connection_pool.or(default.connection_pool.as_ref());
            merged.outlier_detection =
                merged.outlier_detection.or(default.outlier_detection.as_ref());
        }
        merged
    }

    /// The blocks of one TrafficPolicy for one port, and whether they are from `portLevelSettings`:
    /// those replace all four, also with nothing (trap 9).
    fn for_port(
        object: &'a Object,
        policy: &'a TrafficPolicy,
        field: &str,
        port: u16,
    ) -> (Self, bool) {
        let entry = policy
            .port_level_settings
            .iter()
            .enumerate()
            .find(|(_, entry)| entry.port.is_some_and(|selector| selector.number == port));
        let tls_of = |tls: &'a Option<ClientTlsSettings>, field: String| {
            tls.as_ref().map(|tls| (tls, object, field))
        };
        match entry {
            Some((index, entry)) => {
                let tls_field = format!("{field}.portLevelSettings[{index}].tls");
                let blocks = Self {
                    mesh: None,
                    load_balancer: entry.load_balancer.as_ref(),
                    connection_pool: entry.connection_pool.as_ref(),
                    outlier_detection: entry.outlier_detection.as_ref(),
                    tls: tls_of(&entry.tls, tls_field),
                };
                (blocks, true)
            }
            None => {
                let blocks = Self {
                    mesh: None,
                    load_balancer: policy.load_balancer.as_ref(),
                    connection_pool: policy.connection_pool.as_ref(),
                    outlier_detection: policy.outlier_detection.as_ref(),
                    tls: tls_of(&policy.tls, format!("{field}.tls")),
                };
                (blocks, false)
            }
        }
    }

    pub(super) fn lb_policy(&self) -> LbPolicy {
        self.load_balancer.map_or(LbPolicy::LeastRequest, load_balancer::policy)
    }

    pub(super) fn warmup(&self) -> Option<Warmup> {
        self.load_balancer.and_then(load_balancer::warmup)
    }

    pub(super) fn consistent_hash(&self) -> Option<&'a ConsistentHashLb> {
        self.load_balancer.and_then(|lb| lb.consistent_hash.as_ref())
    }

    pub(super) fn http_settings(&self) -> Option<&'a HttpSettings> {
        self.connection_pool.and_then(|pool| pool.http.as_ref())
    }

    pub(super) fn connection_pool(&self) -> ConnectionPool {
        let tcp = self.connection_pool.and_then(|pool| pool.tcp.as_ref());
        let http = self.http_settings();
        let mesh_timeout = self.mesh.and_then(|mesh| mesh.connect_timeout);
        let keepalive = tcp
            .and_then(|tcp| tcp.tcp_keepalive.as_ref())
            .or_else(|| self.mesh.and_then(|mesh| mesh.tcp_keepalive.as_ref()));
        let limit = |value: Option<Option<u32>>| {
            value.flatten().filter(|&limit| limit != 0).unwrap_or(u32::MAX)
        };
        ConnectionPool {
            connect_timeout: tcp
                .and_then(|tcp| tcp.connect_timeout)
                .or(mesh_timeout)
                .map_or(DEFAULT_CONNECT_TIMEOUT, |timeout| timeout.0),
            idle_timeout: idle_timeout(http.and_then(|http| http.idle_timeout)),
            tcp_idle_timeout: idle_timeout(tcp.and_then(|tcp| tcp.idle_timeout)),
            max_connection_duration: tcp
                .and_then(|tcp| tcp.max_connection_duration)
                .map(|duration| duration.0)
                .filter(|duration| !duration.is_zero()),
            tcp_keepalive: keepalive.map(|keepalive| TcpKeepalive {
                probes: keepalive.probes,
                time: keepalive.time.map(|time| time.0),
                interval: keepalive.interval.map(|interval| interval.0),
            }),
            max_requests_per_connection: http
                .and_then(|http| http.max_requests_per_connection)
                .unwrap_or_default(),
            max_concurrent_streams: http
                .and_then(|http| http.max_concurrent_streams)
                .filter(|&streams| streams != 0)
                .unwrap_or(DEFAULT_MAX_CONCURRENT_STREAMS),
            circuit_breakers: CircuitBreakers {
                max_connections: limit(tcp.map(|tcp| tcp.max_connections)),
                max_pending_requests: limit(http.map(|http| http.http1_max_pending_requests)),
                max_requests: limit(http.map(|http| http.http2_max_requests)),
                max_retries: limit(http.map(|http| http.max_retries)),
            },
        }
    }

    pub(super) fn outlier_detection(&self) -> Option<model::cluster::OutlierDetection> {
        let settings = self.outlier_detection?;
        let duration = |value: Option<api::Duration>, seconds| {
            value.map_or_else(|| Duration::from_secs(seconds), |value| value.0)
        };
        let percent = |value: Option<u32>, default: u8| {
            value.map_or(default, |value| u8::try_from(value.min(100)).unwrap_or(100))
        };
        Some(model::cluster::OutlierDetection {
            consecutive_5xx: settings.consecutive_5xx_errors.unwrap_or(5),
            // The deprecated field has always meant gateway errors.
            consecutive_gateway_errors: settings
                .consecutive_gateway_errors
                .or(settings.consecutive_errors)
                .filter(|&errors| errors != 0),
            split_external_local_origin_errors: settings.split_external_local_origin_errors,
            consecutive_local_origin_failures: settings
                .consecutive_local_origin_failures
                .unwrap_or(5),
            interval: duration(settings.interval, 10),
            base_ejection_time: duration(settings.base_ejection_time, 30),
            max_ejection_percent: percent(settings.max_ejection_percent, 10),
            min_health_percent: percent(settings.min_health_percent, 0),
        })
    }

    /// Whether a rule decides about TLS, and not who the endpoints are.
    pub(super) fn says_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// `simple: PASSTHROUGH`
    pub(super) fn is_passthrough(&self) -> bool {
        self.load_balancer.is_some_and(|lb| lb.simple == Some(SimpleLb::Passthrough))
    }

    /// TLS towards the endpoints; `Err` when the cluster must not be used.
    pub(super) fn tls(
        &self,
        upstream: tls::Upstream<'_>,
        compiled: &mut CompiledService,
    ) -> Result<Option<UpstreamTls>, tls::Unavailable> {
        let Some((settings, object, field)) = &self.tls else { return Ok(upstream.automatic()) };
        let origination = tls::Origination { upstream, object, field };
        origination.compile(settings, &mut compiled.findings, &mut compiled.secrets)
    }
}

/// The limits of a cluster no DestinationRule is for.
pub(in crate::compile) fn default_pool(view: &View) -> ConnectionPool {
    Policy { mesh: Some(&view.mesh), ..Policy::default() }.connection_pool()
}

/// One hour when not written, never when `0s`.
fn idle_timeout(written: Option<api::Duration>) -> Option<Duration> {
    let timeout = written.map_or(DEFAULT_IDLE_TIMEOUT, |timeout| timeout.0);
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// Says which settings of a DestinationRule are not acted on.
pub(in crate::compile) fn warn_unsupported(
    object: &Object,
    rule: &DestinationRule,
    findings: &mut Findings,
) {
    let own = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.subsets.iter().enumerate().filter_map(|(index, subset)| {
        let field = format!("spec.subsets[{index}].trafficPolicy");
        subset.traffic_policy.as_ref().map(|policy| (field, policy))
    });
    for (field, policy) in own.chain(subsets) {
        let mut warn = |name: &str, is_set: bool, message: &str| {
            if is_set {
                findings.warn(object, format!("{field}.{name}"), message);
            }
        };
        warn("tunnel", policy.tunnel.is_some(), "tunnel is not applied yet");
        warn("proxyProtocol", policy.proxy_protocol.is_some(), "proxyProtocol is not applied yet");
        warn("retryBudget", policy.retry_budget.is_some(), "retryBudget is not applied yet");
        let top = [(
            field.clone(),
            &policy.load_balancer,
            &policy.connection_pool,
            &policy.outlier_detection,
        )];
        let ports = policy.port_level_settings.iter().enumerate().map(|(index, entry)| {
            let field = format!("{field}.portLevelSettings[{index}]");
            (field, &entry.load_balancer, &entry.connection_pool, &entry.outlier_detection)
        });
        for (field, load_balancer, pool, outlier) in top.into_iter().chain(ports) {
            if let Some(load_balancer) = load_balancer {
                let field = format!("{field}.loadBalancer");
                load_balancer::warn_unsupported(object, load_balancer, &field, findings);
            }
            let http = pool.as_ref().and_then(|pool| pool.http.as_ref());
            if http.is_some_and(|http| http.http2_keep_alive.is_some()) {
                let field = format!("{field}.connectionPool.http.http2KeepAlive");
                findings.warn(object, field, "http2KeepAlive is not applied yet");
            }
            let codes = outlier.as_ref().map(|outlier| &outlier.outlier_detection_http_error_codes);
            if codes.is_some_and(|codes| !codes.is_empty()) {
                let field = format!("{field}.outlierDetection.outlierDetectionHttpErrorCodes");
                findings.warn(object, field, "not applied yet: every 5xx counts as an error");
            }
        }
    }
}
