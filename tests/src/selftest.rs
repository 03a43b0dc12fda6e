//! The clients against the backends, without a gateway between them: what fails here is not the
//! gateway's fault.

use http::Version;
use serde_json::json;

use crate::{
    backend::{
        echo::Echo,
        grpc::{GrpcServer, ServingStatus as Set},
        raw::{RawUpstream, Then},
    },
    certs::Authority,
    client::{
        curl::curl,
        grpc::{Health, ServingStatus},
        http::{Connection, Request},
        load::Load,
        raw::RawClient,
        websocket::WebSocket,
    },
    config::Config,
    eventually::eventually_eq,
    jwt::Issuer,
    pattern::Checker,
};

#[tokio::test]
async fn the_echo_tells_what_it_received_over_both_protocols() {
    let echo = Echo::start("v1").await;
    for mut connection in [
        Connection::http1(echo.port()).await.unwrap(),
        Connection::http2(echo.port()).await.unwrap(),
    ] {
        let request = Request::post("shop.test", "/a?b=c", "hello").header("x-color", "red");
        let reply = connection.send(&request).await.unwrap();
        let echo = reply.echo();
        assert_eq!(echo.backend, "v1");
        assert_eq!(echo.method, "POST");
        assert_eq!(echo.target, "/a?b=c");
        assert_eq!(echo.host, "shop.test");
        assert_eq!(echo.version, format!("{:?}", connection.version()));
        assert_eq!(echo.header("x-color"), Some("red"));
        assert_eq!(echo.body_bytes, 5);
    }
    assert_eq!(echo.requests().len(), 2);
    assert_eq!(echo.connections(), 2);
}

#[tokio::test]
async fn the_echo_follows_its_orders() {
    let echo = Echo::start("v1").await;
    let mut connection = Connection::http1(echo.port()).await.unwrap();
    let request = Request::get("a.test", "/")
        .header("x-echo-status", "418")
        .header("x-echo-header", "x-a=b")
        .header("x-echo-bytes", "100000");
    let reply = connection.send(&request).await.unwrap();
    assert_eq!(reply.status, 418);
    assert_eq!(reply.header("x-a"), Some("b"));
    let mut checker = Checker::default();
    checker.check(&reply.body);
    assert_eq!(checker.bytes(), 100_000);

    let aborted = Request::get("a.test", "/").header("x-echo-abort", "10");
    assert!(connection.send(&aborted).await.is_err());

    let mut connection = Connection::http2(echo.port()).await.unwrap();
    let request = Request::get("a.test", "/").header("x-echo-trailer", "x-sum=7");
    let trailers = connection.send(&request).await.unwrap().trailers.unwrap();
    assert_eq!(trailers["x-sum"], "7");
}

#[tokio::test]
async fn an_echoed_pattern_comes_back_over_tls() {
    let ca = Authority::new("test");
    let server = ca.server_config(&ca.server(&["localhost"]), &["h2", "http/1.1"], true);
    let echo = Echo::start_tls("tls", server).await;
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let client = ca.client_config(Some(&ca.client(&["me"])), &[alpn]);
        let mut connection = Connection::tls(echo.port(), &client, "localhost").await.unwrap();
        assert_eq!(connection.version(), version);
        let request = Request::post_pattern("localhost", "/", 1_000_000, false)
            .https()
            .header("x-echo-body", "stream");
        let mut checker = Checker::default();
        checker.check(&connection.send(&request).await.unwrap().body);
        assert_eq!(checker.bytes(), 1_000_000);
    }
    let stranger = ca.client_config(None, &["http/1.1"]);
    let outcome = match Connection::tls(echo.port(), &stranger, "localhost").await {
        Ok(mut connection) => connection.send(&Request::get("localhost", "/")).await,
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "a client without a certificate was served");
}

#[tokio::test]
async fn websocket_messages_are_echoed() {
    let echo = Echo::start("ws").await;
    let mut socket = WebSocket::connect(echo.port(), "a.test", "/").await.unwrap();
    assert_eq!(socket.exchange("hello").await.unwrap(), "hello");
    socket.close().await.unwrap();
}

#[tokio::test]
async fn health_is_checked_and_watched() {
    let server = GrpcServer::start().await;
    server.set("a", Set::Serving).await;
    let mut client = Health::connect(server.port(), "grpc.test").await;
    assert_eq!(client.check("a").await.unwrap(), ServingStatus::Serving);
    assert_eq!(client.check("b").await.unwrap_err().code(), tonic::Code::NotFound);
    let mut watch = client.watch("a").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(ServingStatus::Serving));
    server.set("a", Set::NotServing).await;
    assert_eq!(watch.next().await.unwrap(), Some(ServingStatus::NotServing));
}

#[tokio::test]
async fn raw_bytes_reach_the_raw_upstream() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let upstream = RawUpstream::start(answer, Then::KeepOpen).await;
    let mut client = RawClient::connect(upstream.port()).await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.body.as_slice()), (200, b"hi".as_slice()));
    assert_eq!(upstream.received(), "GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn curl_output_is_understood() {
    let echo = Echo::start("v1").await;
    let url = format!("http://127.0.0.1:{}/x", echo.port());
    let output = curl(&["--http2-prior-knowledge", &url]).await;
    assert_eq!((output.status, output.version.as_str()), (200, "2"));
    assert_eq!(output.header("x-backend"), Some("v1"));
    assert!(output.body.contains("\"target\":\"/x\""));
}

#[tokio::test]
async fn load_counts_what_succeeds_and_what_fails() {
    let echo = Echo::start("v1").await;
    let load = Load::start(echo.port(), Version::HTTP_11, 4, &Request::get("a.test", "/"));
    eventually_eq(true, async || echo.requests().len() > 100).await;
    let tally = load.stop().await;
    assert!(tally.succeeded >= 100);
    assert_eq!((tally.failures.len(), tally.connections), (0, 4));

    let failing = Request::get("a.test", "/").header("x-echo-status", "500");
    let load = Load::start(echo.port(), Version::HTTP_2, 1, &failing);
    let before = echo.requests().len();
    eventually_eq(true, async || echo.requests().len() > before + 1).await;
    assert!(load.stop().await.failures["status 500"] >= 1);
}

#[test]
fn variables_are_filled_in() {
    let mut config = Config::new().set("name", "x");
    let port = config.port("a");
    assert_eq!(config.fill("${PORT_a} ${name} ${PORT_a}"), format!("{port} x {port}"));
}

#[test]
fn tokens_carry_the_claims_given() {
    for issuer in [Issuer::new("https://a.test", "k"), Issuer::rsa("https://a.test", "k")] {
        let token = issuer.token("me", json!({"aud": "b"}));
        assert_eq!(token.split('.').count(), 3);
        assert!(issuer.jwks().contains("\"kid\":\"k\""), "{}", issuer.jwks());
    }
}
