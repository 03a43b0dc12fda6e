//! What clients see when upstreams, ports and the gateway itself come and go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use http::Version;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use weir_tests::{
    backend::{
        Server,
        echo::Echo,
        raw::{RawUpstream, Then},
    },
    client::{
        connect,
        http::{Connection, Request},
        load::Load,
        raw::RawClient,
    },
    config::Config,
    eventually::{eventually, eventually_eq},
    gateway::{Gateway, Launch},
    objects::{HTTP_GATEWAY, forward, respond, service_entry, virtual_service},
    ports,
};

async fn gateway_to(ports: &[u16]) -> Gateway {
    gateway_with_policy(ports, "{}").await
}

/// Every host goes to `up.test`, whose DestinationRule has this `trafficPolicy`.
async fn gateway_with_policy(ports: &[u16], policy: &str) -> Gateway {
    Gateway::start(config_with_policy(ports, policy)).await
}

fn config_with_policy(ports: &[u16], policy: &str) -> Config {
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: up}}\nspec:\n  host: up.test\n  trafficPolicy: {policy}\n"
    );
    Config::new()
        .with(HTTP_GATEWAY)
        .file("up.yaml", service_entry("up.test", "HTTP", ports))
        .with(rule)
        .with(forward("all", "*", "up.test"))
}

#[tokio::test]
async fn a_dead_endpoint_among_live_ones_costs_the_client_nothing() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let mut gateway = gateway_to(&[a.port(), ports::free(), b.port()]).await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for i in 0..300 {
        let request = if i % 2 == 0 {
            Request::get("a.test", "/")
        } else {
            Request::post("a.test", "/", vec![b'x'; 10_000])
        };
        let reply = connection.send(&request).await.unwrap();
        assert_eq!(reply.status, 200, "request {i}");
        assert_eq!(reply.echo().body_bytes, if i % 2 == 0 { 0 } else { 10_000 });
    }
    let retried = a.requests().into_iter().chain(b.requests());
    assert!(retried.filter(|r| r.header("x-envoy-attempt-count") == Some("2")).count() > 0);
}

#[tokio::test]
async fn without_a_live_endpoint_the_answer_is_503_uf() {
    let mut gateway = gateway_to(&[ports::free(), ports::free()]).await;
    let reply = gateway.get("dead.test", "/").await;
    assert_eq!(reply.status, 503);
    let line = gateway.access_log_line("dead.test").await;
    // The retries are used up as well; 111 is ECONNREFUSED.
    assert!(line.contains(" 503 UF,URX ") && line.contains("delayed connect error: 111"), "{line}");
}

#[tokio::test]
async fn without_an_endpoint_the_answer_is_503_uh() {
    let mut gateway = gateway_to(&[]).await;
    assert_eq!(gateway.get("none.test", "/").await.status, 503);
    assert!(gateway.access_log_line("none.test").await.contains(" 503 UH "));
}

#[tokio::test]
async fn an_upstream_that_hangs_up_on_a_request_is_503_uc() {
    let upstream = Server::start(|mut stream| async move {
        use tokio::io::AsyncReadExt as _;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let mut gateway = gateway_to(&[upstream.port()]).await;
    assert_eq!(gateway.send(&Request::post("cut.test", "/", "x")).await.status, 503);
    assert!(gateway.access_log_line("cut.test").await.contains(" 503 UC "));
    // Not a connect failure: the upstream may have acted on it, so it was asked once.
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_malformed_response_is_502_and_its_connection_is_not_used_again() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nbad header: x\r\ncontent-length: 0\r\n\r\n",
        "garbage\r\n\r\n",
    ] {
        let upstream = RawUpstream::start(response, Then::KeepOpen).await;
        let mut gateway = gateway_to(&[upstream.port()]).await;
        for _ in 0..2 {
            assert_eq!(gateway.get("bad.test", "/").await.status, 502, "{response:?}");
        }
        assert_eq!(upstream.connections(), 2, "{response:?}");
        assert!(gateway.access_log_line("bad.test").await.contains(" 502 UPE "));
    }
}

#[tokio::test]
async fn bytes_after_a_response_are_never_given_to_the_next_request() {
    let upstream = RawUpstream::start(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
        Then::KeepOpen,
    )
    .await;
    let mut gateway = gateway_to(&[upstream.port()]).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("a.test", "/").await.text(), "ok");
    }
}

#[tokio::test]
async fn an_idle_connection_the_upstream_closed_fails_no_request() {
    // Each connection serves one request, says it may be kept, and is closed.
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Close).await;
    let mut gateway = gateway_to(&[upstream.port()]).await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for i in 0..200 {
        let reply = connection.send(&Request::get("a.test", "/")).await.unwrap();
        assert_eq!(reply.status, 200, "request {i}");
    }
}

#[tokio::test]
async fn an_upstream_that_restarts_serves_again() {
    let echo = Echo::start("before").await;
    let port = echo.port();
    let mut gateway = gateway_to(&[port]).await;
    assert_eq!(gateway.get("a.test", "/").await.backend(), "before");
    drop(echo);
    eventually_eq(503, async || gateway.get("a.test", "/").await.status).await;
    let _echo = Echo::start_at("after", port).await;
    eventually_eq("after".to_owned(), async || {
        gateway.get("a.test", "/").await.backend().to_owned()
    })
    .await;
}

/// `retries` of the route to an upstream that fails and one that does not.
async fn gateway_with_retries(failing: &str, retries: &str) -> (Gateway, RawUpstream, Echo) {
    let (bad, good) =
        (RawUpstream::start(failing, Then::KeepOpen).await, Echo::start("good").await);
    let rule = format!("- retries: {retries}\n  route: [{{destination: {{host: up.test}}}}]\n");
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[bad.port(), good.port()]))
        .with(virtual_service("all", "*", &rule));
    (Gateway::start(config).await, bad, good)
}

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn failing_responses_are_retried_elsewhere_when_asked_for() {
    let retries = "{attempts: 1, retryOn: 5xx}";
    let (mut gateway, bad, _good) = gateway_with_retries(UNAVAILABLE, retries).await;
    for _ in 0..50 {
        assert_eq!(gateway.get("a.test", "/").await.backend(), "good");
    }
    assert!(bad.connections() > 0);
}

#[tokio::test]
async fn without_attempts_a_failing_response_is_passed_on() {
    let retries = "{attempts: 0}";
    let (mut gateway, _bad, _good) = gateway_with_retries(UNAVAILABLE, retries).await;
    eventually_eq(503, async || gateway.get("a.test", "/").await.status).await;
    let line = gateway.access_log_line(" 503 ").await;
    assert!(line.contains(" 503 - via_upstream "), "{line}");
}

#[tokio::test]
async fn exhausted_retries_pass_the_last_response_on_and_are_flagged() {
    let bad = RawUpstream::start(UNAVAILABLE, Then::KeepOpen).await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[bad.port()]))
        .with(virtual_service(
            "all",
            "*",
            "- retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}\n  route: [{destination: {host: up.test}}]\n",
        ));
    let mut gateway = Gateway::start(config).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 503);
    assert_eq!(bad.received().matches("GET / HTTP/1.1\r\n").count(), 3);
    let line = gateway.access_log_line("a.test").await;
    assert!(line.contains(" 503 URX via_upstream "), "{line}");
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    // Never answers.
    let retries = "{attempts: 2, perTryTimeout: 0.2s, retryOn: 5xx}";
    let (mut gateway, _bad, _good) = gateway_with_retries("", retries).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("a.test", "/").await.backend(), "good");
    }
}

#[tokio::test]
async fn requests_above_the_circuit_breaker_are_503_uo() {
    let echo = Echo::start("up").await;
    let mut gateway =
        gateway_with_policy(&[echo.port()], "{connectionPool: {http: {http2MaxRequests: 1}}}")
            .await;
    let mut first = RawClient::connect(gateway.port("http")).await;
    first.send("GET /first HTTP/1.1\r\nhost: a.test\r\nx-echo-delay: 1500\r\n\r\n").await;
    eventually_eq(1, async || echo.requests().len()).await;
    let reply = gateway.get("a.test", "/second").await;
    assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (503, Some("true")));
    assert!(gateway.access_log_line("/second").await.contains(" 503 UO "));
    assert_eq!(first.read_response().await.status, 200);
    assert_eq!(gateway.get("a.test", "/third").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_ejected() {
    let (bad, good) =
        (RawUpstream::start(UNAVAILABLE, Then::KeepOpen).await, Echo::start("good").await);
    let policy = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}}";
    let mut gateway = gateway_with_policy(&[bad.port(), good.port()], policy).await;
    let mut failed = 0;
    for _ in 0..50 {
        failed += usize::from(gateway.get("a.test", "/").await.status == 503);
    }
    assert_eq!(failed, 3);
}

#[tokio::test]
async fn round_robin_takes_turns() {
    let backends = [Echo::start("a").await, Echo::start("b").await, Echo::start("c").await];
    let ports = backends.each_ref().map(Echo::port);
    let mut gateway = gateway_with_policy(&ports, "{loadBalancer: {simple: ROUND_ROBIN}}").await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for _ in 0..90 {
        assert_eq!(connection.send(&Request::get("a.test", "/")).await.unwrap().status, 200);
    }
    assert_eq!(backends.each_ref().map(|backend| backend.requests().len()), [30, 30, 30]);
}

#[tokio::test]
async fn random_uses_every_endpoint() {
    let backends = [Echo::start("a").await, Echo::start("b").await, Echo::start("c").await];
    let ports = backends.each_ref().map(Echo::port);
    let mut gateway = gateway_with_policy(&ports, "{loadBalancer: {simple: RANDOM}}").await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for _ in 0..300 {
        assert_eq!(connection.send(&Request::get("a.test", "/")).await.unwrap().status, 200);
    }
    for backend in &backends {
        // 100 are expected; six standard deviations are 49.
        let count = backend.requests().len();
        assert!((51..=149).contains(&count), "{count} of 300");
    }
}

#[tokio::test]
async fn least_request_avoids_the_endpoint_that_is_busy() {
    let (busy, free) = (Echo::start("busy").await, Echo::start("free").await);
    let mut gateway = gateway_to(&[busy.port(), free.port()]).await;
    let port = gateway.port("http");
    // Hold requests open until the busy one has some and the other none left.
    let mut held = Vec::new();
    while busy.requests().len() < 4 {
        let mut connection = Connection::http1(port).await.unwrap();
        let seen = busy.requests().len() + free.requests().len();
        held.push(tokio::spawn(async move {
            let slow = Request::get("a.test", "/").header("x-echo-delay", "60000");
            connection.send(&slow).await
        }));
        eventually_eq(seen + 1, async || busy.requests().len() + free.requests().len()).await;
    }
    // Both hold about the same number; what is new and quick goes to the less busy of two.
    let difference = busy.requests().len().abs_diff(free.requests().len());
    assert!(difference <= 1, "held requests differ by {difference}");
    for task in held {
        task.abort();
    }
}

#[tokio::test]
async fn a_dns_name_is_resolved_to_its_endpoints() {
    let echo = Echo::start("dns").await;
    for resolution in ["DNS", "DNS_ROUND_ROBIN"] {
        let service = format!(
            r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: dns}}
spec:
  hosts: [dns.test]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: {resolution}
  endpoints: [{{address: localhost, ports: {{http: {}}}}}]
",
            echo.port()
        );
        let config =
            Config::new().with(HTTP_GATEWAY).with(service).with(forward("all", "*", "dns.test"));
        let mut gateway = Gateway::start(config).await;
        // `localhost` may have an IPv6 address too, where nobody listens.
        eventually_eq("dns".to_owned(), async || {
            gateway.get("a.test", "/").await.backend().to_owned()
        })
        .await;
    }
}

#[tokio::test]
async fn an_unresolvable_name_does_not_disturb_the_others() {
    let unresolvable = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: nowhere}
spec:
  hosts: [nowhere.invalid]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(unresolvable)
        .with(forward("nowhere", "nowhere.test", "nowhere.invalid"))
        .with(respond("ok", "ok.test", "ok"));
    let mut gateway = Gateway::start(config).await;
    assert_eq!(gateway.get("ok.test", "/").await.text(), "ok");
    assert_eq!(gateway.get("nowhere.test", "/").await.status, 503);
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_error_and_the_others_serve() {
    let port = ports::free();
    let taken = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
    let gateways = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: ${taken}, name: taken, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: ${PORT_http}, name: http, protocol: HTTP}, hosts: ["*"]}
"#;
    let config = Config::new().set("taken", port).with(gateways).with(respond("ok", "*", "ok"));
    let mut gateway = Launch::new(config).spawn().await;
    eventually("the free port serves", async || {
        let mut connection = Connection::http1(gateway.port("http")).await.ok()?;
        let reply = connection.send(&Request::get("a.test", "/")).await.ok()?;
        (reply.text() == "ok").then_some(())
    })
    .await;
    let line = gateway.log_line(&format!(":{port}")).await;
    assert!(line.contains("ERROR") && line.contains("in use"), "{line}");

    drop(taken);
    eventually("the port is bound once it is free", async || connect(port).await.ok()).await;
}

#[tokio::test]
async fn draining_finishes_what_was_begun_and_takes_nothing_new() {
    let echo = Echo::start("up").await;
    let mut gateway = gateway_to(&[echo.port()]).await;
    let port = gateway.port("http");
    let mut idle = RawClient::connect(port).await;
    idle.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    assert_eq!(idle.read_response().await.status, 200);
    let mut http1 = RawClient::connect(port).await;
    http1.send("GET /one HTTP/1.1\r\nhost: a.test\r\nx-echo-delay: 1500\r\n\r\n").await;
    let http2 = Connection::http2(port).await.unwrap();
    let mut sharing = http2.share();
    let slow = tokio::spawn(async move {
        let slow = Request::get("a.test", "/two").header("x-echo-delay", "1500");
        sharing.send(&slow).await
    });
    eventually_eq(3, async || echo.requests().len()).await;

    gateway.signal("TERM").await;
    eventually("new connections are refused", async || connect(port).await.err()).await;
    let response = http1.read_response().await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(http1.is_closed_by_server().await);
    assert!(idle.is_closed_by_server().await);
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    assert!(gateway.exited().await.success());
}

#[tokio::test]
async fn what_outlasts_the_drain_is_answered_recorded_and_logged() {
    let echo = Echo::start("up").await;
    let config = config_with_policy(&[echo.port()], "{}");
    let mut gateway = Launch::new(config).args(["--drain-time", "1s"]).start().await;
    let port = gateway.port("http");
    let slow = "GET /waiting HTTP/1.1\r\nhost: a.test\r\nx-echo-delay: 600000\r\n\r\n";
    let mut waiting = RawClient::connect(port).await;
    waiting.send(slow).await;
    let mut connection = Connection::http2(port).await.unwrap();
    let request = Request::get("a.test", "/stream").header("x-echo-delay", "600000");
    let stream = tokio::spawn(async move { connection.send(&request).await });
    let mut answering = RawClient::connect(port).await;
    answering
        .send("POST /upload HTTP/1.1\r\nhost: a.test\r\nx-echo-body: stream\r\ncontent-length: 10\r\n\r\nhello")
        .await;
    assert_eq!(answering.read_head().await.status, 200);
    eventually_eq(3, async || echo.requests().len()).await;

    gateway.signal("TERM").await;
    let response = waiting.read_response().await;
    assert_eq!((response.status, response.header("connection")), (503, Some("close")));
    assert_eq!(stream.await.unwrap().unwrap().status, 503);
    // Its response had begun: it breaks off in the middle of a body.
    let rest = String::from_utf8(answering.read_to_end().await).unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "a cut body ended cleanly: {rest:?}");
    assert!(gateway.exited().await.success());
    for (path, expected) in [
        ("/waiting", " 503 LR drain_timeout "),
        ("/stream", " 503 LR drain_timeout "),
        ("/upload", " 200 LR drain_timeout - \"-\" 5 5 "),
    ] {
        let line = gateway.access_log_line(path).await;
        assert!(line.contains(expected), "{line}");
    }
}

#[tokio::test]
async fn readiness_ends_when_draining_begins() {
    let echo = Echo::start("up").await;
    let mut gateway = gateway_to(&[echo.port()]).await;
    let mut http1 = RawClient::connect(gateway.port("http")).await;
    http1.send("GET / HTTP/1.1\r\nhost: a.test\r\nx-echo-delay: 1000\r\n\r\n").await;
    eventually_eq(1, async || echo.requests().len()).await;
    gateway.signal("TERM").await;
    let status = gateway.status_port();
    eventually_eq(Some(503), async || {
        let mut connection = Connection::http1(status).await.ok()?;
        let reply = connection.send(&Request::get("localhost", "/healthz/ready")).await.ok()?;
        Some(reply.status)
    })
    .await;
    assert_eq!(http1.read_response().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_change_under_load_without_a_failure() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let mut gateway = gateway_to(&[a.port()]).await;
    let request = Request::get("a.test", "/");
    let load = Load::start(gateway.port("http"), Version::HTTP_11, 4, &request);
    for round in 0..10 {
        let (old, new) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        gateway.config().write("up.yaml", service_entry("up.test", "HTTP", &[new.port()]));
        let seen = new.requests().len();
        eventually_eq(true, async || new.requests().len() > seen + 10).await;
        let _ = old;
    }
    let tally = load.stop().await;
    assert!(tally.failures.is_empty(), "{tally:?}");
}

#[tokio::test]
async fn a_half_open_client_does_not_hold_the_gateway() {
    let mut gateway = gateway_to(&[]).await;
    let mut client = connect(gateway.port("http")).await.unwrap();
    client.write_all(b"GET / HT").await.unwrap();
    assert!(gateway.terminate().await.success());
}
