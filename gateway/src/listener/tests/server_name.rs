//! Which chain a ClientHello gets.

use rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};

use super::*;
use crate::tls::test_ca::{TestCa, key_pair, secret};

/// Chains for the hosts given, each with a certificate of its own.
async fn gateway(hosts: &[&'static str]) -> (Gateway, SocketAddr, Vec<Issued>) {
    let ca = TestCa::new("ca");
    let upstream = echo("upstream").await;
    let issued: Vec<_> = hosts.iter().map(|_| ca.server("any.example.com")).collect();
    let mut changes = vec![listener("tls", ListenerKind::Tls), cluster("echo", &[upstream])];
    for (host, issued) in hosts.iter().zip(&issued) {
        changes.push(Change::Secret(key_pair(host, issued)));
        changes.push(chain(&format!("chain {host}"), &[host], Some(simple(host)), "echo"));
    }
    let mut gateway = Gateway::new();
    gateway.apply(delta(changes)).await;
    let address = gateway.address("tls").await;
    (gateway, address, issued)
}

#[tokio::test]
async fn exact_names_come_before_the_longest_wildcard_before_any() {
    let hosts = ["*", "*.com", "*.example.com", "a.example.com", "*.a.example.com"];
    let (_gateway, address, issued) = gateway(&hosts).await;
    let cases = [
        ("a.example.com", "a.example.com"),
        ("A.Example.COM", "a.example.com"),
        ("b.example.com", "*.example.com"),
        ("c.b.example.com", "*.example.com"),
        ("b.a.example.com", "*.a.example.com"),
        ("example.com", "*.com"),
        ("com", "*"),
        ("example.org", "*"),
    ];
    for (name, expected) in cases {
        let client = TlsClient::new().connect(address, name).await.unwrap();
        let index = hosts.iter().position(|host| *host == expected).unwrap();
        assert_eq!(client.server_certificate(), issued[index].der, "{name}");
    }
}

#[tokio::test]
async fn a_client_without_a_server_name_gets_only_what_is_for_all_names() {
    let (mut gateway, address, issued) = gateway(&["*", "a.example.com"]).await;
    let anonymous = TlsClient::new().without_server_name();
    let client = anonymous.connect(address, "a.example.com").await.unwrap();
    assert_eq!(client.server_certificate(), issued[0].der);
    gateway.apply(delta([Change::NoChain("chain *")])).await;
    assert!(anonymous.connect(address, "a.example.com").await.is_err());
}

#[tokio::test]
async fn a_name_without_a_chain_is_closed_and_recorded_as_no_route() {
    let (gateway, address, _) = gateway(&["a.example.com"]).await;
    let error = TlsClient::new().connect(address, "b.example.com").await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "closed, without an alert");
    let line =
        gateway.metric(&["istio_tcp_connections_closed_total", r#"response_flags="NR""#]).await;
    assert!(line.ends_with(" 1"), "{line}");
}

#[test]
fn of_ten_thousand_names_each_finds_its_own_chain() {
    let chains: Vec<_> = (0..10_000)
        .map(|index| {
            let hosts =
                [format!("host-{index}.example.com"), format!("*.zone-{index}.example.com")];
            let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
            match chain(&format!("chain-{index:05}"), &hosts, None, "echo") {
                Change::Chain(chain) => Arc::new(*chain),
                _ => unreachable!("a chain is a chain"),
            }
        })
        .collect();
    let index = FilterChains::next(None, &chains, &Secrets::default());
    for number in [0, 1, 4_711, 9_999] {
        for name in [format!("host-{number}.example.com"), format!("a.b.zone-{number}.example.com")]
        {
            let found = index.select(Some(&name)).unwrap();
            assert_eq!(found.config.name, chains[number].name, "{name}");
        }
    }
    assert!(index.select(Some("zone-1.example.com")).is_none(), "a wildcard needs a label");
    assert!(index.select(Some("host-1.example.com.evil.org")).is_none());
}

#[test]
fn of_two_chains_with_one_name_the_first_has_it() {
    let chains: Vec<_> = ["b", "a"]
        .map(|name| match chain(name, &["shop.example.com"], None, "echo") {
            Change::Chain(chain) => Arc::new(*chain),
            _ => unreachable!("a chain is a chain"),
        })
        .into_iter()
        .collect();
    // As they come out of `Resources`: by name.
    let index = FilterChains::next(None, chains.iter().rev(), &Secrets::default());
    assert_eq!(index.select(Some("shop.example.com")).unwrap().config.name.as_str(), "a");
}

#[tokio::test]
async fn tls_is_passed_through_next_to_a_chain_that_terminates() {
    let ca = TestCa::new("ca");
    let (ours, theirs) = (ca.server("ours.example.com"), ca.server("theirs.example.com"));
    let upstream = echo("plain").await;

    // An upstream that does TLS itself: another gateway.
    let mut behind = Gateway::new();
    behind
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("echo", &[upstream]),
            Change::Secret(key_pair("theirs", &theirs)),
            chain("chain", &["*"], Some(simple("theirs")), "echo"),
        ]))
        .await;
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("echo", &[upstream]),
            cluster("behind", &[behind.address("tls").await]),
            Change::Secret(key_pair("ours", &ours)),
            chain("terminated", &["ours.example.com"], Some(simple("ours")), "echo"),
            chain("passed", &["theirs.example.com"], None, "behind"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    for (name, expected) in [("ours.example.com", &ours), ("theirs.example.com", &theirs)] {
        let mut client = TlsClient::new().connect(address, name).await.unwrap();
        assert_eq!(client.server_certificate(), expected.der);
        assert_eq!(client.line().await.unwrap(), "plain");
        assert!(client.is_alive().await);
    }
}

/// A client whose key share is a post-quantum one.
fn post_quantum() -> TlsClient {
    let mut provider = rustls::crypto::CryptoProvider::clone(&provider());
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    TlsClient { config }
}

#[tokio::test]
async fn a_post_quantum_handshake_succeeds() {
    let (_gateway, address, _) = gateway(&["*"]).await;
    let client = post_quantum().connect(address, "a.example.com").await.unwrap();
    let group = client.session().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

/// The bytes of a ClientHello.
fn hello(name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let config = Arc::new(post_quantum().config);
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

/// The same ClientHello in records of `size` bytes (RFC 8446 5.1 allows that).
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let body = &hello[5..];
    body.chunks(size)
        .flat_map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[0x16, 3, 1], &length[..], part].concat()
        })
        .collect()
}

/// An upstream that collects what it is sent.
async fn sink() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = server.local_addr().unwrap();
    let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            let _ = tx.send(all);
        }
    });
    (address, rx)
}

#[tokio::test]
async fn a_hello_in_many_packets_and_records_reaches_the_upstream_byte_for_byte() {
    let (upstream, mut received) = sink().await;
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("sink", &[upstream]),
            chain("passed", &["pq.example.com"], None, "sink"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    let whole = hello("pq.example.com");
    for bytes in [whole.clone(), in_records(&whole, 100), in_records(&whole, 7)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for part in bytes.chunks(61) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.write_all(b"more").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(received.recv().await.unwrap(), [&bytes[..], b"more"].concat());
    }
}

#[tokio::test]
async fn a_trailing_dot_does_not_matter_and_an_address_is_no_server_name() {
    let (exact, mut for_exact) = sink().await;
    let (any, mut for_any) = sink().await;
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("exact", &[exact]),
            cluster("any", &[any]),
            chain("exact", &["abc.com"], None, "exact"),
            chain("any", &["*"], None, "any"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    let written_as = |name: &[u8; 8]| {
        let mut bytes = hello("abcd.com");
        let at = memchr::memmem::find(&bytes, b"abcd.com").unwrap();
        bytes[at..at + 8].copy_from_slice(name);
        bytes
    };
    for (name, received) in [(b"ABC.com.", &mut for_exact), (b"10.0.0.1", &mut for_any)] {
        let bytes = written_as(name);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let got = tokio::time::timeout(Duration::from_secs(10), received.recv()).await;
        assert_eq!(got.unwrap().unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_hello_that_never_ends_is_closed() {
    let (gateway, address, _) = gateway(&["*"]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A handshake message that claims 65,000 bytes, in full records.
    let mut claim = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xfd, 0xe8];
    claim.resize(5 + 0x4000, 0);
    let _ = stream.write_all(&claim).await;
    let _ = stream.write_all(&claim).await;
    let _ = Client::new(stream).closed().await;
    let line = gateway.metric(&["handshake_errors_total", r#"reason="protocol error""#]).await;
    assert!(line.ends_with(" 1"), "{line}");
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_an_alert() {
    let (_gateway, address, _) = gateway(&["*"]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[0], 0x15, "a TLS alert record");
}

#[tokio::test]
async fn the_certificate_of_a_pair_is_the_one_the_client_can_verify() {
    let ca = TestCa::new("ca");
    let (rsa, ecdsa) = (ca.server_rsa("a.example.com"), ca.server("a.example.com"));
    let mut tls = simple("rsa");
    tls.certificates = ["rsa", "ecdsa"].map(SecretName::new).into();
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("echo", &[echo("upstream").await]),
            Change::Secret(key_pair("rsa", &rsa)),
            Change::Secret(key_pair("ecdsa", &ecdsa)),
            chain("chain", &["*"], Some(tls), "echo"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    let both = TlsClient::new().connect(address, "a.example.com").await.unwrap();
    assert_eq!(both.server_certificate(), ecdsa.der, "ECDSA where the client knows it");
    for version in [&TLS12, &TLS13] {
        let client = only(RSA, version);
        let client = client.connect(address, "a.example.com").await.unwrap();
        assert_eq!(client.server_certificate(), rsa.der, "{version:?}");
    }
}

const RSA: &[SignatureScheme] =
    &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

/// A client that verifies signatures of some kinds only.
fn only(
    schemes: &'static [SignatureScheme],
    version: &'static SupportedProtocolVersion,
) -> TlsClient {
    #[derive(Debug)]
    struct Only(&'static [SignatureScheme]);
    impl ServerCertVerifier for Only {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            server_name: &ServerName<'_>,
            ocsp_response: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            AnyServer.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            AnyServer.verify_tls12_signature(message, cert, dss)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            AnyServer.verify_tls13_signature(message, cert, dss)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.to_vec()
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Only(schemes)))
        .with_no_client_auth();
    TlsClient { config }
}

#[tokio::test]
async fn versions_suites_and_protocols_are_those_configured() {
    let ca = TestCa::new("ca");
    let issued = ca.server("a.example.com");
    let mut old = simple("s");
    old.max_version = TlsVersion::V1_2;
    old.cipher_suites = ["AES128-SHA", "ECDHE-ECDSA-CHACHA20-POLY1305"].map(Arc::from).into();
    let mut new = simple("s");
    new.min_version = TlsVersion::V1_3;
    let mut none = old.clone();
    none.cipher_suites = ["AES128-SHA".into()].into();
    let mut alpn = simple("s");
    alpn.alpn = ["h2", "http/1.1"].map(Arc::from).into();
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("echo", &[echo("upstream").await]),
            Change::Secret(secret("s", &issued.chain_pem, &issued.key_pem, "", "")),
            chain("old", &["old.example.com"], Some(old), "echo"),
            chain("new", &["new.example.com"], Some(new), "echo"),
            chain("none", &["none.example.com"], Some(none), "echo"),
            chain("alpn", &["alpn.example.com"], Some(alpn), "echo"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    let client = TlsClient::new();

    let old = client.connect(address, "old.example.com").await.unwrap();
    assert_eq!(old.session().protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    let suite = old.session().negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);

    let new = client.connect(address, "new.example.com").await.unwrap();
    assert_eq!(new.session().protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let only_tls12 = only(ECDSA, &TLS12);
    assert!(only_tls12.connect(address, "new.example.com").await.is_err());

    assert!(client.connect(address, "none.example.com").await.is_err());
    let listeners = gateway.engine.snapshot().listeners.clone();
    let (unavailable, why) = listeners.unavailable().next().unwrap();
    assert_eq!(unavailable.config.name.as_str(), "none");
    assert!(why.contains("cipher suite"), "{why}");

    let mut speaks = TlsClient::new();
    for (offered, chosen) in [
        (&["http/1.1", "h2"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        speaks.config.alpn_protocols = offered.iter().map(|name| name.as_bytes().into()).collect();
        let client = speaks.connect(address, "alpn.example.com").await.unwrap();
        assert_eq!(client.session().alpn_protocol(), chosen);
    }
    speaks.config.alpn_protocols = vec![b"smtp".to_vec()];
    assert!(speaks.connect(address, "alpn.example.com").await.is_err(), "ALPACA");
}

/// The ClientHello of a client that asks for `a.example.com`, in its record.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "a.example.com".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// What is understood of bytes that come in these pieces.
async fn read_hello(pieces: &[&[u8]]) -> Result<Option<String>, &'static str> {
    let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
    let pieces: Vec<_> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let writing = tokio::spawn(async move {
        for piece in pieces {
            // The reader may have seen enough.
            let _ = far.write_all(&piece).await;
            tokio::task::yield_now().await;
        }
        let _ = far.shutdown().await;
        far
    });
    let mut io = crate::io::Io::Unix(near);
    let outcome = tls::Hello::read(&mut io).await;
    drop(io);
    writing.await.unwrap();
    outcome
        .map(|hello| hello.server_name.map(|name| name.to_string()))
        .map_err(|error| error.reason())
}

#[tokio::test]
async fn where_a_client_hello_is_cut_makes_no_difference() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let hello = client_hello();
    assert_eq!(read_hello(&[&hello]).await, Ok(Some("a.example.com".to_owned())));
    for at in (1..hello.len()).step_by(7) {
        let cut = read_hello(&[&hello[..at], &hello[at..]]).await;
        assert_eq!(cut, Ok(Some("a.example.com".to_owned())), "cut at {at}");
        assert_eq!(read_hello(&[&hello[..at]]).await, Err("closed by the client"), "{at} bytes");
    }
    for _ in 0..500 {
        let mut damaged = hello.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..damaged.len());
            damaged[at] = random.u8(..);
        }
        let whole = read_hello(&[&damaged]).await;
        let at = random.usize(1..damaged.len());
        let cut = read_hello(&[&damaged[..at], &damaged[at..]]).await;
        assert_eq!(whole, cut, "seed {seed}: cut at {at}");
    }
}
