//! Rules for DestinationRule.

use std::collections::BTreeSet;

use super::{Findings, export_to, name, selector};
use crate::{
    api::istio::destination_rule::{DestinationRule, Subset},
    diagnostic::FieldPath,
};

mod load_balancer;
pub(super) mod traffic_policy;

pub(super) fn validate(rule: &DestinationRule, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    host(&rule.host, spec.field("host"), findings);
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy::validate(policy, spec.field("trafficPolicy"), findings);
    }
    subsets(&rule.subsets, spec.field("subsets"), findings);
    export_to::validate(&rule.export_to, false, spec, findings);
    let Some(workloads) = &rule.workload_selector else { return };
    let at = spec.field("workloadSelector");
    let at = at.field("matchLabels");
    selector::workload(&workloads.match_labels, at, findings);
    let own = |entry: &String| entry == "." || entry == findings.namespace();
    if !rule.export_to.iter().all(own) {
        findings.error(
            spec.field("exportTo"),
            "with a workloadSelector the rule is for workloads of its own namespace; write . only",
        );
    }
}

fn host(host: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if host.is_empty() {
        findings.error(at, "the service's name is needed");
    } else if !name::is_ip(host) && !name::is_wildcard_domain(host) {
        findings.error(at, format!("{host:?} is not a service name; write a name or *.suffix"));
    }
}

fn subsets(subsets: &[Subset], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mut names = BTreeSet::new();
    for (index, subset) in subsets.iter().enumerate() {
        let at = at.index(index);
        if !name::is_dns_label(&subset.name) {
            findings
                .error(at.field("name"), "a subset needs a name of letters, digits and hyphens");
        } else if !names.insert(&subset.name) {
            findings.error(at.field("name"), "another subset has this name; rename one");
        }
        selector::labels(&subset.labels, at.field("labels"), findings);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy::validate(policy, at.field("trafficPolicy"), findings);
        }
    }
}
