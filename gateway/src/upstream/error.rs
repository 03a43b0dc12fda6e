//! Why there is no connection. Texts are a closed set: they reach access logs and clients.

use std::{borrow::Cow, io};

use rustls::{AlertDescription, CertificateError};

use crate::telemetry::ResponseFlag;

/// Why an upstream connection could not be had. No byte of the request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to the upstream: OS error {errno}")]
    Connect { errno: i32 },
    #[error("connect to the upstream: not done within the connect timeout")]
    Timeout,
    #[error("TLS with the upstream: {0}")]
    Tls(TlsFailure),
    #[error("HTTP/2 with the upstream: the connection ended in its handshake")]
    Http2,
    #[error("HBONE: the other side does not let this workload in")]
    TunnelDenied,
    #[error("HBONE: the other side cannot connect to the workload")]
    TunnelRefused,
    /// A name that never resolved.
    #[error("connect to the upstream: its address is not known")]
    NoAddress,
    #[error("connect to the upstream: it is this proxy's own admin port")]
    OwnPages,
    #[error("more requests wait for a connection than the circuit breaker allows")]
    PendingOverflow,
    #[error("more connections are open than the circuit breaker allows")]
    ConnectionOverflow,
}

impl ConnectError {
    #[must_use]
    pub fn flag(self) -> ResponseFlag {
        match self {
            Self::Connect { .. }
            | Self::Timeout
            | Self::Tls(_)
            | Self::Http2
            | Self::TunnelDenied
            | Self::TunnelRefused
            | Self::NoAddress
            | Self::OwnPages => ResponseFlag::UpstreamConnectionFailure,
            Self::PendingOverflow | Self::ConnectionOverflow => ResponseFlag::UpstreamOverflow,
        }
    }

    /// Whether the proxy's own limits stopped it: the endpoint is not to blame.
    #[must_use]
    pub fn is_overflow(self) -> bool {
        self.flag() == ResponseFlag::UpstreamOverflow
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`, in Envoy's words where it has them.
    #[must_use]
    pub fn reason(self) -> Cow<'static, str> {
        match self {
            Self::Connect { errno } => Cow::Owned(format!("delayed connect error: {errno}")),
            Self::Timeout => Cow::Borrowed("connection timeout"),
            Self::Tls(failure) => Cow::Borrowed(failure.reason()),
            Self::Http2 => Cow::Borrowed("HTTP/2 handshake failed"),
            Self::TunnelDenied => Cow::Borrowed("HBONE: not authorized"),
            Self::TunnelRefused => Cow::Borrowed("HBONE: CONNECT refused"),
            Self::NoAddress => Cow::Borrowed("DNS resolution failed"),
            Self::OwnPages => Cow::Borrowed("own admin port"),
            Self::PendingOverflow | Self::ConnectionOverflow => Cow::Borrowed("overflow"),
        }
    }

    pub(crate) fn from_connect(error: &io::Error) -> Self {
        // Errors without a number do not come from connect(2) but from its environment, for
        // example a runtime that is shutting down.
        error.raw_os_error().map_or(Self::Timeout, |errno| Self::Connect { errno })
    }
}

/// Why a TLS handshake with an upstream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    #[error("a secret it needs is missing or broken")]
    Secret,
    #[error("there are no roots to verify with")]
    NoRoots,
    #[error("there is no valid server name")]
    ServerName,
    #[error("the certificate's issuer is not trusted")]
    UnknownIssuer,
    #[error("the certificate is for another identity")]
    Identity,
    #[error("the certificate is expired or not yet valid")]
    Validity,
    #[error("the certificate is revoked or its status unknown")]
    Revoked,
    #[error("the certificate cannot be used")]
    Certificate,
    #[error("no common application protocol")]
    Alpn,
    /// For example: it wants a client certificate.
    #[error("the upstream refused the handshake")]
    Alert,
    #[error("the upstream does not speak TLS as expected")]
    Protocol,
    #[error("the connection ended in the handshake")]
    Closed,
}

impl TlsFailure {
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Secret => "TLS_error: Secret is not supplied",
            Self::NoRoots => "TLS_error: TLS_NO_ROOTS",
            Self::ServerName => "TLS_error: TLS_SERVER_NAME",
            Self::UnknownIssuer => "TLS_error: TLS_UNKNOWN_ISSUER",
            Self::Identity => "TLS_error: TLS_IDENTITY",
            Self::Validity => "TLS_error: TLS_VALIDITY",
            Self::Revoked => "TLS_error: TLS_REVOKED",
            Self::Certificate => "TLS_error: TLS_CERTIFICATE",
            Self::Alpn => "TLS_error: TLS_ALPN",
            Self::Alert => "TLS_error: TLS_ALERT",
            Self::Protocol => "TLS_error: TLS_PROTOCOL",
            Self::Closed => "TLS_error: TLS_CLOSED",
        }
    }

    pub(super) fn from_handshake(error: &io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match cause {
            None => Self::Closed,
            Some(rustls::Error::InvalidCertificate(certificate)) => {
                Self::from_certificate(certificate)
            }
            Some(
                rustls::Error::NoApplicationProtocol
                | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
            ) => Self::Alpn,
            Some(rustls::Error::AlertReceived(_)) => Self::Alert,
            Some(rustls::Error::InvalidCertRevocationList(_)) => Self::Revoked,
            Some(_) => Self::Protocol,
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::Identity
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Validity,
            CertificateError::Revoked
            | CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::Revoked,
            // The type is open: rustls may add reasons.
            _ => Self::Certificate,
        }
    }
}
