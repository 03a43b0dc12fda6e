//! Addresses of upstreams, and how they are.

use serde_json::Value;

use super::{items, source::ip_filter, text};
use crate::ctl::{
    args::{EndpointFilter, EndpointStatus},
    table::Table,
};

const HEALTHY: &str = "healthy";

/// Those the filter lets through.
pub fn select(clusters: &Value, filter: &EndpointFilter) -> Vec<Value> {
    let mut all = all(clusters);
    all.retain(|endpoint| {
        let (ip, port) = address(endpoint);
        let is_healthy = text(endpoint, "/health") == HEALTHY;
        ip_filter(&filter.proxy).is_none_or(|wanted| wanted == ip)
            && filter.port.is_none_or(|wanted| wanted.to_string() == port)
            && filter.cluster.as_deref().is_none_or(|wanted| wanted == text(endpoint, "/cluster"))
            && filter.status.is_none_or(|wanted| (wanted == EndpointStatus::Healthy) == is_healthy)
    });
    all
}

/// Every endpoint, with the name of its cluster.
pub fn all(clusters: &Value) -> Vec<Value> {
    let of_cluster = |cluster: &Value| {
        let name = cluster["name"].clone();
        let endpoints = items(cluster, "/endpoints").cloned();
        let named = endpoints.map(|mut endpoint| {
            endpoint["cluster"] = name.clone();
            endpoint
        });
        named.collect::<Vec<_>>()
    };
    items(clusters, "/clusters").flat_map(of_cluster).collect()
}

pub fn table(endpoints: &[Value]) -> String {
    let mut table = Table::new(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    for endpoint in endpoints {
        // Endpoints are taken out by what they answer, and by nothing else.
        let (status, outlier) = match text(endpoint, "/health") {
            HEALTHY => ("HEALTHY", "OK"),
            _ => ("UNHEALTHY", "FAILED"),
        };
        table.push([
            text(endpoint, "/address").to_owned(),
            status.to_owned(),
            outlier.to_owned(),
            text(endpoint, "/cluster").to_owned(),
        ]);
    }
    table.sorted().print()
}

/// The IP address and port, or the path of a socket.
fn address(endpoint: &Value) -> (&str, &str) {
    let address = text(endpoint, "/address");
    let (ip, port) = address.rsplit_once(':').unwrap_or((address, ""));
    (ip.trim_matches(['[', ']']), port)
}
