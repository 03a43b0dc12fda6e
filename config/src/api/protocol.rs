//! Port protocols.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

/// What is spoken on a port. Written in any case, as Istio reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Protocol {
    Http,
    Http2,
    Https,
    Grpc,
    GrpcWeb,
    /// TLS that is routed by SNI, or terminated to plain TCP.
    Tls,
    Tcp,
    /// Opaque TCP to Weir, like [`Self::Redis`] and [`Self::Mysql`].
    Mongo,
    Redis,
    Mysql,
    /// Known to Kubernetes services; never proxied.
    Udp,
}

impl Protocol {
    /// Every protocol, in the order messages list them.
    pub const ALL: [Self; 11] = [
        Self::Http,
        Self::Http2,
        Self::Https,
        Self::Grpc,
        Self::GrpcWeb,
        Self::Tls,
        Self::Tcp,
        Self::Mongo,
        Self::Redis,
        Self::Mysql,
        Self::Udp,
    ];

    /// Reads a protocol name, ignoring case; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(text))
    }

    /// The name in upper case, as documentation writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Https => "HTTPS",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-WEB",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "MONGO",
            Self::Redis => "REDIS",
            Self::Mysql => "MYSQL",
            Self::Udp => "UDP",
        }
    }

    /// HTTP in clear text: routed by VirtualService `http` rules without terminating TLS.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// The port's bytes start with a TLS handshake.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ProtocolVisitor)
    }
}

struct ProtocolVisitor;

impl Visitor<'_> for ProtocolVisitor {
    type Value = Protocol;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a protocol name such as HTTP, HTTPS, GRPC, TLS or TCP")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Protocol, E> {
        Protocol::parse(text).ok_or_else(|| {
            let known = Protocol::ALL.map(Protocol::name).join(", ");
            E::custom(format_args!("unknown protocol {text:?}; use one of {known}"))
        })
    }
}
