mod action;
mod differential;
mod select;
mod tables;

use std::{sync::Arc, time::Duration};

use weir_config::model::{
    self, ClusterName, RouteName, RouteTableName, VirtualHostName,
    matcher::{HostPattern, StringMatch},
    route::{
        Forward, HeaderMatch, HeaderMutation, PathMatch, QueryParamMatch, RetryOn, RetryPolicy,
        RouteAction, RouteMatch, WeightedCluster,
    },
};

use super::{RouteTable, RouteTables};
use crate::{filter::RequestContext, head::RequestHeader};

pub(crate) fn any() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Any,
        ignore_path_case: false,
        method: None,
        scheme: None,
        authority: None,
        headers: Arc::default(),
        query_params: Arc::default(),
        claims: Arc::default(),
    }
}

pub(crate) fn prefix(text: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix(text.into()), ..any() }
}

pub(crate) fn exact(text: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Exact(text.into()), ..any() }
}

pub(crate) fn header(name: &'static str, value: StringMatch) -> HeaderMatch {
    HeaderMatch { name: http::HeaderName::from_static(name), value, invert: false }
}

pub(crate) fn query(name: &str, value: StringMatch) -> QueryParamMatch {
    QueryParamMatch { name: name.into(), value }
}

pub(crate) fn is(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

pub(crate) fn cluster(name: &str, weight: u32) -> WeightedCluster {
    WeightedCluster {
        cluster: ClusterName::new(name),
        weight,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        host_rewrite: None,
    }
}

pub(crate) fn forward(clusters: Vec<WeightedCluster>) -> Forward {
    Forward {
        clusters: clusters.into(),
        path_rewrite: None,
        host_rewrite: None,
        timeout: None,
        retry: RetryPolicy {
            attempts: 0,
            per_try_timeout: None,
            on: RetryOn::default(),
            retriable_status_codes: Arc::default(),
            backoff: Duration::from_millis(25),
            ignore_previous_hosts: true,
        },
        mirrors: Arc::default(),
    }
}

pub(crate) fn route(name: &str, matcher: RouteMatch) -> model::Route {
    model::Route {
        name: RouteName::new(name),
        origin: "default/test".into(),
        matcher,
        action: RouteAction::Forward(forward(vec![cluster(name, 1)])),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        cors: None,
        fault: None,
    }
}

pub(crate) fn virtual_host(domain: &str, routes: Vec<model::Route>) -> model::VirtualHost {
    model::VirtualHost {
        name: VirtualHostName::new(format!("http.80|{domain}")),
        route_table: RouteTableName::new("http.80"),
        domain: HostPattern::parse(domain),
        aliases: Arc::default(),
        require_tls: false,
        routes: routes.into_iter().map(Arc::new).collect(),
    }
}

pub(crate) fn delta(hosts: Vec<model::VirtualHost>) -> model::Delta {
    let hosts = hosts.into_iter().map(|host| (host.name.clone(), Some(Arc::new(host))));
    model::Delta { virtual_hosts: hosts.collect(), ..model::Delta::default() }
}

pub(crate) fn table(hosts: Vec<model::VirtualHost>) -> Arc<RouteTable> {
    let tables = RouteTables::next(&RouteTables::default(), &delta(hosts));
    Arc::clone(tables.find(&RouteTableName::new("http.80")).unwrap())
}

/// The name of the route taken, or the details of the reply.
pub(crate) fn selected(
    table: &RouteTable,
    request: &RequestHeader,
    context: &RequestContext,
) -> String {
    match table.select(request, context) {
        Ok(route) => route.config.name.to_string(),
        Err(reply) => reply.details.into_owned(),
    }
}
