//! Connections that tunnels (HBONE) go through.

use super::*;
use crate::tls::test_ca::{TestCa, key_pair};

#[tokio::test]
async fn a_connection_without_tunnels_ends_after_the_idle_limit() {
    let limits = Limits { idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = TestCa::new("servers").server("a.example.com");
    let Change::Chain(mut only) = chain("hbone/only", &["*"], Some(simple("server")), "") else {
        unreachable!("a chain")
    };
    only.network = NetworkFilter::Connect {
        listener: ListenerName::new("inbound"),
        addresses: Arc::default(),
        closed_ports: Arc::default(),
    };
    let mut gateway = Gateway::with_limits(limits);
    gateway
        .apply(delta([
            listener("hbone", ListenerKind::Tunnel),
            Change::Secret(key_pair("server", &server)),
            Change::Chain(only),
        ]))
        .await;

    let address = gateway.address("hbone").await;
    let client = TlsClient::new().connect(address, "a.example.com").await.unwrap();
    let (_send, connection) = h2::client::handshake(client.0.into_inner()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await;
    ended.expect("still open after ten seconds").expect("it ends in an orderly way");
}
