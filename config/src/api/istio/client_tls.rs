use serde::Deserialize;

/// How connections to a destination use TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTlsSettings {
    pub mode: ClientTlsMode,
    /// Path of the client certificate chain file (`MUTUAL`).
    pub client_certificate: String,
    /// Path of the client's private key file (`MUTUAL`).
    pub private_key: String,
    /// Path of the file with trusted authorities; the system's when empty or `system`.
    pub ca_certificates: String,
    /// Path of the file with revoked server certificates.
    pub ca_crl: String,
    /// Name of the Secret with certificate, key and CA, instead of the paths.
    pub credential_name: String,
    /// Names, one of which the server's certificate must carry; the host when empty.
    pub subject_alt_names: Vec<String>,
    /// Server name sent in the handshake; the request's host when empty.
    pub sni: String,
    /// Accept any server certificate.
    pub insecure_skip_verify: Option<bool>,
}

/// Whether and how a connection to a destination uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// Clear text.
    #[default]
    Disable,
    /// Verify the server.
    Simple,
    /// Verify the server and present a client certificate.
    Mutual,
    /// Mutual TLS with the mesh identity.
    IstioMutual,
}

impl ClientTlsMode {
    /// The value as written in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::IstioMutual => "ISTIO_MUTUAL",
        }
    }
}
