//! Which hosts a Sidecar lets its workloads know, and where its unknown ones go.

use std::sync::Arc;

use weir_config::{
    api::istio::sidecar::{EgressListener, Sidecar},
    compile::reference::resolve_host,
    model::matcher::HostPattern,
};

/// The hosts of a Sidecar, on whatever port: the proxy, which gets what is here, knows the ports too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imports {
    /// None: everything that is exported to the workload.
    listeners: Box<[Listener]>,
    /// Where connections to hosts go that are not known (`egressProxy`), in full.
    pub proxy: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    hosts: Vec<Import>,
    excluded: Vec<Import>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    /// `None`: any.
    namespace: Option<Arc<str>>,
    host: HostPattern,
}

impl Imports {
    pub(super) fn of(spec: &Sidecar, own: &Arc<str>, domain: &str) -> Self {
        let policy = spec.outbound_traffic_policy.as_ref();
        let proxy = policy.and_then(|policy| policy.egress_proxy.as_ref());
        Self {
            listeners: spec.egress.iter().map(|it| Listener::of(it, own, domain)).collect(),
            proxy: proxy.map(|proxy| resolve_host(&proxy.host, own, domain)),
        }
    }

    /// Whether some of `hosts`, of an object in `namespace`, may be known.
    #[must_use]
    pub fn admit(&self, namespace: &str, hosts: &HostPattern) -> bool {
        self.listeners.is_empty()
            || self.listeners.iter().any(|listener| {
                let is_excluded = |it: &Import| it.is_of(namespace) && it.host.covers(hosts);
                let is_known =
                    |it: &Import| it.is_of(namespace) && it.host.intersect(hosts).is_some();
                listener.hosts.iter().any(is_known) && !listener.excluded.iter().any(is_excluded)
            })
    }
}

impl Listener {
    fn of(spec: &EgressListener, own: &Arc<str>, domain: &str) -> Self {
        let mut listener = Self { hosts: Vec::new(), excluded: Vec::new() };
        for text in &spec.hosts {
            let Some((namespace, host)) = text.split_once('/') else { continue };
            let (namespace, list) = match namespace.strip_prefix('~') {
                // `~/*`: nothing.
                Some("") if host == "*" => continue,
                Some("") => ("*", &mut listener.excluded),
                Some(namespace) => (namespace, &mut listener.excluded),
                None => (namespace, &mut listener.hosts),
            };
            let namespace = match namespace {
                "*" => None,
                "." => Some(Arc::clone(own)),
                name => Some(name.into()),
            };
            let of = namespace.as_deref().unwrap_or_default();
            let host = HostPattern::parse(&resolve_host(host, of, domain));
            list.push(Import { namespace, host });
        }
        listener
    }
}

impl Import {
    fn is_of(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}
