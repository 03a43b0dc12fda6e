//! One GET for keys: plain or TLS, no redirects, bounded (hardening J09, E06).

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http::{Request, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// More than any set of keys takes, in bytes.
const MAX_DOCUMENT: usize = 1 << 20;

/// What names the keys.
#[derive(Debug, Clone)]
pub enum Location {
    Keys(Arc<str>),
    /// Its OpenID Connect configuration names the keys' address.
    Issuer(Arc<str>),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is not an http or https address")]
    Address(String),
    #[error(
        "{0} has only addresses that keys are not fetched from (link-local, multicast, unspecified)"
    )]
    Forbidden(String),
    #[error("connect to {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("ask {0}: {1}")]
    Http(String, String),
    #[error("{0} answered {1}; redirects are not followed")]
    Status(String, http::StatusCode),
    #[error("{0} sent more than {MAX_DOCUMENT} bytes")]
    TooLarge(String),
    #[error("the OpenID configuration of {0} names no jwks_uri")]
    Discovery(String),
}

/// Fetches the JWKS document.
///
/// # Errors
/// There is none, in words for the log.
pub async fn fetch(location: &Location) -> Result<Bytes, Error> {
    fetch_with(location, &TLS).await
}

async fn fetch_with(location: &Location, tls: &Arc<ClientConfig>) -> Result<Bytes, Error> {
    match location {
        Location::Keys(uri) => get(uri, tls).await,
        Location::Issuer(issuer) => {
            let issuer = issuer.trim_end_matches('/');
            let configuration =
                get(&format!("{issuer}/.well-known/openid-configuration"), tls).await?;
            let configuration: Discovery = serde_json::from_slice(&configuration)
                .map_err(|_no_such_field| Error::Discovery(issuer.to_owned()))?;
            get(&configuration.jwks_uri, tls).await
        }
    }
}

/// OpenID Connect Discovery 1.0, section 3.
#[derive(serde::Deserialize)]
struct Discovery {
    jwks_uri: String,
}

async fn get(address: &str, config: &Arc<ClientConfig>) -> Result<Bytes, Error> {
    let not_http = || Error::Address(address.to_owned());
    let uri: Uri = address.parse().map_err(|_invalid| not_http())?;
    let authority = uri.authority().ok_or_else(not_http)?;
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(not_http()),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = connect(host, authority.port_u16().unwrap_or(if tls { 443 } else { 80 })).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "weir")
        .body(Empty::<Bytes>::new())
        .map_err(|_invalid| not_http())?;
    if tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| not_http())?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| Error::Connect(address.to_owned(), error))?;
        exchange(stream, request, address).await
    } else {
        exchange(stream, request, address).await
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Error> {
    let name = || format!("{host}:{port}");
    let found =
        tokio::net::lookup_host((host, port)).await.map_err(|e| Error::Connect(name(), e))?;
    let allowed: Vec<SocketAddr> = found.filter(|addr| !is_forbidden(addr.ip())).collect();
    if allowed.is_empty() {
        return Err(Error::Forbidden(name()));
    }
    TcpStream::connect(&*allowed).await.map_err(|error| Error::Connect(name(), error))
}

/// Where clouds answer questions about credentials, and what is no server at all. Private addresses
/// are allowed: an issuer in the own network is the normal case.
fn is_forbidden(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_link_local() || ip.is_multicast() || ip.is_unspecified() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                // fd00:ec2::254
                || ip.segments() == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    address: &str,
) -> Result<Bytes, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::error::Error| Error::Http(address.to_owned(), error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(Error::Status(address.to_owned(), response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| {
            if error.is::<LengthLimitError>() {
                Error::TooLarge(address.to_owned())
            } else {
                failed(&*error)
            }
        })
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    // The connection moves the bytes; when it ends first, the answer knows why.
    tokio::select! {
        answer = &mut answer => return answer,
        _ = &mut connection => {}
    }
    answer.await
}

/// Verifies with the operating system's roots.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    trusting(roots)
});

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers each connection with the next of `responses`; returns the address.
    async fn server(responses: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let base = address.clone();
        tokio::spawn(async move {
            for response in responses {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert!(
                    String::from_utf8(head)
                        .unwrap()
                        .to_lowercase()
                        .contains(&format!("host: {base}"))
                );
                // The client may have seen enough before the end.
                let _ = stream.write_all(&response).await;
            }
        });
        address
    }

    fn ok(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn keys_come_from_their_address() {
        let address = server(vec![ok("{\"keys\":[]}")]).await;
        let document =
            fetch(&Location::Keys(format!("http://{address}/keys?a=b").into())).await.unwrap();
        assert_eq!(document, "{\"keys\":[]}");
    }

    #[tokio::test]
    async fn an_issuers_configuration_names_the_keys() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let keys = server(vec![ok("the keys")]).await;
        let issuer =
            server(vec![ok(&format!("{{\"issuer\":\"x\",\"jwks_uri\":\"http://{keys}/k\"}}"))])
                .await;
        let document = fetch(&Location::Issuer(format!("http://{issuer}/").into())).await.unwrap();
        assert_eq!(document, "the keys");
        let gone = fetch(&Location::Issuer(format!("http://{address}").into())).await;
        assert!(matches!(gone, Err(Error::Connect(..))), "{gone:?}");
    }

    #[tokio::test]
    async fn whatever_is_not_a_document_of_bounded_size_is_refused() {
        let redirect =
            b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
        let address = server(vec![redirect.to_vec()]).await;
        let refused = fetch(&Location::Keys(format!("http://{address}/").into())).await;
        assert!(matches!(refused, Err(Error::Status(_, http::StatusCode::FOUND))), "{refused:?}");

        let address = server(vec![ok(&"x".repeat(MAX_DOCUMENT + 1))]).await;
        let refused = fetch(&Location::Keys(format!("http://{address}/").into())).await;
        assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");

        let address = server(vec![b"garbage\r\n\r\n".to_vec()]).await;
        let refused = fetch(&Location::Keys(format!("http://{address}/").into())).await;
        assert!(matches!(refused, Err(Error::Http(..))), "{refused:?}");
    }

    #[tokio::test]
    async fn metadata_addresses_are_never_asked() {
        for host in [
            "169.254.169.254",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "0.0.0.0",
            "[::ffff:169.254.169.254]",
        ] {
            let refused = fetch(&Location::Keys(format!("http://{host}/latest").into())).await;
            assert!(matches!(refused, Err(Error::Forbidden(_))), "{host}: {refused:?}");
        }
        for address in ["file:///etc/passwd", "ftp://example.com/", "/keys", ""] {
            let refused = fetch(&Location::Keys(address.into())).await;
            assert!(matches!(refused, Err(Error::Address(_))), "{address}: {refused:?}");
        }
    }

    /// A server with a certificate of its own for `localhost`, and the roots that trust it.
    async fn tls_server(response: Vec<u8>) -> (u16, RootCertStore) {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key.into())
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                // Clients that do not trust it go away here.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&response).await;
            }
        });
        (port, roots)
    }

    #[tokio::test]
    async fn a_server_is_asked_over_tls_only_if_it_is_trusted() {
        let (port, roots) = tls_server(ok("the keys")).await;
        let location = |host: &str| Location::Keys(format!("https://{host}:{port}/keys").into());
        let trusted = fetch_with(&location("localhost"), &trusting(roots.clone())).await;
        assert_eq!(trusted.unwrap(), "the keys");
        for (host, roots) in [("localhost", RootCertStore::empty()), ("127.0.0.1", roots)] {
            let refused = fetch_with(&location(host), &trusting(roots)).await;
            assert!(matches!(refused, Err(Error::Connect(..))), "{host}: {refused:?}");
        }
    }
}
