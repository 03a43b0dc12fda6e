//! Which client certificates are let in (reference `hardening` I01).

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, SanType, date_time_ymd};
use weir_config::model::{
    listener::ClientValidation,
    settings::{AccessLog, AccessLogFormat},
};

use super::*;
use crate::tls::{
    sha256,
    test_ca::{TestCa, client, key_pair, secret, self_signed, trust_bundle},
};

const ID: &str = "spiffe://cluster.local/ns/foo/sa/bar";

fn validation() -> ClientValidation {
    ClientValidation {
        trust_bundle: SecretName::new("clients"),
        subject_alt_names: Arc::default(),
        spki_sha256: Arc::default(),
        certificate_sha256: Arc::default(),
    }
}

fn with_auth(client_auth: ClientAuth) -> DownstreamTls {
    DownstreamTls { client_auth, ..simple("server") }
}

/// One chain for all names, and what its clients have to show.
async fn gateway(client_auth: ClientAuth, bundle: Arc<Secret>) -> (Gateway, SocketAddr) {
    let server = TestCa::new("servers").server("a.example.com");
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("echo", &[echo("welcome").await]),
            Change::Secret(key_pair("server", &server)),
            Change::Secret(bundle),
            chain("chain", &["*"], Some(with_auth(client_auth)), "echo"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    (gateway, address)
}

async fn is_welcome(client: &TlsClient, address: SocketAddr) -> bool {
    match client.greeting(address, "a.example.com").await {
        Ok(line) => {
            assert_eq!(line, "welcome");
            true
        }
        Err(_) => false,
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[tokio::test]
async fn only_a_good_certificate_of_the_right_authority_is_let_in() {
    let (ca, other) = (TestCa::new("clients"), TestCa::new("clients"));
    let variant = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = client(&[uri(ID)]);
        change(&mut params);
        ca.issue(params)
    };
    let revoked = ca.client(ID);
    let bundle = secret("clients", "", "", &ca.pem, &ca.crl(&[&revoked], 2090));
    let (gateway, address) = gateway(ClientAuth::Required(validation()), bundle).await;

    assert!(is_welcome(&TlsClient::with_certificate(&ca.client(ID)), address).await);
    assert!(!is_welcome(&TlsClient::new(), address).await);
    gateway.metric(&["handshake_errors", "no client certificate\"} 1"]).await;

    let invalid = "client certificate invalid";
    let unknown = "client certificate of unknown issuer";
    let expired = "client certificate expired";
    let cases = [
        ("self-signed", self_signed(&client(&[uri(ID)])), unknown),
        ("another authority's, both of one name", other.client(ID), invalid),
        ("expired", variant(&|params| params.not_after = date_time_ymd(2020, 1, 1)), expired),
        (
            "not valid yet",
            variant(&|params| params.not_before = date_time_ymd(2090, 1, 1)),
            invalid,
        ),
        (
            "for servers",
            variant(&|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            invalid,
        ),
        (
            "an authority's own",
            variant(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            invalid,
        ),
        (
            "with a NUL in its name",
            variant(&|params| params.subject_alt_names = vec![uri("spiffe://a/b\0.c")]),
            invalid,
        ),
        ("revoked", revoked, "client certificate revoked"),
    ];
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for (what, issued, reason) in cases {
        assert!(!is_welcome(&TlsClient::with_certificate(&issued), address).await, "{what}");
        let count = counted.entry(reason).or_default();
        *count += 1;
        let value = format!("reason=\"{reason}\"}} {count}");
        gateway.metric(&["handshake_errors", &value]).await;
    }
}

#[tokio::test]
async fn an_outdated_revocation_list_lets_nobody_in() {
    let ca = TestCa::new("clients");
    let bundle = secret("clients", "", "", &ca.pem, &ca.crl(&[], 2021));
    let (_gateway, address) = gateway(ClientAuth::Required(validation()), bundle).await;
    assert!(!is_welcome(&TlsClient::with_certificate(&ca.client(ID)), address).await);
}

#[tokio::test]
async fn optional_lets_in_without_a_certificate_but_not_with_a_bad_one() {
    let (ca, other) = (TestCa::new("clients"), TestCa::new("others"));
    let auth = ClientAuth::Optional(validation());
    let (_gateway, address) = gateway(auth, trust_bundle("clients", &ca)).await;
    assert!(is_welcome(&TlsClient::new(), address).await);
    assert!(is_welcome(&TlsClient::with_certificate(&ca.client(ID)), address).await);
    assert!(!is_welcome(&TlsClient::with_certificate(&other.client(ID)), address).await);
}

#[tokio::test]
async fn subject_alternative_names_match_exactly_whatever_their_kind() {
    let ca = TestCa::new("clients");
    let names = [ID, "client.example.com", "who@example.com", "10.1.2.3", "2001:db8::1"];
    let accepted =
        ClientValidation { subject_alt_names: names.map(Arc::from).into(), ..validation() };
    let auth = ClientAuth::Required(accepted);
    let (_gateway, address) = gateway(auth, trust_bundle("clients", &ca)).await;
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let email = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let ip = |name: &str| SanType::IpAddress(name.parse().unwrap());
    let cases = [
        (vec![uri(ID)], true),
        (vec![uri("spiffe://other/ns/x/sa/y"), uri(ID)], true),
        (vec![dns("client.example.com")], true),
        (vec![dns("CLIENT.example.com")], true),
        (vec![email("who@example.com")], true),
        (vec![ip("10.1.2.3")], true),
        (vec![ip("2001:db8::1")], true),
        (vec![], false),
        (vec![uri("spiffe://cluster.local/ns/FOO/sa/bar")], false),
        (vec![uri("spiffe://cluster.local/ns/foo/sa/bar%00")], false),
        (vec![uri("spiffe://cluster.local/ns/foo/sa/ba")], false),
        (vec![uri("spiffe://cluster.local/ns/foo/sa/barn")], false),
        (vec![dns("x.client.example.com")], false),
        (vec![ip("10.1.2.4")], false),
        (vec![dns("who.example.com"), email("else@example.com")], false),
    ];
    for (names, expected) in cases {
        let issued = ca.issue(client(&names));
        let welcome = is_welcome(&TlsClient::with_certificate(&issued), address).await;
        assert_eq!(welcome, expected, "{names:?}");
    }
}

#[tokio::test]
async fn one_of_the_pins_is_enough_and_without_one_there_is_no_way_in() {
    let ca = TestCa::new("clients");
    let (by_key, by_certificate, neither) = (ca.client(ID), ca.client(ID), ca.client(ID));
    let pinned = ClientValidation {
        spki_sha256: [sha256(&by_key.spki_der)].into(),
        certificate_sha256: [sha256(&by_certificate.der)].into(),
        ..validation()
    };
    let auth = ClientAuth::Required(pinned);
    let (_gateway, address) = gateway(auth, trust_bundle("clients", &ca)).await;
    for (issued, expected) in [(&by_key, true), (&by_certificate, true), (&neither, false)] {
        let welcome = is_welcome(&TlsClient::with_certificate(issued), address).await;
        assert_eq!(welcome, expected);
    }
}

#[tokio::test]
async fn without_its_trust_bundle_a_chain_lets_nobody_in_and_the_others_serve() {
    let ca = TestCa::new("clients");
    let auth = ClientAuth::Required(validation());
    let (mut gateway, address) = gateway(auth, trust_bundle("another", &ca)).await;
    let other = chain("other", &["b.example.com"], Some(simple("server")), "echo");
    gateway.apply(delta([other])).await;
    let client = TlsClient::with_certificate(&ca.client(ID));
    assert!(!is_welcome(&client, address).await);
    gateway.metric(&["handshake_errors", "no certificate\"} 1"]).await;
    assert_eq!(client.greeting(address, "b.example.com").await.unwrap(), "welcome");

    gateway.apply(delta([Change::Secret(trust_bundle("clients", &ca))])).await;
    assert!(is_welcome(&client, address).await);
    assert!(!is_welcome(&TlsClient::new(), address).await);
}

#[tokio::test]
async fn who_the_client_is_reaches_the_record() {
    let ca = TestCa::new("clients");
    let auth = ClientAuth::Optional(validation());
    let (mut gateway, address) = gateway(auth, trust_bundle("clients", &ca)).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let format = "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% \
                  %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT%\n";
    let settings = Settings {
        access_log: Some(AccessLog {
            path: path.to_str().unwrap().into(),
            format: AccessLogFormat::Text(Some(format.into())),
        }),
        ..Settings::default()
    };
    gateway.apply(delta([Change::Settings(settings)])).await;
    let client = TlsClient::with_certificate(&ca.client(ID));
    let connection = client.connect(address, "A.Example.com").await.unwrap();
    let suite = connection.session().negotiated_cipher_suite().unwrap().suite();
    let suite = suite.as_str().unwrap().replace("TLS13", "TLS");
    drop(connection);
    let line = eventually("a line", || {
        gateway.engine.telemetry.flush(Duration::from_millis(1));
        std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    assert_eq!(line, format!("a.example.com TLSv1.3 {suite} {ID} CN=client\n"));
}
