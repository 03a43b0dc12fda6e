//! Selectors, labels and target references.

use std::collections::BTreeMap;

use super::{Findings, name};
use crate::{
    api::{PolicyTargetReference, Selector},
    diagnostic::FieldPath,
};

/// What a policy may be attached to.
const TARGETS: [(&str, &str); 5] = [
    ("", "Service"),
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

const MAX_TARGETS: usize = 16;

/// Labels that select workloads.
pub(super) fn workload(
    labels: &BTreeMap<String, String>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if labels.is_empty() {
        findings.warning(
            at,
            "no labels are given, so every workload is selected; add labels or \
                              remove the selector",
        );
    }
    for (key, value) in labels {
        if key.is_empty() {
            findings.error(at, "a label without a key selects nothing; write the key");
        }
        if key.contains('*') || value.contains('*') {
            findings.error(at.key(key), "labels are compared literally; remove the *");
        }
    }
}

/// Labels that are attached to something, or that endpoints must carry.
pub(super) fn labels(
    labels: &BTreeMap<String, String>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    for (key, value) in labels {
        if !name::is_label_key(key) {
            findings.error(
                at.key(key),
                "not a label key; use letters, digits, -, _ and . after an optional prefix and /",
            );
        }
        if !name::is_label_value(value) {
            findings.error(
                at.key(key),
                format!(
                    "{value:?} is not a label value; use letters, digits, -, _ and ., at most 63"
                ),
            );
        }
    }
}

/// The three ways a policy says what it applies to, of which one may be used.
pub(super) fn policy_target(
    selector: Option<&Selector>,
    target_ref: Option<&PolicyTargetReference>,
    target_refs: &[PolicyTargetReference],
    spec: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let ways = [selector.is_some(), target_ref.is_some(), !target_refs.is_empty()];
    if ways.into_iter().filter(|used| *used).count() > 1 {
        findings.error(spec, "only one of selector, targetRef and targetRefs may be set");
    }
    if let Some(selector) = selector {
        let at = spec.field("selector");
        workload(&selector.match_labels, at.field("matchLabels"), findings);
    }
    if let Some(target) = target_ref {
        target_reference(target, spec.field("targetRef"), findings);
    }
    let at = spec.field("targetRefs");
    for (index, target) in target_refs.iter().enumerate() {
        target_reference(target, at.index(index), findings);
    }
    if target_refs.len() > MAX_TARGETS {
        findings.error(at, format!("at most {MAX_TARGETS} targets; split the policy"));
    }
}

fn target_reference(
    target: &PolicyTargetReference,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if target.name.is_empty() {
        findings.error(at.field("name"), "name the object the policy applies to");
    }
    if !target.namespace.is_empty() {
        findings.error(
            at.field("namespace"),
            "a policy applies to its own namespace only; remove the field",
        );
    }
    if target.kind.is_empty() {
        findings.error(at.field("kind"), "the kind of the object is needed");
    } else if !TARGETS.contains(&(target.group.as_str(), target.kind.as_str())) {
        findings.error(
            at.field("kind"),
            format!(
                "a policy cannot be attached to {}/{}; use Service, networking.istio.io/ServiceEntry, \
                 gateway.networking.k8s.io/Gateway or gateway.networking.k8s.io/GatewayClass",
                target.group, target.kind
            ),
        );
    }
}
