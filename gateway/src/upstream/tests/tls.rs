use std::collections::BTreeMap;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;
use weir_config::model::{
    Delta, Secret, SecretName,
    cluster::{UpstreamTls, UpstreamTrust},
    secret::SecretMaterial,
};

use super::*;
use crate::{
    tls::{Secrets, provider},
    upstream::{ConnectError, TlsContext, TlsFailure},
};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Leaf {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
    serial: u64,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    /// Names with `://` are URIs.
    fn issue(&self, names: &[&str]) -> Leaf {
        let (uris, hosts): (Vec<&str>, Vec<&str>) =
            names.iter().copied().partition(|name| name.contains("://"));
        let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(hosts).expect("valid names");
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        }
        let serial = fastrand::u64(1..u64::from(u32::MAX));
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Leaf {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key,
            serial,
        }
    }

    fn revoke(&self, leaf: &Leaf) -> String {
        let now = rcgen::date_time_ymd(2020, 1, 1);
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(leaf.serial),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a valid root");
        roots
    }
}

/// What handshakes looked like from the server.
#[derive(Default)]
struct Seen {
    resumed: AtomicUsize,
    client_certificates: AtomicUsize,
    server_names: std::sync::Mutex<Vec<Option<String>>>,
}

struct TlsServer {
    server: Server,
    seen: Arc<Seen>,
}

impl TlsServer {
    async fn start(leaf: &Leaf, clients: Option<&Authority>, alpn: &[&str]) -> Self {
        let acceptor = Self::acceptor(leaf, clients, alpn);
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let server = Server::start(move |io, _| serve(io, acceptor.clone(), Arc::clone(&shared)));
        Self { server: server.await, seen }
    }

    fn acceptor(leaf: &Leaf, clients: Option<&Authority>, alpn: &[&str]) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).expect("a key");
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider())
                    .build()
                    .expect("roots"),
            ),
        };
        let mut config = builder
            .with_single_cert(vec![leaf.certificate.clone()], key)
            .expect("a certificate and its key");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, acceptor: TlsAcceptor, seen: Arc<Seen>) {
    let Ok(io) = acceptor.accept(io).await else { return };
    let connection = io.get_ref().1;
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        seen.resumed.fetch_add(1, Ordering::SeqCst);
    }
    if connection.peer_certificates().is_some() {
        seen.client_certificates.fetch_add(1, Ordering::SeqCst);
    }
    let server_name = connection.server_name().map(str::to_owned);
    seen.server_names.lock().expect("not poisoned").push(server_name);
    serve_http1(io).await;
}

fn secrets(entries: &[(&str, SecretMaterial)]) -> Secrets {
    let mut delta = Delta { secrets: BTreeMap::new(), ..Delta::default() };
    for (name, material) in entries {
        let name = SecretName::new(*name);
        let secret = Secret { name: name.clone(), material: material.clone() };
        delta.secrets.insert(name, Some(Arc::new(secret)));
    }
    Secrets::next(&Secrets::default(), &delta)
}

fn trust(authority: &Authority, revocation_list: Option<String>) -> SecretMaterial {
    SecretMaterial::Inline {
        certificate_chain: None,
        private_key: None,
        trust_bundle: Some(authority.issuer.pem().as_bytes().into()),
        revocation_list: revocation_list.map(|list| list.as_bytes().into()),
        ocsp_staple: None,
    }
}

fn identity(leaf: &Leaf) -> SecretMaterial {
    SecretMaterial::Inline {
        certificate_chain: Some(leaf.certificate_pem.as_bytes().into()),
        private_key: Some(leaf.key.serialize_pem().as_bytes().into()),
        trust_bundle: None,
        revocation_list: None,
        ocsp_staple: None,
    }
}

fn verify(sni: Option<&str>, names: &[&str]) -> UpstreamTls {
    UpstreamTls {
        sni: sni.map(Into::into),
        certificate: None,
        trust: UpstreamTrust::Verify {
            trust_bundle: Some(SecretName::new("trust")),
            subject_alt_names: names.iter().map(|name| Arc::from(*name)).collect(),
        },
        alpn: Arc::default(),
    }
}

pub(super) fn insecure_context(protocol: Protocol) -> Arc<TlsContext> {
    let tls = UpstreamTls {
        sni: None,
        certificate: None,
        trust: UpstreamTrust::Insecure,
        alpn: Arc::default(),
    };
    Arc::new(TlsContext::new(&tls, protocol, &Secrets::default()))
}

fn pool(server: &TlsServer, tls: &UpstreamTls, protocol: Protocol, secrets: &Secrets) -> TestPool {
    let context = Arc::new(TlsContext::new(tls, protocol, secrets));
    let transport = Transport { tls: Some(context), ..transport(protocol) };
    TestPool::new(server.server.address, transport)
}

async fn acquire(pool: &TestPool, host: Option<&str>) -> Result<Checkout, ConnectError> {
    within("a connection", pool.pool.acquire(host, Reuse::Allowed)).await
}

/// The result of one handshake with a server that shows `leaf`.
async fn handshake(
    leaf: &Leaf,
    tls: &UpstreamTls,
    host: Option<&str>,
    secrets: &Secrets,
) -> Result<(), TlsFailure> {
    let server = TlsServer::start(leaf, None, &[]).await;
    match acquire(&pool(&server, tls, Protocol::Http1, secrets), host).await {
        Ok(_) => Ok(()),
        Err(ConnectError::Tls(failure)) => Err(failure),
        Err(error) => panic!("not a failure of TLS: {error}"),
    }
}

#[tokio::test]
async fn tls_is_spoken_over_unix_sockets_and_verified_by_name() {
    let authority = Authority::new();
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("upstream.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("the path is free");
    let acceptor = TlsServer::acceptor(&authority.issue(&["a.example"]), None, &[]);
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            serve(io, acceptor.clone(), Arc::default()).await;
        }
    }));
    for (host, wanted) in [
        (Some("a.example"), None),
        (Some("b.example"), Some(ConnectError::Tls(TlsFailure::Identity))),
        // There is no address that could stand in for a name.
        (None, Some(ConnectError::Tls(TlsFailure::ServerName))),
    ] {
        let context = Arc::new(TlsContext::new(&verify(None, &[]), Protocol::Http1, &secrets));
        let transport = Transport { tls: Some(context), ..transport(Protocol::Http1) };
        let address = Address::Unix(path.clone().into());
        let target = Target { address, transport: Arc::new(transport), identity: None };
        let pool = Pool::new(target, Arc::default());
        match within("a connection", pool.acquire(host, Reuse::Allowed)).await {
            Ok(mut session) => {
                let (status, _) = exchange(&mut session, "/").await.expect("the exchange succeeds");
                assert_eq!((status, wanted), (200, None), "{host:?}");
            }
            Err(error) => assert_eq!(Some(error), wanted, "{host:?}"),
        }
    }
}

#[tokio::test]
async fn the_certificate_has_to_be_for_the_host() {
    let authority = Authority::new();
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    let leaf = authority.issue(&["a.example"]);
    for (sni, host, wanted) in [
        (Some("a.example"), Some("other.example"), Ok(())),
        (Some("b.example"), Some("a.example"), Err(TlsFailure::Identity)),
        (None, Some("a.example:8443"), Ok(())),
        (None, Some("b.example"), Err(TlsFailure::Identity)),
        (None, None, Err(TlsFailure::Identity)),
        (None, Some("not a host"), Err(TlsFailure::ServerName)),
    ] {
        let result = handshake(&leaf, &verify(sni, &[]), host, &secrets).await;
        assert_eq!(result, wanted, "server name {sni:?}, host {host:?}");
    }
}

#[tokio::test]
async fn the_certificate_has_to_come_from_the_trust_bundle() {
    let (authority, other) = (Authority::new(), Authority::new());
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    let leaf = other.issue(&["a.example", "spiffe://cluster.local/ns/a/sa/b"]);
    for names in [&[][..], &["spiffe://cluster.local/ns/a/sa/b"], &["a.example"]] {
        let result = handshake(&leaf, &verify(Some("a.example"), names), None, &secrets).await;
        assert_eq!(result, Err(TlsFailure::UnknownIssuer), "names {names:?}");
    }
}

#[tokio::test]
async fn configured_names_replace_the_host() {
    const SPIFFE: &str = "spiffe://cluster.local/ns/a/sa/b";
    let authority = Authority::new();
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    for (carried, wanted, result) in [
        (&[SPIFFE][..], &[SPIFFE][..], Ok(())),
        (&[SPIFFE], &["spiffe://cluster.local/ns/other/sa/b", SPIFFE], Ok(())),
        (&[SPIFFE], &["spiffe://cluster.local/ns/a/sa/bc"], Err(TlsFailure::Identity)),
        (&[SPIFFE], &["spiffe://cluster.local/ns/a/sa/"], Err(TlsFailure::Identity)),
        (&[SPIFFE], &["spiffe://CLUSTER.local/ns/a/sa/b"], Err(TlsFailure::Identity)),
        (&[SPIFFE, "spiffe://x/ns/a/sa/b"], &[SPIFFE], Err(TlsFailure::Identity)),
        (&["a.example"], &[SPIFFE], Err(TlsFailure::Identity)),
        (&["b.example"], &["b.example"], Ok(())),
        (&["*.b.example"], &["c.b.example"], Ok(())),
        (&["a.example"], &["b.example"], Err(TlsFailure::Identity)),
        (&["10.0.0.1"], &["10.0.0.1"], Ok(())),
        (&["a.example"], &["not a name"], Err(TlsFailure::Identity)),
    ] {
        let leaf = authority.issue(carried);
        let outcome = handshake(&leaf, &verify(Some("a.example"), wanted), None, &secrets).await;
        assert_eq!(outcome, result, "certificate {carried:?}, configured {wanted:?}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_whoever_it_names() {
    const SPIFFE: &str = "spiffe://cluster.local/ns/a/sa/b";
    let authority = Authority::new();
    let (revoked, good) = (authority.issue(&["a.example", SPIFFE]), authority.issue(&[SPIFFE]));
    let list = Some(authority.revoke(&revoked));
    let secrets = secrets(&[("trust", trust(&authority, list))]);
    for names in [&[][..], &[SPIFFE], &["a.example"]] {
        let result = handshake(&revoked, &verify(Some("a.example"), names), None, &secrets).await;
        assert_eq!(result, Err(TlsFailure::Revoked), "names {names:?}");
    }
    let result = handshake(&good, &verify(Some("a.example"), &[SPIFFE]), None, &secrets).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn the_operating_systems_roots_do_not_trust_just_anyone() {
    let leaf = Authority::new().issue(&["a.example"]);
    let tls = UpstreamTls {
        trust: UpstreamTrust::Verify { trust_bundle: None, subject_alt_names: Arc::default() },
        ..verify(Some("a.example"), &[])
    };
    let result = handshake(&leaf, &tls, None, &Secrets::default()).await;
    let failure = result.expect_err("nobody signed this certificate");
    // Some machines have no roots at all.
    let no_roots = rustls_native_certs::load_native_certs().certs.is_empty();
    let wanted = if no_roots { TlsFailure::NoRoots } else { TlsFailure::UnknownIssuer };
    assert_eq!(failure, wanted);
}

#[tokio::test]
async fn skipping_verification_accepts_anyone() {
    let leaf = Authority::new().issue(&["a.example"]);
    let tls = UpstreamTls { trust: UpstreamTrust::Insecure, ..verify(None, &[]) };
    let result = handshake(&leaf, &tls, Some("b.example"), &Secrets::default()).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn without_its_secrets_no_connection_is_made() {
    let leaf = Authority::new().issue(&["a.example"]);
    let none = Secrets::default();
    let trust_missing = verify(Some("a.example"), &[]);
    assert_eq!(handshake(&leaf, &trust_missing, None, &none).await, Err(TlsFailure::Secret));
    let certificate = Some(SecretName::new("client"));
    let key_missing =
        UpstreamTls { certificate, trust: UpstreamTrust::Insecure, ..verify(None, &[]) };
    let result = handshake(&leaf, &key_missing, Some("a.example"), &none).await;
    assert_eq!(result, Err(TlsFailure::Secret));
}

#[tokio::test]
async fn our_certificate_is_shown_where_it_is_asked_for() {
    let authority = Authority::new();
    let (leaf, client) = (authority.issue(&["a.example"]), authority.issue(&["client.example"]));
    let secrets = secrets(&[("trust", trust(&authority, None)), ("client", identity(&client))]);
    let server = TlsServer::start(&leaf, Some(&authority), &[]).await;

    let certificate = Some(SecretName::new("client"));
    let mutual = UpstreamTls { certificate, ..verify(Some("a.example"), &[]) };
    let with = pool(&server, &mutual, Protocol::Http1, &secrets);
    assert_eq!(with.exchange("/").await.0, 200);
    assert_eq!(server.seen.client_certificates.load(Ordering::SeqCst), 1);

    let without = pool(&server, &verify(Some("a.example"), &[]), Protocol::Http1, &secrets);
    // With TLS 1.3 the refusal comes after our side of the handshake.
    let refused = match acquire(&without, None).await {
        Ok(mut session) => exchange(&mut session, "/").await.is_err(),
        Err(error) => error == ConnectError::Tls(TlsFailure::Alert),
    };
    assert!(refused);
}

#[tokio::test]
async fn sessions_are_resumed_within_a_context_and_not_across() {
    let authority = Authority::new();
    let leaf = authority.issue(&["a.example"]);
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    let server = TlsServer::start(&leaf, None, &[]).await;
    let tls = verify(Some("a.example"), &[]);
    let first = pool(&server, &tls, Protocol::Http1, &secrets);
    let resumed = || server.seen.resumed.load(Ordering::SeqCst);

    // The ticket comes with the first answer.
    first.exchange("/last").await;
    first.has_connections(0).await;
    first.exchange("/").await;
    assert_eq!(resumed(), 1);

    let other = pool(&server, &tls, Protocol::Http1, &secrets);
    other.exchange("/").await;
    assert_eq!(resumed(), 1);
}

#[tokio::test]
async fn without_a_configured_name_connections_are_kept_apart_by_host() {
    let authority = Authority::new();
    let leaf = authority.issue(&["a.example", "b.example"]);
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    let server = TlsServer::start(&leaf, None, &[]).await;
    let pool = pool(&server, &verify(None, &[]), Protocol::Http1, &secrets);
    for (host, reused) in
        [("a.example", false), ("b.example", false), ("a.example:443", true), ("b.example", true)]
    {
        let mut session = acquire(&pool, Some(host)).await.expect("a connection");
        assert_eq!(session.is_reused(), reused, "{host}");
        exchange(&mut session, "/").await.expect("the exchange succeeds");
    }
    let names = server.seen.server_names.lock().expect("not poisoned").clone();
    assert_eq!(names, [Some("a.example".to_owned()), Some("b.example".to_owned())]);
}

#[tokio::test]
async fn connections_are_kept_for_a_limited_number_of_hosts() {
    let leaf = Authority::new().issue(&["a.example"]);
    let server = TlsServer::start(&leaf, None, &[]).await;
    let tls = UpstreamTls { trust: UpstreamTrust::Insecure, ..verify(None, &[]) };
    let pool = pool(&server, &tls, Protocol::Http1, &Secrets::default());
    for number in 0..300 {
        let host = format!("host-{number}.example");
        let mut session = acquire(&pool, Some(&host)).await.expect("a connection");
        exchange(&mut session, "/").await.expect("the exchange succeeds");
    }
    assert_eq!((pool.connections(), pool.idle()), (256, 256));
}

#[tokio::test]
async fn http2_is_spoken_only_where_it_was_negotiated() {
    let authority = Authority::new();
    let leaf = authority.issue(&["a.example"]);
    let secrets = secrets(&[("trust", trust(&authority, None))]);
    let tls = verify(Some("a.example"), &[]);
    for (alpn, wanted) in [
        (&["h2"][..], Ok(())),
        (&["http/1.1", "h2"], Ok(())),
        (&["http/1.1"], Err(ConnectError::Tls(TlsFailure::Alpn))),
        (&[], Err(ConnectError::Tls(TlsFailure::Alpn))),
    ] {
        let server = TlsServer::start(&leaf, None, alpn).await;
        let pool = pool(&server, &tls, Protocol::Http2, &secrets);
        assert_eq!(acquire(&pool, None).await.map(drop), wanted, "the server speaks {alpn:?}");
    }
}

#[test]
fn a_context_knows_when_its_secrets_have_changed() {
    let authority = Authority::new();
    let before = secrets(&[("trust", trust(&authority, None))]);
    let context = TlsContext::new(&verify(None, &[]), Protocol::Http1, &before);
    assert!(context.is_current(&before));
    let after = secrets(&[("trust", trust(&Authority::new(), None))]);
    assert!(!context.is_current(&after));
    assert!(!context.is_current(&Secrets::default()));
}
