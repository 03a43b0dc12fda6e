//! Rules for Kubernetes' own kinds. A cluster's API server has checked them; in a folder nobody has.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{Findings, name};
use crate::{
    api::kubernetes::{
        EndpointSlice, Endpoints, Pod, Service, endpoint_slice::AddressType, service::ServiceType,
    },
    diagnostic::FieldPath,
};

pub(super) fn service(service: &Service, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let at = spec.field("ports");
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in service.ports.iter().enumerate() {
        let at = at.index(index);
        if port.port == 0 {
            findings.error(at.field("port"), "a port number from 1 to 65535 is needed");
        } else if !numbers.insert((port.port, port.protocol as u8)) {
            findings.error(at.field("port"), "another port has this number; remove one");
        }
        if service.ports.len() > 1 && port.name.is_empty() {
            findings.error(at.field("name"), "with more than one port each needs a name");
        } else if !names.insert(&port.name) {
            findings.error(at.field("name"), "another port has this name; rename one");
        }
    }
    let external = service.r#type == ServiceType::ExternalName;
    if external && !name::is_fqdn(&service.external_name) {
        findings.error(spec.field("externalName"), "the DNS name the service stands for is needed");
    }
    if service.ports.is_empty() && !external {
        findings.warning(at, "a service without ports cannot be reached; add ports");
    }
}

pub(super) fn endpoint_slice(slice: &EndpointSlice, findings: &mut Findings<'_>) {
    let at = FieldPath::ROOT.field("endpoints");
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let at = at.index(index);
        let at = at.field("addresses");
        if endpoint.addresses.is_empty() {
            findings.error(at, "an endpoint needs an address");
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let (valid, kind) = match slice.address_type {
                AddressType::IPv4 => (address.parse::<Ipv4Addr>().is_ok(), "an IPv4 address"),
                AddressType::IPv6 => (address.parse::<Ipv6Addr>().is_ok(), "an IPv6 address"),
                AddressType::Fqdn => (name::is_fqdn(address), "a host name"),
            };
            if !valid {
                findings.error(at.index(index), format!("{address:?} is not {kind}"));
            }
        }
    }
}

pub(super) fn pod(pod: &Pod, findings: &mut Findings<'_>) {
    let address = &pod.status.pod_ip;
    if !address.is_empty() && !name::is_ip(address) {
        let at = FieldPath::ROOT.field("status");
        findings.error(at.field("podIP"), format!("{address:?} is not an IP address"));
    }
}

pub(super) fn endpoints(endpoints: &Endpoints, findings: &mut Findings<'_>) {
    let at = FieldPath::ROOT.field("subsets");
    for (index, subset) in endpoints.subsets.iter().enumerate() {
        let at = at.index(index);
        for (field, addresses) in
            [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
        {
            let at = at.field(field);
            for (index, address) in addresses.iter().enumerate() {
                if !name::is_ip(&address.ip) {
                    let message = format!("{:?} is not an IP address", address.ip);
                    findings.error(at.index(index).field("ip"), message);
                }
            }
        }
    }
}
