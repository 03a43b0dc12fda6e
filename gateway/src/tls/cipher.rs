//! OpenSSL's names, which configuration and access logs use, for what rustls speaks.

use rustls::{
    CipherSuite, ProtocolVersion, SupportedCipherSuite, crypto::aws_lc_rs::cipher_suite as suite,
};

/// The TLS 1.2 suites there are, in our order of preference.
static TLS12: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The suite of an OpenSSL name; `None` for those without forward secrecy or authenticated
/// encryption, which rustls does not have.
pub(super) fn tls12_suite(name: &str) -> Option<SupportedCipherSuite> {
    TLS12.iter().find(|(openssl, _)| *openssl == name).map(|(_, suite)| *suite)
}

#[must_use]
pub fn cipher_suite_name(suite: CipherSuite) -> &'static str {
    if let Some((name, _)) = TLS12.iter().find(|(_, known)| known.suite() == suite) {
        return name;
    }
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => "-",
    }
}

#[must_use]
pub fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "-",
    }
}
