//! Whom a host belongs to, and who else may say what becomes of connections to it.
//!
//! Istio lets a VirtualService or ServiceEntry of any namespace that is exported claim any host of the
//! mesh, so that who may write in one namespace can read the traffic of all others. Here a namespace
//! decides about its own clients and its own hosts, the root namespace about everything;
//! `hostTakeover: ALLOW` in the mesh configuration gives Istio's behaviour.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{View, cluster::Service};
use crate::{
    api::{Object, mesh_config::HostTakeover},
    model::matcher::HostPattern,
    validate::VIRTUAL_SERVICES_FROM_ANNOTATION,
};

/// On a ServiceEntry, WorkloadEntry, Service or EndpointSlice that the controller sends: those of its
/// addresses and networks at which somebody else is, separated by commas. Only the controller knows all
/// pods, nodes and Services.
pub const FOREIGN_ADDRESSES_ANNOTATION: &str = "weir.dev/foreignAddresses";

/// Of an endpoint that is somebody else's.
pub const FOREIGN_ENDPOINT: &str = "this endpoint is not used for clients of other namespaces: its \
     address is that of a pod of another namespace, of a node, or local to whoever asks";
/// Of an address for clients that is somebody else's.
pub const FOREIGN_VIRTUAL_ADDRESS: &str = "clients of other namespaces do not come here by this \
     address: another namespace's Service or pod, or a node, has it or is in it";
const TOLERATED_ADDRESS: &str = "this address is that of somebody else, which hostTakeover: ALLOW in \
     the mesh configuration permits";

/// What an object of one namespace may do to a host of another; the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    Rightful,
    /// It counts because the mesh configuration says so.
    Tolerated,
    Refused,
}

/// What a VirtualService says about a host: of a service if there is one, else of whoever has the name.
pub(super) fn of_rules(
    view: &View,
    object: &Object,
    host: &str,
    service: Option<&Service>,
) -> Claim {
    let named = namespace_of(host, &view.proxy.cluster_domain);
    let owner = service.map(|service| &*service.namespace).or(named);
    let claim = claim(view, object, owner);
    let is_granted = || service.is_some_and(|service| grants(view, service, object));
    if claim == Claim::Rightful || is_granted() { Claim::Rightful } else { claim }
}

/// That a ServiceEntry defines a host: names of the cluster are those of their namespace.
pub(super) fn of_definition(view: &View, object: &Object, host: &str) -> Claim {
    claim(view, object, namespace_of(host, &view.proxy.cluster_domain))
}

/// That connections go to an address, or are told by it or a network.
pub(super) fn of_address(view: &View, object: &Object, place: IpNet) -> Claim {
    let text = object.metadata.annotations.get(FOREIGN_ADDRESSES_ANNOTATION);
    let mut foreign = text.unwrap_or_default().split(',');
    if foreign.any(|it| network(it) == Some(place)) {
        claim(view, object, Some("*"))
    } else {
        Claim::Rightful
    }
}

/// Whether names in an object must not lead to where every proxy is itself. In a folder whoever wrote it
/// may mean that.
pub(super) fn refuses_local(view: &View, object: &Object) -> bool {
    !view.proxy.stands_alone && claim(view, object, Some("*")) == Claim::Refused
}

/// Where the address of an endpoint leads, as far as that can be told from it: sockets, and names that
/// stand for loopback, are on every proxy's own host.
#[must_use]
pub fn endpoint_place(text: &str) -> Option<IpNet> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if text.starts_with("unix://") || name == "localhost" || name.ends_with(".localhost") {
        return Some(IpAddr::from(Ipv4Addr::LOCALHOST).into());
    }
    text.parse::<IpAddr>().ok().map(Into::into)
}

/// A network, or an address as one.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(text.parse::<IpAddr>().ok()?.into()))
}

/// Whether it is one address.
#[must_use]
pub fn is_single(place: &IpNet) -> bool {
    place.prefix_len() == place.max_prefix_len()
}

/// A network as it is written: one address without its length.
#[must_use]
pub fn place_text(place: &IpNet) -> String {
    if is_single(place) { place.addr().to_string() } else { place.to_string() }
}

/// The warning there is of such a claim; `refusal` says what does not count.
pub(super) fn said_of_address(claim: Claim, refusal: &'static str) -> Option<&'static str> {
    match claim {
        Claim::Rightful => None,
        Claim::Tolerated => Some(TOLERATED_ADDRESS),
        Claim::Refused => Some(refusal),
    }
}

fn claim(view: &View, object: &Object, owner: Option<&str>) -> Claim {
    let from = &*object.metadata.namespace;
    if *from == *view.proxy.namespace {
        return Claim::Rightful;
    }
    let rules = Rules { root_namespace: view.root_namespace(), takeover: view.mesh.host_takeover };
    rules.claim(from, owner)
}

/// What the mesh configuration says of hosts and their namespaces.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub root_namespace: &'a str,
    pub takeover: HostTakeover,
}

impl Rules<'_> {
    /// What namespace `from` may say of what is `owner`'s to clients of others.
    #[must_use]
    pub fn claim(&self, from: &str, owner: Option<&str>) -> Claim {
        let is_rightful = owner.is_none_or(|owner| from == owner) || *from == *self.root_namespace;
        match self.takeover {
            _ if is_rightful => Claim::Rightful,
            HostTakeover::Allow => Claim::Tolerated,
            HostTakeover::Deny => Claim::Refused,
        }
    }
}

/// An object that defines a host: whose it is, and its annotation for VirtualServices of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub namespace: Arc<str>,
    pub grants: String,
}

impl Definition {
    #[must_use]
    pub fn of(object: &Object) -> Self {
        let grants = object.metadata.annotations.get(VIRTUAL_SERVICES_FROM_ANNOTATION);
        Self {
            namespace: Arc::clone(&object.metadata.namespace),
            grants: grants.unwrap_or_default().to_owned(),
        }
    }
}

/// What a VirtualService of namespace `from` may say about `hosts` to clients of other namespaces, at the
/// worst; `definitions` are those of hosts that it covers.
#[must_use]
pub fn routes_elsewhere(
    rules: &Rules<'_>,
    from: &str,
    hosts: &HostPattern,
    cluster_domain: &str,
    definitions: &[Definition],
) -> Claim {
    let foreign = definitions.iter().filter(|it| !is_granted(&it.grants, from));
    let worst = foreign.map(|it| rules.claim(from, Some(&it.namespace))).max();
    // Of a host that is defined, the definition says whose it is.
    if definitions.is_empty() || !matches!(hosts, HostPattern::Exact(_)) {
        let text = hosts.to_string();
        let named = rules.claim(from, namespace_of(&text, cluster_domain));
        worst.map_or(named, |worst| worst.max(named))
    } else {
        worst.unwrap_or(Claim::Rightful)
    }
}

/// What there is to say about such a claim of a VirtualService.
#[must_use]
pub fn said_of_rules(claim: Claim) -> Option<&'static str> {
    match claim {
        Claim::Rightful => None,
        Claim::Tolerated => Some(
            "it routes hosts of other namespaces for all clients of the mesh, which hostTakeover: \
             ALLOW in the mesh configuration permits",
        ),
        Claim::Refused => Some(
            "for clients of other namespaces it does not count where a host is another namespace's; \
             the host's Service can grant it with the annotation weir.dev/virtualServicesFrom",
        ),
    }
}

/// What there is to say about such a claim of a ServiceEntry.
#[must_use]
pub fn said_of_definition(claim: Claim) -> Option<&'static str> {
    match claim {
        Claim::Rightful => None,
        Claim::Tolerated => Some(
            "it defines a name of the cluster that is another namespace's, which hostTakeover: ALLOW \
             in the mesh configuration permits",
        ),
        Claim::Refused => Some(
            "a name of the cluster that is another namespace's does not count; define it in that \
             namespace or in the root namespace",
        ),
    }
}

/// Whether the objects that define the service let VirtualServices of that namespace route it.
fn grants(view: &View, service: &Service, object: &Object) -> bool {
    let from = &*object.metadata.namespace;
    service.ports.iter().any(|port| {
        let owner = view.store.find(&port.owner);
        let text =
            owner.and_then(|it| it.metadata.annotations.get(VIRTUAL_SERVICES_FROM_ANNOTATION));
        text.is_some_and(|text| is_granted(text, from))
    })
}

/// Whether the text of the annotation includes VirtualServices of namespace `from`.
#[must_use]
pub fn is_granted(text: &str, from: &str) -> bool {
    text.split(',').map(str::trim).any(|name| name == "*" || name == from)
}

/// The namespace in a name of the cluster: `shop` of `web.shop.svc.cluster.local` and of what is below
/// it; `*`, which is none, of a wildcard for several.
#[must_use]
pub fn namespace_of<'a>(host: &'a str, cluster_domain: &str) -> Option<&'a str> {
    let pattern = HostPattern::parse(host);
    let some_service = HostPattern::Exact(format!("*.*.svc.{cluster_domain}").into());
    if !matches!(pattern, HostPattern::Exact(_)) && pattern.covers(&some_service) {
        return Some("*");
    }
    let names = host.strip_suffix(cluster_domain)?.strip_suffix(".svc.")?;
    Some(names.rsplit('.').next().unwrap_or(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_cluster_belongs_to_the_namespace_in_it() {
        for (host, expected) in [
            ("web.shop.svc.cluster.local", Some("shop")),
            ("web-0.web.shop.svc.cluster.local", Some("shop")),
            ("*.shop.svc.cluster.local", Some("shop")),
            ("*.svc.cluster.local", Some("*")),
            ("web.shop.svc.cluster.local.example.com", None),
            ("shop.example.com", None),
            ("*.local", Some("*")),
            ("*", Some("*")),
            ("*.com", None),
        ] {
            assert_eq!(namespace_of(host, "cluster.local"), expected, "{host}");
        }
    }
}
