//! Connections to upstreams: dialling them, TLS, and the pools they are kept in.
//!
//! A pool belongs to one endpoint and one TLS context, so that a connection can never be used for a
//! destination it was not made for. Nothing here knows of clusters or routes.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use weir_config::model::cluster::{SourceAddress, TcpKeepalive};

use crate::codec;

pub mod count;
mod dial;
mod error;
mod http2;
mod own;
pub mod pool;
mod source;
mod tls;
mod tunnels;
mod verify;
mod worker_pools;

pub use self::{
    count::Slot,
    dial::{dial, dial_application},
    error::{ConnectError, TlsFailure},
    own::keep_private,
    pool::{Checkout, Pool, Reuse},
    source::{TransparentError, may_be_transparent},
    tls::TlsContext,
    tunnels::Tunnels,
    worker_pools::WorkerPools,
};

/// One endpoint and how to talk to it.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: Address,
    pub transport: Arc<Transport>,
    /// `trust-domain/ns/namespace/sa/account` its certificate has to be of; `None`: whatever the
    /// transport's TLS accepts.
    pub identity: Option<Arc<str>>,
}

/// Whom a connection is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    /// The request's host, for TLS that has no configured server name.
    pub host: Option<&'a str>,
    /// The client, where the workload is to see its address; only where connections come from us as
    /// inbound ones do.
    pub source: Option<IpAddr>,
}

#[derive(Debug, Clone)]
pub enum Address {
    Ip(SocketAddr),
    /// Whatever a name resolves to at the moment; `None` while it does not.
    Logical(Arc<ArcSwap<Option<SocketAddr>>>),
    Unix(Arc<Path>),
}

impl Address {
    /// Where a connection would go now; `None` for Unix sockets and unresolved names.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Logical(current) => **current.load(),
            Self::Unix(_) => None,
        }
    }
}

/// How the endpoints of a cluster are talked to; shared by all of them.
#[derive(Debug)]
pub struct Transport {
    pub protocol: Protocol,
    pub tls: Option<Arc<TlsContext>>,
    /// What is spoken goes through these (HBONE).
    pub tunnels: Option<Arc<Tunnels>>,
    /// TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection older than this takes no more requests; `None`: any age.
    pub max_connection_duration: Option<Duration>,
    pub keepalive: Option<TcpKeepalive>,
    pub source_address: SourceAddress,
    /// 0: no limit.
    pub max_requests_per_connection: u32,
    /// Of one HTTP/2 connection; the peer may allow less.
    pub max_concurrent_streams: u32,
    /// Connections of the cluster; 0 still leaves each endpoint one, as in Envoy.
    pub max_connections: u32,
    /// Requests of the cluster that wait for a connection.
    pub max_pending_requests: u32,
    /// Into how many pools the connections to an endpoint are parted. Follows from the above and from what
    /// is the same for the whole proxy, so not compared.
    pub pools: usize,
    /// The same for the whole proxy, so not compared.
    pub codec: codec::Options,
}

impl Transport {
    /// Whether what is spoken can be read on the way.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some() || self.tunnels.is_some()
    }

    /// Whether it is mutual TLS with who has shown to be of the mesh.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.tunnels.is_some() || self.tls.as_deref().is_some_and(TlsContext::is_mesh)
    }
}

impl PartialEq for Transport {
    /// Whether connections made with the one may be used in place of the other's.
    fn eq(&self, other: &Self) -> bool {
        let Self {
            protocol,
            tls,
            tunnels,
            connect_timeout,
            idle_timeout,
            max_connection_duration,
            keepalive,
            source_address,
            max_requests_per_connection,
            max_concurrent_streams,
            max_connections,
            max_pending_requests,
            pools: _,
            codec: _,
        } = self;
        is_same(tls.as_ref(), other.tls.as_ref())
            && is_same(tunnels.as_ref(), other.tunnels.as_ref())
            && *protocol == other.protocol
            && *connect_timeout == other.connect_timeout
            && *idle_timeout == other.idle_timeout
            && *max_connection_duration == other.max_connection_duration
            && *keepalive == other.keepalive
            && *source_address == other.source_address
            && *max_requests_per_connection == other.max_requests_per_connection
            && *max_concurrent_streams == other.max_concurrent_streams
            && *max_connections == other.max_connections
            && *max_pending_requests == other.max_pending_requests
    }
}

fn is_same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What is spoken on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    Tcp,
}

#[cfg(test)]
pub(crate) mod tests;
