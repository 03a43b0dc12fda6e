//! The rules an object must follow: Istio's admission rules, each with a message that says what to
//! do.
//!
//! [`validate`] looks at one object alone and reports everything it finds, never stopping at the
//! first. Rules that need other objects (a missing Secret, two Gateways on one port) are
//! `compile`'s.

use crate::{
    api::{MeshConfig, Object, Source, Spec},
    diagnostic::{Diagnostic, FieldPath, Severity},
};

mod authorization_policy;
mod destination_rule;
mod export_to;
mod gateway;
mod kubernetes;
mod mesh_config;
mod metadata;
mod name;
mod peer_authentication;
mod percent;
mod regex;
mod request_authentication;
mod selector;
mod service_entry;
mod sidecar;
mod time;
mod virtual_service;
mod workload_entry;

pub use self::{
    metadata::VIRTUAL_SERVICES_FROM_ANNOTATION, service_entry::ALLOWED_RANGES_ANNOTATION,
};

/// Everything there is to say about `object`. An error means that it must not be applied.
pub fn validate(object: &Object) -> Vec<Diagnostic> {
    let mut findings =
        Findings { object: Some(object), source: &object.source, diagnostics: Vec::new() };
    metadata::validate(object, &mut findings);
    let spec = FieldPath::ROOT.field("spec");
    match &object.spec {
        Spec::Gateway(gateway) => gateway::validate(gateway, spec, &mut findings),
        Spec::VirtualService(virtual_service) => {
            virtual_service::validate(virtual_service, spec, &mut findings);
        }
        Spec::DestinationRule(rule) => destination_rule::validate(rule, spec, &mut findings),
        Spec::ServiceEntry(entry) => service_entry::validate(entry, spec, &mut findings),
        Spec::WorkloadEntry(entry) => workload_entry::validate(entry, spec, &mut findings),
        Spec::Sidecar(sidecar) => sidecar::validate(sidecar, spec, &mut findings),
        Spec::PeerAuthentication(policy) => {
            peer_authentication::validate(policy, spec, &mut findings);
        }
        Spec::RequestAuthentication(policy) => {
            request_authentication::validate(policy, spec, &mut findings);
        }
        Spec::AuthorizationPolicy(policy) => {
            authorization_policy::validate(policy, spec, &mut findings);
        }
        Spec::EnvoyFilter(_) => findings.warning(
            FieldPath::ROOT,
            "an EnvoyFilter is accepted but not applied: it patches Envoy's internals, which Weir \
             does not have; express the change with another kind, or remove it",
        ),
        Spec::Service(service) => kubernetes::service(service, spec, &mut findings),
        Spec::EndpointSlice(slice) => kubernetes::endpoint_slice(slice, &mut findings),
        Spec::Endpoints(endpoints) => kubernetes::endpoints(endpoints, &mut findings),
        Spec::Pod(pod) => kubernetes::pod(pod, &mut findings),
        Spec::Secret(_) | Spec::ConfigMap(_) | Spec::Namespace(_) => {}
    }
    findings.diagnostics
}

/// Everything there is to say about a mesh configuration that was read from `source`. An error means
/// that it must not be applied.
pub fn validate_mesh_config(mesh: &MeshConfig, source: &Source) -> Vec<Diagnostic> {
    let mut findings = Findings { object: None, source, diagnostics: Vec::new() };
    mesh_config::validate(mesh, &mut findings);
    findings.diagnostics
}

/// Collects what is found about one object.
struct Findings<'a> {
    /// `None`: the mesh configuration.
    object: Option<&'a Object>,
    source: &'a Source,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    /// The object must not be applied.
    fn error(&mut self, at: FieldPath<'_>, message: impl Into<String>) {
        self.push(Severity::Error, at, message.into());
    }

    /// The object is applied, but something about it does not do what its author may think.
    fn warning(&mut self, at: FieldPath<'_>, message: impl Into<String>) {
        self.push(Severity::Warning, at, message.into());
    }

    /// Namespace of the object.
    fn namespace(&self) -> &'a str {
        self.object.map_or("", |object| &object.metadata.namespace)
    }

    fn push(&mut self, severity: Severity, at: FieldPath<'_>, message: String) {
        self.diagnostics.push(Diagnostic {
            severity,
            object: self.object.map(Object::key),
            source: self.source.clone(),
            field: at.to_string(),
            message,
        });
    }
}

#[cfg(test)]
mod tests;
