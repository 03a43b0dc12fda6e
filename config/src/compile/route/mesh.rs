//! Routes of sidecars: what a VirtualService for `mesh` says about a service, else the service itself.

use std::sync::Arc;

use super::{Context, Lookup, Scope, binding, delegate, destination, retry};
use crate::{
    api::{Object, istio::virtual_service::VirtualService},
    compile::{finding::Findings, name::cluster_name, store::contains},
    model::{
        ClusterName, Route, RouteName,
        route::{
            DirectResponse, Forward, HeaderMutation, PathMatch, RetryPolicy, RouteAction,
            RouteMatch, WeightedCluster,
        },
    },
};

/// What Istio calls a route nobody wrote.
const DEFAULT_ROUTE: &str = "default";

/// The routes of requests to `port` of the host `object` is for.
pub(in crate::compile) fn http(
    lookup: Lookup<'_>,
    (object, spec): (&Object, &VirtualService),
    port: u16,
    findings: &mut Findings,
) -> Arc<[Arc<Route>]> {
    let rules = delegate::rules(lookup.view, object, spec, findings);
    let routes = super::compile(lookup, &rules, &Scope::mesh(port), findings);
    routes.into_iter().map(Arc::new).collect()
}

/// The one route to a cluster of a service, with the mesh's retries.
pub(in crate::compile) fn to_service(
    lookup: Lookup<'_>,
    owner: &Object,
    cluster: ClusterName,
) -> Arc<[Arc<Route>]> {
    let mut findings = Findings::default();
    let mut context = Context { lookup, object: owner, port: 0, findings: &mut findings };
    // What the mesh says wrong is said elsewhere.
    let retry = retry::compile(&mut context, None, "");
    [Arc::new(forward(DEFAULT_ROUTE, cluster, retry))].into()
}

/// The one route to a cluster that stands for whatever the client asked for: nothing is done twice.
pub(in crate::compile) fn once(name: &str, cluster: ClusterName) -> Arc<[Arc<Route>]> {
    [Arc::new(forward(name, cluster, RetryPolicy::none()))].into()
}

/// The one route that answers with a status and nothing else, in the name of a cluster.
pub(in crate::compile) fn answer(
    name: &str,
    status: http::StatusCode,
    cluster: ClusterName,
) -> Arc<[Arc<Route>]> {
    let stands_for = Some(cluster);
    let response = DirectResponse { status, body: bytes::Bytes::new(), stands_for };
    [Arc::new(route(name, RouteAction::DirectResponse(response)))].into()
}

/// All connections to one cluster.
pub(in crate::compile) fn only(cluster: ClusterName) -> Arc<[WeightedCluster]> {
    let cluster = WeightedCluster {
        cluster,
        weight: 1,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        host_rewrite: None,
    };
    [cluster].into()
}

fn forward(name: &str, cluster: ClusterName, retry: RetryPolicy) -> Route {
    let forward = Forward {
        clusters: only(cluster),
        path_rewrite: None,
        host_rewrite: None,
        timeout: None,
        retry,
        mirrors: Arc::default(),
    };
    route(name, RouteAction::Forward(forward))
}

fn route(name: &str, action: RouteAction) -> Route {
    Route {
        name: RouteName::new(name),
        origin: Arc::default(),
        matcher: RouteMatch {
            path: PathMatch::Any,
            ignore_path_case: false,
            method: None,
            scheme: None,
            authority: None,
            headers: Arc::default(),
            query_params: Arc::default(),
            claims: Arc::default(),
        },
        action,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        cors: None,
        fault: None,
    }
}

/// One condition of a `tls` or `tcp` rule that can hold here, and where its connections go.
pub(in crate::compile) struct Connections<'a> {
    /// Of `tls` rules.
    pub(in crate::compile) server_names: &'a [String],
    /// CIDRs; empty: those of the service.
    pub(in crate::compile) destinations: &'a [String],
    pub(in crate::compile) clusters: Arc<[WeightedCluster]>,
}

/// What the `tls` rules say about connections to `port`, in their order.
pub(in crate::compile) fn tls<'a>(
    lookup: Lookup<'_>,
    (object, spec): (&Object, &'a VirtualService),
    port: u16,
    findings: &mut Findings,
) -> Vec<Connections<'a>> {
    let scope = Scope::mesh(port);
    let namespace = &object.metadata.namespace;
    let mut all = Vec::new();
    for (index, rule) in spec.tls.iter().enumerate() {
        let clusters = clusters(
            lookup,
            object,
            &rule.route,
            port,
            (&format!("spec.tls[{index}].route"), findings),
        );
        for condition in &rule.matches {
            let is_source = is_source(
                lookup,
                &condition.gateways,
                &condition.source_labels,
                &condition.source_namespace,
            );
            if is_source && binding::tls_applies(condition, &scope, namespace) {
                all.push(Connections {
                    server_names: &condition.sni_hosts,
                    destinations: &condition.destination_subnets,
                    clusters: Arc::clone(&clusters),
                });
            }
        }
    }
    all
}

/// What the `tcp` rules say about connections to `port`, in their order.
pub(in crate::compile) fn tcp<'a>(
    lookup: Lookup<'_>,
    (object, spec): (&Object, &'a VirtualService),
    port: u16,
    findings: &mut Findings,
) -> Vec<Connections<'a>> {
    let scope = Scope::mesh(port);
    let namespace = &object.metadata.namespace;
    let mut all = Vec::new();
    for (index, rule) in spec.tcp.iter().enumerate() {
        let clusters = clusters(
            lookup,
            object,
            &rule.route,
            port,
            (&format!("spec.tcp[{index}].route"), findings),
        );
        if rule.matches.is_empty() {
            all.push(Connections { server_names: &[], destinations: &[], clusters });
            continue;
        }
        for (at, condition) in rule.matches.iter().enumerate() {
            if !condition.source_subnet.is_empty() {
                // Without it the rule would take more connections than were meant.
                let field = format!("spec.tcp[{index}].match[{at}].sourceSubnet");
                findings.warn(object, field, "this match is skipped: sourceSubnet is not applied");
                continue;
            }
            let is_source = is_source(
                lookup,
                &condition.gateways,
                &condition.source_labels,
                &condition.source_namespace,
            );
            if is_source && scope.satisfies(condition.port, &condition.gateways, namespace) {
                all.push(Connections {
                    server_names: &[],
                    destinations: &condition.destination_subnets,
                    clusters: Arc::clone(&clusters),
                });
            }
        }
    }
    all
}

fn clusters(
    lookup: Lookup<'_>,
    object: &Object,
    route: &[crate::api::istio::virtual_service::RouteDestination],
    port: u16,
    (field, findings): (&str, &mut Findings),
) -> Arc<[WeightedCluster]> {
    let mut context = Context { lookup, object, port, findings };
    destination::tcp(&mut context, route, field).unwrap_or_default().into()
}

/// Conditions on the client are conditions on this proxy; beside `gateways` they do not count (trap 5).
fn is_source(
    lookup: Lookup<'_>,
    gateways: &[String],
    labels: &std::collections::BTreeMap<String, String>,
    namespace: &str,
) -> bool {
    let proxy = &lookup.view.proxy;
    !gateways.is_empty()
        || contains(&proxy.labels, labels)
            && (namespace.is_empty() || *namespace == *proxy.namespace)
}

/// `outbound|9080||reviews.default.svc.cluster.local`.
pub(in crate::compile) fn cluster(host: &str, port: u16) -> ClusterName {
    cluster_name(host, port, "")
}
