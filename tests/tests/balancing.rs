//! Which endpoint a request goes to where that is not left to chance.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;

use weir_tests::{
    backend::{echo::Echo, tcp},
    client::http::Request,
    config::Config,
    gateway::{Gateway, Launch},
    objects::{HTTP_GATEWAY, forward, service_entry, tcp_forward},
    ports,
};

/// Backends `b0`, `b1`, ...
async fn backends(count: usize) -> Vec<Echo> {
    let mut backends = Vec::with_capacity(count);
    for number in 0..count {
        backends.push(Echo::start(&format!("b{number}")).await);
    }
    backends
}

fn ports_of(backends: &[Echo]) -> Vec<u16> {
    backends.iter().map(Echo::port).collect()
}

fn rule(load_balancer: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web}}\nspec:\n  \
         host: web.test\n  trafficPolicy:\n    loadBalancer: {load_balancer}\n"
    )
}

async fn gateway(ports: &[u16], load_balancer: &str) -> Gateway {
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("web.test", "HTTP", ports))
        .with(forward("shop", "shop.test", "web.test"))
        .with(rule(load_balancer));
    Gateway::start(config).await
}

/// The backends that answered to `times` requests.
async fn answered(gateway: &mut Gateway, request: &Request, times: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..times {
        let reply = gateway.send(request).await;
        assert_eq!(reply.status, 200);
        seen.insert(reply.backend().to_owned());
    }
    seen
}

#[tokio::test]
async fn equal_keys_go_to_the_same_endpoint_and_different_ones_to_many() {
    let backends = backends(4).await;
    let ports = ports_of(&backends);
    for algorithm in ["", ", ringHash: {minimumRingSize: 512}", ", maglev: {tableSize: 1021}"] {
        let hash = format!("{{consistentHash: {{httpHeaderName: X-User{algorithm}}}}}");
        let mut gateway = gateway(&ports, &hash).await;
        let mut seen = BTreeSet::new();
        for user in 0..40 {
            let request = Request::get("shop.test", "/").header("x-user", &format!("user-{user}"));
            let one = answered(&mut gateway, &request, 3).await;
            assert_eq!(one.len(), 1, "{algorithm}: user {user} went to {one:?}");
            seen.extend(one);
        }
        assert_eq!(seen.len(), 4, "{algorithm}");
        let anonymous = Request::get("shop.test", "/");
        assert!(
            answered(&mut gateway, &anonymous, 60).await.len() > 1,
            "without a key any will do"
        );
    }
}

#[tokio::test]
async fn a_query_parameter_or_the_address_of_the_client_can_be_the_key() {
    let backends = backends(4).await;
    let ports = ports_of(&backends);
    let query = "{consistentHash: {httpQueryParameterName: id}}";
    let mut by_query = gateway(&ports, query).await;
    let mut seen = BTreeSet::new();
    for id in 0..30 {
        let request = Request::get("shop.test", &format!("/?x={id}&id={id}&id=7"));
        let one = answered(&mut by_query, &request, 3).await;
        assert_eq!(one.len(), 1, "id {id} went to {one:?}");
        seen.extend(one);
    }
    assert_eq!(seen.len(), 4);

    let source = "{consistentHash: {useSourceIp: true}}";
    let mut by_source = gateway(&ports, source).await;
    let any = answered(&mut by_source, &Request::get("shop.test", "/"), 20).await;
    assert_eq!(any.len(), 1, "one client went to {any:?}");
}

#[tokio::test]
async fn the_address_of_a_client_is_the_one_trusted_proxies_name() {
    let backends = backends(4).await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("web.test", "HTTP", &ports_of(&backends)))
        .with(forward("shop", "shop.test", "web.test"))
        .with(rule("{consistentHash: {useSourceIp: true}}"));
    let mesh = "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}\n";
    let mut gateway = Launch::new(config).mesh_config(mesh).start().await;
    let mut seen = BTreeSet::new();
    for client in 1..40 {
        let request =
            Request::get("shop.test", "/").header("x-forwarded-for", &format!("192.0.2.{client}"));
        let one = answered(&mut gateway, &request, 2).await;
        assert_eq!(one.len(), 1, "client {client} went to {one:?}");
        seen.extend(one);
    }
    assert_eq!(seen.len(), 4);
}

#[tokio::test]
async fn a_client_without_the_cookie_is_given_one_that_brings_it_back() {
    let backends = backends(4).await;
    let hash = "{consistentHash: {httpCookie: {name: user, path: /shop, ttl: 1800s, attributes: [{name: \
                SameSite, value: Strict}]}}}";
    let mut gateway = gateway(&ports_of(&backends), hash).await;
    let mut seen = BTreeSet::new();
    for _ in 0..30 {
        let first = gateway.get("shop.test", "/").await;
        let given = first.header("set-cookie").expect("a cookie is given").to_owned();
        let (cookie, attributes) = given.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=1800; Path=/shop; SameSite=Strict; HttpOnly");
        let request = Request::get("shop.test", "/").header("cookie", &format!("a=b; {cookie}"));
        let again = gateway.send(&request).await;
        assert_eq!(again.backend(), first.backend(), "{cookie}");
        assert_eq!(again.header("set-cookie"), None, "who has one is given no other");
        seen.insert(first.backend().to_owned());
    }
    assert!(seen.len() > 1, "cookies differ");
}

#[tokio::test]
async fn a_cookie_without_a_lifetime_is_only_read() {
    let backends = backends(2).await;
    let hash = "{consistentHash: {httpCookie: {name: user}}}";
    let mut gateway = gateway(&ports_of(&backends), hash).await;
    let reply = gateway.get("shop.test", "/").await;
    assert_eq!((reply.status, reply.header("set-cookie")), (200, None));
    let request = Request::get("shop.test", "/").header("cookie", "user=one");
    assert_eq!(answered(&mut gateway, &request, 10).await.len(), 1);
}

#[tokio::test]
async fn the_keys_of_an_endpoint_that_does_not_answer_go_to_others() {
    let backends = backends(2).await;
    let mut endpoints = ports_of(&backends);
    endpoints.push(ports::free());
    let mut gateway = gateway(&endpoints, "{consistentHash: {httpHeaderName: x-user}}").await;
    for user in 0..30 {
        let request = Request::get("shop.test", "/").header("x-user", &format!("user-{user}"));
        let one = answered(&mut gateway, &request, 2).await;
        assert_eq!(one.len(), 1, "user {user} went to {one:?}");
    }
}

#[tokio::test]
async fn tcp_connections_of_one_client_go_to_one_endpoint() {
    let greeters = [tcp::greeter("a").await, tcp::greeter("b").await, tcp::greeter("c").await];
    let ports: Vec<u16> = greeters.iter().map(|greeter| greeter.port()).collect();
    let config = Config::new()
        .with(tcp_forward("web.test"))
        .with(service_entry("web.test", "TCP", &ports))
        .with(rule("{consistentHash: {useSourceIp: true}}"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("tcp");
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut greeting = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut greeting).await.unwrap();
        seen.insert(greeting);
    }
    assert_eq!(seen.len(), 1);
}
