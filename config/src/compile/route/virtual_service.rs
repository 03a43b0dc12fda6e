//! One VirtualService as it stands: where it takes part, and its routes for each place.

use std::{collections::BTreeSet, sync::Arc};

use super::{Contribution, Domain, Lookup, Rule, Scope, delegate};
use crate::{
    api::{Object, istio::virtual_service::VirtualService},
    compile::{finding::Findings, name::resolve_host, store::http_destinations},
    model::{Route, VirtualHost, VirtualHostName},
};

/// What is remembered of a VirtualService between changes.
#[derive(Debug, Default)]
pub(in crate::compile) struct Bound {
    /// Sorted, none twice.
    pub(in crate::compile) domains: Box<[(Domain, Contribution)]>,
    /// One, or few: one for each scope.
    routes: Vec<(Option<Scope>, Compiled)>,
    is_scoped: bool,
}

#[derive(Debug, Default)]
struct Compiled {
    routes: Arc<[Arc<Route>]>,
    findings: Findings,
}

impl Bound {
    /// The routes for connections of `scope`.
    pub(in crate::compile) fn routes(&self, scope: Scope) -> &[Arc<Route>] {
        let key = self.is_scoped.then_some(scope);
        let found = self.routes.iter().find(|(scope, _)| *scope == key);
        found.map_or(&[], |(_, compiled)| &compiled.routes)
    }

    /// Makes the routes for `scopes`, all of them again when `is_stale`; routes that did not change
    /// keep their `Arc`. Returns whether any routes are new.
    pub(in crate::compile) fn compile(
        &mut self,
        lookup: Lookup<'_>,
        (object, spec): (&Object, &VirtualService),
        scopes: BTreeSet<Scope>,
        is_stale: bool,
        findings: &mut Findings,
    ) -> bool {
        let rules = delegate::rules(lookup.view, object, spec, findings);
        let is_scoped = rules.iter().any(|rule| depends_on_scope(lookup, rule));
        let mut old = std::mem::take(&mut self.routes);
        self.is_scoped = is_scoped;
        let mut changed = false;
        for scope in scopes {
            let key = is_scoped.then(|| scope.clone());
            if self.routes.iter().any(|(scope, _)| *scope == key) {
                continue;
            }
            let previous = old.iter().position(|(scope, _)| *scope == key);
            let previous = previous.map(|position| old.swap_remove(position).1);
            let compiled = match previous {
                Some(previous) if !is_stale => previous,
                previous => {
                    let previous = previous.unwrap_or_default();
                    let mut findings = Findings::default();
                    let routes = super::compile(lookup, &rules, &scope, &mut findings);
                    let routes = keep_equal(&previous.routes, routes);
                    changed |= !same_routes(&previous.routes, &routes);
                    Compiled { routes, findings }
                }
            };
            findings.extend(&compiled.findings);
            self.routes.push((key, compiled));
        }
        changed
    }
}

fn same_routes(a: &[Arc<Route>], b: &[Arc<Route>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Gives routes the `Arc` they had before, as far as the lists agree from either end.
fn keep_equal(old: &[Arc<Route>], new: Vec<Route>) -> Arc<[Arc<Route>]> {
    let same_front = old.iter().zip(&new).take_while(|(old, new)| ***old == **new).count();
    let same_back = old[same_front..]
        .iter()
        .rev()
        .zip(new[same_front..].iter().rev())
        .take_while(|(old, new)| ***old == **new)
        .count();
    let length = new.len();
    let routes = new.into_iter().enumerate().map(|(index, route)| {
        let from_end = length - index;
        if index < same_front {
            Arc::clone(&old[index])
        } else if from_end <= same_back {
            Arc::clone(&old[old.len() - from_end])
        } else {
            Arc::new(route)
        }
    });
    routes.collect()
}

/// Whether a rule means something else at another gateway or port.
fn depends_on_scope(Lookup { view, registry }: Lookup<'_>, rule: &Rule<'_>) -> bool {
    let namespace = &rule.object.metadata.namespace;
    rule.route.matches.iter().any(|m| m.port.is_some() || !m.gateways.is_empty())
        || http_destinations(&rule.route).any(|to| {
            let host = resolve_host(&to.host, namespace, &view.proxy.cluster_domain);
            let only_port = registry.find(&host).and_then(|service| service.only_port());
            to.port.is_none_or(|port| port.number == 0) && only_port.is_none()
        })
}

/// The virtual host of a domain: the routes of every VirtualService in it, those that match
/// everything last (istio-compat 1.1, trap 3).
pub(in crate::compile) fn virtual_host(
    domain: &Domain,
    require_tls: bool,
    routes: impl Iterator<Item = Arc<Route>>,
) -> Option<VirtualHost> {
    let (mut ordered, last): (Vec<_>, Vec<_>) =
        routes.partition(|route| !route.matcher.is_catch_all());
    ordered.extend(last);
    if ordered.is_empty() && !require_tls {
        return None;
    }
    Some(VirtualHost {
        name: virtual_host_name(domain),
        route_table: domain.table.clone(),
        domain: domain.host.clone(),
        aliases: Arc::default(),
        require_tls,
        routes: ordered.into(),
    })
}

/// `http.8080|reviews.example.com`
pub(in crate::compile) fn virtual_host_name(domain: &Domain) -> VirtualHostName {
    VirtualHostName::new(format!("{}|{}", domain.table, domain.host))
}
