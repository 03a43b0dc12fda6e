//! `/clusters`: what every cluster and endpoint is doing, in Envoy's form.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use weir_config::model::cluster::CircuitBreakers;

use crate::{
    cluster::Endpoint, engine::Engine, telemetry::clusters::short_name, upstream::Address,
};

/// One line per fact: `cluster::fact::value` and `cluster::endpoint::fact::value`.
pub(super) fn text(engine: &Engine) -> String {
    let mut out = String::new();
    for cluster in engine.snapshot().clusters.iter() {
        let name = &cluster.config().name;
        for (fact, limit) in limits(&cluster.config().circuit_breakers) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}::default_priority::{fact}::{limit}");
        }
        for (family, value) in cluster.gauges().values() {
            let _ = writeln!(out, "{name}::{}::{value}", short_name(family));
        }
        for (endpoint, ejected) in cluster.members() {
            let address = address(&endpoint);
            for (fact, value) in [
                ("requests_active", endpoint.in_flight().to_string()),
                ("health_flags", health(ejected).to_owned()),
                ("weight", endpoint.weight().to_string()),
                ("workload", endpoint.workload().name.to_string()),
            ] {
                let _ = writeln!(out, "{name}::{address}::{fact}::{value}");
            }
        }
    }
    out
}

/// The same for programs.
pub(super) fn json(engine: &Engine) -> Value {
    let snapshot = engine.snapshot();
    let clusters = snapshot.clusters.iter().map(|cluster| {
        let stats: Map<_, _> = cluster
            .gauges()
            .values()
            .into_iter()
            .map(|(family, value)| (short_name(family).to_owned(), value.into()))
            .collect();
        let endpoints = cluster.members();
        let endpoints = endpoints.iter().map(|(endpoint, ejected)| {
            json!({
                "address": address(endpoint),
                "health": health(*ejected),
                "weight": endpoint.weight(),
                "requestsActive": endpoint.in_flight(),
                "workload": endpoint.workload(),
            })
        });
        json!({
            "name": cluster.config().name,
            "stats": stats,
            "circuitBreakers": cluster.config().circuit_breakers,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    json!({ "clusters": clusters.collect::<Vec<_>>() })
}

fn limits(breakers: &CircuitBreakers) -> [(&'static str, u32); 4] {
    let CircuitBreakers { max_connections, max_pending_requests, max_requests, max_retries } =
        *breakers;
    [
        ("max_connections", max_connections),
        ("max_pending_requests", max_pending_requests),
        ("max_requests", max_requests),
        ("max_retries", max_retries),
    ]
}

fn health(ejected: bool) -> &'static str {
    if ejected { "/failed_outlier_check" } else { "healthy" }
}

fn address(endpoint: &Endpoint) -> String {
    match endpoint.address() {
        Address::Unix(path) => format!("unix://{}", path.display()),
        address @ (Address::Ip(_) | Address::Logical(_)) => {
            address.socket_addr().map_or_else(|| "unresolved".to_owned(), |addr| addr.to_string())
        }
    }
}
