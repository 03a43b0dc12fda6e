//! What leads from one object to another.

use std::sync::Arc;

use weir_config::{
    api::{Kind, ObjectKey},
    compile::reference::patterns,
};

use super::{
    Entry, Facts,
    facts::{Labels, Passes},
};

/// Something one object asks for, and others answer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// VirtualServices that are bound to this Gateway.
    Routes(ObjectKey),
    /// The VirtualService `to`, for one of namespace `from` that delegates to it.
    Delegate { to: ObjectKey, from: Arc<str> },
    /// Services and ServiceEntries that define this host.
    Host(Arc<str>),
    /// DestinationRules of this namespace for exactly this host or wildcard.
    Rules { host: Arc<str>, namespace: Arc<str> },
    /// EndpointSlices of this Service.
    Endpoints { namespace: Arc<str>, service: Arc<str> },
    /// WorkloadEntries and pods of this namespace with these labels.
    Workloads { namespace: Arc<str>, labels: Arc<Labels> },
    /// PeerAuthentications of this namespace.
    Peers(Arc<str>),
    /// Services and ServiceEntries that a server leads to by what clients say.
    Passes(Passes),
    /// This Secret or ConfigMap.
    Material(ObjectKey),
}

impl Entry {
    /// The links by which it is found. Those that name an object ([`Link::Delegate`],
    /// [`Link::Material`]) or need a look at its labels ([`Link::Workloads`]) are not among them.
    pub(super) fn answers(&self) -> Vec<Link> {
        let namespace = &self.key.namespace;
        match &self.facts {
            Facts::VirtualService { is_root: true, gateways, .. } => {
                gateways.iter().cloned().map(Link::Routes).collect()
            }
            Facts::Service { host, .. } => vec![Link::Host(Arc::clone(host))],
            Facts::ServiceEntry { hosts, .. } => hosts.iter().cloned().map(Link::Host).collect(),
            Facts::DestinationRule { host, .. } => {
                vec![Link::Rules { host: Arc::clone(host), namespace: Arc::clone(namespace) }]
            }
            Facts::EndpointSlice { service, .. } => vec![Link::Endpoints {
                namespace: Arc::clone(namespace),
                service: Arc::clone(service),
            }],
            Facts::Policy { .. } if self.key.kind == Kind::PeerAuthentication => {
                vec![Link::Peers(Arc::clone(namespace))]
            }
            Facts::VirtualService { is_root: false, .. }
            | Facts::Gateway { .. }
            | Facts::Workload { .. }
            | Facts::Policy { .. }
            | Facts::Sidecar { .. }
            | Facts::Material
            | Facts::Unused => Vec::new(),
        }
    }

    /// What a proxy of `namespace` that has this object needs besides.
    #[must_use]
    pub fn wants(&self, namespace: &Arc<str>, root: &Arc<str>) -> Vec<Link> {
        let own = &self.key.namespace;
        match &self.facts {
            Facts::Gateway { credentials, passes, .. } => {
                let mut wants = materials(credentials, namespace);
                wants.extend(passes.iter().cloned().map(Link::Passes));
                wants.push(Link::Routes(self.key.clone()));
                wants
            }
            Facts::VirtualService { is_root, hosts, delegates, .. } => {
                let mut wants = Vec::new();
                for host in hosts {
                    wants.push(Link::Host(Arc::clone(host)));
                    wants.extend(rules(host, namespace));
                    if root != namespace {
                        wants.extend(rules(host, root));
                    }
                }
                // One level only: what is delegated to cannot delegate further.
                let delegates = delegates.iter().filter(|_| *is_root);
                wants.extend(
                    delegates.map(|to| Link::Delegate { to: to.clone(), from: Arc::clone(own) }),
                );
                wants
            }
            Facts::DestinationRule { credentials, .. } => materials(credentials, namespace),
            Facts::Service { host, selector, .. } => {
                let mut wants = rules_of(host, own, namespace, root);
                wants.push(Link::Endpoints {
                    namespace: Arc::clone(own),
                    service: Arc::clone(&self.key.name),
                });
                if !selector.is_empty() {
                    wants.push(workloads(own, selector));
                }
                wants.extend(peers(own, root));
                wants
            }
            Facts::ServiceEntry { hosts, selector, .. } => {
                let mut wants: Vec<Link> =
                    hosts.iter().flat_map(|host| rules_of(host, own, namespace, root)).collect();
                wants.extend(selector.as_ref().map(|selector| workloads(own, selector)));
                wants.extend(peers(own, root));
                wants
            }
            Facts::Sidecar { imports, .. } => {
                imports.proxy.iter().cloned().map(Link::Host).collect()
            }
            Facts::Workload { .. }
            | Facts::EndpointSlice { .. }
            | Facts::Policy { .. }
            | Facts::Material
            | Facts::Unused => Vec::new(),
        }
    }
}

/// The rules of the namespace a host is defined in. Those of the proxy's own and the root namespace
/// come with the VirtualService that names the host.
fn rules_of(host: &Arc<str>, own: &Arc<str>, namespace: &Arc<str>, root: &Arc<str>) -> Vec<Link> {
    if own == namespace || own == root { Vec::new() } else { rules(host, own).collect() }
}

/// A rule for a host may say it exactly or with any wildcard that covers it.
fn rules<'a>(host: &str, namespace: &'a Arc<str>) -> impl Iterator<Item = Link> + use<'a> {
    patterns(host).into_iter().map(|pattern| Link::Rules {
        host: pattern.to_string().into(),
        namespace: Arc::clone(namespace),
    })
}

/// What says whether the workloads of `own` take mutual TLS.
fn peers(own: &Arc<str>, root: &Arc<str>) -> impl Iterator<Item = Link> + use<> {
    let root = (root != own).then(|| Arc::clone(root));
    [Some(Arc::clone(own)), root].into_iter().flatten().map(Link::Peers)
}

fn workloads(namespace: &Arc<str>, labels: &Arc<Labels>) -> Link {
    Link::Workloads { namespace: Arc::clone(namespace), labels: Arc::clone(labels) }
}

/// The Secrets and ConfigMaps that proxies of `namespace` take for these credentials: only those of
/// their own namespace, so that who may write a Gateway does not get at the keys of every namespace.
fn materials(credentials: &[super::facts::Credential], namespace: &Arc<str>) -> Vec<Link> {
    let own = credentials
        .iter()
        .filter(|credential| credential.namespace.as_ref().is_none_or(|named| named == namespace));
    own.flat_map(|credential| {
        let name = &credential.name;
        let key = |name: Arc<str>| {
            Link::Material(ObjectKey {
                kind: credential.kind,
                namespace: Arc::clone(namespace),
                name,
            })
        };
        // The authorities of `web` may be apart, in `web-cacert`.
        let companion = (credential.kind == Kind::Secret).then(|| format!("{name}-cacert").into());
        [Some(Arc::clone(name)), companion].into_iter().flatten().map(key)
    })
    .collect()
}
