//! Whole connections over real sockets. Where there is no configuration every request that reaches an
//! exchange is answered 404: enough to see which ones do.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use weir_config::model::{
    self, Delta, ListenerName, Resources, RouteTableName,
    filter::{Fault, FaultDelay},
    route::RouteAction,
};

use super::serve_connection;
use crate::{
    cluster::{self, Environment, Resolver},
    codec::h1::tests::{
        pair,
        vectors::{CANARY, rejected_heads},
    },
    connection::{ConnectionInfo, TlsInfo},
    drain::{self, DrainTrigger},
    engine::Engine,
    io::Io,
    limits::Limits,
    route,
    snapshot::Snapshot,
    telemetry::{Telemetry, labels::Reporter},
    tls::Secrets,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct Connection {
    client: TcpStream,
    server: JoinHandle<()>,
    drain: DrainTrigger,
}

fn engine(limits: Limits) -> Arc<Engine> {
    let reporter = Reporter::new("default", &BTreeMap::new());
    Arc::new(Engine::new(limits, Arc::new(Telemetry::new(&reporter, 1))))
}

fn connection_info(alpn: Option<&[u8]>, is_tls: bool) -> Arc<ConnectionInfo> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let tls = is_tls.then(|| TlsInfo {
        version: "TLSv1.3",
        cipher_suite: "",
        alpn: alpn.map(Arc::from),
        peer: None,
        local_uri: None,
    });
    Arc::new(ConnectionInfo {
        peer_addr: addr,
        local_addr: addr,
        direction: crate::connection::Direction::Gateway,
        transparent_source: None,
        peer: crate::connection::Peer::default(),
        listener: ListenerName::new("test"),
        port: 80,
        server_name: None,
        tls: tls.map(Box::new),
    })
}

async fn connect(limits: Limits) -> Connection {
    connect_as(limits, connection_info(None, false)).await
}

async fn connect_as(limits: Limits, conn: Arc<ConnectionInfo>) -> Connection {
    connect_to(engine(limits), conn).await
}

async fn connect_to(engine: Arc<Engine>, conn: Arc<ConnectionInfo>) -> Connection {
    let (io, client) = pair().await;
    let (drain, signal) = drain::channel();
    let serving = serve_connection(engine, io, conn, RouteTableName::new("http.80"), signal);
    Connection { client, server: tokio::spawn(serving), drain }
}

/// An engine with these routes for every host, to one cluster without endpoints.
fn engine_with(routes: Vec<model::Route>) -> Arc<Engine> {
    engine_to(Limits::default(), Vec::new(), routes)
}

/// The same, with a cluster of these endpoints.
fn engine_to(limits: Limits, endpoints: Vec<SocketAddr>, routes: Vec<model::Route>) -> Arc<Engine> {
    let engine = engine(limits);
    let endpoints = endpoints
        .into_iter()
        .map(|address| cluster::tests::member(model::cluster::EndpointAddress::Ip(address)));
    let environment = Arc::new(Environment {
        secrets: Secrets::default(),
        resolver: Resolver::with_name_server((Ipv4Addr::LOCALHOST, 53).into()).unwrap(),
        limits: engine.limits.clone(),
        telemetry: Arc::clone(&engine.telemetry),
    });
    let delta = Delta {
        virtual_hosts: route::tests::delta(vec![route::tests::virtual_host("*", routes)])
            .virtual_hosts,
        endpoints: cluster::tests::members_change(endpoints.collect()).endpoints,
        ..cluster::tests::cluster_change(cluster::tests::config())
    };
    let snapshot =
        Snapshot::next(&Snapshot::default(), &Resources::default(), &delta, &environment);
    engine.publish(Arc::new(snapshot));
    engine
}

fn route_to_cluster(path: &str) -> model::Route {
    let clusters = vec![route::tests::cluster(cluster::tests::name().as_str(), 1)];
    model::Route {
        action: RouteAction::Forward(route::tests::forward(clusters)),
        ..route::tests::route(path, route::tests::prefix(path))
    }
}

/// A route that keeps a request for an hour before anything else.
fn slow(path: &str) -> model::Route {
    let delay = FaultDelay { duration: Duration::from_secs(3600), per_million: 1_000_000 };
    let fault = Fault { delay: Some(delay), abort: None };
    model::Route { fault: Some(Arc::new(fault)), ..route_to_cluster(path) }
}

/// A route with a timeout no configuration can have, and no clock can reach: the addition panics.
fn panicking(path: &str) -> model::Route {
    timed(path, Duration::MAX)
}

fn timed(path: &str, timeout: Duration) -> model::Route {
    let mut route = route_to_cluster(path);
    if let RouteAction::Forward(forward) = &mut route.action {
        forward.timeout = Some(timeout);
    }
    route
}

/// How often a request of that outcome was counted.
fn counted(engine: &Engine, status: u16, flag: &str) -> f64 {
    let status = status.to_string();
    let labels = [("response_code", &*status), ("response_flags", flag)];
    let families = engine.telemetry.metrics.registry().gather();
    let requests = families.iter().filter(|family| family.name() == "istio_requests_total");
    let matching = requests.flat_map(|family| family.get_metric()).filter(|metric| {
        labels.iter().all(|(name, value)| {
            metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
        })
    });
    matching.map(|metric| metric.get_counter().get_value()).sum()
}

impl Connection {
    async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    /// Everything up to the server's end of the connection.
    async fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        self.client.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The statuses of `count` responses; they have no bodies.
    async fn statuses(&mut self, count: usize) -> Vec<u16> {
        let mut text = String::new();
        while text.matches("\r\n\r\n").count() < count {
            let mut bytes = [0; 4096];
            let length = self.client.read(&mut bytes).await.unwrap();
            assert!(length > 0, "the connection ended after {text:?}");
            text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        statuses(&text)
    }
}

fn statuses(responses: &str) -> Vec<u16> {
    responses.split("HTTP/1.1 ").skip(1).map(|response| response[..3].parse().unwrap()).collect()
}

fn quick() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    }
}

#[tokio::test]
async fn requests_of_a_connection_are_served_in_order() {
    let mut connection = connect(Limits::default()).await;
    connection.send(GET).await;
    assert_eq!(connection.statuses(1).await, [404]);
    connection.send(&GET.repeat(100)).await;
    assert_eq!(connection.statuses(100).await, [404; 100]);
}

#[tokio::test]
async fn every_vector_is_answered_then_the_socket_is_closed_and_no_canary_served() {
    for (id, bytes, expected) in rejected_heads() {
        let mut connection = connect(Limits::default()).await;
        connection.send(&[&bytes, CANARY].concat()).await;
        let response = connection.read_to_end().await;
        assert_eq!(statuses(&response), [expected], "{id}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{id}: {response}");
    }
}

#[tokio::test]
async fn every_vector_is_refused_as_the_second_request_too() {
    for (id, bytes, expected) in rejected_heads() {
        let mut connection = connect(Limits::default()).await;
        connection.send(GET).await;
        assert_eq!(connection.statuses(1).await, [404], "{id}");
        connection.send(&[&bytes, CANARY].concat()).await;
        assert_eq!(statuses(&connection.read_to_end().await), [expected], "{id}");
    }
}

#[tokio::test]
async fn a_vector_in_two_packets_is_refused() {
    // Every split of every vector is tried on the parser; here it is about the connection.
    for (id, bytes, expected) in
        rejected_heads().into_iter().filter(|(id, _, _)| !id.starts_with("H05"))
    {
        for at in [1, bytes.len() / 2, bytes.len() - 1] {
            let mut connection = connect(Limits::default()).await;
            connection.client.set_nodelay(true).unwrap();
            connection.send(&bytes[..at]).await;
            tokio::task::yield_now().await;
            // The first part may have been enough, and then the connection may be gone.
            let _ = connection.client.write_all(&[&bytes[at..], CANARY].concat()).await;
            let response = connection.read_to_end().await;
            assert_eq!(statuses(&response), [expected], "{id} split at {at}");
        }
    }
}

#[tokio::test]
async fn h16_a_body_nobody_read_is_never_a_request() {
    let body = |body: &[u8]| {
        let length = body.len();
        [format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body]
            .concat()
    };
    let mut connection = connect(Limits::default()).await;
    connection.send(&[&body(CANARY), GET].concat()).await;
    assert_eq!(connection.statuses(2).await, [404, 404], "the body was drained");
    connection.send(&[&body(&CANARY.repeat(10_000)), GET].concat()).await;
    assert_eq!(statuses(&connection.read_to_end().await), [404], "too long to be drained");
}

#[tokio::test]
async fn d01_a_head_that_does_not_end_is_answered_408() {
    for before in [&b""[..], GET] {
        let mut connection = connect(quick()).await;
        connection.send(before).await;
        if !before.is_empty() {
            assert_eq!(connection.statuses(1).await, [404]);
        }
        let started = Instant::now();
        connection.send(b"GET / HTTP/1.1\r\nHo").await;
        assert_eq!(statuses(&connection.read_to_end().await), [408]);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn d01_single_bytes_do_not_move_the_deadline() {
    let mut connection = connect(quick()).await;
    let (mut read, mut write) = connection.client.split();
    let drip = async {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        loop {
            interval.tick().await;
            if write.write_all(b"X").await.is_err() {
                return;
            }
        }
    };
    let mut response = Vec::new();
    tokio::select! {
        read = read.read_to_end(&mut response) => drop(read.unwrap()),
        () = drip => {}
    }
    assert_eq!(statuses(std::str::from_utf8(&response).unwrap()), [408]);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let mut connection = connect(quick()).await;
    assert_eq!(connection.read_to_end().await, "");
    let mut connection = connect(quick()).await;
    connection.send(GET).await;
    assert_eq!(statuses(&connection.read_to_end().await), [404]);
}

#[tokio::test]
async fn a_response_is_not_lost_to_the_request_still_being_sent() {
    let mut connection = connect(Limits::default()).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n";
    let (mut read, mut write) = connection.client.split();
    let upload = async {
        write.write_all(head).await.unwrap();
        // Fails once the server has had enough.
        while write.write_all(&[b'a'; 65_536]).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let mut response = Vec::new();
    tokio::select! {
        read = read.read_to_end(&mut response) => drop(read.unwrap()),
        () = upload => {}
    }
    assert_eq!(statuses(std::str::from_utf8(&response).unwrap()), [404]);
}

#[tokio::test]
async fn a_draining_connection_serves_what_was_on_its_way_and_closes() {
    let mut connection = connect(Limits::default()).await;
    connection.send(GET).await;
    assert_eq!(connection.statuses(1).await, [404]);
    connection.drain.drain();
    connection.send(GET).await;
    let last = connection.read_to_end().await;
    assert_eq!(statuses(&last), [404]);
    assert!(last.contains("\r\nconnection: close\r\n"), "{last}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_soon_after_draining_began() {
    let mut connection = connect(Limits::default()).await;
    connection.send(GET).await;
    assert_eq!(connection.statuses(1).await, [404]);
    let started = Instant::now();
    connection.drain.drain();
    assert_eq!(connection.read_to_end().await, "");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    connection.server.await.unwrap();
}

#[tokio::test]
async fn a_client_that_closes_ends_the_task() {
    let connection = connect(Limits::default()).await;
    drop(connection.client);
    connection.server.await.unwrap();
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_told_by_its_preface() {
    let connection = connect(Limits::default()).await;
    let (mut sender, driver) = h2::client::handshake(connection.client).await.unwrap();
    let driver = tokio::spawn(driver);
    for _ in 0..3 {
        let request = http::Request::get("http://a/").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 404);
    }
    drop(sender);
    driver.await.unwrap().unwrap();
    connection.server.await.unwrap();
}

#[tokio::test]
async fn a_preface_may_come_in_pieces() {
    let mut connection = connect(Limits::default()).await;
    connection.client.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        connection.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    // An empty SETTINGS frame.
    connection.send(b"\0\0\0\x04\0\0\0\0\0").await;
    let mut frame = [0; 9];
    connection.client.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "the server's SETTINGS");
}

#[tokio::test]
async fn half_a_preface_is_given_up_at_the_deadline() {
    let mut connection = connect(quick()).await;
    connection.send(b"PRI * HT").await;
    assert_eq!(connection.read_to_end().await, "");
}

#[tokio::test]
async fn what_only_begins_like_a_preface_is_http_1() {
    let mut connection = connect(Limits::default()).await;
    connection.send(b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(connection.statuses(1).await, [404]);
}

#[tokio::test]
async fn t09_where_alpn_decided_a_preface_is_refused() {
    let conn = connection_info(Some(b"http/1.1"), true);
    let mut connection = connect_as(Limits::default(), conn).await;
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(statuses(&connection.read_to_end().await), [505]);
}

#[tokio::test]
async fn alpn_h2_is_http_2() {
    let connection = connect_as(Limits::default(), connection_info(Some(b"h2"), true)).await;
    let (mut sender, driver) = h2::client::handshake(connection.client).await.unwrap();
    let _driver = tokio::spawn(driver);
    let request = http::Request::get("https://a/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_draining_http2_connection_says_goaway_and_ends() {
    let connection = connect(Limits::default()).await;
    let (mut sender, driver) = h2::client::handshake(connection.client).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = http::Request::get("http://a/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 404);
    connection.drain.drain();
    connection.server.await.unwrap();
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed() {
    let connection = connect(quick()).await;
    let (sender, driver) = h2::client::handshake(connection.client).await.unwrap();
    driver.await.unwrap();
    drop(sender);
    connection.server.await.unwrap();
}

#[tokio::test]
async fn t08_a_preface_and_nothing_else_is_given_up_at_the_deadline() {
    let mut connection = connect_as(quick(), connection_info(Some(b"h2"), true)).await;
    connection.send(b"PRI * ").await;
    let mut bytes = Vec::new();
    // Whatever the server said, it ends.
    let _ = connection.client.read_to_end(&mut bytes).await;
    connection.server.await.unwrap();
}

#[tokio::test]
async fn g14_a_client_that_sends_malformed_requests_is_sent_away() {
    let connection = connect(Limits::default()).await;
    let (sender, driver) = h2::client::handshake(connection.client).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut answered = 0;
    for _ in 0..100 {
        let request = http::Request::get("http://a/").header("host", "b").body(()).unwrap();
        let Ok(mut ready) = sender.clone().ready().await else { break };
        let Ok((response, _)) = ready.send_request(request, true) else { break };
        match response.await {
            Ok(response) => {
                assert_eq!(response.status(), 400);
                answered += 1;
            }
            Err(_) => break,
        }
    }
    drop(sender);
    assert!(answered < 33, "{answered} malformed requests were answered");
    let ended = driver.await.unwrap().unwrap_err();
    assert_eq!(ended.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    connection.server.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_a_small_future() {
    let (io, _client) = pair().await;
    let (_trigger, signal) = drain::channel();
    let serving = serve_connection(
        engine(Limits::default()),
        io,
        connection_info(None, false),
        RouteTableName::new("http.80"),
        signal,
    );
    let size = size_of_val(&serving);
    assert!(size <= 2048, "{size} bytes");
}

/// A TLS connection between a client that trusts the server and `serve_connection`.
async fn connect_tls(
    limits: Limits,
) -> (tokio_rustls::client::TlsStream<TcpStream>, JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let issued = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let certificate = issued.cert.der().clone();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (io, peer) = pair().await;
    let Io::Tcp(io) = io else { panic!("not TCP") };
    let accept = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(io);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let connect = connector.connect("a".try_into().unwrap(), peer);
    let (io, client) = tokio::join!(accept, connect);
    let (drain, signal) = drain::channel();
    let serving = serve_connection(
        engine(limits),
        Io::ServerTls(Box::new(io.unwrap())),
        connection_info(None, true),
        RouteTableName::new("https.443"),
        signal,
    );
    let server = tokio::spawn(async move {
        serving.await;
        drop(drain);
    });
    (client.unwrap(), server)
}

#[tokio::test]
async fn vectors_are_refused_over_tls_with_a_proper_end() {
    // On TLS the wrong scheme is the right one.
    let excluded = |id: &str| id.starts_with("H05") || id == "H15 https on clear";
    for (id, bytes, expected) in rejected_heads().into_iter().filter(|(id, _, _)| !excluded(id)) {
        let (mut client, server) = connect_tls(Limits::default()).await;
        client.write_all(&[GET, &bytes, CANARY].concat()).await.unwrap();
        client.flush().await.unwrap();
        let mut response = Vec::new();
        // A missing close_notify would be an error here.
        client.read_to_end(&mut response).await.unwrap();
        assert_eq!(statuses(std::str::from_utf8(&response).unwrap()), [404, expected], "{id}");
        drop(client);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_tls_connection_is_closed_with_a_proper_end() {
    let (mut client, server) = connect_tls(quick()).await;
    client.write_all(GET).await.unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).await.unwrap();
    assert_eq!(statuses(std::str::from_utf8(&response).unwrap()), [404]);
    server.await.unwrap();
}

/// An HTTP/2 client on `connection`, and the task of its frames.
async fn http2_client(
    connection: Connection,
) -> (h2::client::SendRequest<bytes::Bytes>, JoinHandle<()>, DrainTrigger) {
    let (sender, frames) = h2::client::handshake(connection.client).await.unwrap();
    let frames = tokio::spawn(async {
        // How the server ends it is not what these tests are about.
        let _ = frames.await;
    });
    (sender.ready().await.unwrap(), frames, connection.drain)
}

/// The response to a GET, sent by HTTP/2.
fn get(
    sender: &mut h2::client::SendRequest<bytes::Bytes>,
    path: &str,
) -> h2::client::ResponseFuture {
    let request = ::http::Request::get(format!("http://a{path}")).body(()).unwrap();
    sender.send_request(request, true).unwrap().0
}

#[tokio::test]
async fn a_panic_is_answered_500_recorded_and_ends_the_connection() {
    let engine = engine_with(vec![panicking("/")]);
    let mut connection = connect_to(Arc::clone(&engine), connection_info(None, false)).await;
    connection.send(&GET.repeat(2)).await;
    let response = connection.read_to_end().await;
    assert_eq!(statuses(&response), [500], "the second request is not served: {response}");
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\ninternal error"), "nothing inside is told: {response}");
    assert!(connection.server.await.is_ok(), "the panic went no further than the exchange");
    assert_eq!(counted(&engine, 500, "LR"), 1.0);
}

#[tokio::test]
async fn a_panic_in_one_stream_leaves_the_others_alone() {
    let engine = engine_with(vec![panicking("/panic"), slow("/slow"), route_to_cluster("/")]);
    let connection = connect_to(Arc::clone(&engine), connection_info(None, false)).await;
    let (mut sender, _frames, _drain) = http2_client(connection).await;
    let mut get = |path: &str| get(&mut sender, path);
    let slow = get("/slow");
    assert_eq!(get("/panic").await.unwrap().status(), 500);
    assert_eq!(get("/").await.unwrap().status(), 503, "the cluster has no endpoints");
    assert_eq!(counted(&engine, 500, "LR"), 1.0);
    drop(slow);
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_answered_503_and_recorded() {
    let engine = engine_with(vec![slow("/")]);
    let mut connection = connect_to(Arc::clone(&engine), connection_info(None, false)).await;
    connection.send(GET).await;
    // The request has been read when its connection takes nothing more.
    connection.drain.drain_within(Duration::from_millis(200));
    let response = connection.read_to_end().await;
    assert_eq!(statuses(&response), [503], "{response}");
    connection.server.await.unwrap();
    assert_eq!(counted(&engine, 503, "LR,DI"), 1.0);
}

#[tokio::test]
async fn streams_that_outlast_the_drain_are_answered_503_and_recorded() {
    let engine = engine_with(vec![slow("/")]);
    let connection = connect_to(Arc::clone(&engine), connection_info(None, false)).await;
    let (mut sender, frames, drain) = http2_client(connection).await;
    let responses: Vec<_> = (0..3).map(|_| get(&mut sender, "/")).collect();
    drain.drain_within(Duration::from_millis(200));
    for response in responses {
        assert_eq!(response.await.unwrap().status(), 503);
    }
    frames.await.unwrap();
    assert_eq!(counted(&engine, 503, "LR,DI"), 3.0);
}

/// D03: who stops sending, and who stops answering.
#[tokio::test]
async fn a_request_that_does_not_come_is_408_and_a_response_that_does_not_is_504() {
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let limits = Limits { stream_idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let address = silent.local_addr().unwrap();
    let engine = engine_to(limits, vec![address], vec![route_to_cluster("/")]);
    for (body, status) in [("hello", 408), ("helloworld", 504)] {
        let mut connection = connect_to(Arc::clone(&engine), connection_info(None, false)).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
        connection.send(format!("{head}{body}").as_bytes()).await;
        assert_eq!(connection.statuses(1).await, [status]);
        assert_eq!(counted(&engine, status, "SI"), 1.0);
    }
}

/// A stream's deadlines are its own, whatever timer of an earlier one it goes by.
#[tokio::test]
async fn streams_one_after_another_end_at_their_own_deadlines() {
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = silent.local_addr().unwrap();
    let routes = vec![
        timed("/long", Duration::from_secs(3600)),
        timed("/short", Duration::from_millis(100)),
    ];
    let engine = engine_to(Limits::default(), vec![address], routes);
    let connection = connect_to(Arc::clone(&engine), connection_info(None, false)).await;
    let (mut sender, _frames, _drain) = http2_client(connection).await;
    let mut get = |path: &str| get(&mut sender, path);
    // Its timer has an hour to go when it is given up.
    let long = get("/long");
    assert_eq!(get("/short").await.unwrap().status(), 504);
    drop(long);
    for _ in 0..3 {
        assert_eq!(get("/short").await.unwrap().status(), 504);
    }
    assert_eq!(counted(&engine, 504, "UT"), 4.0);
}
