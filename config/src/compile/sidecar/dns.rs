//! One host -> what its names resolve to for the workload (sidecar reference 6).

use std::{net::IpAddr, sync::Arc};

use crate::{
    compile::{
        cluster::{Service, compile_endpoints},
        finding::Findings,
        name::service_host,
        route::Lookup,
    },
    model::{DnsRecord, cluster::EndpointAddress, matcher::HostPattern},
};

/// `None`: the name server is to be asked.
pub(in crate::compile) fn record(lookup: Lookup<'_>, host: &str) -> Option<DnsRecord> {
    if !lookup.view.proxy.captures_dns {
        return None;
    }
    let service = lookup.registry.find(host)?;
    let addresses = match service.is_headless {
        true => endpoints(lookup, service),
        false => {
            let nets = service.addresses.iter();
            // A network is where something is, not an address of it.
            let single = nets.filter(|net| net.prefix_len() == net.max_prefix_len());
            single.map(|net| net.addr()).collect()
        }
    };
    let names = names(lookup, service);
    (!addresses.is_empty()).then(|| DnsRecord { names, addresses: addresses.into() })
}

/// The service's own and, in Kubernetes, those that search domains make of it.
fn names(lookup: Lookup<'_>, service: &Service) -> Arc<[HostPattern]> {
    let Service { host, name, namespace, .. } = service;
    let proxy = &lookup.view.proxy;
    let mut names = vec![host.to_string()];
    if service.is_kubernetes && **host == *service_host(name, namespace, &proxy.cluster_domain) {
        names.push(format!("{name}.{namespace}.svc"));
        names.push(format!("{name}.{namespace}"));
        names.extend((*namespace == proxy.namespace).then(|| name.to_string()));
    }
    names.iter().map(|name| HostPattern::parse(name)).collect()
}

fn endpoints(lookup: Lookup<'_>, service: &Service) -> Vec<IpAddr> {
    // What there is to say about them is said where they are compiled.
    let mut unsaid = Findings::default();
    let all = compile_endpoints(lookup.view, service, &mut unsaid);
    let addresses = all.iter().flat_map(|members| &*members.endpoints);
    let ips = addresses.filter_map(|endpoint| match endpoint.address {
        EndpointAddress::Ip(address) => Some(address.ip()),
        EndpointAddress::Dns { .. } | EndpointAddress::Unix(_) => None,
    });
    let mut ips: Vec<IpAddr> = ips.collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}
