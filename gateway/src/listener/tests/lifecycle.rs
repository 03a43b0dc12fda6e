//! Changes while connections live.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use tokio::net::UnixStream;
use weir_config::model::listener::ClientValidation;

use super::*;
use crate::tls::test_ca::{TestCa, key_pair, secret, trust_bundle};

/// Listener `tls` with chains for a. and b.example.com, and listener `tcp`.
async fn gateway() -> (Gateway, TestCa) {
    let ca = TestCa::new("ca");
    let settings = Settings { drain_duration: Duration::from_millis(50), ..Settings::default() };
    let mut gateway = Gateway::new();
    gateway
        .apply(delta([
            Change::Settings(settings),
            listener("tls", ListenerKind::Tls),
            listener("tcp", ListenerKind::Tcp),
            cluster("echo", &[echo("hello").await]),
            cluster("echo2", &[echo("hello2").await]),
            Change::Secret(key_pair("a", &ca.server("a.example.com"))),
            Change::Secret(key_pair("b", &ca.server("b.example.com"))),
            chain("a", &["a.example.com"], Some(simple("a")), "echo"),
            chain("b", &["b.example.com"], Some(simple("b")), "echo"),
            chain("tcp/only", &[], None, "echo"),
        ]))
        .await;
    (gateway, ca)
}

/// Live connections through chains a, b and the TCP listener.
struct Live {
    a: Client<TlsStream<TcpStream>>,
    b: Client<TlsStream<TcpStream>>,
    tcp: Client<TcpStream>,
}

impl Live {
    async fn connect(gateway: &Gateway) -> Self {
        let tls = gateway.address("tls").await;
        let mut live = Self {
            a: TlsClient::new().connect(tls, "a.example.com").await.unwrap(),
            b: TlsClient::new().connect(tls, "b.example.com").await.unwrap(),
            tcp: connect(gateway.address("tcp").await).await,
        };
        assert_eq!(live.a.line().await.unwrap(), "hello");
        assert_eq!(live.b.line().await.unwrap(), "hello");
        assert_eq!(live.tcp.line().await.unwrap(), "hello");
        live
    }
}

#[tokio::test]
async fn a_rotated_certificate_is_used_at_once_and_closes_nothing() {
    let (mut gateway, ca) = gateway().await;
    let mut live = Live::connect(&gateway).await;
    let address = gateway.address("tls").await;
    for _ in 0..20 {
        let renewed = ca.server("a.example.com");
        gateway.apply(delta([Change::Secret(key_pair("a", &renewed))])).await;
        let client = TlsClient::new().connect(address, "a.example.com").await.unwrap();
        assert_eq!(client.server_certificate(), renewed.der);
    }
    assert!(live.a.is_alive().await && live.b.is_alive().await && live.tcp.is_alive().await);
}

#[tokio::test]
async fn files_that_change_are_used_without_a_change_of_configuration() {
    use weir_config::model::secret::SecretMaterial;
    let (mut gateway, ca) = gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |issued: &Issued| {
        std::fs::write(path("crt"), &issued.chain_pem).unwrap();
        std::fs::write(path("key"), &issued.key_pem).unwrap();
    };
    write(&ca.server("a.example.com"));
    let file = |name| Some(path(name).to_str().unwrap().into());
    gateway
        .apply(delta([Change::Secret(Arc::new(Secret {
            name: SecretName::new("a"),
            material: SecretMaterial::Files {
                certificate_chain: file("crt"),
                private_key: file("key"),
                trust_bundle: None,
                revocation_list: None,
            },
        }))]))
        .await;
    let mut live = Live::connect(&gateway).await;
    let renewed = ca.server("a.example.com");
    write(&renewed);
    gateway.secrets = gateway.secrets.refresh_files().unwrap();
    gateway.publish(&Delta::default()).await;
    let address = gateway.address("tls").await;
    let client = TlsClient::new().connect(address, "a.example.com").await.unwrap();
    assert_eq!(client.server_certificate(), renewed.der);
    assert!(live.a.is_alive().await);
}

#[tokio::test]
async fn a_broken_version_of_a_secret_changes_nothing_for_clients() {
    let (mut gateway, ca) = gateway().await;
    let address = gateway.address("tls").await;
    let before = TlsClient::new().connect(address, "a.example.com").await.unwrap();
    let broken = secret("a", &ca.server("a.example.com").chain_pem, "garbage", "", "");
    gateway.apply(delta([Change::Secret(broken)])).await;
    let after = TlsClient::new().connect(address, "a.example.com").await.unwrap();
    assert_eq!(before.server_certificate(), after.server_certificate());
    let problems = gateway.secrets.problems(std::time::SystemTime::now());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].secret.as_str(), "a");
}

#[tokio::test]
async fn a_missing_secret_fails_its_chain_alone_and_until_it_is_there() {
    let (mut gateway, ca) = gateway().await;
    let address = gateway.address("tls").await;
    gateway.apply(delta([Change::NoSecret("a")])).await;
    let client = TlsClient::new();
    assert!(client.connect(address, "a.example.com").await.is_err());
    assert_eq!(client.greeting(address, "b.example.com").await.unwrap(), "hello");
    let listeners = gateway.engine.snapshot().listeners.clone();
    let unavailable: Vec<_> = listeners.unavailable().collect();
    assert_eq!(unavailable.len(), 1);
    assert_eq!(unavailable[0].0.config.name.as_str(), "a");
    assert!(unavailable[0].1.contains("`a` does not exist"), "{}", unavailable[0].1);

    gateway.apply(delta([Change::Secret(key_pair("a", &ca.server("a.example.com")))])).await;
    assert_eq!(client.greeting(address, "a.example.com").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_removed_chain_drains_its_own_connections_only() {
    let (mut gateway, _) = gateway().await;
    let mut live = Live::connect(&gateway).await;
    gateway.apply(delta([Change::NoChain("a")])).await;
    let _ = live.a.closed().await;
    assert!(live.b.is_alive().await && live.tcp.is_alive().await);
    let address = gateway.address("tls").await;
    assert!(TlsClient::new().connect(address, "a.example.com").await.is_err());
}

#[tokio::test]
async fn another_client_ca_drains_and_other_changes_of_a_chain_do_not() {
    let (mut gateway, ca) = gateway().await;
    let mut live = Live::connect(&gateway).await;
    let mut alpn = simple("b");
    alpn.alpn = ["h2".into()].into();
    gateway
        .apply(delta([
            chain("a", &["a.example.com", "aa.example.com"], Some(simple("a")), "echo2"),
            chain("b", &["b.example.com"], Some(alpn), "echo"),
        ]))
        .await;
    assert!(live.a.is_alive().await && live.b.is_alive().await && live.tcp.is_alive().await);
    let address = gateway.address("tls").await;
    let greeting = TlsClient::new().greeting(address, "aa.example.com").await.unwrap();
    assert_eq!(greeting, "hello2", "new connections get the chain as it is now");

    let validation = ClientValidation {
        trust_bundle: SecretName::new("clients"),
        subject_alt_names: Arc::default(),
        spki_sha256: Arc::default(),
        certificate_sha256: Arc::default(),
    };
    let strict = DownstreamTls { client_auth: ClientAuth::Required(validation), ..simple("a") };
    gateway
        .apply(delta([
            Change::Secret(trust_bundle("clients", &ca)),
            chain("a", &["a.example.com"], Some(strict), "echo"),
        ]))
        .await;
    let _ = live.a.closed().await;
    assert!(live.b.is_alive().await && live.tcp.is_alive().await);
}

#[tokio::test]
async fn listeners_come_and_go_without_touching_others() {
    let (mut gateway, _) = gateway().await;
    let mut live = Live::connect(&gateway).await;
    gateway
        .apply(delta([
            listener("third", ListenerKind::Tcp),
            chain("third/only", &[], None, "echo"),
        ]))
        .await;
    let third = gateway.address("third").await;
    let mut client = connect(third).await;
    assert_eq!(client.line().await.unwrap(), "hello");

    gateway.apply(delta([Change::NoListener("third")])).await;
    let refused = TcpStream::connect(third).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let _ = client.closed().await;
    assert!(live.a.is_alive().await && live.b.is_alive().await && live.tcp.is_alive().await);
}

#[tokio::test]
async fn a_port_in_use_is_one_error_and_is_bound_when_it_is_free() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let (mut gateway, _) = gateway().await;
    gateway
        .apply(delta([
            listener_at("late", ListenerKind::Tcp, BindAddress::Ip(address)),
            chain("late/only", &[], None, "echo"),
        ]))
        .await;
    let error = gateway.bound("late").await.unwrap_err();
    assert!(error.contains("already in use") && error.contains(&address.to_string()), "{error}");
    assert_eq!(connect(gateway.address("tcp").await).await.line().await.unwrap(), "hello");

    drop(taken);
    let greeted = async {
        loop {
            // Until it is bound, the port may be that of any other socket, even of the client's own.
            if let Ok(stream) = TcpStream::connect(address).await
                && let Ok(greeting) = Client::new(stream).line().await
            {
                return greeting;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let greeting = tokio::time::timeout(Duration::from_secs(60), greeted).await.unwrap();
    assert_eq!(greeting, "hello");
    assert_eq!(gateway.bound("late").await, Ok(BoundAddress::Ip(address)));
}

#[test]
fn a_privileged_port_says_what_is_needed() {
    let error = BindError::new("0.0.0.0:80".to_owned(), io::ErrorKind::PermissionDenied.into());
    let text = error.to_string();
    assert!(text.contains("0.0.0.0:80") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
}

#[tokio::test]
async fn of_two_listeners_with_one_address_the_second_says_who_has_it() {
    let (mut gateway, _) = gateway().await;
    let port = {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        free.local_addr().unwrap()
    };
    gateway
        .apply(delta([
            listener_at("x1", ListenerKind::Tcp, BindAddress::Ip(port)),
            listener_at("x2", ListenerKind::Tcp, BindAddress::Ip(port)),
            chain("x1/only", &[], None, "echo"),
            chain("x2/only", &[], None, "echo2"),
        ]))
        .await;
    assert_eq!(gateway.bound("x1").await, Ok(BoundAddress::Ip(port)));
    let error = gateway.bound("x2").await.unwrap_err();
    assert!(error.contains("`x1` listens there already"), "{error}");
    // The address passes to the other without a moment in which nobody listens.
    gateway.apply(delta([Change::NoListener("x1")])).await;
    assert_eq!(connect(port).await.line().await.unwrap(), "hello2");
}

#[tokio::test]
async fn a_unix_socket_replaces_a_stale_one_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (mut gateway, _) = gateway().await;
    let unix = |name, kind| listener_at(name, kind, BindAddress::Unix(path.as_path().into()));
    gateway
        .apply(delta([unix("unix", ListenerKind::Tcp), chain("unix/only", &[], None, "echo")]))
        .await;
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let mut client = Client::new(UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.line().await.unwrap(), "hello");

    let (mut second, _) = lifecycle::gateway().await;
    second
        .apply(delta([unix("unix", ListenerKind::Tcp), chain("unix/only", &[], None, "echo2")]))
        .await;
    let error = second.bound("unix").await.unwrap_err();
    assert!(error.contains("already in use"), "a socket that answers is not stale: {error}");

    gateway.apply(delta([Change::NoListener("unix")])).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn tls_is_terminated_on_unix_sockets_too_and_names_may_be_abstract() {
    let (mut gateway, _) = gateway().await;
    let name = format!("@weir-test-{}", fastrand::u64(..));
    let address = BindAddress::Unix(std::path::Path::new(&name).into());
    gateway
        .apply(delta([
            listener_at("unix", ListenerKind::Tls, address),
            chain("unix/only", &["*"], Some(simple("a")), "echo"),
        ]))
        .await;
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
    let stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = UnixStream::from_std(stream).unwrap();
    let connector = TlsConnector::from(Arc::new(TlsClient::new().config));
    let name = ServerName::try_from("a.example.com").unwrap();
    let mut client = Client::new(connector.connect(name, stream).await.unwrap());
    assert_eq!(client.line().await.unwrap(), "hello");
}

#[tokio::test]
async fn the_end_of_a_proxy_waits_for_its_connections_and_cuts_the_late_ones() {
    let (mut gateway, _) = gateway().await;
    let mut live = Live::connect(&gateway).await;
    let address = gateway.address("tcp").await;
    let manager = Arc::clone(&gateway.manager);
    let draining = tokio::spawn(async move { manager.drain(Duration::from_millis(200)).await });
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    assert!(live.tcp.is_alive().await, "there is time left for what is under way");
    drop(live.a);
    drop(live.b);
    assert_eq!(draining.await.unwrap(), 1, "the TCP connection had to be cut");
    let _ = live.tcp.closed().await;
    gateway.apply(delta([listener("more", ListenerKind::Tcp)])).await;
    assert_eq!(gateway.manager.status().await, [], "an ended proxy binds nothing any more");
}

#[tokio::test]
async fn unaffected_listeners_and_chains_keep_their_identity() {
    let (mut gateway, ca) = gateway().await;
    let before = gateway.engine.snapshot().listeners.clone();
    gateway.apply(delta([Change::Secret(key_pair("a", &ca.server("a.example.com")))])).await;
    let after = gateway.engine.snapshot().listeners.clone();
    let find = |listeners: &Listeners, listener: &str, chain: &str| {
        let state = Arc::clone(listeners.find(&ListenerName::new(listener)).unwrap());
        let found = state.chains.iter().find(|c| c.config.name.as_str() == chain).cloned();
        (state, found.unwrap())
    };
    let same = |listener, chain| {
        let (old, new) = (find(&before, listener, chain), find(&after, listener, chain));
        (Arc::ptr_eq(&old.0, &new.0), Arc::ptr_eq(&old.1, &new.1))
    };
    assert_eq!(same("tcp", "tcp/only"), (true, true));
    assert_eq!(same("tls", "b"), (false, true));
    assert_eq!(same("tls", "a"), (false, false));
}
