//! What an attacker can do with HTTP/2 frames and with connections has a bounded answer: memory stays,
//! others are served. IDs (T02, T04, ...) are rows of the lists `docs/limits.md` cites.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir_tests::{
    backend::echo::Echo,
    certs::Authority,
    client::{
        connect_tls,
        frames::{
            self, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame,
            FrameClient, HEADERS, PING, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM,
            SETTINGS, WINDOW_UPDATE, block, get,
        },
        raw::RawClient,
    },
    config::Config,
    eventually::eventually,
    gateway::{Gateway, Launch},
    objects::{HTTP_GATEWAY, forward, service_entry, tls_secret},
};

const MIB: u64 = 1024 * 1024;

async fn gateway_to(echo: &Echo) -> Gateway {
    Gateway::start(config_to(echo)).await
}

fn config_to(echo: &Echo) -> Config {
    Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"))
}

/// A flood that ends the connection as one that is too much, costs the process next to nothing, and
/// leaves others served.
async fn expect_calm(gateway: &mut Gateway, what: &str, client: FrameClient, frame: &Frame) {
    let before = gateway.memory("VmRSS");
    let code = client.flood(frame, 1_000_000).await;
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{what}: {code:?}");
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    assert!(grown < 8 * MIB, "{what}: the gateway grew by {grown} bytes");
    assert_eq!(gateway.get("a.test", "/").await.status, 200, "{what}");
}

#[tokio::test]
async fn frames_that_carry_nothing_end_the_connection_when_there_are_too_many() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let port = gateway.port("http");
    for (what, frame) in [
        ("T04 PING", Frame::new(PING, 0, 0, [0; 8])),
        ("T04 SETTINGS", Frame::settings(&[])),
        ("T04 SETTINGS with values", Frame::settings(&[(4, 70_000), (3, 100)])),
        ("T04 PRIORITY", Frame::new(PRIORITY, 0, 1, [0, 0, 0, 0, 16])),
        ("T04 WINDOW_UPDATE", Frame::new(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1])),
        ("T04 unknown frame", Frame::new(0xfa, 0, 0, [0; 32])),
    ] {
        let client = FrameClient::connect(port, &[]).await;
        expect_calm(&mut gateway, what, client, &frame).await;
    }
    // Of a stream that is open.
    for (what, frame) in [
        ("T04 empty DATA", Frame::new(DATA, 0, 1, [])),
        ("T04 WINDOW_UPDATE of a stream", Frame::new(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1])),
    ] {
        let mut client = FrameClient::connect(port, &[]).await;
        client.send(&[Frame::headers(1, 0, &get("/"))]).await;
        expect_calm(&mut gateway, what, client, &frame).await;
    }
}

#[tokio::test]
async fn a_keep_alive_ping_now_and_then_is_no_flood() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let mut client = FrameClient::connect(gateway.port("http"), &[]).await;
    for _ in 0..500 {
        client.send(&[Frame::new(PING, 0, 0, *b"12345678")]).await;
        assert_eq!(client.read_kind(PING).await.payload, b"12345678");
    }
    client.send(&[Frame::headers(1, END_STREAM, &get("/"))]).await;
    assert!(client.outcome(1).await.is_ok());
}

#[tokio::test]
async fn a_header_block_that_never_ends_ends_the_connection() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let port = gateway.port("http");
    for (what, piece) in [("T03 full", vec![0; 16 * 1024]), ("T03 empty", Vec::new())] {
        let mut client = FrameClient::connect(port, &[]).await;
        client.send(&[Frame::new(HEADERS, 0, 1, block(&get("/")))]).await;
        let frame = Frame::new(CONTINUATION, 0, 1, piece);
        let before = gateway.memory("VmRSS");
        let code = client.flood(&frame, 1_000_000).await;
        // A block of zeros is broken as soon as it is looked at, and may be.
        assert!(code.is_none_or(|code| code != 0), "{what}: {code:?}");
        let grown = gateway.memory("VmRSS").saturating_sub(before);
        assert!(grown < 8 * MIB, "{what}: the gateway grew by {grown} bytes");
    }
    assert_eq!(gateway.get("a.test", "/").await.status, 200);
    assert_eq!(echo.requests().len(), 1);
}

#[tokio::test]
async fn making_the_server_reset_streams_is_counted_as_resetting_them() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let port = gateway.port("http");
    let increment_of_zero = |stream| Frame::new(WINDOW_UPDATE, 0, stream, [0; 4]);
    let too_large = |stream| Frame::new(WINDOW_UPDATE, 0, stream, [0x7f, 0xff, 0xff, 0xff]);
    let after_the_end = |stream| Frame::new(DATA, 0, stream, [0]);
    let own_parent =
        |stream: u32| Frame::new(PRIORITY, 0, stream, [&stream.to_be_bytes()[..], &[16]].concat());
    let short_priority = |stream| Frame::new(PRIORITY, 0, stream, [0; 4]);
    for (what, trigger) in [
        ("T02 increment of 0", &increment_of_zero as &dyn Fn(u32) -> Frame),
        ("T02 window too large", &too_large),
        ("T02 DATA after the end", &after_the_end),
        ("T02 own parent", &own_parent),
        ("T02 short PRIORITY", &short_priority),
    ] {
        let mut client = FrameClient::connect(port, &[]).await;
        let seen = echo.requests().len();
        let mut ended = None;
        for n in 0..20_000_u32 {
            let stream = n * 2 + 1;
            let head = Frame::headers(stream, END_STREAM, &get("/reset"));
            client.send(&[head, trigger(stream)]).await;
            if n % 50 == 49 {
                client.send(&[Frame::new(PING, 0, 0, n.to_be_bytes().repeat(2))]).await;
                ended = flood_ended(&mut client).await;
                if ended.is_some() {
                    break;
                }
            }
        }
        let reached = echo.requests().len() - seen;
        assert_eq!(ended, Some(true), "{what}: the connection goes on after {reached} requests");
        assert!(reached < 5_000, "{what}: {reached} requests reached the upstream");
        assert_eq!(gateway.get("a.test", "/").await.status, 200, "{what}");
    }
}

/// Reads up to the answer to a PING: `None`. Or the connection is over.
async fn flood_ended(client: &mut FrameClient) -> Option<bool> {
    loop {
        match client.read().await {
            None => return Some(true),
            Some(frame) if frame.kind == PING => return None,
            Some(_) => {}
        }
    }
}

/// A request with a cookie of `size` bytes and `count` references to it.
fn bomb(path: &str, size: usize, count: usize) -> Frame {
    let mut block = block(&get(path));
    // A literal with indexing differs from one without in its first byte only.
    let at = block.len();
    block.extend(frames::block(&[("cookie", &vec![b'x'; size])]));
    block[at] = 0x40;
    block.extend(vec![0xbe; count]);
    Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

#[tokio::test]
async fn small_references_to_fields_are_counted_as_the_fields_they_stand_for() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let before = gateway.memory("VmRSS");
    let mut client = FrameClient::connect(gateway.port("http"), &[]).await;
    // T05: a cookie goes into the dynamic table and is referred to by a byte each time. Crumbs of a
    // few bytes are too many fields, such of 4 KiB more than any client has reason to.
    client.send(&[bomb("/crumbs", 3, 200)]).await;
    client.outcome(1).await.unwrap();
    let line = gateway.access_log_line("/crumbs").await;
    assert!(line.contains(" 431 DPE too_many_headers "), "{line}");
    let mut client = FrameClient::connect(gateway.port("http"), &[]).await;
    client.send(&[bomb("/bomb", 3_900, 8_000)]).await;
    assert_eq!(client.outcome(1).await, Err(ENHANCE_YOUR_CALM));
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    assert!(grown < 8 * MIB, "the gateway grew by {grown} bytes");
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_not_buffered_for() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let before = gateway.memory("VmRSS");
    // T06: SETTINGS_INITIAL_WINDOW_SIZE 0, and a hundred responses of a megabyte.
    let mut client = FrameClient::connect(gateway.port("http"), &[(4, 0)]).await;
    let size = MIB.to_string();
    for n in 0..100 {
        let mut fields = get("/stall");
        fields.push(("x-echo-bytes", size.as_bytes()));
        client.send(&[Frame::headers(n * 2 + 1, END_STREAM, &fields)]).await;
    }
    for _ in 0..100 {
        client.read_kind(HEADERS).await;
    }
    for _ in 0..20 {
        assert_eq!(gateway.get("a.test", "/").await.status, 200);
    }
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    assert!(grown < 40 * MIB, "the gateway grew by {grown} bytes");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_others_served() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let mut client = FrameClient::connect(gateway.port("http"), &[]).await;
    let mut fields = get("/slow");
    fields.push(("x-echo-delay", b"1000"));
    // T07: SETTINGS say 100. Acknowledged first, so that there is no excuse.
    client.read_kind(SETTINGS).await;
    client.send(&[Frame::new(SETTINGS, 1, 0, [])]).await;
    for n in 0..101 {
        client.send(&[Frame::headers(n * 2 + 1, END_STREAM, &fields)]).await;
    }
    let refused = client.read_kind(RST_STREAM).await;
    assert_eq!((refused.stream, refused.error_code()), (201, REFUSED_STREAM));
    for _ in 0..100 {
        client.read_kind(HEADERS).await;
    }
    assert_eq!(echo.requests().len(), 100);
}

#[tokio::test]
async fn a_client_that_sends_malformed_requests_only_is_sent_away() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let mut client = FrameClient::connect(gateway.port("http"), &[]).await;
    let mut fields = get("/bad");
    fields.push(("content_length", b"5"));
    // G14: 32 of them are answered, in whichever order; then it is enough.
    for n in 0..33 {
        client.send(&[Frame::headers(n * 2 + 1, END_STREAM, &fields)]).await;
    }
    assert_eq!(client.goaway().await, ENHANCE_YOUR_CALM);
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn a_preface_and_nothing_else_is_closed() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    // T08: not even the SETTINGS that have to follow.
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.read_to_end().await;
}

#[tokio::test]
async fn http_2_requests_that_are_none_are_reset_and_never_forwarded() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let port = gateway.port("http");
    let with = |name: &'static str, value: &'static [u8]| {
        let mut fields = get("/bad");
        fields.push((name, value));
        fields
    };
    let replaced = |name: &'static str, value: &'static [u8]| {
        get("/bad").into_iter().map(|it| if it.0 == name { (name, value) } else { it }).collect()
    };
    let without = |name: &str| get("/bad").into_iter().filter(|it| it.0 != name).collect();
    for (what, fields) in [
        ("CR LF in a value", with("x-a", b"b\r\nx-c: d")),
        ("NUL in a value", with("x-a", b"b\0c")),
        ("CR LF in a name", with("x-a: b\r\nx-c", b"d")),
        ("colon in a name", with("x:a", b"b")),
        ("space in a name", with("x a", b"b")),
        ("upper case", with("X-A", b"b")),
        ("transfer-encoding", with("transfer-encoding", b"chunked")),
        ("connection", with("connection", b"close")),
        ("upgrade", with("upgrade", b"websocket")),
        ("te", with("te", b"gzip")),
        ("a pseudo-header behind a field", {
            let mut fields = with("x-a", b"b");
            fields.push((":path", b"/two"));
            fields
        }),
        ("an unknown pseudo-header", with(":x", b"y")),
        ("two methods", with(":method", b"POST")),
        ("CR LF in :path", replaced(":path", b"/ HTTP/1.1\r\nx: y")),
        ("CR LF in :authority", replaced(":authority", b"a.test\r\nx: y")),
        ("CR LF in :method", replaced(":method", b"GET / HTTP/1.1\r\nx: y\r\n\r\nGET")),
        ("an empty :path", replaced(":path", b"")),
        ("no :path", without(":path")),
        ("no :scheme", without(":scheme")),
        ("no :method", without(":method")),
    ] {
        let fields: Vec<_> = fields;
        let mut client = FrameClient::connect(port, &[]).await;
        client.send(&[Frame::headers(1, END_STREAM, &fields)]).await;
        assert_eq!(client.outcome(1).await, Err(PROTOCOL_ERROR), "H21 {what}");
    }
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_reset_and_the_others_go_on() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let mut client = FrameClient::connect(gateway.port("http"), &[]).await;
    let mut fields = get("/slow");
    fields.push(("x-echo-delay", b"300"));
    client.send(&[Frame::headers(1, END_STREAM, &fields)]).await;
    let mut fields = get("/lies");
    fields[0].1 = b"POST";
    fields.push(("content-length", b"5"));
    client.send(&[Frame::headers(3, 0, &fields), Frame::new(DATA, END_STREAM, 3, *b"abc")]).await;
    assert_eq!(client.outcome(3).await, Err(PROTOCOL_ERROR), "H21");
    assert!(client.outcome(1).await.is_ok());
}

#[tokio::test]
async fn a_tls_client_that_chose_http_1_1_cannot_go_on_in_http_2() {
    let echo = Echo::start("v1").await;
    let ca = Authority::new("site");
    let identity = ca.server(&["a.test"]);
    let https = HTTP_GATEWAY
        .replace(
            "protocol: HTTP}",
            "protocol: HTTPS}\n    tls: {mode: SIMPLE, credentialName: site}",
        )
        .replace("PORT_http", "PORT_https");
    let config = Config::new()
        .with(https)
        .with(tls_secret("site", &identity.certificate, &identity.key))
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let tls = ca.client_config(None, &["http/1.1"]);
    let port = gateway.port("https");
    let mut stream = connect_tls(port, &tls, "a.test").await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "T09: {answer}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_service_returns() {
    let echo = Echo::start("v1").await;
    let mut gateway = Launch::new(config_to(&echo)).open_files(164).start().await;
    let port = gateway.port("http");
    let get = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let mut open = Vec::new();
    loop {
        let mut client = RawClient::connect(port).await;
        client.send(get).await;
        if client.is_closed_within_head().await {
            break;
        }
        open.push(client);
    }
    // Not all of the files: there are upstreams, logs and the admin port.
    assert!((40..120).contains(&open.len()), "D08: {} connections of 164 files", open.len());
    for _ in 0..50 {
        let mut client = RawClient::connect(port).await;
        assert!(client.is_closed_by_server().await, "D08");
    }
    assert_eq!(gateway.admin("/ready").await.status, 200, "the admin port is exempt");
    let refused = gateway.metrics().await.sum("weir_listener_connections_refused_total", &[]);
    assert!(refused >= 50.0, "{refused}");
    drop(open);
    eventually("service is back", async || {
        let mut client = RawClient::connect(port).await;
        client.send(get.replace("host", "connection: close\r\nhost")).await;
        (!client.read_to_end().await.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_nobody_reads_the_answers_of_are_not_queued_up() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_to(&echo).await;
    let before = gateway.memory("VmRSS");
    let mut client = RawClient::connect(gateway.port("http")).await;
    // H23: responses of 1 MiB each; only so many are made as fit into sockets and buffers.
    let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-echo-bytes: {MIB}\r\n\r\n");
    client.send(request.repeat(1_000)).await;
    eventually("the first is there", async || echo.requests().first().cloned()).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("a.test", "/").await.status, 200);
    }
    let made = echo.requests().iter().filter(|it| it.header("x-echo-bytes").is_some()).count();
    assert!(made < 50, "{made} responses were made for a client that reads none");
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    assert!(grown < 8 * MIB, "the gateway grew by {grown} bytes");
}
