//! HTTP/1 messages with which one server can be made to see other requests than the next (C2). IDs are
//! rows of `docs/limits.md` and of the lists it cites; what is refused by its head alone is in
//! `security.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::fs;

use serde_json::{Value, json};
use weir_tests::{
    backend::{
        Server,
        echo::Echo,
        raw::{RawUpstream, Then},
    },
    client::{
        http::{Connection, Request},
        raw::RawClient,
    },
    config::Config,
    eventually::eventually_eq,
    gateway::{self, Gateway, Launch},
    objects::{HTTP_GATEWAY, forward, service_entry, virtual_service},
};

const MIB: u64 = 1024 * 1024;
const CANARY: &str = "GET /canary HTTP/1.1\r\nhost: a.test\r\n\r\n";

async fn gateway_to(port: u16, objects: &[&str]) -> Gateway {
    let mut config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[port]))
        .with(forward("all", "*", "up.test"));
    for object in objects {
        config = config.with(object);
    }
    Gateway::start(config).await
}

fn chunked(chunks: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")
}

/// Requests an upstream has seen, by their targets.
fn targets(echo: &Echo) -> Vec<String> {
    echo.requests().into_iter().map(|request| request.target).collect()
}

#[tokio::test]
async fn chunks_that_two_servers_could_read_differently_are_400() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(echo.port(), &[]).await;
    let extension = "x".repeat(61 * 1024);
    for (what, chunks) in [
        ("H07 minus", "-5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 leading space", " 5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 trailing space", "5 \r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 underscore", "5_\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 seventeen digits", "00000000000000005\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H07 an endless extension", format!("5;{extension}\r\nhello\r\n0\r\n\r\n")),
        ("H08 an empty line first", "\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("H08 an empty line before the last", "5\r\nhello\r\n\r\n0\r\n\r\n".to_owned()),
        ("H08 LF behind data", "5\r\nhello\n0\r\n\r\n".to_owned()),
        ("H09 LF behind the last size", "5\r\nhello\r\n0\n\r\n".to_owned()),
        ("H09 LF at the end", "5\r\nhello\r\n0\r\n\n".to_owned()),
        ("H09 CR CR LF", "5\r\r\nhello\r\n0\r\n\r\n".to_owned()),
    ] {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(chunked(&chunks) + CANARY).await;
        let response = client.read_response().await;
        assert_eq!(response.status, 400, "{what}");
        assert!(client.is_closed_by_server().await, "{what}: the connection goes on");
    }
    assert!(!targets(&echo).contains(&"/canary".to_owned()));
}

#[tokio::test]
async fn what_follows_the_last_chunk_is_the_next_request() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(echo.port(), &[]).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(chunked("5;a=b\r\nhello\r\n0\r\n\r\n") + CANARY).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_eq!(client.read_response().await.status, 200);
    assert_eq!(targets(&echo), ["/", "/canary"]);
    // Garbage there is no request, and no part of the one before.
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(chunked("5\r\nhello\r\n0\r\n\r\n") + "X" + CANARY).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_eq!(client.read_response().await.status, 200, "XGET is a method like any other");
    assert_eq!(echo.requests().pop().unwrap().method, "XGET");
}

#[tokio::test]
async fn a_million_chunks_of_a_byte_are_served_in_bounded_memory() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(echo.port(), &[]).await;
    let before = gateway.memory("VmHWM");
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(chunked("")).await;
    let batch = "1\r\nx\r\n".repeat(10_000);
    for _ in 0..100 {
        client.send(&batch).await;
    }
    client.send("0\r\n\r\n").await;
    let response = client.read_response().await;
    assert_eq!(response.status, 200);
    let body = String::from_utf8(response.body).unwrap();
    assert!(body.contains("\"body_bytes\":1000000"), "H07: {body}");
    let grown = gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 16 * MIB, "the gateway grew by {grown} bytes");
}

#[tokio::test]
async fn trailers_never_become_headers() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), &[]).await;
    let trailers = "content-length: 5\r\ntransfer-encoding: chunked\r\nhost: b.test\r\n\
                    authorization: Basic eA==\r\ncookie: a=b\r\nx-forwarded-for: 1.2.3.4\r\n\
                    x-checksum: 7\r\n";
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(chunked(&format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))).await;
    assert_eq!(client.read_response().await.status, 200);
    eventually_eq(true, async || upstream.received().ends_with("\r\n\r\n")).await;
    let received = upstream.received();
    let (_, behind) = received.split_once("\r\n0\r\n").unwrap();
    for forbidden in ["content-length", "transfer-encoding", "host", "authorization", "cookie"] {
        assert!(!behind.contains(forbidden), "H10 {forbidden}: {received}");
    }
    assert!(!behind.contains("x-forwarded-for"), "H10: {received}");
    assert!(behind.contains("x-checksum: 7"), "what is harmless passes: {received}");
}

#[tokio::test]
async fn lengths_and_hosts_are_forwarded_in_one_spelling() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::KeepOpen).await;
    let deny = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec:
  action: DENY
  rules: [{to: [{operation: {hosts: [secret.test]}}]}]
";
    let mut gateway = gateway_to(upstream.port(), &[deny]).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("\r\nPOST / HTTP/1.1\r\nhost: A.TEST.\r\ncontent-length: 005\r\n\r\nhello").await;
    assert_eq!(client.read_response().await.status, 200, "H03, H12: one empty line is tolerated");
    let received = upstream.received();
    assert!(received.contains("\r\ncontent-length: 5\r\n"), "H03: {received}");
    assert!(received.contains("\r\nhost: a.test\r\n"), "H14: {received}");
    for host in ["SECRET.test", "secret.test.", "secret.test:80", "Secret.Test.:80"] {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(client.read_head().await.status, 403, "H14 {host}");
    }
}

#[tokio::test]
async fn unknown_methods_pass_and_the_asterisk_is_for_options() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(echo.port(), &[]).await;
    for (line, status) in [
        ("PROPFIND / HTTP/1.1", 200),
        ("get / HTTP/1.1", 200),
        ("OPTIONS * HTTP/1.1", 200),
        ("OPTIONS / HTTP/1.1", 200),
        ("GET * HTTP/1.1", 400),
        ("GET a.test/ HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET /\u{e9} HTTP/1.1", 400),
        ("GET https://a.test/ HTTP/1.1", 400),
        ("CONNECT a.test:80 HTTP/1.1", 405),
    ] {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(format!("{line}\r\nhost: a.test\r\n\r\n")).await;
        assert_eq!(client.read_head().await.status, status, "H13, H15 {line:?}");
    }
}

/// H16: answers of our own to requests whose body nobody reads.
#[tokio::test]
async fn no_early_answer_leaves_a_body_to_be_taken_for_a_request() {
    let echo = Echo::start("v1").await;
    let routes = virtual_service(
        "early",
        "early.test",
        "- match: [{uri: {exact: /redirect}}]\n  redirect: {uri: /there}\n\
         - match: [{uri: {exact: /direct}}]\n  directResponse: {status: 200, body: {string: hi}}\n\
         - match: [{uri: {exact: /fault}}]\n  fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n  \
         route: [{destination: {host: up.test}}]\n\
         - match: [{uri: {exact: /canary}}]\n  route: [{destination: {host: up.test}}]\n",
    );
    let mut gateway = gateway_to(echo.port(), &[&routes]).await;
    let canary = CANARY.replace("a.test", "early.test");
    for (path, status) in [("/redirect", 301), ("/direct", 200), ("/fault", 418), ("/none", 404)] {
        for method in ["GET", "HEAD", "POST"] {
            for filler in [0, 70_000] {
                let body = canary.clone() + &"x".repeat(filler);
                let head = format!("{method} {path} HTTP/1.1\r\nhost: early.test\r\n");
                let sized = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                let size = body.len();
                let chunks = format!(
                    "{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
                );
                for bytes in [sized, chunks] {
                    let mut client = RawClient::connect(gateway.port("http")).await;
                    client.send(&bytes).await;
                    assert_eq!(client.read_head().await.status, status, "{method} {path}");
                    client.finish().await;
                    let rest = String::from_utf8(client.read_to_end().await).unwrap();
                    assert!(!rest.contains("HTTP/1.1"), "{method} {path} {filler}: {rest}");
                }
            }
        }
    }
    assert_eq!(targets(&echo), Vec::<String>::new());
}

#[tokio::test]
async fn an_expectation_is_met_by_the_upstream_or_not_at_all() {
    let put = "PUT / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    for (what, answer, statuses) in [
        ("200 without 100", ok.to_owned(), vec![200]),
        ("417", ok.replace("200 OK", "417 Expectation Failed"), vec![417]),
        ("100 twice", format!("{go_on}{go_on}{ok}"), vec![100, 200]),
        (
            "102, then 100",
            format!("{}{go_on}{ok}", go_on.replace("100", "102")),
            vec![102, 100, 200],
        ),
    ] {
        let upstream = RawUpstream::start(answer, Then::Close).await;
        let mut gateway = gateway_to(upstream.port(), &[]).await;
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(put).await;
        let told = statuses.contains(&100);
        for expected in statuses {
            let response = match expected {
                100..200 => client.read_head().await,
                _ => client.read_response().await,
            };
            assert_eq!(response.status, expected, "H17 {what}");
        }
        if told {
            // Whoever was told to go on sends the body, and it is the body.
            client.send(format!("hello{CANARY}")).await;
            let mut next = client.read_head().await;
            while next.status == 102 {
                next = client.read_head().await;
            }
            assert_eq!(next.status, 200, "H17 {what}");
            assert!(upstream.received().contains("GET /canary"), "H17 {what}");
        } else {
            // Nobody knows whether the body will come, and so where the next request begins.
            client.send(CANARY).await;
            assert!(client.is_closed_by_server().await, "H17 {what}: the connection goes on");
            assert!(!upstream.received().contains("canary"), "H17 {what}");
        }
    }
}

#[tokio::test]
async fn an_expectation_without_a_body_is_nobodys() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(echo.port(), &[]).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.read_response().await.status, 200, "H17");
    assert_eq!(echo.requests()[0].header("expect"), None);
    for (field, status) in [("y 100-continue", 417), ("100-continue, x", 417)] {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client
            .send(format!(
                "PUT / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\nexpect: {field}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.read_response().await.status, status, "H17 {field}");
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_wait_for_the_101() {
    // Declines: what the client sent for a WebSocket must not be a request.
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), &[]).await;
    let upgrade = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(format!("{upgrade}{CANARY}")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert!(client.is_closed_by_server().await, "H18");
    assert!(!upstream.received().contains("canary"), "H18: {}", upstream.received());
    // A body makes it no upgrade anybody could agree on.
    let mut client = RawClient::connect(gateway.port("http")).await;
    let with_body = upgrade.replace("\r\n\r\n", "\r\ncontent-length: 5\r\n\r\nhello");
    client.send(with_body).await;
    assert_eq!(client.read_response().await.status, 400, "H18");
}

#[tokio::test]
async fn responses_two_proxies_could_read_differently_are_502_and_end_their_connection() {
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    for (what, response) in [
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".to_owned(),
        ),
        (
            "length and coding",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
        ("another coding", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n".to_owned()),
        ("a broken field", "HTTP/1.1 200 OK\r\nx y: z\r\ncontent-length: 0\r\n\r\n".to_owned()),
        ("NUL in a field", "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n".to_owned()),
        ("bare LF", "HTTP/1.1 200 OK\ncontent-length: 0\n\r\n\r\n".to_owned()),
        ("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n\r\n".to_owned()),
        ("junk in the status", "HTTP/1.1 2x0 OK\r\n\r\n".to_owned()),
        ("too many 1xx", flood),
    ] {
        let upstream = RawUpstream::start(response, Then::KeepOpen).await;
        let mut gateway = gateway_to(upstream.port(), &[]).await;
        for made in 1..=2 {
            let mut client = RawClient::connect(gateway.port("http")).await;
            client.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            let mut response = client.read_head().await;
            while response.status == 103 {
                response = client.read_head().await;
            }
            assert_eq!(response.status, 502, "H19 {what}");
            assert_eq!(upstream.connections(), made, "H19 {what}: its connection is used again");
        }
    }
}

#[tokio::test]
async fn a_length_where_there_is_no_body_is_nobodys_body() {
    for (what, request, response) in [
        ("204", "GET", "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"),
        ("304", "GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
    ] {
        let upstream = RawUpstream::start(response, Then::KeepOpen).await;
        let mut gateway = gateway_to(upstream.port(), &[]).await;
        let mut client = RawClient::connect(gateway.port("http")).await;
        for _ in 0..3 {
            client.send(format!("{request} / HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
            let status = client.read_head().await.status;
            assert!(response.contains(&status.to_string()), "H19 {what}: {status}");
        }
        let mut http2 = Connection::http2(gateway.port("http")).await.unwrap();
        let reply = http2.send(&Request::get("a.test", "/").method(request)).await.unwrap();
        assert!(reply.body.is_empty(), "H19 {what}");
    }
}

#[tokio::test]
async fn a_large_response_head_is_502_and_the_next_request_is_served() {
    let large =
        format!("HTTP/1.1 200 OK\r\nx-a: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(61 * 1024));
    let upstream = RawUpstream::start(large, Then::KeepOpen).await;
    let mut gateway = gateway_to(upstream.port(), &[]).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 502, "D04");
}

#[tokio::test]
async fn grpc_lengths_and_timeouts_nobody_can_mean_cost_nothing() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(echo.port(), &[]).await;
    let before = gateway.memory("VmHWM");
    for timeout in ["99999999999H", "-1S", "1", "x", ""] {
        let mut connection = Connection::http2(gateway.port("http")).await.unwrap();
        let request = Request::post("a.test", "/s/m", b"\0\xff\xff\xff\xffhello".to_vec())
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout);
        let reply = connection.send(&request).await.unwrap();
        assert_eq!(reply.status, 200, "T10 {timeout:?}");
        assert_eq!(reply.echo().body_bytes, 10);
    }
    let grown = gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 8 * MIB, "the gateway grew by {grown} bytes");
}

#[tokio::test]
async fn a_client_that_closes_half_of_its_connection_while_it_waits_gets_its_response() {
    let server = Server::start(|mut stream| async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        // Long enough for the gateway to have seen the client's end.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let _ = stream.write_all(b"late").await;
    })
    .await;
    let mut gateway = gateway_to(server.port(), &[]).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    client.finish().await;
    assert_eq!(client.read_head().await.status, 200);
    assert_eq!(client.read_to_end().await, b"late");
}

#[tokio::test]
async fn a_client_that_closes_half_of_its_connection_after_a_response_began_gets_the_rest() {
    let server = Server::start(|mut stream| async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let body = vec![b'x'; 1_000_000];
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
        let _ = stream.write_all(&body).await;
    })
    .await;
    let mut gateway = gateway_to(server.port(), &[]).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await;
    assert_eq!(client.read_head().await.status, 200);
    client.finish().await;
    assert_eq!(client.read_to_end().await.len(), 1_000_000);
}

/// C10 N09: what configuration and requests say is data, wherever it comes out again.
#[tokio::test]
async fn text_of_configuration_and_of_requests_stays_text() {
    const BODY: &str =
        "it's \"quoted\"\n${HOME} $(id) `id` {{ .Values }} %REQ(authorization)% %s <b> \u{fc}";
    const CLIENTS: &str = "%REQ(authorization)% ${HOME} {{x}}";
    const AGENT: &str = r#"x","response_code":"injected","y":"\"#;
    let echo = Echo::start("v1").await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"));
    let routes = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "text", "namespace": "default", "annotations": {"a": BODY}},
        "spec": {"hosts": ["text.test"], "gateways": ["gw"], "http": [
            {"name": "a ${HOME} %s", "match": [{"uri": {"prefix": "/body"}}],
             "directResponse": {"status": 200, "body": {"string": BODY}}},
            {"headers": {"response": {"set": {
                "x-text": "${HOME} $(id) {{x}} \"q\" 100%%", "x-client": "%REQ(x-client)%"}}},
             "route": [{"destination": {"host": "up.test"}}]}]}});
    config.write_bytes("text.yaml", routes.to_string().as_bytes());
    let json_log = "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n";
    let mut gateway = Launch::new(config).mesh_config(json_log).start().await;

    assert_eq!(gateway.get("text.test", "/body").await.text(), BODY);
    let request = Request::get("text.test", "/")
        .header("x-client", CLIENTS)
        .header("authorization", "Bearer secret")
        .header("user-agent", AGENT);
    let reply = gateway.send(&request).await;
    assert_eq!(reply.header("x-text"), Some("${HOME} $(id) {{x}} \"q\" 100%"));
    assert_eq!(reply.header("x-client"), Some(CLIENTS));
    let line = gateway.access_log_line("injected").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["user_agent"], &line["response_code"]), (&json!(AGENT), &json!(200)));

    // What would be another header, or another answer, is refused where it is written.
    let split = routes.to_string().replace("${HOME} $(id) {{x}}", "a\\r\\nset-cookie: evil");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("split.yaml"), &split).unwrap();
    let output = gateway::check(folder.path()).await;
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(told.contains("headers.response.set"), "{told}");
}
