//! Where and how connections are accepted.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    matcher::HostPattern,
    name::{FilterChainName, ListenerName, RouteTableName, SecretName},
    route::WeightedCluster,
};

/// A bound address. What happens to a connection is decided by the filter chains that name it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub name: ListenerName,
    pub address: BindAddress,
    /// The number the Gateway's server has, which `match.port` and authorization see.
    pub port: u16,
    /// How the chain of a connection is found.
    pub kind: ListenerKind,
    /// Connections come to it with the addresses they had (TPROXY).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_transparent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BindAddress {
    Ip(SocketAddr),
    Unix(Arc<Path>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerKind {
    /// Plain HTTP/1 and HTTP/2 by prior knowledge; one chain.
    Http,
    /// The chain is chosen by the ClientHello's server name.
    Tls,
    /// Bytes; one chain.
    Tcp,
    /// Connections to the workload that were redirected here. The chain is chosen by where they
    /// were going and how they begin.
    Inbound,
    /// The same of connections the workload makes.
    Outbound,
    /// Connections to the workload inside CONNECT streams (HBONE); one chain.
    Tunnel,
}

impl ListenerKind {
    /// Whether connections have another destination than the listener.
    #[must_use]
    pub fn is_redirected(self) -> bool {
        matches!(self, Self::Inbound | Self::Outbound)
    }
}

/// One thing a listener can do with a connection.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterChain {
    pub name: FilterChainName,
    pub listener: ListenerName,
    /// Server names this chain is for. Unused on `Http` and `Tcp` listeners.
    pub server_names: Arc<[HostPattern]>,
    /// Redirected connections this chain is for; the narrowest destination that has chains decides.
    /// Unused on other listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirected: Option<RedirectMatch>,
    /// Only for clients that offer a protocol of the mesh.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mesh_only: bool,
    /// `None`: the connection is not TLS, or its TLS is passed through.
    pub tls: Option<DownstreamTls>,
    pub network: NetworkFilter,
    /// Namespace and name of the Gateway, for dumps and logs.
    pub gateway: Arc<str>,
}

/// Where a redirected connection was going, and how it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedirectMatch {
    /// `None`: any address.
    pub address: Option<IpNet>,
    /// `None`: any port.
    pub port: Option<u16>,
    pub begins: Beginning,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Beginning {
    /// Anything no other chain of the destination is for. Where there is no other, nothing is awaited.
    Any,
    /// A request in clear text.
    Http,
    /// A ClientHello, with one of the chain's server names if it has any.
    Tls,
    /// A ClientHello that offers a protocol of the mesh.
    MeshTls,
    /// A ClientHello that offers HTTP of the mesh.
    MeshHttp,
}

/// What reads the bytes of a connection.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum NetworkFilter {
    Http {
        route_table: RouteTableName,
    },
    /// Copied to a cluster; weights choose per connection. Empty: the connection is closed (`NR`).
    TcpProxy {
        clusters: Arc<[WeightedCluster]>,
        idle_timeout: Option<Duration>,
    },
    /// CONNECT streams; what is inside goes on as a connection that was redirected to `listener`, if it
    /// is for one of these addresses, or the one that was connected to, and for none of these ports.
    Connect {
        listener: ListenerName,
        addresses: Arc<[IpAddr]>,
        closed_ports: Arc<[u16]>,
    },
}

/// TLS towards clients (`ServerTLSSettings`).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DownstreamTls {
    /// One, or an RSA and an ECDSA certificate.
    pub certificates: Arc<[SecretName]>,
    pub client_auth: ClientAuth,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// OpenSSL names of the TLS 1.2 suites allowed; empty: the safe default set.
    pub cipher_suites: Arc<[Arc<str>]>,
    /// In order of preference: `h2`, `http/1.1`. Empty: ALPN is not negotiated.
    pub alpn: Arc<[Arc<str>]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum TlsVersion {
    #[serde(rename = "TLSv1_2")]
    V1_2,
    #[serde(rename = "TLSv1_3")]
    V1_3,
}

/// Whether clients show a certificate, and which are accepted.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientAuth {
    /// `SIMPLE`.
    None,
    /// `OPTIONAL_MUTUAL`: asked for, verified if given.
    Optional(ClientValidation),
    /// `MUTUAL`.
    Required(ClientValidation),
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// The secret holding the CA certificates (and revocation list).
    pub trust_bundle: SecretName,
    /// Subject alternative names accepted, exact; empty: any.
    pub subject_alt_names: Arc<[Arc<str>]>,
    /// SHA-256 of accepted public keys (SPKI), raw bytes; together with `certificate_sha256` one has to match.
    pub spki_sha256: Arc<[[u8; 32]]>,
    pub certificate_sha256: Arc<[[u8; 32]]>,
}
