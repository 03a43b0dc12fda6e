//! EndpointSlice and Endpoints -> the members of a Kubernetes Service.

use std::sync::Arc;

use super::{
    Port, Service,
    endpoint::{Member, ip_address, is_rightful, principal},
};
use crate::{
    api::{
        Object, Spec,
        kubernetes::{self, EndpointPort, EndpointSlice, Endpoints},
    },
    compile::{View, finding::Findings, store::Link},
    model::cluster::Locality,
};

/// The ready endpoints of a Kubernetes service. EndpointSlices are the newer form; where there are
/// any, Endpoints only repeat them.
pub(super) fn kubernetes_members(
    view: &View,
    service: &Service,
    spec: &kubernetes::Service,
    port: &Port,
    findings: &mut Findings,
) -> Vec<Member> {
    let mut from_slices = Vec::new();
    let mut from_endpoints = Vec::new();
    let mut has_slices = false;
    for object in view.store.linked(&Link::Endpoints(Arc::clone(&service.host))) {
        if object.metadata.namespace != service.namespace {
            continue;
        }
        match &object.spec {
            Spec::EndpointSlice(slice) => {
                has_slices = true;
                from_slices.extend(slice_members(view, object, slice, (spec, port), findings));
            }
            Spec::Endpoints(endpoints) => {
                from_endpoints.extend(endpoints_members(object, endpoints, spec, port));
            }
            _ => {}
        }
    }
    if has_slices { from_slices } else { from_endpoints }
}

/// The endpoints of a slice, with the labels of their pods. Where those are not known, as in a folder,
/// the labels of the slice are what subsets can be chosen by.
fn slice_members(
    view: &View,
    object: &Object,
    slice: &EndpointSlice,
    (spec, port): (&kubernetes::Service, &Port),
    findings: &mut Findings,
) -> Vec<Member> {
    let Some(number) = endpoint_port(&slice.ports, spec, port) else { return Vec::new() };
    let ready = slice.endpoints.iter().enumerate().filter(|(_, endpoint)| {
        endpoint.conditions.ready != Some(false) || spec.publish_not_ready_addresses
    });
    ready
        .filter_map(|(index, endpoint)| {
            // A name (`addressType: FQDN`) is not an endpoint for Istio either.
            let text = endpoint.addresses.first()?;
            let address = ip_address(text, number)?;
            let field = || format!("endpoints[{index}].addresses");
            if !is_rightful(view, object, text, field, findings) {
                return None;
            }
            let mut member = Member::at(address);
            member.endpoint.locality = Arc::new(Locality {
                region: Arc::clone(&endpoint.region),
                zone: Arc::clone(&endpoint.zone),
                subzone: Arc::clone(&endpoint.sub_zone),
            });
            let has_own = !endpoint.labels.is_empty();
            let labels = if has_own { &endpoint.labels } else { &object.metadata.labels };
            member.describe(object, labels, endpoint.target_ref.as_ref());
            let workload = member.workload_mut();
            workload.principal = principal(view, &workload.namespace, &endpoint.service_account);
            Some(member)
        })
        .collect()
}

fn endpoints_members(
    object: &Object,
    endpoints: &Endpoints,
    spec: &kubernetes::Service,
    port: &Port,
) -> Vec<Member> {
    let mut members = Vec::new();
    for subset in &endpoints.subsets {
        let Some(number) = endpoint_port(&subset.ports, spec, port) else { continue };
        let not_ready = subset.not_ready_addresses.iter();
        let not_ready = not_ready.filter(|_| spec.publish_not_ready_addresses);
        for endpoint in subset.addresses.iter().chain(not_ready) {
            let Some(address) = ip_address(&endpoint.ip, number) else { continue };
            let mut member = Member::at(address);
            member.describe(object, &object.metadata.labels, endpoint.target_ref.as_ref());
            members.push(member);
        }
    }
    members
}

/// The endpoints' number for a service port: by name, or the only one where the service has one
/// port. No ports at all mean every port.
fn endpoint_port(ports: &[EndpointPort], spec: &kubernetes::Service, port: &Port) -> Option<u16> {
    if ports.is_empty() {
        return Some(port.target);
    }
    let named = ports.iter().find(|candidate| *candidate.name == *port.name);
    let only = match (ports, spec.ports.as_slice()) {
        ([only], [_]) => Some(only),
        _ => None,
    };
    named.or(only).map(|found| found.port.unwrap_or(port.target))
}
