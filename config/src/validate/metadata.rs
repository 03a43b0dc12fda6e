//! Rules about names and annotations that every kind shares.

use super::{Findings, name};
use crate::{
    api::{Kind, Object, Spec, istio::authorization_policy::Action},
    diagnostic::FieldPath,
};

/// On a Service or ServiceEntry: the namespaces beside its own whose VirtualServices route it for
/// every client of the mesh; `*` is every one.
pub const VIRTUAL_SERVICES_FROM_ANNOTATION: &str = "weir.dev/virtualServicesFrom";
const DRY_RUN: &str = "istio.io/dry-run";

/// The spellings Go's `strconv.ParseBool` takes.
const GO_BOOLS: [&str; 12] =
    ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];

pub(super) fn validate(object: &Object, findings: &mut Findings<'_>) {
    let metadata = FieldPath::ROOT.field("metadata");
    object_name(object, metadata, findings);
    if !object.metadata.namespace.is_empty()
        && !name::is_kubernetes_label(&object.metadata.namespace)
    {
        findings.error(
            metadata.field("namespace"),
            "not a namespace name; use lower-case letters, digits and hyphens, at most 63",
        );
    }
    let annotations = metadata.field("annotations");
    for (key, value) in object.metadata.annotations.iter() {
        if key == DRY_RUN {
            dry_run(object, value, annotations.key(key), findings);
        }
        if key == VIRTUAL_SERVICES_FROM_ANNOTATION {
            virtual_services_from(object, value, annotations.key(key), findings);
        }
        if key.starts_with("internal.istio.io/") {
            findings.error(
                annotations.key(key),
                "reserved for objects that a controller generates; remove it",
            );
        }
    }
}

fn object_name(object: &Object, metadata: FieldPath<'_>, findings: &mut Findings<'_>) {
    let written = &object.metadata.name;
    let label_only = matches!(object.kind(), Kind::Gateway | Kind::Namespace | Kind::Service);
    if label_only && !name::is_kubernetes_label(written) {
        findings.error(
            metadata.field("name"),
            format!(
                "not a name for a {}; use lower-case letters, digits and hyphens, at most 63",
                object.kind()
            ),
        );
    } else if !name::is_kubernetes_name(written) {
        findings.error(
            metadata.field("name"),
            "not an object name; use lower-case letters, digits, hyphens and dots, at most 253",
        );
    }
}

fn virtual_services_from(
    object: &Object,
    value: &str,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if !matches!(object.kind(), Kind::Service | Kind::ServiceEntry) {
        findings.warning(at, "this has an effect on a Service or ServiceEntry only");
    }
    for name in value.split(',').map(str::trim) {
        if name != "*" && !name::is_kubernetes_label(name) {
            findings.error(at, format!("{name:?} is not a namespace name; write shop,bank or *"));
        }
    }
}

fn dry_run(object: &Object, value: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let applies = match &object.spec {
        Spec::AuthorizationPolicy(policy) => matches!(policy.action, Action::Allow | Action::Deny),
        _ => false,
    };
    if !applies {
        findings.error(
            at,
            "only an AuthorizationPolicy with action ALLOW or DENY can run dry; remove the annotation",
        );
    }
    if !GO_BOOLS.contains(&value) {
        findings.error(at, format!("{value:?} is not a boolean; write \"true\" or \"false\""));
    }
}
