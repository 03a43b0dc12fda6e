//! Which DestinationRule applies to a host (istio-compat 1.3 "Lookup", trap 10).

use std::sync::Arc;

use crate::{
    api::{
        Object, Spec,
        istio::destination_rule::{DestinationRule, Subset, TrafficPolicy},
    },
    compile::{
        View,
        cluster::Registry,
        finding::Findings,
        name::{Age, is_exported, resolve_host},
        store::Link,
    },
    model::matcher::HostPattern,
};

/// The DestinationRules of one host and namespace, put together.
pub(super) struct Merged<'a> {
    /// Object, index and subset.
    pub(super) subsets: Vec<(&'a Object, usize, &'a Subset)>,
    pub(super) policy: Option<(&'a Object, &'a TrafficPolicy)>,
}

/// The rule for `host` of a service in `service_namespace`: of the proxy's namespace, else of the
/// service's, else of the root; in each the one with the most specific host.
pub(super) fn find<'a>(
    view: &'a View,
    host: &str,
    service_namespace: &Arc<str>,
    findings: &mut Findings,
) -> Option<Merged<'a>> {
    let patterns = patterns(host);
    let candidates = |namespace: &str| {
        patterns.iter().find_map(|pattern| {
            let rules = visible(view, pattern, namespace);
            (!rules.is_empty()).then_some(rules)
        })
    };
    let root = view.root_namespace();
    let own = &*view.proxy.namespace;
    let rules = Some(own)
        .filter(|own| *own != root)
        .and_then(candidates)
        .or_else(|| candidates(service_namespace))
        .or_else(|| candidates(root))?;
    Some(merge(rules, findings))
}

/// The host patterns that include `host`, most specific first.
pub fn patterns(host: &str) -> Vec<HostPattern> {
    let own = HostPattern::parse(host);
    let name = match &own {
        HostPattern::Exact(name) | HostPattern::Suffix(name) => Arc::clone(name),
        HostPattern::Any => Arc::default(),
    };
    let mut patterns = vec![own];
    for (dot, _) in name.match_indices('.') {
        let suffix = HostPattern::Suffix(name[dot..].into());
        if suffix.covers(&patterns[0]) && suffix != patterns[0] {
            patterns.push(suffix);
        }
    }
    if patterns[0] != HostPattern::Any {
        patterns.push(HostPattern::Any);
    }
    patterns
}

/// The rules of `namespace` with exactly this host that are meant for the proxy, oldest first. Those
/// that select it by label come alone.
fn visible<'a>(
    view: &'a View,
    pattern: &HostPattern,
    namespace: &str,
) -> Vec<(&'a Object, &'a DestinationRule)> {
    let default = &view.mesh.default_destination_rule_export_to;
    let own = &*view.proxy.namespace;
    let mut rules: Vec<(&Object, &DestinationRule)> = view
        .store
        .linked(&Link::Rule(pattern.clone()))
        .filter(|object| &*object.metadata.namespace == namespace)
        .filter_map(|object| match &object.spec {
            Spec::DestinationRule(rule) => Some((&**object, &**rule)),
            _ => None,
        })
        .filter(|(_, rule)| is_exported(&rule.export_to, default, namespace, own))
        .filter(|(_, rule)| match &rule.workload_selector {
            Some(selector) => namespace == own && selector.selects(&view.proxy.labels),
            None => true,
        })
        .collect();
    rules.sort_by_cached_key(|(object, _)| Age::of(object));
    if rules.iter().any(|(_, rule)| rule.workload_selector.is_some()) {
        rules.retain(|(_, rule)| rule.workload_selector.is_some());
    }
    rules
}

/// Oldest first: subsets add up, the first traffic policy is the one. Rules that are visible to
/// others than the oldest do not take part.
fn merge<'a>(rules: Vec<(&'a Object, &'a DestinationRule)>, findings: &mut Findings) -> Merged<'a> {
    let mut merged = Merged { subsets: Vec::new(), policy: None };
    let Some(&(oldest, first)) = rules.first() else { return merged };
    for (object, rule) in rules {
        if rule.export_to != first.export_to {
            findings.warn(
                object,
                "spec.exportTo",
                format!(
                    "this rule has no effect: {} is for the same host and exported to other \
                     namespaces, so the two are not merged",
                    oldest.key()
                ),
            );
            continue;
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            let taken = merged.subsets.iter().find(|(_, _, other)| other.name == subset.name);
            match taken {
                Some((owner, ..)) => findings.warn(
                    object,
                    format!("spec.subsets[{index}]"),
                    format!("subset {} is defined by {} already", subset.name, owner.key()),
                ),
                None => merged.subsets.push((object, index, subset)),
            }
        }
        match (&rule.traffic_policy, merged.policy) {
            (Some(policy), None) => merged.policy = Some((object, policy)),
            (Some(_), Some((owner, _))) => findings.warn(
                object,
                "spec.trafficPolicy",
                format!("the traffic policy of {} is used, which is older", owner.key()),
            ),
            (None, _) => {}
        }
    }
    merged
}

/// Says when a rule is for a host that nothing defines. A wildcard may wait for services to come.
pub(in crate::compile) fn warn_unknown_host(
    view: &View,
    registry: &Registry,
    object: &Object,
    rule: &DestinationRule,
    findings: &mut Findings,
) {
    let host = resolve_host(&rule.host, &object.metadata.namespace, &view.proxy.cluster_domain);
    let is_exact = matches!(HostPattern::parse(&host), HostPattern::Exact(_));
    if is_exact && registry.find(&host).is_none() {
        let message = format!("no Service or ServiceEntry defines host {host}; the rule is unused");
        findings.warn(object, "spec.host", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_looked_up_from_the_most_specific() {
        let list = |host: &str| patterns(host).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(list("a.b.com"), ["a.b.com", "*.b.com", "*.com", "*"]);
        assert_eq!(list("*.b.com"), ["*.b.com", "*.com", "*"]);
        assert_eq!(list("localhost"), ["localhost", "*"]);
    }
}
