//! What unit tests of stages need: connections and requests without sockets.

use std::sync::Arc;

use weir_config::model::ListenerName;

use crate::{
    connection::{ConnectionInfo, PeerIdentity, TlsInfo},
    head::RequestHeader,
    telemetry::{Protocol, StreamInfo},
};

/// A plain connection from `peer` to `10.0.0.1:8080`.
pub(crate) fn connection(peer: &str) -> ConnectionInfo {
    ConnectionInfo {
        peer_addr: peer.parse().unwrap(),
        local_addr: "10.0.0.1:8080".parse().unwrap(),
        direction: crate::connection::Direction::Gateway,
        transparent_source: None,
        peer: crate::connection::Peer::default(),
        listener: ListenerName::new("0.0.0.0_8080"),
        port: 80,
        server_name: None,
        tls: None,
    }
}

/// A connection with TLS to `www.example.com`, and a client certificate if there is an `identity`.
pub(crate) fn tls_connection(peer: &str, identity: Option<&str>) -> ConnectionInfo {
    ConnectionInfo {
        server_name: Some("www.example.com".into()),
        tls: Some(Box::new(TlsInfo {
            version: "TLSv1.3",
            cipher_suite: "TLS_AES_128_GCM_SHA256",
            alpn: None,
            peer: identity.map(|uri| PeerIdentity {
                subject: "CN=client".into(),
                uri_sans: [uri.into()].into(),
                dns_sans: Arc::default(),
                fingerprint: "ab12".into(),
                chain: Arc::default(),
            }),
            local_uri: None,
        })),
        port: 443,
        ..connection(peer)
    }
}

pub(crate) fn info() -> StreamInfo {
    info_of(connection("192.0.2.7:4711"))
}

pub(crate) fn info_of(connection: ConnectionInfo) -> StreamInfo {
    StreamInfo::start(Arc::new(connection), Protocol::Http11)
}

/// A canonical request, as it is after `normalize`.
pub(crate) fn request(method: &str, host: &str, path: &str) -> RequestHeader {
    let mut request = RequestHeader::build(method, path).unwrap();
    request.version = http::Version::HTTP_11;
    request.headers.try_insert("host", host).unwrap();
    request
}
