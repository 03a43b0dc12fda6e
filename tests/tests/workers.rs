//! A gateway of several workers: connections are shared out among them, and what each needs is its own,
//! unless a limit is to hold for all.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use weir_tests::{
    backend::echo::Echo,
    client::http::{Connection, Request},
    config::Config,
    eventually::eventually_eq,
    gateway::Gateway,
    objects::{HTTP_GATEWAY, forward, service_entry},
};

/// What gateways of the tests are started with.
const WORKERS: usize = 2;

fn config(upstream: &Echo, protocol: &str) -> Config {
    Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", protocol, &[upstream.port()]))
        .with(forward("all", "*", "up.test"))
}

async fn send(connection: &mut Connection) {
    let reply = connection.send(&Request::get("a.test", "/")).await.unwrap();
    assert_eq!(reply.status, 200);
}

/// One request after the other, so that a worker needs no second connection.
async fn send_on_each(connections: &mut [Connection]) {
    for connection in connections {
        send(connection).await;
    }
}

#[tokio::test]
async fn connections_are_shared_out_and_each_worker_has_its_own_upstream_connection() {
    for protocol in ["HTTP", "HTTP2"] {
        let upstream = Echo::start("up").await;
        let mut gateway = Gateway::start(config(&upstream, protocol)).await;
        let port = gateway.port("http");
        let mut connections = Vec::new();
        for _ in 0..WORKERS {
            connections.push(Connection::http1(port).await.unwrap());
            connections.push(Connection::http2(port).await.unwrap());
        }
        send_on_each(&mut connections).await;
        assert_eq!(upstream.connections(), WORKERS, "to {protocol}");
        send_on_each(&mut connections).await;
        assert_eq!(upstream.connections(), WORKERS, "to {protocol}, again");
    }
}

#[tokio::test]
async fn a_limit_of_connections_holds_for_all_workers_together() {
    let upstream = Echo::start("up").await;
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: up}\n\
        spec:\n  host: up.test\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}\n";
    let mut gateway = Gateway::start(config(&upstream, "HTTP").with(rule)).await;
    let port = gateway.port("http");
    let mut clients = JoinSet::new();
    for _ in 0..4 * WORKERS {
        let mut connection = Connection::http1(port).await.unwrap();
        clients.spawn(async move {
            for _ in 0..20 {
                send(&mut connection).await;
            }
        });
    }
    clients.join_all().await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_goes_to_the_worker_with_the_fewest() {
    let upstream = Echo::start("up").await;
    let mut gateway = Gateway::start(config(&upstream, "HTTP")).await;
    let port = gateway.port("http");
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(Connection::http1(port).await.unwrap());
    }
    let mut by_worker: BTreeMap<String, Vec<Connection>> = BTreeMap::new();
    for mut connection in connections {
        by_worker.entry(worker_of(&mut connection, &gateway).await).or_default().push(connection);
    }
    let counts = |workers: &BTreeMap<String, Vec<Connection>>| -> Vec<_> {
        workers.values().map(Vec::len).collect()
    };
    assert_eq!(counts(&by_worker), [2, 2]);
    let metrics = gateway.metrics().await;
    for number in ["0", "1"] {
        assert_eq!(metrics.sum("weir_worker_connections_active", &[("worker", number)]), 2.0);
    }

    // Those of one leave: the next two are his.
    let left = by_worker.keys().next().unwrap().clone();
    by_worker.insert(left.clone(), Vec::new());
    eventually_eq(2.0, async || {
        gateway.metrics().await.sum("weir_listener_connections_active", &[])
    })
    .await;
    for _ in 0..2 {
        let mut connection = Connection::http1(port).await.unwrap();
        assert_eq!(worker_of(&mut connection, &gateway).await, left);
        by_worker.entry(left.clone()).or_default().push(connection);
    }
    assert_eq!(counts(&by_worker), [2, 2]);
}

/// The thread that serves a connection: the one that runs most while it is asked.
async fn worker_of(connection: &mut Connection, gateway: &Gateway) -> String {
    let before = switches(gateway);
    for _ in 0..50 {
        send(connection).await;
    }
    let after = switches(gateway);
    let ran = |name: &String| after[name] - before[name];
    before.keys().max_by_key(|name| ran(name)).unwrap().clone()
}

/// How often each worker began to wait, by the thread's name.
fn switches(gateway: &Gateway) -> BTreeMap<String, u64> {
    let tasks = format!("/proc/{}/task", gateway.pid());
    let statuses = std::fs::read_dir(tasks).unwrap().map(|task| {
        std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default()
    });
    let field = |status: &str, name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    statuses
        .filter(|status| status.contains("worker-"))
        .map(|status| {
            let switches = field(&status, "voluntary_ctxt_switches:").parse().unwrap();
            (field(&status, "Name:"), switches)
        })
        .collect()
}
