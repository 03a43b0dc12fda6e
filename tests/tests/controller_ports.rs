//! What the controller's ports do with who means ill, or is just slow (hardening C11), and what a
//! gateway serves that is led from one replica to another (O06).
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    fs,
    time::{Duration, Instant},
};

use futures_util::{future::join_all, stream};
use http::StatusCode;
use serde_json::{Value, json};
use tonic::{Code, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use weir_config::wire::discovery::{
    DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use weir_tests::{
    client::{
        discovery::{Hello, Proxy, channel},
        http::{Connection, Reply, Request},
    },
    config::Config,
    controller::{Controller, NAME, Options},
    eventually::{eventually, eventually_eq, eventually_within},
    gateway::{Gateway, Launch},
    kube::ApiServer,
    wire::Wire,
};

fn gateway_on(port: u16) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "public", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}})
}

/// A route that answers with this text.
fn route(name: &str, body: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"hosts": [format!("{name}.test")], "gateways": ["public"], "http": [
            {"directResponse": {"status": 200, "body": {"string": body}}}]}})
}

fn hello(server: &ApiServer) -> Hello {
    Hello {
        token: Some(server.token("istio-ca", "default", "gateway", None)),
        labels: vec![("istio", "ingressgateway")],
        ..Hello::default()
    }
}

/// A proxy that reaches the controller by that port, with its first push applied.
async fn proxy(server: &ApiServer, controller: &Controller, port: u16) -> Proxy {
    let tls = controller.authority().client_config(None, &["h2"]);
    let mut proxy = Proxy::connect(port, &tls, hello(server)).await.expect("connect");
    proxy.push().await;
    proxy
}

async fn connected(controller: &Controller) -> f64 {
    controller.metrics().await.sum("pilot_xds", &[])
}

/// Hardening C05. That other pods are refused whatever they call it is a test in the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn debug_pages_are_for_who_calls_this_machine_by_its_own_name_and_only_looks() {
    let server = ApiServer::start().await;
    server.apply([route("secret", "plan")]);
    let controller = Controller::start(&server).await;
    let port = controller.monitoring_port();
    let ask = async |host: &str, path: &str, method: &str| -> Reply {
        let mut connection = Connection::http1(port).await.unwrap();
        connection.send(&Request::get(host, path).method(method)).await.unwrap()
    };
    let with_port = format!("127.0.0.1:{port}");
    for path in ["/debug/configz", "/debug/syncz"] {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", &with_port] {
            let reply = ask(host, path, "GET").await;
            assert_eq!(reply.status, StatusCode::OK, "{host} {path}");
        }
        // A web site whose name was made to lead here, after its page was loaded.
        for host in
            ["rebound.example.com", "localhost.example.com", "127.0.0.1.nip.io", "127.0.0.2"]
        {
            let reply = ask(host, path, "GET").await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{host} {path}");
            assert!(!reply.text().contains("plan"), "{}", reply.text());
        }
        // A web site that makes its visitor's browser send something.
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let reply = ask("localhost", path, method).await;
            assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    assert!(ask("localhost", "/debug/configz", "GET").await.text().contains("plan"));
    // What is nobody's secret is told by any name: Prometheus and the kubelet use addresses.
    for path in ["/metrics", "/ready", "/version"] {
        assert_eq!(ask("10.0.0.1:15014", path, "GET").await.status, StatusCode::OK, "{path}");
        let posted = ask("10.0.0.1:15014", path, "POST").await;
        assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

/// Hardening C02.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_reads_no_more_is_cut_off_and_nobody_else_waits() {
    const LARGE: usize = 512;
    let server = ApiServer::start().await;
    server.apply([gateway_on(80)]);
    let options = Options { arguments: &["--push-timeout", "3"], ..Options::default() };
    let controller = Controller::start_with(&server, &options).await;
    let port = controller.discovery_port();
    // More than any window and buffer between here and there.
    let size = 32 * 1024;
    server.apply((0..LARGE).map(|index| route(&format!("large-{index}"), &"x".repeat(size))));
    let mut quick = proxy(&server, &controller, port).await;
    while quick.documents.len() < LARGE {
        quick.push().await;
    }

    // Of one nothing is read any more, not even pings; the other answers those and takes no more data.
    let wire = Wire::to(port).await;
    let tls = controller.authority().client_config(None, &["h2"]);
    let mut held = Proxy::connect(wire.port(), &tls, hello(&server)).await.expect("connect");
    wire.hold(true);
    let mut idle = Proxy::connect(port, &tls, hello(&server)).await.expect("connect");
    eventually_eq(3.0, async || connected(&controller).await).await;
    assert_eq!(controller.discovery_connections(), 3);
    let since = Instant::now();
    let mut slowest = Duration::ZERO;
    while connected(&controller).await > 1.0 {
        let name = format!("small-{}", since.elapsed().as_nanos());
        let written = Instant::now();
        server.apply([route(&name, "x")]);
        let pushed = format!("networking.istio.io/VirtualService/default/{name}");
        while !quick.documents.contains_key(&pushed) {
            quick.push().await;
        }
        slowest = slowest.max(written.elapsed());
        assert!(since.elapsed() < Duration::from_secs(30), "both are still connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(slowest < Duration::from_secs(2), "the quick one waited for {slowest:?}");
    // Nothing is left of them but that they hear of it when they read again.
    eventually_eq(1, async || controller.discovery_connections()).await;
    wire.hold(false);
    for slow in [&mut held, &mut idle] {
        let end = eventually("the end of the stream", async || slow.next().await.err()).await;
        assert_ne!(end.code(), Code::Ok, "{end:?}");
    }
    let again = proxy(&server, &controller, port).await;
    assert!(again.documents.len() > LARGE);
}

type Call = Streaming<DeltaDiscoveryResponse>;

/// A discovery stream that nothing is said on.
async fn silent_stream(channel: &Channel, token: &str) -> Call {
    let mut request = tonic::Request::new(stream::pending());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    let path = DELTA_AGGREGATED_RESOURCES.parse().unwrap();
    grpc.streaming(request, path, codec).await.unwrap().into_inner()
}

/// Hardening C02: 10,000 streams on 625 connections, which is as many as a connection may have.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_without_a_word_are_bounded_and_end() {
    const CONNECTIONS: usize = 625;
    const STREAMS: usize = 16;
    let server = ApiServer::start().await;
    server.apply([gateway_on(80)]);
    let controller = Controller::start(&server).await;
    let tls = controller.authority().client_config(None, &["h2"]);
    let token = server.token("istio-ca", "default", "gateway", None);
    let before = controller.memory("VmRSS");
    let mut calls: Vec<Call> = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = channel(controller.discovery_port(), &tls).await.unwrap();
        calls.extend(join_all((0..STREAMS).map(|_| silent_stream(&channel, &token))).await);
    }
    assert_eq!(calls.len(), 10_000);
    let each = controller.memory("VmRSS").saturating_sub(before) / 10_000;
    println!("10,000 streams without a word: {each} bytes of memory each");
    assert!(each < 32 * 1024, "{each} bytes each");

    let mut other = proxy(&server, &controller, controller.discovery_port()).await;
    let written = Instant::now();
    server.apply([route("a", "served")]);
    other.push().await;
    assert!(written.elapsed() < Duration::from_secs(2), "it took {:?}", written.elapsed());
    // Who says nothing for half a minute is told to go.
    for call in &mut calls {
        let end = eventually_within(Duration::from_secs(90), "the end", async || {
            call.message().await.err()
        });
        assert_eq!(end.await.code(), Code::DeadlineExceeded);
    }
    assert_eq!(connected(&controller).await, 1.0);
}

/// Hardening O06.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_led_to_a_replica_that_knows_less_goes_back_to_nothing() {
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply([gateway_on(config.port("http")), route("a", "old")]);
    let ahead = Controller::start(&server).await;
    // Whoever lists from now on is behind, until the server has caught up.
    server.lag();
    let behind = Controller::start(&server).await;
    let wire = Wire::to(ahead.discovery_port()).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string()
    };
    let roots = [&ahead, &behind].map(|replica| replica.authority().root()).concat();
    let source = [
        ("--discovery", format!("127.0.0.1:{}", wire.port()).into()),
        ("--discovery-name", NAME.into()),
        ("--discovery-root", write("roots.pem", &roots)),
        ("--discovery-token", write("token", &hello(&server).token.unwrap())),
    ];
    let source = source.into_iter().flat_map(|(name, value)| [name.into(), value]);
    let mut gateway = Launch::from_source(config, source.collect()).start().await;
    assert_eq!(gateway.get("a.test", "/").await.text(), "old");
    server.apply([route("a", "new")]);
    eventually_eq("new".to_owned(), async || answer(&mut gateway).await).await;

    for round in 1..=2 {
        wire.lead_to(behind.discovery_port());
        serves_new_until(&mut gateway, async || {
            behind.metrics().await.sum("weir_controller_behind_total", &[]) >= f64::from(round)
        })
        .await;
        wire.lead_to(ahead.discovery_port());
        serves_new_until(&mut gateway, async || connected(&ahead).await == 1.0).await;
    }
    // One that has caught up is as good as the other.
    wire.lead_to(behind.discovery_port());
    server.catch_up();
    serves_new_until(&mut gateway, async || connected(&behind).await == 1.0).await;
    server.apply([route("a", "newest")]);
    eventually_eq("newest".to_owned(), async || answer(&mut gateway).await).await;
}

async fn answer(gateway: &mut Gateway) -> String {
    gateway.get("a.test", "/").await.text().to_owned()
}

/// Asks the gateway until something is so; every answer has to be the new one.
async fn serves_new_until(gateway: &mut Gateway, is_so: impl AsyncFn() -> bool) {
    eventually("what is waited for", async || {
        assert_eq!(answer(gateway).await, "new");
        is_so().await.then_some(())
    })
    .await;
}
