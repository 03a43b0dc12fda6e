//! From a cluster's configuration to how its endpoints are talked to.

use std::sync::Arc;

use weir_config::model::{
    self, ClusterName,
    cluster::{Tunnel, UpstreamProtocol, UpstreamTls},
};

use crate::{
    codec,
    limits::Limits,
    tls::Secrets,
    upstream::{Protocol, TlsContext, Transport, Tunnels},
};

/// How the endpoints of a cluster are talked to.
#[derive(Debug, Clone)]
pub(super) struct Transports {
    /// As configured.
    configured: Ways,
    /// Automatic mTLS: for endpoints that do not take the mesh's TLS. The others have to be who they
    /// are said to be.
    clear: Option<Ways>,
    /// For endpoints that take HBONE.
    tunnelled: Option<Tunnelled>,
}

/// What an endpoint takes of the mesh's ways to talk to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Takes {
    pub(super) mesh_tls: bool,
    pub(super) hbone: bool,
}

#[derive(Debug, Clone)]
struct Tunnelled {
    tunnels: Arc<Tunnels>,
    ways: Ways,
}

/// One way, or one for each protocol a client may speak.
#[derive(Debug, Clone)]
pub(super) enum Ways {
    One(Arc<Transport>),
    MatchDownstream { http1: Arc<Transport>, http2: Arc<Transport> },
}

impl Transports {
    /// As configured; TLS contexts of `prev` are kept where building them again would change nothing.
    pub(super) fn next(
        prev: Option<(&model::Cluster, &Self)>,
        config: &model::Cluster,
        secrets: &Secrets,
        limits: &Limits,
    ) -> Self {
        let reusable = prev.filter(|(prev, _)| prev.tls == config.tls).map(|(_, prev)| prev);
        let ways = |transport: &dyn Fn(Protocol) -> Arc<Transport>| match config.protocol {
            UpstreamProtocol::Http1 => Ways::One(transport(Protocol::Http1)),
            UpstreamProtocol::Http2 => Ways::One(transport(Protocol::Http2)),
            UpstreamProtocol::Tcp => Ways::One(transport(Protocol::Tcp)),
            UpstreamProtocol::MatchDownstream => Ways::MatchDownstream {
                http1: transport(Protocol::Http1),
                http2: transport(Protocol::Http2),
            },
        };
        let clear = |protocol| Arc::new(transport(config, protocol, None, limits));
        let tunnelled = config.tunnel.as_ref().map(|tunnel| {
            let known = prev.filter(|(prev, _)| prev.tunnel.as_ref() == Some(tunnel));
            let known = known.and_then(|(_, prev)| prev.tunnelled.as_ref());
            let known = known.filter(|known| known.tunnels.tls().is_current(secrets));
            let new = || Arc::new(tunnels(&config.name, tunnel, secrets));
            let tunnels = known.map_or_else(new, |known| Arc::clone(&known.tunnels));
            let inside = |protocol| {
                let transport = transport(config, protocol, None, limits);
                Arc::new(Transport { tunnels: Some(Arc::clone(&tunnels)), ..transport })
            };
            Tunnelled { ways: ways(&inside), tunnels }
        });
        let configured = |protocol| {
            let kept = reusable
                .and_then(|prev| prev.tls_context(protocol))
                .filter(|context| context.is_current(secrets));
            let tls = config.tls.as_ref().map(|tls| {
                let new = || tls_context(&config.name, tls, protocol, secrets);
                kept.cloned().unwrap_or_else(new)
            });
            Arc::new(transport(config, protocol, tls, limits))
        };
        let clear = config.auto_mtls.then(|| ways(&clear));
        Self { configured: ways(&configured), clear, tunnelled }
    }

    /// For an endpoint that takes these.
    pub(super) fn ways(&self, takes: Takes) -> &Ways {
        let tunnelled = self.tunnelled.as_ref().filter(|_| takes.hbone);
        let clear = self.clear.as_ref().filter(|_| !takes.mesh_tls);
        tunnelled.map(|tunnelled| &tunnelled.ways).or(clear).unwrap_or(&self.configured)
    }

    /// Whether an endpoint has to be the workload it is said to be.
    pub(super) fn checks_identity(&self, takes: Takes) -> bool {
        let is_tunnelled = self.tunnelled.is_some() && takes.hbone;
        self.clear.is_some() && (takes.mesh_tls || is_tunnelled)
    }

    /// Whether the secrets they were built from are still the ones in force.
    pub(super) fn are_current(&self, secrets: &Secrets) -> bool {
        self.iter()
            .filter_map(|transport| transport.tls.as_ref())
            .chain(self.tunnelled.iter().map(|tunnelled| tunnelled.tunnels.tls()))
            .all(|context| context.is_current(secrets))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Transport>> {
        self.configured.iter()
    }

    fn tls_context(&self, protocol: Protocol) -> Option<&Arc<TlsContext>> {
        self.iter().find(|transport| transport.protocol == protocol)?.tls.as_ref()
    }
}

impl Ways {
    fn iter(&self) -> impl Iterator<Item = &Arc<Transport>> {
        let (first, second) = match self {
            Self::One(transport) => (transport, None),
            Self::MatchDownstream { http1, http2 } => (http1, Some(http2)),
        };
        std::iter::once(first).chain(second)
    }
}

/// Logs why no handshake with the cluster's endpoints can succeed.
pub(super) fn tell_failures(config: &model::Cluster, secrets: &Secrets) {
    let tunnel = config.tunnel.as_ref().map(|tunnel| &tunnel.tls);
    for tls in config.tls.iter().chain(tunnel) {
        // The protocol plays no part in it.
        tls_context(&config.name, tls, Protocol::Http1, secrets);
    }
}

fn tunnels(cluster: &ClusterName, tunnel: &Tunnel, secrets: &Secrets) -> Tunnels {
    let tls = tls_context(cluster, &tunnel.tls, Protocol::Http2, secrets);
    Tunnels::new(tls, &tunnel.baggage)
}

fn tls_context(
    cluster: &ClusterName,
    tls: &UpstreamTls,
    protocol: Protocol,
    secrets: &Secrets,
) -> Arc<TlsContext> {
    let context = TlsContext::new(tls, protocol, secrets);
    if let Some(failure) = context.failure() {
        tracing::warn!(%cluster, %failure, "requests to the cluster fail: TLS cannot be set up");
    }
    Arc::new(context)
}

fn transport(
    config: &model::Cluster,
    protocol: Protocol,
    tls: Option<Arc<TlsContext>>,
    limits: &Limits,
) -> Transport {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let max_connections = config.circuit_breakers.max_connections;
    Transport {
        protocol,
        tls,
        tunnels: None,
        connect_timeout: config.connect_timeout,
        idle_timeout: config.idle_timeout,
        max_connection_duration: config.max_connection_duration,
        keepalive: config.tcp_keepalive,
        source_address: config.source_address,
        max_requests_per_connection: config.max_requests_per_connection,
        max_concurrent_streams: config.max_concurrent_streams,
        max_connections,
        max_pending_requests: config.circuit_breakers.max_pending_requests,
        // Connections that are limited serve whoever needs one: what is idle at one worker must not be
        // what another waits for.
        pools: if max_connections == u32::MAX { limits.workers } else { 1 },
        codec: codec::Options::new(limits, scheme),
    }
}
