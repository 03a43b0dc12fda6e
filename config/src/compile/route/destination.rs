//! Destinations with weights -> clusters with weights.

use std::sync::Arc;

use super::{Context, Lookup, Unusable, filter::per_million, header};
use crate::{
    api::{
        Percent,
        istio::{
            http_route::{HttpRoute, HttpRouteDestination},
            virtual_service::{Destination, RouteDestination},
        },
    },
    compile::name::{cluster_name, resolve_host},
    model::{
        ClusterName,
        route::{HeaderMutation, Mirror, WeightedCluster},
    },
};

/// What becomes of requests to a destination that is not there.
const UNANSWERED: &str = "requests are answered 503";

/// The clusters of an HTTP rule.
pub(super) fn http(
    context: &mut Context<'_>,
    route: &[HttpRouteDestination],
    field: &str,
) -> Result<Vec<WeightedCluster>, Unusable> {
    let mut clusters = Vec::with_capacity(route.len());
    for (index, entry) in route.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Some(destination) = &entry.destination else { continue };
        if is_unused(entry.weight, route.len()) {
            continue;
        }
        let cluster = resolve(context, destination, &format!("{field}.destination"), UNANSWERED);
        let headers = header::compile(context, entry.headers.as_ref(), &format!("{field}.headers"));
        clusters.push(WeightedCluster {
            cluster,
            weight: entry.weight,
            request_headers: headers.request,
            response_headers: headers.response,
            host_rewrite: headers.host,
        });
    }
    weighted(context, clusters, field)
}

/// The clusters of a TLS or TCP rule.
pub(super) fn tcp(
    context: &mut Context<'_>,
    route: &[RouteDestination],
    field: &str,
) -> Result<Vec<WeightedCluster>, Unusable> {
    let mut clusters = Vec::with_capacity(route.len());
    for (index, entry) in route.iter().enumerate() {
        let Some(destination) = &entry.destination else { continue };
        if is_unused(entry.weight, route.len()) {
            continue;
        }
        let field = format!("{field}[{index}].destination");
        clusters.push(WeightedCluster {
            cluster: resolve(context, destination, &field, UNANSWERED),
            weight: entry.weight,
            request_headers: HeaderMutation::default(),
            response_headers: HeaderMutation::default(),
            host_rewrite: None,
        });
    }
    weighted(context, clusters, field)
}

/// Where copies of the requests of a rule go: of all of them unless a share is written, which may be
/// none (istio-compat trap 23).
pub(super) fn mirrors(context: &mut Context<'_>, rule: &HttpRoute, field: &str) -> Arc<[Mirror]> {
    let whole_percent = rule.mirror_percent.map(|percent| Percent { value: percent.into() });
    let single = rule.mirror.as_ref().map(|destination| {
        let share = rule.mirror_percentage.or(whole_percent);
        (format!("{field}.mirror"), destination, share)
    });
    let several = rule.mirrors.iter().enumerate().filter_map(|(index, mirror)| {
        let field = format!("{field}.mirrors[{index}].destination");
        mirror.destination.as_ref().map(|destination| (field, destination, mirror.percentage))
    });
    let mut mirrors = Vec::new();
    for (field, destination, share) in single.into_iter().chain(several) {
        let per_million = share.map_or(1_000_000, |share| per_million(Some(share)));
        if per_million > 0 {
            let cluster = resolve(context, destination, &field, "copies are dropped");
            mirrors.push(Mirror { cluster, per_million });
        }
    }
    mirrors.into()
}

/// A single destination gets everything whatever its weight; among several, those without weight
/// get nothing (istio-compat trap 8).
fn is_unused(weight: u32, destinations: usize) -> bool {
    weight == 0 && destinations > 1
}

fn weighted(
    context: &mut Context<'_>,
    mut clusters: Vec<WeightedCluster>,
    field: &str,
) -> Result<Vec<WeightedCluster>, Unusable> {
    match clusters.as_mut_slice() {
        [] => {
            context.warn(field, "this rule is skipped: no destination has a weight above 0");
            return Err(Unusable);
        }
        [only] => only.weight = 1,
        _ => {}
    }
    Ok(clusters)
}

/// The cluster of a destination. One that does not exist is kept by name, so that its requests are
/// answered 503 and not by another rule; a warning says so.
fn resolve(
    context: &mut Context<'_>,
    destination: &Destination,
    field: &str,
    consequence: &str,
) -> ClusterName {
    let namespace = &context.object.metadata.namespace;
    let Lookup { view, registry } = context.lookup;
    let host = resolve_host(&destination.host, namespace, &view.proxy.cluster_domain);
    let service = registry.find(&host);
    let given = destination.port.map(|port| port.number).filter(|&number| number != 0);
    // The only port of the service, else the port of the listener.
    let port = given.or_else(|| service.and_then(|service| service.only_port()));
    let port = port.unwrap_or(context.port);
    let subset = destination.subset.as_str();
    let problem = match service {
        None => Some(("host", format!("no Service or ServiceEntry defines host {host}"))),
        Some(service) if !service.has_port(port) && given.is_none() => Some((
            "port",
            format!("{host} has several ports and none is {port}; name one with port.number"),
        )),
        Some(service) if !service.has_port(port) => {
            Some(("port", format!("{host} has no port {port}")))
        }
        Some(service) if !subset.is_empty() && !service.has_subset(subset) => {
            Some(("subset", format!("no DestinationRule for {host} defines subset {subset}")))
        }
        Some(_) => None,
    };
    if let Some((part, problem)) = problem {
        let message = format!("{problem}; {consequence} until it exists");
        context.warn(format!("{field}.{part}"), message);
    }
    cluster_name(&host, port, subset)
}
