//! Delegate VirtualServices -> the rules of the one that includes them (istio-compat 1.1,
//! "Delegates").

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    api::{
        Object, Spec, StringMatch,
        istio::{
            http_route::{Delegate, HttpMatchRequest},
            virtual_service::{HttpRoute, VirtualService},
        },
    },
    compile::{
        View,
        finding::Findings,
        name::{is_exported, resolve_gateway},
        store::delegate_key,
    },
};

/// One HTTP rule, after delegation.
#[derive(Debug)]
pub(in crate::compile) struct Rule<'a> {
    /// The VirtualService that says where requests go; short names are of its namespace.
    pub(in crate::compile) object: &'a Object,
    /// `spec.http[0]` in `object`.
    pub(in crate::compile) field: String,
    pub(in crate::compile) route: Cow<'a, HttpRoute>,
}

/// The rules of a root VirtualService in order, each delegation replaced by the rules it means.
pub(in crate::compile) fn rules<'a>(
    view: &'a View,
    root: &'a Object,
    spec: &'a VirtualService,
    findings: &mut Findings,
) -> Vec<Rule<'a>> {
    let mut rules = Vec::with_capacity(spec.http.len());
    for (index, route) in spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        let Some(delegate) = &route.delegate else {
            rules.push(Rule { object: root, field, route: Cow::Borrowed(route) });
            continue;
        };
        match target(view, root, delegate) {
            Ok((object, target)) => {
                let before = rules.len();
                rules.extend(include(root, route, object, target, findings));
                if rules.len() == before {
                    findings.warn(
                        root,
                        format!("{field}.delegate"),
                        format!("no rule of {} can match what this rule matches", object.key()),
                    );
                }
            }
            Err(problem) => {
                let message = format!("this rule is skipped: {problem}");
                findings.warn(root, format!("{field}.delegate"), message);
            }
        }
    }
    rules
}

/// The VirtualService a rule delegates to, or why it may not.
fn target<'a>(
    view: &'a View,
    root: &Object,
    delegate: &Delegate,
) -> Result<(&'a Object, &'a VirtualService), String> {
    let own = &root.metadata.namespace;
    let key = delegate_key(&delegate.name, &delegate.namespace, own);
    let object =
        view.store.find(&key).ok_or_else(|| format!("{key} does not exist, or has errors"))?;
    let Spec::VirtualService(spec) = &object.spec else {
        return Err(format!("{key} does not exist"));
    };
    if !spec.hosts.is_empty() {
        return Err(format!("{key} has hosts of its own; only one without can be delegated to"));
    }
    let default = &view.mesh.default_virtual_service_export_to;
    if !is_exported(&spec.export_to, default, &key.namespace, own) {
        return Err(format!("{key} is not exported to namespace {own}"));
    }
    Ok((object, spec))
}

/// The rules of `target`, each narrowed to what `route` of `root` matches.
fn include<'a>(
    root: &Object,
    route: &HttpRoute,
    object: &'a Object,
    target: &'a VirtualService,
    findings: &mut Findings,
) -> Vec<Rule<'a>> {
    let own_matches = qualified(&route.matches, root);
    let mut rules = Vec::new();
    for (index, leaf) in target.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        if leaf.delegate.is_some() {
            findings.warn(
                object,
                format!("{field}.delegate"),
                "this rule is skipped: a VirtualService that is delegated to cannot delegate \
                 further",
            );
            continue;
        }
        let Some(matches) = merge_matches(&own_matches, &qualified(&leaf.matches, object)) else {
            continue;
        };
        let route = Cow::Owned(merge_route(route, leaf, matches));
        rules.push(Rule { object, field, route });
    }
    rules
}

/// The matches with gateways named in full, so that they mean the same in another namespace.
fn qualified(matches: &[HttpMatchRequest], object: &Object) -> Vec<HttpMatchRequest> {
    let mut matches = matches.to_vec();
    for condition in &mut matches {
        for gateway in &mut condition.gateways {
            if let Some(key) = resolve_gateway(gateway, &object.metadata.namespace) {
                *gateway = format!("{}/{}", key.namespace, key.name);
            }
        }
    }
    matches
}

fn merge_route(root: &HttpRoute, leaf: &HttpRoute, matches: Vec<HttpMatchRequest>) -> HttpRoute {
    let mut route = leaf.clone();
    route.matches = matches;
    route.name = join_names(&root.name, &leaf.name);
    inherit(&mut route.rewrite, &root.rewrite);
    // A rule that forwards already has its answer.
    if route.route.is_empty() && route.redirect.is_none() {
        inherit(&mut route.direct_response, &root.direct_response);
    }
    inherit(&mut route.timeout, &root.timeout);
    inherit(&mut route.retries, &root.retries);
    inherit(&mut route.fault, &root.fault);
    inherit(&mut route.mirror, &root.mirror);
    inherit(&mut route.mirror_percent, &root.mirror_percent);
    inherit(&mut route.mirror_percentage, &root.mirror_percentage);
    if route.mirrors.is_empty() {
        route.mirrors.clone_from(&root.mirrors);
    }
    inherit(&mut route.cors_policy, &root.cors_policy);
    inherit(&mut route.headers, &root.headers);
    route
}

fn inherit<T: Clone>(own: &mut Option<T>, from: &Option<T>) {
    if own.is_none() {
        own.clone_from(from);
    }
}

/// Every pair of matches that do not exclude each other; `None` when there is none left.
fn merge_matches(
    root: &[HttpMatchRequest],
    leaf: &[HttpMatchRequest],
) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(leaf.to_vec());
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let pairs = leaf.iter().flat_map(|leaf| root.iter().map(move |root| (root, leaf)));
    let merged: Vec<HttpMatchRequest> = pairs
        .filter(|(root, leaf)| !conflicts(root, leaf))
        .map(|(root, leaf)| merge_match(root, leaf))
        .collect();
    (!merged.is_empty()).then_some(merged)
}

fn merge_match(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let mut merged = leaf.clone();
    merged.name = join_names(&root.name, &leaf.name);
    if merged.stat_prefix.is_empty() {
        merged.stat_prefix.clone_from(&root.stat_prefix);
    }
    inherit(&mut merged.uri, &root.uri);
    inherit(&mut merged.scheme, &root.scheme);
    inherit(&mut merged.method, &root.method);
    inherit(&mut merged.authority, &root.authority);
    inherit(&mut merged.port, &root.port);
    add_missing(&mut merged.headers, &root.headers);
    add_missing(&mut merged.without_headers, &root.without_headers);
    add_missing(&mut merged.query_params, &root.query_params);
    add_missing(&mut merged.source_labels, &root.source_labels);
    if merged.source_namespace.is_empty() {
        merged.source_namespace.clone_from(&root.source_namespace);
    }
    if merged.gateways.is_empty() {
        merged.gateways.clone_from(&root.gateways);
    }
    merged
}

fn add_missing<V: Clone>(own: &mut BTreeMap<String, V>, from: &BTreeMap<String, V>) {
    for (key, value) in from {
        own.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn join_names(root: &str, leaf: &str) -> String {
    match (root, leaf) {
        ("", name) | (name, "") => name.to_owned(),
        (root, leaf) => format!("{root}-{leaf}"),
    }
}

/// Whether the leaf's match is not a narrowing of the root's.
fn conflicts(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let differ = |root: &str, leaf: &str| !root.is_empty() && !leaf.is_empty() && root != leaf;
    let maps_conflict = |root: &BTreeMap<String, StringMatch>,
                         leaf: &BTreeMap<String, StringMatch>| {
        leaf.iter().any(|(key, value)| strings_conflict(root.get(key), Some(value)))
    };
    strings_conflict(root.uri.as_ref(), leaf.uri.as_ref())
        || strings_conflict(root.scheme.as_ref(), leaf.scheme.as_ref())
        || strings_conflict(root.method.as_ref(), leaf.method.as_ref())
        || strings_conflict(root.authority.as_ref(), leaf.authority.as_ref())
        || maps_conflict(&root.headers, &leaf.headers)
        || maps_conflict(&root.without_headers, &leaf.without_headers)
        || maps_conflict(&root.query_params, &leaf.query_params)
        || root.ignore_uri_case != leaf.ignore_uri_case
        || matches!((root.port, leaf.port), (Some(a), Some(b)) if a != b)
        || differ(&root.source_namespace, &leaf.source_namespace)
        || leaf
            .source_labels
            .iter()
            .any(|(key, value)| root.source_labels.get(key).is_some_and(|other| other != value))
        || (!root.gateways.is_empty()
            && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Rule 4: a regex only goes with nothing, an exact value only with itself, a prefix only with
/// what starts with it.
fn strings_conflict(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root != leaf,
        (StringMatch::Prefix(root), StringMatch::Prefix(leaf) | StringMatch::Exact(leaf)) => {
            !leaf.starts_with(root.as_str())
        }
        (StringMatch::Present, _) => false,
        (StringMatch::Exact(_) | StringMatch::Regex(_), _)
        | (StringMatch::Prefix(_), StringMatch::Regex(_) | StringMatch::Present) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(value: &str) -> Option<StringMatch> {
        Some(StringMatch::Exact(value.into()))
    }

    fn prefix(value: &str) -> Option<StringMatch> {
        Some(StringMatch::Prefix(value.into()))
    }

    fn regex(value: &str) -> Option<StringMatch> {
        Some(StringMatch::Regex(value.into()))
    }

    #[test]
    fn a_leaf_may_only_narrow_what_the_root_matches() {
        for (root, leaf, expected) in [
            (None, exact("/a"), false),
            (exact("/a"), None, false),
            (exact("/a"), exact("/a"), false),
            (exact("/a"), exact("/b"), true),
            (exact("/a"), prefix("/a"), true),
            (prefix("/a"), prefix("/a/b"), false),
            (prefix("/a"), exact("/a/b"), false),
            (prefix("/a/b"), prefix("/a"), true),
            (regex("/a"), exact("/a"), true),
            (prefix("/a"), regex("/a"), true),
            (regex("/a"), regex("/a"), true),
        ] {
            let found = strings_conflict(root.as_ref(), leaf.as_ref());
            assert_eq!(found, expected, "{root:?} {leaf:?}");
        }
    }

    #[test]
    fn gateways_ports_and_case_have_to_agree() {
        let with = |edit: fn(&mut HttpMatchRequest)| {
            let mut condition = HttpMatchRequest::default();
            edit(&mut condition);
            condition
        };
        let a = with(|m| m.gateways = vec!["ns/a".into()]);
        let both = with(|m| m.gateways = vec!["ns/a".into(), "ns/b".into()]);
        assert!(conflicts(&a, &both));
        assert!(!conflicts(&both, &a));
        let any = HttpMatchRequest::default();
        assert!(!conflicts(&any, &a));
        assert!(conflicts(&any, &with(|m| m.ignore_uri_case = true)));
        assert!(conflicts(&with(|m| m.port = Some(80)), &with(|m| m.port = Some(81))));
        assert!(!conflicts(&with(|m| m.port = Some(80)), &any));
    }

    #[test]
    fn matches_are_crossed_and_fields_inherited() {
        let root = HttpRoute {
            name: "root".into(),
            matches: vec![HttpMatchRequest { uri: prefix("/a"), ..Default::default() }],
            timeout: crate::api::Duration::parse("3s"),
            ..Default::default()
        };
        let leaf = HttpRoute { name: "leaf".into(), ..Default::default() };
        let matches = merge_matches(
            &root.matches,
            &[
                HttpMatchRequest { uri: exact("/a/1"), ..Default::default() },
                HttpMatchRequest { uri: exact("/b"), ..Default::default() },
                HttpMatchRequest { method: exact("GET"), ..Default::default() },
            ],
        )
        .unwrap();
        assert_eq!(matches.len(), 2, "the match on /b cannot hold");
        assert_eq!(matches[0].uri, exact("/a/1"));
        assert_eq!(matches[1].uri, prefix("/a"));
        assert_eq!(matches[1].method, exact("GET"));
        let merged = merge_route(&root, &leaf, matches);
        assert_eq!(merged.name, "root-leaf");
        assert_eq!(merged.timeout, root.timeout);
    }
}
