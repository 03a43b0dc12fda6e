//! What is known of an exchange, and the one place it is told. This module imports nothing else of
//! the crate but the facts of the connection: every stage may write to `StreamInfo`.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::connection::ConnectionInfo;

/// Envoy's response flags: why the proxy, and not the upstream, decided the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResponseFlag {
    NoHealthyUpstream,
    UpstreamConnectionFailure,
    UpstreamOverflow,
    NoRoute,
    NoCluster,
    RetryLimit,
    UpstreamRequestTimeout,
    UpstreamConnectionTermination,
    UpstreamReset,
    LocalReset,
    DownstreamTermination,
    DelayInjected,
    FaultInjected,
    RateLimited,
    UnauthorizedExternal,
    InvalidRequest,
    StreamIdleTimeout,
    DownstreamProtocolError,
    UpstreamProtocolError,
    DurationTimeout,
    OverloadManager,
    DnsFailure,
    DownstreamReset,
}

impl ResponseFlag {
    /// All flags, in the order they are printed.
    pub const ALL: [Self; 23] = [
        Self::NoHealthyUpstream,
        Self::UpstreamConnectionFailure,
        Self::UpstreamOverflow,
        Self::NoRoute,
        Self::NoCluster,
        Self::RetryLimit,
        Self::UpstreamRequestTimeout,
        Self::UpstreamConnectionTermination,
        Self::UpstreamReset,
        Self::LocalReset,
        Self::DownstreamTermination,
        Self::DelayInjected,
        Self::FaultInjected,
        Self::RateLimited,
        Self::UnauthorizedExternal,
        Self::InvalidRequest,
        Self::StreamIdleTimeout,
        Self::DownstreamProtocolError,
        Self::UpstreamProtocolError,
        Self::DurationTimeout,
        Self::OverloadManager,
        Self::DnsFailure,
        Self::DownstreamReset,
    ];

    /// Envoy's code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamOverflow => "UO",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::RetryLimit => "URX",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamReset => "UR",
            Self::LocalReset => "LR",
            Self::DownstreamTermination => "DC",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::RateLimited => "RL",
            Self::UnauthorizedExternal => "UAEX",
            Self::InvalidRequest => "IH",
            Self::StreamIdleTimeout => "SI",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
            Self::DurationTimeout => "DT",
            Self::OverloadManager => "OM",
            Self::DnsFailure => "DF",
            Self::DownstreamReset => "DR",
        }
    }
}

/// The flags of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResponseFlags(u32);

impl ResponseFlags {
    pub fn set(&mut self, flag: ResponseFlag) {
        self.0 |= 1 << flag as u8;
    }

    #[must_use]
    pub fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        ResponseFlag::ALL.into_iter().filter(move |flag| self.contains(*flag))
    }
}

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
    Tcp,
}

impl Protocol {
    /// `%PROTOCOL%`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tcp => "-",
        }
    }
}

/// Everything one exchange (or one TCP connection) did. Stages write it; only `record` reads it.
#[derive(Debug)]
pub struct StreamInfo {
    pub started: Instant,
    pub started_at: SystemTime,
    pub connection: Arc<ConnectionInfo>,
    pub protocol: Protocol,
    /// `content-type` is `application/grpc`.
    pub grpc: bool,
    /// The client after X-Forwarded-For and the trusted hops.
    pub client_addr: SocketAddr,
    /// Status sent downstream; 0: none was.
    pub status: u16,
    /// From headers or trailers of the response.
    pub grpc_status: Option<u8>,
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`; empty prints `-`.
    pub details: Cow<'static, str>,
    /// `%CONNECTION_TERMINATION_DETAILS%`; empty prints `-`.
    pub termination_details: Cow<'static, str>,
    /// Body bytes from and to the client.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// gRPC messages from and to the client.
    pub request_messages: u64,
    pub response_messages: u64,
    /// Empty prints `-`.
    pub route_name: Option<Arc<str>>,
    pub upstream: UpstreamInfo,
    /// `issuer/subject` of the validated token.
    pub request_principal: Option<Arc<str>>,
}

/// What is known of the upstream side of an exchange: the last attempt's.
#[derive(Debug, Default)]
pub struct UpstreamInfo {
    /// Metric handles of the cluster, resolved when it was configured. `None`: no cluster was reached.
    pub stats: Option<Arc<labels::ClusterStats>>,
    pub cluster_name: Option<Arc<str>>,
    /// Metric labels of the endpoint chosen.
    pub workload: Option<Arc<weir_config::model::cluster::Workload>>,
    pub remote_addr: Option<SocketAddr>,
    pub local_addr: Option<SocketAddr>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub failure: Option<Cow<'static, str>>,
    pub attempts: u32,
    /// From the request's head being sent to the response's head being there.
    pub service_time: Option<Duration>,
    /// From the beginning of the exchange to the response's head being there.
    pub responded_after: Option<Duration>,
    pub tls: bool,
    /// Over mutual TLS with who has shown to be of the mesh.
    pub is_mesh: bool,
}

impl StreamInfo {
    /// At the first byte of a request's head, or at the accept of a TCP connection.
    #[must_use]
    pub fn start(connection: Arc<ConnectionInfo>, protocol: Protocol) -> Self {
        let client_addr = connection.peer_addr;
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            connection,
            protocol,
            grpc: false,
            client_addr,
            status: 0,
            grpc_status: None,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            termination_details: Cow::Borrowed(""),
            bytes_received: 0,
            bytes_sent: 0,
            request_messages: 0,
            response_messages: 0,
            route_name: None,
            upstream: UpstreamInfo::default(),
            request_principal: None,
        }
    }
}

pub mod access_log;
mod begun;
pub mod clusters;
pub mod discovery;
pub mod exposition;
pub mod labels;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod peer_metadata;
pub mod peers;
mod process;
pub mod record;
pub mod series;
mod standard;

pub use self::{begun::Begun, record::Telemetry};
