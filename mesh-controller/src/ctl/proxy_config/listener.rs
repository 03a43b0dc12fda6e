//! Where connections are accepted, and what becomes of them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{items, resources, source::ip_filter, text};
use crate::ctl::{
    args::{ListenerFilter, ListenerType},
    table::Table,
};

/// Those the filter lets through.
pub fn select(dump: &Value, filter: &ListenerFilter) -> Vec<Value> {
    let kind = filter.kind.map(|kind| match kind {
        ListenerType::Http => "http",
        ListenerType::Tls => "tls",
        ListenerType::Tcp => "tcp",
    });
    let mut all = all(dump);
    all.retain(|listener| {
        let (ip, port) = address(listener);
        ip_filter(&filter.proxy).is_none_or(|wanted| wanted == ip)
            && filter.port.is_none_or(|wanted| wanted.to_string() == port)
            && kind.is_none_or(|wanted| wanted == text(listener, "/kind"))
    });
    all
}

/// Every listener, with its filter chains.
pub fn all(dump: &Value) -> Vec<Value> {
    let with_chains = |listener: &Value| {
        let name = &listener["name"];
        let chains = resources(dump, "filterChains").filter(|chain| chain["listener"] == *name);
        let mut listener = listener.clone();
        listener["filterChains"] = json!(chains.collect::<Vec<_>>());
        listener
    };
    resources(dump, "listeners").map(with_chains).collect()
}

pub fn table(listeners: &[Value]) -> String {
    let mut table = Table::new(["ADDRESSES", "PORT", "MATCH", "DESTINATION"]);
    for listener in listeners {
        let (ip, port) = address(listener);
        for chain in items(listener, "/filterChains") {
            table.push([ip.clone(), port.clone(), condition(chain), destination(chain)]);
        }
    }
    table.sorted().print()
}

/// IP address and port; a path has none.
fn address(listener: &Value) -> (String, String) {
    let address = text(listener, "/address/ip");
    match address.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), address.port().to_string()),
        Err(_) => (text(listener, "/address/unix").to_owned(), String::new()),
    }
}

/// Which connections are the chain's.
fn condition(chain: &Value) -> String {
    let names: Vec<String> = items(chain, "/serverNames").map(host).collect();
    if names.is_empty() { "ALL".to_owned() } else { format!("SNI: {}", names.join(",")) }
}

fn destination(chain: &Value) -> String {
    let table = text(chain, "/network/http/routeTable");
    if !table.is_empty() {
        return format!("Route: {table}");
    }
    let clusters: Vec<&str> =
        items(chain, "/network/tcpProxy/clusters").map(|it| text(it, "/cluster")).collect();
    match clusters[..] {
        [] => "Closed: no route".to_owned(),
        [cluster] => format!("Cluster: {cluster}"),
        _ => format!("Clusters: {}", clusters.join(", ")),
    }
}

/// A host pattern as users write it.
pub fn host(pattern: &Value) -> String {
    let exact = text(pattern, "/exact");
    let suffix = text(pattern, "/suffix");
    match (exact, suffix) {
        ("", "") => "*".to_owned(),
        ("", suffix) => format!("*{suffix}"),
        (exact, _) => exact.to_owned(),
    }
}
