//! Behind a load balancer that speaks the PROXY protocol, clients are who it says they are (X04).
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use weir_tests::{
    backend::{echo::Echo, tcp},
    certs::Authority,
    client::{connect, raw::RawClient},
    config::Config,
    eventually::eventually_eq,
    gateway::{Gateway, Launch},
    objects::{HTTP_GATEWAY, forward, service_entry, tls_secret},
};

const MESH: &str =
    "accessLogFile: /dev/stdout\ndefaultConfig: {gatewayTopology: {proxyProtocol: {}}}\n";
const GET: &str = "GET /hello HTTP/1.1\r\nhost: a.test\r\n\r\n";
const V1: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n";

fn config(echo: &Echo) -> Config {
    Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"))
}

async fn behind_a_load_balancer(config: Config) -> Gateway {
    Launch::new(config).mesh_config(MESH).start().await
}

/// Version 2, with these addresses, ports 4711 and 443 and a TLV nobody knows.
fn v2(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10"[..],
        &source,
        &destination,
        &[0x12, 0x67, 0x01, 0xbb, 0xee, 0, 1, 7],
    ]
    .concat()
}

#[tokio::test]
async fn the_client_is_who_the_header_says() {
    let echo = Echo::start("v1").await;
    let mut gateway = behind_a_load_balancer(config(&echo)).await;
    for (header, client) in [
        (V1.as_bytes().to_vec(), "203.0.113.7"),
        (v2([203, 0, 113, 9], [198, 51, 100, 1]), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        // The load balancer itself, for example to see whether we live.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), "127.0.0.1"),
    ] {
        for pieces in [1, header.len()] {
            let mut connection = RawClient::connect(gateway.port("http")).await;
            // Also byte by byte, and with the request in the same packet.
            let bytes = [&header[..], GET.as_bytes()].concat();
            for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
                connection.send(piece).await;
            }
            assert_eq!(connection.read_response().await.status, 200, "{client}");
            let received = echo.requests().pop().unwrap();
            assert_eq!(received.header("x-forwarded-for"), Some(client));
            assert_eq!(received.header("x-envoy-external-address"), Some(client));
            // One header for the connection, not one for each request.
            connection.send(GET).await;
            assert_eq!(connection.read_response().await.status, 200, "{client}");
        }
    }
    let line = gateway.access_log_line("203.0.113.9:4711").await;
    assert!(line.contains(" 198.51.100.1:443 203.0.113.9:4711 "), "{line}");
}

#[tokio::test]
async fn policies_are_about_the_client_the_header_names() {
    let echo = Echo::start("v1").await;
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: here}
spec:
  rules: [{from: [{source: {ipBlocks: [203.0.113.0/24]}}]}]
";
    let mut gateway = behind_a_load_balancer(config(&echo).with(policy)).await;
    for (header, status) in [(V1, 200), ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n", 403)] {
        let mut connection = RawClient::connect(gateway.port("http")).await;
        connection.send(format!("{header}{GET}")).await;
        assert_eq!(connection.read_response().await.status, status, "{header}");
    }
}

#[tokio::test]
async fn a_connection_without_a_proper_header_is_closed() {
    let echo = Echo::start("v1").await;
    let mut gateway = behind_a_load_balancer(config(&echo)).await;
    let oversized = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[1; 0xffff]].concat();
    for header in [
        b"".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n".to_vec(),
        b"PROXY TCP4 999.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        v2([1; 4], [2; 4])[..20].to_vec(),
        oversized,
    ] {
        let mut connection = RawClient::connect(gateway.port("http")).await;
        connection.send([&header[..], GET.as_bytes()].concat()).await;
        assert!(connection.is_closed_by_server().await, "{}", header.escape_ascii());
    }
    let mut silent = RawClient::connect(gateway.port("http")).await;
    assert!(silent.is_closed_by_server().await, "it has ten seconds");
    eventually_eq(6.0, async || {
        gateway.metrics().await.sum("weir_listener_connections_refused_total", &[])
    })
    .await;
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn the_header_comes_before_tls_and_before_bytes() {
    let echo = Echo::start("v1").await;
    let server = tcp::greeter("220 ready\r\n").await;
    let ca = Authority::new("site");
    let identity = ca.server(&["a.test"]);
    let others = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: others}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: ${PORT_https}, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: site}
    hosts: [a.test]
  - {port: {number: ${PORT_tcp}, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: others}
spec:
  hosts: ["*"]
  gateways: [others]
  http: [{route: [{destination: {host: up.test}}]}]
  tcp: [{route: [{destination: {host: tcp.test}}]}]
"#;
    let config = config(&echo)
        .with(others)
        .with(tls_secret("site", &identity.certificate, &identity.key))
        .with(service_entry("tcp.test", "TCP", &[server.port()]));
    let mut gateway = behind_a_load_balancer(config).await;
    let mut stream = connect(gateway.port("https")).await.unwrap();
    stream.write_all(V1.as_bytes()).await.unwrap();
    let tls = TlsConnector::from(std::sync::Arc::new(ca.client_config(None, &[])));
    let mut stream = tls.connect("a.test".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 15]).await.unwrap();
    let received = echo.requests().pop().unwrap();
    assert_eq!(received.header("x-forwarded-for"), Some("203.0.113.7"));

    let mut client = RawClient::connect(gateway.port("tcp")).await;
    client.send(V1).await;
    assert_eq!(client.read_until(b"\r\n").await, b"220 ready\r\n");
}

#[tokio::test]
async fn without_being_told_nobody_believes_a_header() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    for header in [V1.as_bytes().to_vec(), v2([203, 0, 113, 7], [1; 4])] {
        let mut connection = RawClient::connect(gateway.port("http")).await;
        connection.send([&header[..], GET.as_bytes()].concat()).await;
        assert_eq!(connection.read_response().await.status, 400, "{}", header.escape_ascii());
        assert!(connection.is_closed_by_server().await);
    }
    assert!(echo.requests().is_empty());
}
