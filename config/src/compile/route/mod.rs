//! VirtualService `http` rules -> Route, in the order they are tried.

use std::sync::Arc;

mod action;
pub(super) mod binding;
pub(super) mod delegate;
mod destination;
mod filter;
mod header;
mod matcher;
pub(super) mod mesh;
mod retry;
pub(super) mod tcp;
mod template;
pub(super) mod virtual_service;

pub(super) use self::{
    binding::{Contribution, Domain, Scope},
    delegate::Rule,
};
use super::{View, cluster::Registry, finding::Findings, name::origin, store::contains};
use crate::{
    api::{Object, istio::http_route::HttpMatchRequest},
    model::{Route, RouteName, route::RouteMatch},
};

/// What routes refer to.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'a> {
    pub(super) view: &'a View,
    pub(super) registry: &'a Registry,
}

/// What the functions that compile one rule share.
struct Context<'a> {
    lookup: Lookup<'a>,
    /// The VirtualService the rule stands in.
    object: &'a Object,
    /// Port of the listener, for destinations that do not name one.
    port: u16,
    findings: &'a mut Findings,
}

impl Context<'_> {
    fn warn(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.findings.warn(self.object, field, message);
    }
}

/// Part of a rule that cannot be made to work; it has been said why.
struct Unusable;

/// The routes of `rules` for connections of `scope`: one for each match. A match that nothing gets
/// past ends the list (istio-compat trap 3).
pub(super) fn compile(
    lookup: Lookup<'_>,
    rules: &[Rule<'_>],
    scope: &Scope,
    findings: &mut Findings,
) -> Vec<Route> {
    let mut routes = Vec::with_capacity(rules.len());
    let mut ended_by: Option<&Rule<'_>> = None;
    for rule in rules {
        if let Some(last) = ended_by {
            // Within one object `validate` says it.
            if last.object.key() != rule.object.key() {
                let message = format!(
                    "this rule is never reached: {} of {} matches everything before it",
                    last.field,
                    last.object.key()
                );
                findings.warn(rule.object, rule.field.clone(), message);
            }
            continue;
        }
        let mut context = Context { lookup, object: rule.object, port: scope.port, findings };
        if compile_rule(&mut context, rule, scope, &mut routes) {
            ended_by = Some(rule);
        }
    }
    routes
}

/// Adds the routes of one rule; true when the last of them matches everything.
fn compile_rule(
    context: &mut Context<'_>,
    rule: &Rule<'_>,
    scope: &Scope,
    routes: &mut Vec<Route>,
) -> bool {
    let everything = [HttpMatchRequest::default()];
    let matches =
        if rule.route.matches.is_empty() { &everything[..] } else { &rule.route.matches[..] };
    let Ok(template) = action::Template::compile(context, rule) else { return false };
    for (index, condition) in matches.iter().enumerate() {
        if !applies(context.lookup.view, rule.object, condition, scope) {
            continue;
        }
        let field = format!("{}.match[{index}]", rule.field);
        let Ok(matcher) = matcher::compile(context, condition, &field) else { continue };
        let ends_list = matcher.is_catch_all();
        routes.push(template.route(rule, condition, matcher));
        if ends_list {
            return true;
        }
    }
    false
}

/// Whether the static part of a match holds here. Source conditions are about the proxy itself, and
/// do not count next to `gateways` (trap 5).
fn applies(view: &View, object: &Object, condition: &HttpMatchRequest, scope: &Scope) -> bool {
    let proxy = &view.proxy;
    let is_source = !condition.gateways.is_empty()
        || contains(&proxy.labels, &condition.source_labels)
            && (condition.source_namespace.is_empty()
                || *condition.source_namespace == *proxy.namespace);
    is_source && scope.satisfies(condition.port, &condition.gateways, &object.metadata.namespace)
}

impl action::Template {
    fn route(&self, rule: &Rule<'_>, condition: &HttpMatchRequest, matcher: RouteMatch) -> Route {
        let (matcher, action) = self.action_for(matcher);
        Route {
            name: route_name(&rule.route.name, &condition.name),
            origin: origin(rule.object),
            matcher,
            action,
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
            cors: self.cors.clone(),
            fault: self.fault.clone(),
        }
    }
}

/// `route.match`, as the access log prints it.
fn route_name(rule: &str, condition: &str) -> RouteName {
    RouteName::new(match (rule, condition) {
        ("", name) | (name, "") => Arc::from(name),
        (rule, condition) => format!("{rule}.{condition}").into(),
    })
}
