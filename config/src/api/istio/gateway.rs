use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::Protocol;

/// `networking.istio.io` Gateway: the ports a gateway workload listens on and the hosts they serve.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    pub servers: Vec<Server>,
    /// Labels of the gateway workloads, in any namespace; empty selects all of them.
    pub selector: BTreeMap<String, String>,
}

/// One listening port and the hosts served on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// Name used in statistics.
    pub name: String,
    pub port: Option<ServerPort>,
    /// IP address or `unix://` path to listen on; all addresses when empty.
    pub bind: String,
    /// `[namespace/]host` each; the namespace limits whose VirtualServices may bind, `.` is the
    /// Gateway's own and `*` any. The host is a name, `*` or `*.suffix`.
    pub hosts: Vec<String>,
    pub tls: Option<ServerTlsSettings>,
    /// Not implemented by Istio either.
    pub default_endpoint: String,
}

/// The port of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerPort {
    /// 1 to 65535, or 0 with a unix `bind`.
    pub number: u16,
    pub protocol: Option<Protocol>,
    /// Unique within the Gateway.
    pub name: String,
    /// Deprecated and refused.
    pub target_port: Option<u16>,
}

/// How a server handles TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTlsSettings {
    /// Answer plain HTTP with a 301 redirect to https.
    pub https_redirect: bool,
    pub mode: ServerTlsMode,
    /// Path of the certificate chain file.
    pub server_certificate: String,
    /// Path of the private key file.
    pub private_key: String,
    /// Path of the file with certificate authorities that sign client certificates.
    pub ca_certificates: String,
    /// Path of the file with revoked client certificates.
    pub ca_crl: String,
    /// Name of the Secret with the certificate and key, and for client verification the CA.
    pub credential_name: String,
    /// Up to two Secrets, one with an RSA and one with an ECDSA certificate.
    pub credential_names: Vec<String>,
    /// Name of the Secret with the CA, when it is kept apart.
    pub ca_cert_credential_name: String,
    /// Up to two certificates by file path, one RSA and one ECDSA.
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names, one of which a client certificate must carry.
    pub subject_alt_names: Vec<String>,
    /// Base64 SHA-256 of accepted client certificates' public key.
    pub verify_certificate_spki: Vec<String>,
    /// Hex SHA-256 of accepted client certificates.
    pub verify_certificate_hash: Vec<String>,
    pub min_protocol_version: TlsVersion,
    pub max_protocol_version: TlsVersion,
    /// TLS 1.2 cipher suites by OpenSSL name; the safe defaults when empty.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups, preferred first.
    pub ecdh_curves: Vec<String>,
}

/// A certificate given by file paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsCertificate {
    pub server_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
}

/// Whether and how TLS is terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// Routed by SNI, not terminated.
    #[default]
    Passthrough,
    /// Terminated with the server's certificate.
    Simple,
    /// As `SIMPLE`, and the client must present a certificate of the CA.
    Mutual,
    /// Routed to the service and port the SNI encodes, not terminated.
    AutoPassthrough,
    /// As `MUTUAL`, with the mesh identity and the mesh's CA.
    IstioMutual,
    /// As `SIMPLE`; a client certificate is asked for, and verified if given.
    OptionalMutual,
}

impl ServerTlsMode {
    /// The value as written in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "PASSTHROUGH",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::AutoPassthrough => "AUTO_PASSTHROUGH",
            Self::IstioMutual => "ISTIO_MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
        }
    }

    /// The gateway does not terminate TLS.
    pub fn is_passthrough(self) -> bool {
        matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }
}

/// A TLS protocol version bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
pub enum TlsVersion {
    /// At least 1.2 as a minimum, at most 1.3 as a maximum.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_0")]
    V1_0,
    #[serde(rename = "TLSV1_1")]
    V1_1,
    #[serde(rename = "TLSV1_2")]
    V1_2,
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
