//! Copies of requests: who gets them, and that the client never notices.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use weir_tests::{
    backend::{
        echo::Echo,
        raw::{RawUpstream, Then},
    },
    client::http::{Connection, Request},
    config::Config,
    eventually::{eventually, eventually_eq},
    gateway::Gateway,
    objects::{HTTP_GATEWAY, service_entry, virtual_service},
    ports,
};

/// A gateway that sends `shop.test` to `v1.test` and does with it what `mirror` says; `copy.test` and
/// `other.test` are on the other ports.
async fn gateway(v1: &Echo, [copy, other]: [u16; 2], mirror: &str) -> Gateway {
    let rule = format!("- route: [{{destination: {{host: v1.test}}}}]\n{mirror}");
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("v1.test", "HTTP", &[v1.port()]))
        .with(service_entry("copy.test", "HTTP", &[copy]))
        .with(service_entry("other.test", "HTTP", &[other]))
        .with(virtual_service("shop", "shop.test", &rule));
    Gateway::start(config).await
}

#[tokio::test]
async fn a_copy_is_the_request_as_it_went_upstream() {
    let v1 = Echo::start("v1").await;
    let copy = RawUpstream::start("", Then::KeepOpen).await;
    let mirror = "  mirror: {host: copy.test}\n  rewrite: {uri: /new/, authority: inner.test}\n  \
                  headers: {request: {set: {x-by: weir}}}\n";
    let mut gateway = gateway(&v1, [copy.port(), ports::free()], mirror).await;

    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    let reply = connection.send(&Request::post("shop.test", "/old?q=1", "hello")).await.unwrap();
    assert_eq!((reply.status, reply.backend()), (200, "v1"));
    let echo = reply.echo();
    assert_eq!(echo.body_bytes, 5);

    let copied = eventually("the copy has its body", async || {
        let text = copy.received();
        text.ends_with("\r\n\r\nhello").then_some(text)
    })
    .await;
    assert!(copied.starts_with("POST /new/old?q=1 HTTP/1.1\r\n"), "{copied}");
    let header = |name: &str| {
        let value = copied.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.map(str::to_owned)
    };
    assert_eq!(header("host").as_deref(), Some("inner.test"), "without a suffix");
    for name in ["x-by", "x-request-id", "x-forwarded-for", "x-envoy-attempt-count"] {
        assert_eq!(header(name).as_deref(), echo.header(name), "{name}");
    }
}

#[tokio::test]
async fn mirrors_get_their_shares_independently_and_their_answers_are_dropped() {
    let [v1, all, half] =
        [Echo::start("v1").await, Echo::start("all").await, Echo::start("half").await];
    let mirrors = "  mirrors:\n  - destination: {host: copy.test}\n  - destination: {host: other.test}\n    \
                   percentage: {value: 50}\n";
    let mut gateway = gateway(&v1, [all.port(), half.port()], mirrors).await;
    let mut connection = Connection::http2(gateway.port("http")).await.unwrap();
    for _ in 0..200 {
        let reply = connection.send(&Request::get("shop.test", "/")).await.unwrap();
        assert_eq!((reply.status, reply.backend()), (200, "v1"));
    }
    eventually_eq(200, async || all.requests().len()).await;
    // A copy is under way before the client has its answer, so these are all there will be but a few.
    let halves = half.requests().len();
    assert!((60..=140).contains(&halves), "{halves} of 200");
    assert_eq!(v1.requests().len(), 200);
}

#[tokio::test]
async fn a_share_of_nothing_is_no_copy() {
    let [v1, copy] = [Echo::start("v1").await, Echo::start("copy").await];
    let mirror = "  mirror: {host: copy.test}\n  mirrorPercentage: {value: 0}\n";
    let mut gateway = gateway(&v1, [copy.port(), ports::free()], mirror).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("shop.test", "/").await.status, 200);
    }
    // What comes after cannot be overtaken by what was never sent.
    let mirrored = mirror.replace("value: 0", "value: 100");
    let rule = format!("- route: [{{destination: {{host: v1.test}}}}]\n{mirrored}");
    gateway.config().write("05.yaml", virtual_service("shop", "shop.test", &rule));
    eventually("a copy is made", async || {
        let reply = gateway.get("shop.test", "/marked").await;
        assert_eq!(reply.status, 200);
        copy.requests().first().cloned()
    })
    .await;
    assert!(copy.requests().iter().all(|request| request.target == "/marked"));
}

#[tokio::test]
async fn a_mirror_that_refuses_or_hangs_costs_the_client_nothing() {
    let v1 = Echo::start("v1").await;
    let hanging = RawUpstream::start("", Then::KeepOpen).await;
    let mirrors =
        "  mirrors:\n  - destination: {host: copy.test}\n  - destination: {host: other.test}\n";
    let mut gateway = gateway(&v1, [hanging.port(), ports::free()], mirrors).await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for _ in 0..50 {
        let reply = connection.send(&Request::get("shop.test", "/")).await.unwrap();
        assert_eq!((reply.status, reply.backend()), (200, "v1"));
    }
    // Larger than what waits for a mirror that reads nothing.
    let large = Request::post_pattern("shop.test", "/", 8 * 1024 * 1024, true);
    let reply = connection.send(&large).await.unwrap();
    assert_eq!((reply.status, reply.echo().body_bytes), (200, 8 * 1024 * 1024));
    eventually_eq(51, async || hanging.connections()).await;
}
