//! A session is resumed where it began and nowhere else (CVE-2022-21654, CVE-2025-23419).

use rustls::HandshakeKind;
use weir_config::model::listener::ClientValidation;

use super::*;
use crate::tls::test_ca::{TestCa, key_pair, trust_bundle};

const HOST: &str = "a.example.com";

fn mutual(names: &[&str]) -> DownstreamTls {
    let validation = ClientValidation {
        trust_bundle: SecretName::new("clients"),
        subject_alt_names: names.iter().map(|name| Arc::from(*name)).collect(),
        spki_sha256: Arc::default(),
        certificate_sha256: Arc::default(),
    };
    DownstreamTls { client_auth: ClientAuth::Required(validation), ..simple("server") }
}

/// One chain for `HOST` and clients of `clients`.
async fn gateway(tls: DownstreamTls, clients: &TestCa) -> (Gateway, SocketAddr) {
    let server = TestCa::new("servers").server(HOST);
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            cluster("echo", &[echo("welcome").await]),
            Change::Secret(key_pair("server", &server)),
            Change::Secret(trust_bundle("clients", clients)),
            chain("chain", &[HOST], Some(tls), "echo"),
        ]))
        .await;
    let address = gateway.address("tls").await;
    (gateway, address)
}

/// How the handshake went of a connection that got through to the upstream.
async fn handshake(client: &TlsClient, address: SocketAddr) -> io::Result<HandshakeKind> {
    let mut connection = client.connect(address, HOST).await?;
    connection.line().await?;
    Ok(connection.session().handshake_kind().unwrap())
}

#[tokio::test]
async fn a_session_is_resumed_on_its_chain_without_early_data() {
    let ca = TestCa::new("clients");
    let (_gateway, address) = gateway(mutual(&[]), &ca).await;
    let mut client = TlsClient::with_certificate(&ca.client("spiffe://a/ns/b/sa/c"));
    client.config.enable_early_data = true;
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Full);
    let mut connection = client.connect(address, HOST).await.unwrap();
    connection.line().await.unwrap();
    assert_eq!(connection.session().handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(!connection.session().is_early_data_accepted());
    let name = ServerName::try_from(HOST).unwrap();
    let mut next = rustls::ClientConnection::new(Arc::new(client.config), name).unwrap();
    assert!(next.early_data().is_none(), "the ticket does not offer early data");
}

#[tokio::test]
async fn a_changed_client_ca_is_not_bypassed_by_a_session_from_before() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let (mut gateway, address) = gateway(mutual(&[]), &old).await;
    let client = TlsClient::with_certificate(&old.client("spiffe://a/ns/b/sa/c"));
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Full);
    gateway.apply(delta([Change::Secret(trust_bundle("clients", &new))])).await;
    assert!(handshake(&client, address).await.is_err());
}

#[tokio::test]
async fn a_changed_list_of_names_is_not_bypassed_by_a_session_from_before() {
    let ca = TestCa::new("clients");
    let (mut gateway, address) = gateway(mutual(&[]), &ca).await;
    let client = TlsClient::with_certificate(&ca.client("spiffe://a/ns/b/sa/c"));
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Full);
    let stricter = mutual(&["spiffe://a/ns/b/sa/d"]);
    gateway.apply(delta([chain("chain", &[HOST], Some(stricter), "echo")])).await;
    assert!(handshake(&client, address).await.is_err());
}

#[tokio::test]
async fn a_chain_that_asks_for_certificates_does_not_resume_one_that_did_not() {
    let ca = TestCa::new("clients");
    let (mut gateway, address) = gateway(simple("server"), &ca).await;
    let client = TlsClient::new();
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Full);
    gateway
        .apply(delta([
            Change::NoChain("chain"),
            chain("strict", &[HOST], Some(mutual(&[])), "echo"),
        ]))
        .await;
    assert!(handshake(&client, address).await.is_err());
}

#[tokio::test]
async fn another_listener_with_the_same_chain_does_a_full_handshake() {
    let ca = TestCa::new("clients");
    let (mut gateway, address) = gateway(simple("server"), &ca).await;
    gateway
        .apply(delta([
            listener("second", ListenerKind::Tls),
            chain("second/chain", &[HOST], Some(simple("server")), "echo"),
        ]))
        .await;
    let client = TlsClient::new();
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Full);
    let second = gateway.address("second").await;
    assert_eq!(handshake(&client, second).await.unwrap(), HandshakeKind::Full);
}

#[tokio::test]
async fn an_unrelated_change_does_not_end_sessions() {
    let ca = TestCa::new("clients");
    let (mut gateway, address) = gateway(simple("server"), &ca).await;
    let client = TlsClient::new();
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Full);
    let unrelated = chain("other", &["b.example.com"], Some(simple("server")), "echo");
    gateway.apply(delta([unrelated])).await;
    assert_eq!(handshake(&client, address).await.unwrap(), HandshakeKind::Resumed);
}
