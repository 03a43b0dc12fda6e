//! RequestAuthentication and AuthorizationPolicy -> what applies to every request of the proxy.

use std::sync::Arc;

mod attribute;
mod authn;
mod authz;

use super::{View, finding::Findings, name::labels};
use crate::{
    api::{Kind, Object, PolicyTargetReference, Selector},
    model::WorkloadPolicies,
};

/// The policies of the root namespace and the proxy's own that select the proxy: one set.
pub(super) fn compile(view: &View, findings: &mut Findings) -> WorkloadPolicies {
    if is_only_reader(view) {
        warn_elsewhere(view, findings);
    }
    WorkloadPolicies {
        jwt_authn: authn::compile(view, findings).map(Arc::new),
        authz: authz::compile(view, findings).map(Arc::new),
    }
}

/// Nobody else reads the folder. Beside one workload there is the configuration of the others.
fn is_only_reader(view: &View) -> bool {
    view.proxy.stands_alone && !view.is_sidecar()
}

/// Says which policies are in namespaces that are not looked at: nobody else does.
fn warn_elsewhere(view: &View, findings: &mut Findings) {
    let (own, root) = (&view.proxy.namespace, view.root_namespace());
    for kind in [Kind::RequestAuthentication, Kind::AuthorizationPolicy] {
        for object in view.store.of_kind(kind) {
            let namespace = &object.metadata.namespace;
            if namespace == own || **namespace == *root {
                continue;
            }
            let message = format!(
                "this policy does not apply: this gateway is in namespace {own} (--namespace), and \
                 only policies of that namespace and of {root} are for it"
            );
            findings.warn(object, "metadata.namespace", message);
        }
    }
}

/// The objects of `kind` that could apply to the proxy.
fn candidates(view: &View, kind: Kind) -> Vec<&Arc<Object>> {
    let own = view.store.in_namespace(kind, &view.proxy.namespace);
    if view.root_namespace() == &*view.proxy.namespace {
        return own.collect();
    }
    own.chain(view.store.in_namespace(kind, view.root_namespace())).collect()
}

/// Whether the proxy is what a policy is for. One that names other objects is not, and says so.
fn applies(
    view: &View,
    object: &Object,
    selector: Option<&Selector>,
    targets: impl IntoIterator<Item = (String, PolicyTargetReference)>,
    findings: &mut Findings,
) -> bool {
    let mut targets = targets.into_iter().peekable();
    if targets.peek().is_none() {
        let Some(selector) = selector else { return true };
        let selects = selector.selects(&view.proxy.labels);
        if !selects && is_only_reader(view) {
            let message = format!(
                "this policy does not apply: it is for {}, and this gateway has the labels {}; \
                 give it others with --labels or change the selector",
                labels(&selector.match_labels),
                labels(&view.proxy.labels)
            );
            findings.warn(object, "spec.selector", message);
        }
        return selects;
    }
    for (field, target) in targets {
        let message = format!(
            "{} {} is not served by this proxy, so the policy does not apply to it; use selector",
            target.kind, target.name
        );
        findings.warn(object, field, message);
    }
    false
}

/// `targetRef` and `targetRefs` with their fields.
fn targets<'a>(
    one: Option<&'a PolicyTargetReference>,
    many: &'a [PolicyTargetReference],
) -> impl Iterator<Item = (String, PolicyTargetReference)> + use<'a> {
    let one = one.into_iter().map(|target| ("spec.targetRef".to_owned(), target.clone()));
    let many = many
        .iter()
        .enumerate()
        .map(|(index, target)| (format!("spec.targetRefs[{index}]"), target.clone()));
    one.chain(many)
}
