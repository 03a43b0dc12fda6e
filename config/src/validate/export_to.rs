//! `exportTo`: which namespaces see an object.

use std::collections::BTreeSet;

use super::{Findings, name};
use crate::diagnostic::FieldPath;

/// Checks the list. `none_allowed`: `~` is a value, as for ServiceEntries.
pub(super) fn validate(
    export_to: &[String],
    none_allowed: bool,
    spec: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let at = spec.field("exportTo");
    let mut seen = BTreeSet::new();
    for (index, entry) in export_to.iter().enumerate() {
        let valid = match entry.as_str() {
            "." | "*" => true,
            "~" => none_allowed,
            namespace => name::is_kubernetes_label(namespace),
        };
        if !valid {
            let none = if none_allowed { "~ (none), " } else { "" };
            findings.error(
                at.index(index),
                format!("not a namespace; use . (this one), * (all), {none}or a namespace name"),
            );
        }
        let namespace = if entry == "." { findings.namespace() } else { entry };
        if !seen.insert(namespace) {
            findings.error(at.index(index), "the namespace is listed twice; remove one");
        }
    }
    let alone = |entry: &str| export_to.iter().any(|e| e == entry) && export_to.len() > 1;
    if alone("*") {
        findings.error(at, "* already means every namespace; remove the other entries");
    }
    if alone("~") {
        findings.error(at, "~ means no namespace and stands alone; remove it or the other entries");
    }
}
