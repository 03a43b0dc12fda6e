//! Which labels tell proxies apart.
//!
//! Two proxies of a namespace see the same unless something selects one of them and not the other. So
//! only labels that a selector asks for count; `pod-template-hash`, which every Deployment has another
//! of, would make a scope for each of them.

use std::{collections::BTreeSet, sync::Arc};

use weir_config::{api::Kind, model::matcher::HostPattern};

use super::{Audience, ProxyType};
use crate::store::{Entry, Facts, Labels, Store};

/// What selectors can see of a proxy, but for its labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selectable {
    pub namespace: Arc<str>,
    pub own_gateways_only: bool,
    pub proxy_type: ProxyType,
}

/// Labels, with their values, that selectors for a kind of proxy ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distinctive(BTreeSet<(String, String)>);

impl From<&Audience> for Selectable {
    fn from(audience: &Audience) -> Self {
        let Audience { namespace, labels: _, reads_secrets: _, own_gateways_only, proxy_type } =
            audience;
        Self {
            namespace: Arc::clone(namespace),
            own_gateways_only: *own_gateways_only,
            proxy_type: *proxy_type,
        }
    }
}

impl Selectable {
    /// Whether some selector of these kinds and namespaces may be meant for such proxies.
    #[must_use]
    pub fn are_meant(&self, selectors: &BTreeSet<(Kind, Arc<str>)>, store: &Store) -> bool {
        let root = &store.mesh().root_namespace;
        selectors.iter().any(|(kind, namespace)| {
            *namespace == self.namespace
                || namespace == root
                || (*kind == Kind::Gateway && self.proxy_type == ProxyType::Gateway)
        })
    }
}

impl Distinctive {
    /// As things are now.
    #[must_use]
    pub fn of(proxies: &Selectable, store: &Store) -> Self {
        let own = &*proxies.namespace;
        let root = &*store.mesh().root_namespace;
        let near = |kind| {
            let others = store.in_namespace(kind, root).filter(move |_| root != own);
            store.in_namespace(kind, own).chain(others)
        };
        let mut labels = Self::default();
        labels.extend(store.in_namespace(Kind::DestinationRule, own));
        labels.extend(near(Kind::RequestAuthentication));
        labels.extend(near(Kind::AuthorizationPolicy));
        match proxies.proxy_type {
            ProxyType::Gateway => {
                if proxies.own_gateways_only {
                    labels.extend(store.in_namespace(Kind::Gateway, own));
                } else {
                    labels.extend(store.of_kind(Kind::Gateway));
                }
                labels.extend(store.in_namespace(Kind::Service, own));
            }
            ProxyType::Sidecar => {
                labels.extend(near(Kind::PeerAuthentication));
                labels.extend(near(Kind::Sidecar));
                // What everybody knows anyway tells nobody apart: which Service a workload is of counts
                // only where a Sidecar hides that Service from others.
                let sidecars: Vec<_> = near(Kind::Sidecar).collect();
                let is_hidden = |entry: &&Arc<Entry>| sidecars.iter().any(|it| hides(it, entry));
                labels.extend(store.in_namespace(Kind::Service, own).filter(is_hidden));
                labels.extend(store.in_namespace(Kind::ServiceEntry, own).filter(is_hidden));
            }
        }
        labels
    }

    fn extend<'a>(&mut self, entries: impl Iterator<Item = &'a Arc<Entry>>) {
        let labels = entries.filter_map(|entry| entry.facts.selector()).flatten();
        self.0.extend(labels.map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Those of the labels of a proxy that count.
    #[must_use]
    pub fn among(&self, labels: &Labels) -> Labels {
        let pairs = labels.iter().map(|(name, value)| (name.clone(), value.clone()));
        pairs.filter(|pair| self.0.contains(pair)).collect()
    }
}

/// Whether workloads of that Sidecar may not know some host of a Service or ServiceEntry.
fn hides(sidecar: &Entry, entry: &Entry) -> bool {
    let Facts::Sidecar { imports, .. } = &sidecar.facts else { return false };
    let hosts = match &entry.facts {
        Facts::Service { host, .. } => std::slice::from_ref(host),
        Facts::ServiceEntry { hosts, .. } => hosts,
        _ => &[],
    };
    let namespace = &entry.key.namespace;
    hosts.iter().any(|host| !imports.admit(namespace, &HostPattern::parse(host)))
}
