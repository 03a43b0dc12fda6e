//! Messages of every protocol and size get through, and nothing of them is changed on the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{env, time::Duration};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir_tests::{
    backend::{
        Server,
        echo::Echo,
        grpc::{GrpcServer, ServingStatus as Set},
        raw::{RawUpstream, Then},
        tcp,
    },
    certs::Authority,
    client::{
        connect, connect_tls,
        curl::curl,
        grpc::{Health, ServingStatus},
        http::{Connection, Request},
        raw::RawClient,
        tools,
        websocket::WebSocket,
    },
    config::Config,
    eventually::{eventually, eventually_eq},
    gateway::Gateway,
    objects::{HTTP_GATEWAY, forward, respond, service_entry, tls_secret},
    pattern::Checker,
};

const MIB: u64 = 1024 * 1024;

/// HTTP on `${PORT_http}`, HTTPS with the certificate `site` on `${PORT_https}`.
const BOTH_GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: ${PORT_http}, name: http, protocol: HTTP}, hosts: ["*"]}
  - port: {number: ${PORT_https}, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: site}
    hosts: ["*.test"]
"#;

/// `echo.test` over HTTP/1.1 and `h2.test` over HTTP/2, in clear text and over TLS.
struct Site {
    gateway: Gateway,
    echo: Echo,
    ca: Authority,
}

async fn site() -> Site {
    let echo = Echo::start("echo").await;
    let ca = Authority::new("site");
    let identity = ca.server(&["echo.test", "h2.test"]);
    let config = Config::new()
        .with(BOTH_GATEWAY)
        .with(tls_secret("site", &identity.certificate, &identity.key))
        .with(service_entry("up1.test", "HTTP", &[echo.port()]))
        .with(service_entry("up2.test", "HTTP2", &[echo.port()]))
        .with(forward("h1", "echo.test", "up1.test"))
        .with(forward("h2", "h2.test", "up2.test"));
    Site { gateway: Gateway::start(config).await, echo, ca }
}

impl Site {
    /// A connection of each kind a client can have: h1, h2c, h1 over TLS, h2 over TLS.
    async fn connections(&mut self, host: &str) -> Vec<Connection> {
        let (http, https) = (self.gateway.port("http"), self.gateway.port("https"));
        let tls = |alpn| self.ca.client_config(None, &[alpn]);
        vec![
            Connection::http1(http).await.unwrap(),
            Connection::http2(http).await.unwrap(),
            Connection::tls(https, &tls("http/1.1"), host).await.unwrap(),
            Connection::tls(https, &tls("h2"), host).await.unwrap(),
        ]
    }
}

/// A gateway that sends everything for `a.test` to this upstream.
async fn gateway_to(port: u16, protocol: &str) -> Gateway {
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", protocol, &[port]))
        .with(forward("a", "a.test", "up.test"));
    Gateway::start(config).await
}

#[tokio::test]
async fn every_client_protocol_reaches_every_upstream_protocol() {
    let mut site = site().await;
    for (host, upstream_version) in [("echo.test", "HTTP/1.1"), ("h2.test", "HTTP/2.0")] {
        for mut connection in site.connections(host).await {
            let version = connection.version();
            let reply = connection.send(&Request::post(host, "/a?b", "hello")).await.unwrap();
            assert_eq!(reply.version, version);
            let echo = reply.echo();
            assert_eq!(echo.version, upstream_version, "from {version:?}");
            assert_eq!((echo.method.as_str(), echo.target.as_str()), ("POST", "/a?b"));
            assert_eq!((echo.host.as_str(), echo.body_bytes), (host, 5));
        }
    }
}

/// 64 MiB each way; 1 GiB with `WEIR_TESTS_LARGE=1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_echoed_in_both_directions_at_once_in_bounded_memory() {
    let bytes = if env::var_os("WEIR_TESTS_LARGE").is_some() { 1024 * MIB } else { 64 * MIB };
    let mut site = site().await;
    let before = site.gateway.memory("VmHWM");
    for host in ["echo.test", "h2.test"] {
        for kind in 0..4 {
            // Each when it is its turn: a connection without a request is closed after ten seconds.
            let mut connection = site.connections(host).await.swap_remove(kind);
            for sized in [true, false] {
                // Every byte crosses twice; the smaller half of the matrix is enough unsized.
                let bytes = if sized { bytes } else { bytes / 8 };
                let version = connection.version();
                let request =
                    Request::post_pattern(host, "/", bytes, sized).header("x-echo-body", "stream");
                let response = connection.open(&request).await;
                let response =
                    response.unwrap_or_else(|e| panic!("{host} {version:?} {sized}: {e}"));
                let received = checked_bytes(response.into_body()).await;
                let received =
                    received.unwrap_or_else(|error| panic!("{host} {version:?}: {error}"));
                assert_eq!(received, bytes, "{host} from {version:?}");
            }
        }
    }
    let grown = site.gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 32 * MIB, "the gateway grew by {grown} bytes");
}

/// Reads a body of the pattern to its end.
async fn checked_bytes(mut body: Incoming) -> Result<u64, String> {
    let mut checker = Checker::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("after {} bytes: {error}", checker.bytes()))?;
        checker.check(frame.data_ref().expect("no trailers"));
    }
    Ok(checker.bytes())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_buffered_for() {
    let mut site = site().await;
    let before = site.gateway.memory("VmRSS");
    let mut stalled = Vec::new();
    for mut connection in site.connections("echo.test").await {
        let request =
            Request::get("echo.test", "/").header("x-echo-bytes", &(512 * MIB).to_string());
        // The head has come, the body is held and never read.
        let response = connection.open(&request).await.unwrap();
        stalled.push((connection, response));
    }
    // Others are served meanwhile.
    for _ in 0..100 {
        assert_eq!(site.gateway.get("echo.test", "/").await.status, 200);
    }
    let grown = site.gateway.memory("VmRSS").saturating_sub(before);
    assert!(grown < 16 * MIB, "the gateway grew by {grown} bytes");
}

#[tokio::test]
async fn sized_bodies_keep_their_length_and_others_are_chunked() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("POST /sized HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\n\r\nabc").await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.header("content-length")), (200, Some("2")));
    client
        .send("POST /chunked HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.read_response().await.body, b"hi");
    let received = upstream.received();
    let (sized, chunked) = received.split_once("POST /chunked").expect("both requests");
    assert!(sized.contains("content-length: 3\r\n") && !sized.contains("transfer-encoding"));
    assert!(
        chunked.contains("transfer-encoding: chunked\r\n") && !chunked.contains("content-length")
    );
}

#[tokio::test]
async fn a_head_response_has_the_length_and_no_body() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        let response = client.read_head().await;
        assert_eq!((response.status, response.header("content-length")), (200, Some("1000")));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_that_expects_100_sends_its_body_after_it() {
    let echo = Echo::start("echo").await;
    let mut gateway = gateway_to(echo.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
        )
        .await;
    assert_eq!(client.read_head().await.status, 100);
    client.send("hello").await;
    let response = client.read_response().await;
    assert_eq!(response.status, 200);
    assert!(String::from_utf8(response.body).unwrap().contains("\"body_bytes\":5"));

    let refused = Request::post("none.test", "/", "x").header("expect", "100-continue");
    assert_eq!(gateway.send(&refused).await.status, 404);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let echo = Echo::start("echo").await;
    let mut gateway = gateway_to(echo.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    let requests: String =
        (0..20).map(|i| format!("GET /{i} HTTP/1.1\r\nhost: a.test\r\n\r\n")).collect();
    client.send(requests).await;
    for i in 0..20 {
        let body = String::from_utf8(client.read_response().await.body).unwrap();
        assert!(body.contains(&format!("\"target\":\"/{i}\"")), "{body}");
    }
}

#[tokio::test]
async fn connection_close_and_http_1_0_end_the_connection_after_the_response() {
    let echo = Echo::start("echo").await;
    let mut gateway = gateway_to(echo.port(), "HTTP").await;
    for request in [
        "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: a.test\r\n\r\n",
    ] {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(request).await;
        let response = client.read_response().await;
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        assert!(client.is_closed_by_server().await);
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_body_without_chunks() {
    let echo = Echo::start("echo").await;
    let mut gateway = gateway_to(echo.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("GET / HTTP/1.0\r\nhost: a.test\r\nx-echo-bytes: 50000\r\n\r\n").await;
    let response = client.read_head().await;
    assert_eq!(response.header("transfer-encoding"), None);
    let mut checker = Checker::default();
    checker.check(&client.read_to_end().await);
    assert_eq!(checker.bytes(), 50_000);
}

#[tokio::test]
async fn a_body_cut_by_the_upstream_never_ends_cleanly() {
    let mut site = site().await;
    for host in ["echo.test", "h2.test"] {
        for mut connection in site.connections(host).await {
            let request = Request::get(host, "/").header("x-echo-abort", "1000");
            let mut body = connection.open(&request).await.unwrap().into_body();
            let mut received = 0;
            let end = loop {
                match body.frame().await {
                    Some(Ok(frame)) => received += frame.data_ref().map_or(0, |data| data.len()),
                    other => break other,
                }
            };
            let version = connection.version();
            assert!(matches!(end, Some(Err(_))), "{host} {version:?}: a clean end");
            assert_eq!(received, 1000, "{host} {version:?}");
        }
    }
}

#[tokio::test]
async fn responses_without_a_body_leave_every_pair_of_protocols_in_step() {
    let mut site = site().await;
    for host in ["echo.test", "h2.test"] {
        for mut connection in site.connections(host).await {
            let version = connection.version();
            for (method, status) in
                [("HEAD", 200), ("GET", 204), ("GET", 304), ("POST", 204), ("HEAD", 404)]
            {
                let request = Request::get(host, "/")
                    .method(method)
                    .header("x-echo-status", &status.to_string());
                let reply = connection.send(&request).await;
                let reply =
                    reply.unwrap_or_else(|e| panic!("{method} {status} {host} {version:?}: {e}"));
                assert_eq!(reply.status, status, "{method} {host} from {version:?}");
                assert!(reply.body.is_empty(), "{method} {status} {host} from {version:?}");
                let next = connection.send(&Request::get(host, "/next")).await.unwrap();
                assert_eq!(next.echo().target, "/next", "after {method} {status} {host}");
            }
        }
    }
}

#[tokio::test]
async fn trailers_pass_between_protocols() {
    let upstream = RawUpstream::start(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n",
        Then::KeepOpen,
    )
    .await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let mut http2 = Connection::http2(gateway.port("http")).await.unwrap();
    let reply = http2.send(&Request::get("a.test", "/")).await.unwrap();
    assert_eq!(reply.trailers.unwrap()["x-sum"], "7", "HTTP/1.1 to HTTP/2");
    let mut http1 = Connection::http1(gateway.port("http")).await.unwrap();
    let reply = http1.send(&Request::get("a.test", "/")).await.unwrap();
    assert_eq!(reply.trailers.unwrap()["x-sum"], "7", "HTTP/1.1 to HTTP/1.1");

    let mut site = site().await;
    let mut http1 = Connection::http1(site.gateway.port("http")).await.unwrap();
    let request = Request::get("h2.test", "/")
        .header("x-echo-trailer", "x-sum=7")
        .header("x-echo-bytes", "5");
    let reply = http1.send(&request).await.unwrap();
    assert_eq!(reply.trailers.unwrap()["x-sum"], "7", "HTTP/2 to HTTP/1.1");
}

#[tokio::test]
async fn trailers_pass_between_http_2_sides() {
    let mut site = site().await;
    let mut connection = Connection::http2(site.gateway.port("http")).await.unwrap();
    let request = Request::get("h2.test", "/").header("x-echo-trailer", "x-sum=7");
    let trailers = connection.send(&request).await.unwrap().trailers.unwrap();
    assert_eq!(trailers["x-sum"], "7");
}

#[tokio::test]
async fn grpc_calls_and_streams_pass_with_their_status() {
    let server = GrpcServer::start().await;
    server.set("a", Set::Serving).await;
    let mut gateway = gateway_to(server.port(), "GRPC").await;
    let mut client = Health::connect(gateway.port("http"), "a.test").await;
    assert_eq!(client.check("a").await.unwrap(), ServingStatus::Serving);
    assert_eq!(client.check("unknown").await.unwrap_err().code(), tonic::Code::NotFound);

    let mut watch = client.watch("a").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(ServingStatus::Serving));
    for status in [Set::NotServing, Set::Serving] {
        server.set("a", status).await;
        let expected =
            if status == Set::Serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        assert_eq!(watch.next().await.unwrap(), Some(expected));
    }
}

#[tokio::test]
async fn grpc_clients_are_refused_in_grpc() {
    let mut gateway = gateway_to(1, "GRPC").await;
    let mut client = Health::connect(gateway.port("http"), "other.test").await;
    assert_eq!(client.check("a").await.unwrap_err().code(), tonic::Code::Unimplemented);
    let mut client = Health::connect(gateway.port("http"), "a.test").await;
    assert_eq!(client.check("a").await.unwrap_err().code(), tonic::Code::Unavailable);
}

/// A WebSocket carries messages of every size both ways, and is closed in order.
async fn use_websocket(mut socket: WebSocket) {
    for i in 0..100 {
        let text = format!("message {i}");
        assert_eq!(socket.exchange(&text).await.unwrap(), text);
    }
    let large = vec![7; 1_000_000];
    assert_eq!(socket.exchange_bytes(large.clone()).await.unwrap(), large);
    socket.close().await.unwrap();
}

#[tokio::test]
async fn websockets_are_tunnelled_between_every_pair_of_protocols() {
    let mut site = site().await;
    let (http, https) = (site.gateway.port("http"), site.gateway.port("https"));
    let tls = |alpn| site.ca.client_config(None, &[alpn]);
    for host in ["echo.test", "h2.test"] {
        use_websocket(WebSocket::connect(http, host, "/h1").await.unwrap()).await;
        let stream = connect(http).await.unwrap();
        use_websocket(WebSocket::over_http2(stream, host, "/h2c").await.unwrap()).await;
        let stream = connect_tls(https, &tls("http/1.1"), host).await.unwrap();
        use_websocket(WebSocket::over_http1(stream, host, "/h1s").await.unwrap()).await;
        let stream = connect_tls(https, &tls("h2"), host).await.unwrap();
        use_websocket(WebSocket::over_http2(stream, host, "/h2").await.unwrap()).await;
    }
    let methods: Vec<_> = site.echo.requests().into_iter().map(|it| it.method).collect();
    assert_eq!(methods, [["GET"; 4], ["CONNECT"; 4]].concat());
    let line = site.gateway.access_log_line("/h2c").await;
    assert!(line.contains("\"GET /h2c HTTP/2\" 101 "), "{line}");
}

#[tokio::test]
async fn a_websocket_over_http_2_that_is_declined_has_no_tunnel() {
    let body = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
    for (response, answer) in [
        (body.to_owned(), "the answer is 403 Forbidden"),
        // To an HTTP/2 client 200 would be the tunnel itself.
        (body.replace("403 Forbidden", "200 OK"), "the answer is 502 Bad Gateway"),
    ] {
        let upstream = RawUpstream::start(response, Then::KeepOpen).await;
        let mut gateway = gateway_to(upstream.port(), "HTTP").await;
        let stream = connect(gateway.port("http")).await.unwrap();
        let refused = WebSocket::over_http2(stream, "a.test", "/").await.unwrap_err();
        assert_eq!(refused.to_string(), answer);
        assert!(upstream.received().contains("sec-websocket-key: "), "{}", upstream.received());
    }
}

#[tokio::test]
async fn an_upstream_that_answers_for_another_key_gets_no_websocket() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                  upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let upstream = RawUpstream::start(switch, Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let stream = connect(gateway.port("http")).await.unwrap();
    let refused = WebSocket::over_http2(stream, "a.test", "/").await.unwrap_err();
    assert_eq!(refused.to_string(), "the answer is 502 Bad Gateway");
}

#[tokio::test]
async fn an_http_2_upstream_without_websockets_is_502() {
    let upstream = GrpcServer::start().await;
    let mut gateway = gateway_to(upstream.port(), "HTTP2").await;
    let stream = connect(gateway.port("http")).await.unwrap();
    let refused = WebSocket::over_http2(stream, "a.test", "/").await.unwrap_err();
    assert_eq!(refused.to_string(), "the answer is 502 Bad Gateway");
}

#[tokio::test]
async fn an_upgrade_the_upstream_declines_stays_http() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        )
        .await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.body.as_slice()), (200, b"no".as_slice()));
}

#[tokio::test]
async fn upstream_connections_are_kept_and_used_again() {
    let mut site = site().await;
    let mut connection = Connection::http1(site.gateway.port("http")).await.unwrap();
    for host in ["echo.test", "h2.test"] {
        let before = site.echo.connections();
        for _ in 0..100 {
            assert_eq!(connection.send(&Request::get(host, "/")).await.unwrap().status, 200);
        }
        // Each worker has connections of its own; one client connection stays on one worker.
        assert!(site.echo.connections() - before <= 2, "{host}");
    }
}

#[tokio::test]
async fn a_burst_to_a_cold_http_2_upstream_makes_one_connection() {
    let mut site = site().await;
    let connection = Connection::http2(site.gateway.port("http")).await.unwrap();
    let mut burst = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut connection = connection.share();
        burst.spawn(async move {
            let request = Request::get("h2.test", "/").header("x-echo-delay", "100");
            connection.send(&request).await.unwrap().status
        });
    }
    for status in burst.join_all().await {
        assert_eq!(status, 200);
    }
    assert_eq!(site.echo.connections(), 1);
}

#[tokio::test]
async fn an_answer_before_the_whole_request_body_is_passed_on() {
    // The upstream answers as soon as it has the head.
    let upstream = RawUpstream::start(
        "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        Then::KeepOpen,
    )
    .await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000\r\n\r\nsome").await;
    assert_eq!(client.read_response().await.status, 413);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_upstream_request() {
    let upstream = Server::start(|mut stream| async move {
        let mut buffer = [0; 4096];
        // Never answers; waits for the gateway to give up.
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    })
    .await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let mut client = connect(gateway.port("http")).await.unwrap();
    client.write_all(b"GET /gone HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    eventually_eq(1, async || upstream.connections()).await;
    drop(client);
    let line = gateway.access_log_line("/gone").await;
    assert!(line.contains(" 0 DC "), "{line}");
}

#[tokio::test]
async fn a_client_that_leaves_a_silent_stream_ends_its_upstream_request() {
    // A response that has begun, and of which nothing more comes.
    let upstream = RawUpstream::start(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        Then::KeepOpen,
    )
    .await;
    let mut gateway = gateway_to(upstream.port(), "HTTP").await;
    let port = gateway.port("http");
    for (connection, path) in [
        (Connection::http1(port).await.unwrap(), "/one"),
        (Connection::http2(port).await.unwrap(), "/two"),
    ] {
        let mut connection = connection;
        let response = connection.open(&Request::get("a.test", path)).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hi");
        drop(body);
        if path == "/one" {
            drop(connection);
        }
        let line = gateway.access_log_line(path).await;
        assert!(line.contains(" 200 DC downstream_remote_disconnect "), "{line}");
    }
}

#[tokio::test]
async fn idle_connections_cost_little() {
    const CONNECTIONS: u64 = 500;
    let mut gateway =
        Gateway::start(Config::new().with(HTTP_GATEWAY).with(respond("a", "*", "a"))).await;
    let port = gateway.port("http");
    let open = async |count| {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = RawClient::connect(port).await;
            client.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            assert_eq!(client.read_response().await.status, 200);
            clients.push(client);
        }
        clients
    };
    // What the first connections allocate for everybody is not theirs.
    let _warm = open(50).await;
    let before = gateway.memory("VmRSS");
    let _idle = open(CONNECTIONS).await;
    let each = gateway.memory("VmRSS").saturating_sub(before) / CONNECTIONS;
    assert!(each <= 24 * 1024, "{each} bytes for an idle connection");
}

const TCP_GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tcp}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: ${PORT_tcp}, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp}
spec:
  hosts: ["*"]
  gateways: [tcp]
  tcp:
  - route: [{destination: {host: tcp.test}}]
"#;

#[tokio::test]
async fn tcp_is_copied_both_ways_and_half_closed() {
    let server = tcp::echo().await;
    let config =
        Config::new().with(TCP_GATEWAY).with(service_entry("tcp.test", "TCP", &[server.port()]));
    let mut gateway = Gateway::start(config).await;
    let (mut reader, mut writer) = tokio::io::split(connect(gateway.port("tcp")).await.unwrap());
    let sent: Vec<u8> = (0..8 * MIB).map(|i| (i % 251) as u8).collect();
    let copy = sent.clone();
    let send = tokio::spawn(async move {
        writer.write_all(&copy).await.unwrap();
        // The echo answers to the end only if our end, and nothing else, is closed.
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    send.await.unwrap();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
}

#[tokio::test]
async fn a_tcp_server_may_speak_first() {
    let server = tcp::greeter("220 ready\r\n").await;
    let config =
        Config::new().with(TCP_GATEWAY).with(service_entry("tcp.test", "TCP", &[server.port()]));
    let mut gateway = Gateway::start(config).await;
    let mut client = RawClient::connect(gateway.port("tcp")).await;
    assert_eq!(client.read_until(b"\r\n").await, b"220 ready\r\n");
}

#[tokio::test]
async fn a_tcp_connection_without_an_upstream_is_closed() {
    let config = Config::new().with(TCP_GATEWAY).with(service_entry("tcp.test", "TCP", &[]));
    let mut gateway = Gateway::start(config).await;
    let mut client = RawClient::connect(gateway.port("tcp")).await;
    assert!(client.is_closed_by_server().await);
}

#[tokio::test]
async fn a_tls_client_reaches_a_tcp_upstream_through_a_terminating_server() {
    let server = tcp::echo().await;
    let ca = Authority::new("site");
    let identity = ca.server(&["tcp.test"]);
    let terminating = TCP_GATEWAY
        .replace("protocol: TCP}", "protocol: TLS}")
        .replace(r#"hosts: ["*"]}"#, r#"hosts: ["*"], tls: {mode: SIMPLE, credentialName: site}}"#);
    let config = Config::new()
        .with(terminating)
        .with(tls_secret("site", &identity.certificate, &identity.key))
        .with(service_entry("tcp.test", "TCP", &[server.port()]));
    let mut gateway = Gateway::start(config).await;
    let tls: ClientConfig = ca.client_config(None, &[]);
    let mut client = connect_tls(gateway.port("tcp"), &tls, "tcp.test").await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn curl_is_served_over_every_protocol() {
    let mut site = site().await;
    let root = site.gateway.config().scratch().join("root.pem");
    std::fs::write(&root, site.ca.root()).unwrap();
    let root = root.to_str().unwrap();
    let (http, https) = (site.gateway.port("http"), site.gateway.port("https"));
    let resolve = |port| format!("echo.test:{port}:127.0.0.1");
    let (plain, secure) =
        (format!("http://echo.test:{http}/x"), format!("https://echo.test:{https}/x"));
    for (args, version) in [
        (vec!["--http1.1", "--resolve", &resolve(http), &plain], "1.1"),
        (vec!["--http2-prior-knowledge", "--resolve", &resolve(http), &plain], "2"),
        (vec!["--http1.1", "--cacert", root, "--resolve", &resolve(https), &secure], "1.1"),
        (vec!["--http2", "--cacert", root, "--resolve", &resolve(https), &secure], "2"),
    ] {
        let output = curl(&args).await;
        assert_eq!((output.status, output.version.as_str()), (200, version), "{output:?}");
        assert!(output.body.contains("\"target\":\"/x\""), "{output:?}");
    }
    let posted = curl(&["--resolve", &resolve(http), "--data", &"x".repeat(100_000), &plain]).await;
    assert!(posted.body.contains("\"body_bytes\":100000"), "{posted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_and_wrk_see_no_error() {
    let mut site = site().await;
    let (http, https) = (site.gateway.port("http"), site.gateway.port("https"));
    for (protocol, scheme, port) in [
        ("--h1", "http", http),
        ("--npn-list=h2", "http", http),
        ("--h1", "https", https),
        ("--npn-list=h2", "https", https),
    ] {
        let (url, to) =
            (format!("{scheme}://echo.test/"), format!("--connect-to=127.0.0.1:{port}"));
        let args = [protocol, "-n", "5000", "-c", "20", "-m", "10", &to, &url];
        let output = tools::stdout("h2load", args).await;
        assert!(
            output.contains(
                "5000 total, 5000 started, 5000 done, 5000 succeeded, 0 failed, 0 errored"
            ),
            "{output}"
        );
        assert!(output.contains("5000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{output}");
    }
    let url = format!("http://127.0.0.1:{http}/");
    let output =
        tools::stdout("wrk", ["-t", "2", "-c", "20", "-d", "2s", "-H", "Host: echo.test", &url])
            .await;
    assert!(!output.contains("Socket errors") && !output.contains("Non-2xx"), "{output}");
}

#[tokio::test]
async fn a_quiet_stream_is_left_alone() {
    let echo = Echo::start("echo").await;
    let mut gateway = gateway_to(echo.port(), "HTTP").await;
    let mut socket = WebSocket::connect(gateway.port("http"), "a.test", "/").await.unwrap();
    // Longer than the header deadline, which must not apply to a tunnel.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(socket.exchange("still here").await.unwrap(), "still here");
}

#[tokio::test]
async fn http_2_carries_many_requests_at_once() {
    let mut site = site().await;
    let mut connection = Connection::http2(site.gateway.port("http")).await.unwrap();
    let mut other = connection.share();
    let waiting = tokio::spawn(async move {
        let slow = Request::get("echo.test", "/slow").header("x-echo-delay", "60000");
        other.send(&slow).await
    });
    eventually("the slow request arrives", async || {
        site.echo.requests().iter().any(|request| request.target == "/slow").then_some(())
    })
    .await;
    assert_eq!(connection.send(&Request::get("echo.test", "/")).await.unwrap().status, 200);
    assert!(!waiting.is_finished());
}
