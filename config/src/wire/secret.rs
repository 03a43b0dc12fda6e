//! `envoy.service.secret.v3`: certificates over a socket, as SPIRE's agent and Istio's give them to the
//! programs of a machine or pod. State of the world: every answer has all that was asked for.

use bytes::Bytes;

use super::{
    discovery::Node,
    google::{Any, Status},
};

/// The service's method that stays open.
pub const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
/// The one that answers once.
pub const FETCH_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";

/// What resources are.
pub const SECRET_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The name of the workload's certificate.
pub const DEFAULT: &str = "default";
/// The name of the roots that certificates of the mesh are of.
pub const ROOT_CA: &str = "ROOTCA";

/// A subscription (without nonce), or the answer to a response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Set: the response could not be used.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// All that was asked for, as it is now.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// A named secret.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Secret {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(oneof = "SecretKind", tags = "2, 4")]
    pub kind: Option<SecretKind>,
}

impl std::fmt::Debug for Secret {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a secret is.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[prost(skip_debug)]
pub enum SecretKind {
    #[prost(message, tag = "2")]
    TlsCertificate(TlsCertificate),
    #[prost(message, tag = "4")]
    ValidationContext(CertificateValidationContext),
}

impl std::fmt::Debug for SecretKind {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TlsCertificate(_) => "TlsCertificate",
            Self::ValidationContext(_) => "ValidationContext",
        })
    }
}

/// A certificate with its key, PEM.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct TlsCertificate {
    #[prost(message, optional, tag = "1")]
    pub certificate_chain: Option<DataSource>,
    #[prost(message, optional, tag = "2")]
    pub private_key: Option<DataSource>,
}

impl std::fmt::Debug for TlsCertificate {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsCertificate").finish_non_exhaustive()
    }
}

/// Whom to believe.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CertificateValidationContext {
    #[prost(message, optional, tag = "1")]
    pub trusted_ca: Option<DataSource>,
}

/// Bytes, wherever they are. Those that are elsewhere (files, the environment) are not followed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct DataSource {
    #[prost(oneof = "Specifier", tags = "2, 3")]
    pub specifier: Option<Specifier>,
}

impl std::fmt::Debug for DataSource {
    /// Without the bytes, which may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}

/// Where the bytes of a [`DataSource`] are.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Specifier {
    #[prost(bytes = "bytes", tag = "2")]
    InlineBytes(Bytes),
    #[prost(string, tag = "3")]
    InlineString(String),
}

impl std::fmt::Debug for Specifier {
    /// Without the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Specifier")
    }
}

impl DataSource {
    #[must_use]
    pub fn inline(bytes: impl Into<Bytes>) -> Self {
        Self { specifier: Some(Specifier::InlineBytes(bytes.into())) }
    }

    /// The bytes, if they are here.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self.specifier.as_ref()? {
            Specifier::InlineBytes(bytes) => Some(bytes),
            Specifier::InlineString(text) => Some(text.as_bytes()),
        }
    }
}

impl Secret {
    /// A certificate under its name.
    #[must_use]
    pub fn certificate(name: &str, chain: DataSource, key: DataSource) -> Self {
        let certificate = TlsCertificate { certificate_chain: Some(chain), private_key: Some(key) };
        Self { name: name.to_owned(), kind: Some(SecretKind::TlsCertificate(certificate)) }
    }

    /// Roots under their name.
    #[must_use]
    pub fn roots(name: &str, roots: DataSource) -> Self {
        let context = CertificateValidationContext { trusted_ca: Some(roots) };
        Self { name: name.to_owned(), kind: Some(SecretKind::ValidationContext(context)) }
    }
}
