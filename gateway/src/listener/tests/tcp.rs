//! Bytes to an upstream and back, and what is recorded of them.

use super::*;

/// A listener that proxies to `to`.
async fn gateway(changes: Vec<Change>, clusters: &[WeightedCluster]) -> (Gateway, SocketAddr) {
    let Change::Chain(mut only) = chain("tcp/only", &[], None, "") else { unreachable!("a chain") };
    only.network = NetworkFilter::TcpProxy { clusters: clusters.into(), idle_timeout: None };
    let mut all = vec![listener("tcp", ListenerKind::Tcp), Change::Chain(only)];
    all.extend(changes);
    let mut gateway = Gateway::new();
    gateway.apply(delta(all)).await;
    let address = gateway.address("tcp").await;
    (gateway, address)
}

fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Waits for the one connection of a test to be recorded as closed, with `flags`.
async fn closed_with(gateway: &Gateway, flags: &str) {
    let flags = format!("response_flags=\"{flags}\"");
    gateway.metric(&["istio_tcp_connections_closed_total", &flags, "} 1"]).await;
}

#[tokio::test]
async fn bytes_are_counted_and_connections_opened_and_closed() {
    let (gateway, address) =
        gateway(vec![cluster("echo", &[echo("hello").await])], &[to("echo", 1)]).await;
    let mut client = connect(address).await;
    assert_eq!(client.line().await.unwrap(), "hello");
    assert!(client.is_alive().await);
    gateway.metric(&["istio_tcp_connections_opened_total", "} 1"]).await;
    drop(client);
    closed_with(&gateway, "-").await;
    gateway.metric(&["istio_tcp_received_bytes_total", "} 5"]).await;
    gateway.metric(&["istio_tcp_sent_bytes_total", "} 11"]).await;
}

#[tokio::test]
async fn the_end_of_a_request_is_passed_on_while_the_answer_is_still_to_come() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream = server.local_addr().unwrap();
    let (_gateway, address) = gateway(vec![cluster("c", &[upstream])], &[to("c", 1)]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut stream, _) = server.accept().await.unwrap();
    let mut question = String::new();
    stream.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    stream.write_all(b"answer").await.unwrap();
    drop(stream);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_dead_endpoint_among_live_ones_costs_the_client_nothing() {
    let endpoints = [closed_port(), echo("hello").await, closed_port()];
    let (_gateway, address) = gateway(vec![cluster("c", &endpoints)], &[to("c", 1)]).await;
    for _ in 0..12 {
        assert_eq!(connect(address).await.line().await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn every_way_of_having_no_upstream_has_its_flag() {
    let cases = [
        (vec![cluster("c", &[closed_port()])], vec![to("c", 1)], "UF"),
        (vec![cluster("c", &[])], vec![to("c", 1)], "UH"),
        (vec![], vec![to("c", 1)], "NC"),
        (vec![], vec![], "NR"),
    ];
    for (changes, clusters, flag) in cases {
        let (gateway, address) = gateway(changes, &clusters).await;
        assert!(connect(address).await.line().await.is_err(), "{flag}");
        closed_with(&gateway, flag).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_circuit_breaker_are_closed() {
    let Change::Cluster(mut config, endpoints) = cluster("c", &[echo("hello").await]) else {
        unreachable!("a cluster")
    };
    config.circuit_breakers.max_connections = 1;
    let (gateway, address) = gateway(vec![Change::Cluster(config, endpoints)], &[to("c", 1)]).await;
    let mut first = connect(address).await;
    assert_eq!(first.line().await.unwrap(), "hello");
    assert!(connect(address).await.line().await.is_err());
    closed_with(&gateway, "UO").await;
    drop(first);
    closed_with(&gateway, "-").await;
    assert_eq!(connect(address).await.line().await.unwrap(), "hello");
}

#[tokio::test]
async fn what_an_upstream_breaks_off_does_not_look_complete() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream = server.local_addr().unwrap();
    let (gateway, address) = gateway(vec![cluster("c", &[upstream])], &[to("c", 1)]).await;
    let mut client = connect(address).await;
    let (mut stream, _) = server.accept().await.unwrap();
    stream.write_all(b"half\n").await.unwrap();
    assert_eq!(client.line().await.unwrap(), "half");
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(client.closed().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    closed_with(&gateway, "UC").await;
}

#[tokio::test]
async fn a_client_that_breaks_off_is_recorded_and_its_upstream_reset() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream = server.local_addr().unwrap();
    let (gateway, address) = gateway(vec![cluster("c", &[upstream])], &[to("c", 1)]).await;
    let client = TcpStream::connect(address).await.unwrap();
    let (stream, _) = server.accept().await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let ended = Client::new(stream).closed().await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    closed_with(&gateway, "DC").await;
}

#[tokio::test]
async fn silence_and_age_end_a_connection() {
    for (idle, age, flag) in [(Some(50), None, "-"), (None, Some(50), "DT")] {
        let Change::Cluster(mut config, endpoints) = cluster("c", &[echo("hello").await]) else {
            unreachable!("a cluster")
        };
        config.tcp_idle_timeout = idle.map(Duration::from_millis);
        config.max_connection_duration = age.map(Duration::from_millis);
        let (gateway, address) =
            gateway(vec![Change::Cluster(config, endpoints)], &[to("c", 1)]).await;
        let mut client = connect(address).await;
        assert_eq!(client.line().await.unwrap(), "hello");
        let _ = client.closed().await;
        closed_with(&gateway, flag).await;
    }
}

#[tokio::test]
async fn weights_choose_the_cluster_of_a_connection() {
    let changes = vec![cluster("a", &[echo("a").await]), cluster("b", &[echo("b").await])];
    let (_gateway, address) = gateway(changes, &[to("a", 0), to("b", 100)]).await;
    for _ in 0..10 {
        assert_eq!(connect(address).await.line().await.unwrap(), "b");
    }
}
