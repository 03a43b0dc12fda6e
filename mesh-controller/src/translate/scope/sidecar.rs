//! What a workload's proxy knows besides: whatever is exported to it, or what a Sidecar resource leaves
//! of that.

use std::{ops::Bound, sync::Arc};

use weir_config::{
    api::{Kind, ObjectKey},
    compile::reference::{Age, contains},
    model::matcher::HostPattern,
};

use super::{Audience, ProxyType, Scope};
use crate::store::{Entry, Facts, Imports, Link, Passes, Store};

/// Kinds that are looked at whoever asks for them: nobody does.
const ROOTS: [Kind; 8] = [
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::ServiceEntry,
    Kind::Sidecar,
    Kind::PeerAuthentication,
    Kind::RequestAuthentication,
    Kind::AuthorizationPolicy,
    Kind::Service,
];

pub(super) fn roots(store: &Store) -> Vec<ObjectKey> {
    ROOTS.iter().flat_map(|kind| store.of_kind(*kind)).map(|entry| entry.key.clone()).collect()
}

/// The Sidecar of the workload: its own, else the namespace's, else the mesh's; the oldest of several.
/// The proxy chooses in the same way.
pub(super) fn resource(audience: &Audience, store: &Store) -> Option<Arc<Entry>> {
    if audience.proxy_type != ProxyType::Sidecar {
        return None;
    }
    let oldest = |namespace: &str, is_selected: bool| {
        let found = store.in_namespace(Kind::Sidecar, namespace).filter_map(|entry| {
            let Facts::Sidecar { selector, age, .. } = &entry.facts else { return None };
            let is_meant = match selector {
                Some(selector) => is_selected && contains(&audience.labels, selector),
                None => !is_selected,
            };
            is_meant.then_some((age, entry))
        });
        found.min_by_key(|(age, _): &(&Age, _)| (*age).clone()).map(|(_, entry)| Arc::clone(entry))
    };
    let own = &audience.namespace;
    oldest(own, true)
        .or_else(|| oldest(own, false))
        .or_else(|| oldest(&store.mesh().root_namespace, false))
}

impl Scope {
    pub(super) fn is_sidecar(&self) -> bool {
        self.audience.proxy_type == ProxyType::Sidecar
    }

    /// Whether the workload knows other hosts than it did.
    pub(super) fn knows_others(&self, store: &Store) -> bool {
        let now = resource(&self.audience, store);
        let imports = |entry: &Option<Arc<Entry>>| entry.as_deref().and_then(imports).cloned();
        let key = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.key.clone());
        key(&now) != key(&self.sidecar) || imports(&now) != imports(&self.sidecar)
    }

    /// Whether the workload may know some of `hosts`, of an object in `namespace`.
    pub(super) fn imports(&self, namespace: &str, hosts: &HostPattern) -> bool {
        let limits = self.sidecar.as_deref().and_then(imports);
        self.is_sidecar() && limits.is_none_or(|limits| limits.admit(namespace, hosts))
    }

    /// Whether traffic may be for `host`, of an object in `namespace`.
    pub(super) fn reaches(&self, namespace: &str, host: &Arc<str>) -> bool {
        let pattern = HostPattern::parse(host);
        self.imports(namespace, &pattern)
            || self.wants.contains_key(&Link::Host(Arc::clone(host)))
            || self.passes(namespace, &pattern)
    }

    /// Whether a Gateway in the scope leads to `host` without a VirtualService.
    fn passes(&self, namespace: &str, host: &HostPattern) -> bool {
        // Few have one, and all of theirs are together.
        let first =
            Link::Passes(Passes { namespace: None, hosts: HostPattern::Exact(Arc::default()) });
        let of_kind = |link: &&Link| matches!(link, Link::Passes(_));
        let links = self.wants.range((Bound::Included(first), Bound::Unbounded));
        !self.is_sidecar()
            && links.map(|(link, _)| link).take_while(of_kind).any(|link| match link {
                Link::Passes(passes) => passes.includes(namespace, host),
                _ => false,
            })
    }

    /// What a member asks for.
    pub(super) fn links(&self, member: &Entry, root: &Arc<str>) -> Vec<Link> {
        let mut links = member.wants(&self.audience.namespace, root);
        links.retain(|link| self.needs(link, root));
        links
    }

    /// Whether a link has to be counted. A rule that comes anyway needs nobody who asks for it: there
    /// would be one link for every service and wildcard.
    pub(super) fn needs(&self, link: &Link, root: &str) -> bool {
        let Link::Rules { host, namespace } = link else { return true };
        let is_near = *namespace == self.audience.namespace || **namespace == *root;
        !(self.is_sidecar() && (is_near || self.imports(namespace, &HostPattern::parse(host))))
    }
}

fn imports(entry: &Entry) -> Option<&Imports> {
    match &entry.facts {
        Facts::Sidecar { imports, .. } => Some(imports),
        _ => None,
    }
}
