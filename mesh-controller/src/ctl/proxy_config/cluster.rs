//! Upstreams.

use serde_json::Value;

use super::{resources, text};
use crate::ctl::{
    args::{ClusterFilter, Direction},
    table::Table,
};

/// `outbound|9080|v1|reviews.default.svc.cluster.local`.
struct Name<'a> {
    direction: &'a str,
    port: &'a str,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Name<'a> {
    fn of(cluster: &'a Value) -> Self {
        let name = text(cluster, "/name");
        match name.split('|').collect::<Vec<_>>()[..] {
            [direction, port, subset, host] => Self { direction, port, subset, host },
            // Not of a service, such as where keys are fetched from.
            _ => Self { direction: "", port: "", subset: "", host: name },
        }
    }
}

/// Those the filter lets through.
pub fn select(dump: &Value, filter: &ClusterFilter) -> Vec<Value> {
    let direction = filter.direction.map(|direction| match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    });
    let port = filter.port.map(|port| port.to_string());
    let is = |wanted: Option<&str>, value: &str| wanted.is_none_or(|wanted| wanted == value);
    let mut all = all(dump);
    all.retain(|cluster| {
        let name = Name::of(cluster);
        is(filter.fqdn.as_deref(), name.host)
            && is(port.as_deref(), name.port)
            && is(filter.subset.as_deref(), name.subset)
            && is(direction, name.direction)
    });
    all
}

pub fn all(dump: &Value) -> Vec<Value> {
    resources(dump, "clusters").cloned().collect()
}

pub fn table(clusters: &[Value]) -> String {
    let mut table =
        Table::new(["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "PROTOCOL", "TLS"]);
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    for cluster in clusters {
        let Name { direction, port, subset, host } = Name::of(cluster);
        let tls = if cluster["tls"].is_null() { "-" } else { "yes" };
        table.push([
            host.to_owned(),
            or_dash(port),
            or_dash(subset),
            or_dash(direction),
            discovery(cluster).to_owned(),
            protocol(cluster).to_owned(),
            tls.to_owned(),
        ]);
    }
    table.sorted().print()
}

/// In Envoy's words. Static ones take their endpoints from the configuration, whoever sends it.
fn discovery(cluster: &Value) -> &str {
    let discovery = &cluster["discovery"];
    match discovery.as_object().and_then(|variant| variant.keys().next()).map(String::as_str) {
        Some("strictDns") => "STRICT_DNS",
        Some("logicalDns") => "LOGICAL_DNS",
        Some(other) => other,
        None if discovery == "static" => "STATIC",
        None => discovery.as_str().unwrap_or("-"),
    }
}

fn protocol(cluster: &Value) -> &str {
    match text(cluster, "/protocol") {
        "http1" => "HTTP/1.1",
        "http2" => "HTTP/2",
        "matchDownstream" => "AS CLIENT",
        "tcp" => "TCP",
        other => other,
    }
}
