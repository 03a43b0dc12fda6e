//! Whom a host belongs to, and who else may say what becomes of connections to it.
//!
//! Istio lets a VirtualService or ServiceEntry of any namespace that is exported claim any host of the
//! mesh, so that who may write in one namespace can read the traffic of all others. Here a namespace
//! decides about its own clients and its own hosts, the root namespace about everything;
//! `hostTakeover: ALLOW` in the mesh configuration gives Istio's behaviour.

use super::{View, cluster::Service};
use crate::{
    api::{Object, mesh_config::HostTakeover},
    model::matcher::HostPattern,
    validate::VIRTUAL_SERVICES_FROM_ANNOTATION,
};

/// What an object of one namespace may do to a host of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
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

fn claim(view: &View, object: &Object, owner: Option<&str>) -> Claim {
    let Some(owner) = owner else { return Claim::Rightful };
    let from = &*object.metadata.namespace;
    let is_rightful =
        from == owner || from == &*view.proxy.namespace || from == view.root_namespace();
    match view.mesh.host_takeover {
        _ if is_rightful => Claim::Rightful,
        HostTakeover::Allow => Claim::Tolerated,
        HostTakeover::Deny => Claim::Refused,
    }
}

/// Whether the objects that define the service let VirtualServices of that namespace route it.
fn grants(view: &View, service: &Service, object: &Object) -> bool {
    let from = &*object.metadata.namespace;
    service.ports.iter().any(|port| {
        let owner = view.store.find(&port.owner);
        let text =
            owner.and_then(|it| it.metadata.annotations.get(VIRTUAL_SERVICES_FROM_ANNOTATION));
        let mut names = text.unwrap_or_default().split(',').map(str::trim);
        names.any(|name| name == "*" || name == from)
    })
}

/// The namespace in a name of the cluster: `shop` of `web.shop.svc.cluster.local` and of what is below
/// it; `*`, which is none, of a wildcard for several.
fn namespace_of<'a>(host: &'a str, cluster_domain: &str) -> Option<&'a str> {
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
