//! The objects in force, and who refers to whom.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::{
    Proxy,
    members::Members,
    name::{MESH_GATEWAY, resolve_gateway, resolve_host, service_host},
    packed::pack,
};
use crate::{
    api::{
        Kind, LabelSet, Object, ObjectKey, Spec,
        istio::virtual_service::{Destination, HttpRoute, VirtualService},
        kubernetes::endpoint_slice::SERVICE_NAME_LABEL,
    },
    model::matcher::HostPattern,
};

/// Something objects refer to. The index from a link to the objects that have it is what makes a
/// change cost only what depends on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    /// VirtualServices bound to this Gateway.
    Gateway(ObjectKey),
    /// VirtualServices for sidecars' connections to this host.
    Mesh(HostPattern),
    /// VirtualServices that delegate to this one.
    Delegate(ObjectKey),
    /// VirtualServices that send traffic to this host.
    Destination(Arc<str>),
    /// Services and ServiceEntries that define this host.
    Host(Arc<str>),
    /// DestinationRules for this host.
    Rule(HostPattern),
    /// EndpointSlices and Endpoints of this host.
    Endpoints(Arc<str>),
    /// Services and ServiceEntries of this namespace that select workloads by label.
    Workloads(Arc<str>),
    /// Services whose selector fits the proxy itself: they translate its Gateways' ports.
    OwnService,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    links: BTreeMap<Link, Members<ObjectKey>>,
}

impl Store {
    pub(super) fn find(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// Puts `object` in the place of the one of the same name, which is returned.
    pub(super) fn insert(&mut self, object: Arc<Object>, proxy: &Proxy) -> Option<Arc<Object>> {
        let key = object.key();
        let old = self.remove(&key, proxy);
        for link in links(&object, proxy) {
            self.links
                .entry(link)
                .and_modify(|keys| keys.insert(key.clone()))
                .or_insert_with(|| Members::One(key.clone()));
        }
        self.objects.insert(key, object);
        old
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, proxy: &Proxy) -> Option<Arc<Object>> {
        let old = self.objects.remove(key)?;
        for link in links(&old, proxy) {
            if self.links.get_mut(&link).is_some_and(|keys| keys.remove(key)) {
                self.links.remove(&link);
            }
        }
        Some(old)
    }

    /// Replaces an object by one that differs in nothing but where it was read.
    pub(super) fn relocate(&mut self, object: Arc<Object>) {
        self.objects.insert(object.key(), object);
    }

    pub(super) fn pack(&mut self) {
        let Self { objects, links } = self;
        pack(objects);
        pack(links);
    }

    /// The objects that have `link`, in the order of their keys.
    pub(super) fn linked<'a>(
        &'a self,
        link: &Link,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        self.linked_keys(link).filter_map(|key| self.objects.get(key))
    }

    pub(super) fn linked_keys<'a>(
        &'a self,
        link: &Link,
    ) -> impl Iterator<Item = &'a ObjectKey> + use<'a> {
        self.links.get(link).into_iter().flat_map(Members::iter)
    }

    /// The objects of one kind in every namespace.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let from = ObjectKey { kind, namespace: Arc::default(), name: Arc::default() };
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, object)| object)
    }

    /// The objects of one kind in one namespace.
    pub(super) fn in_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let from = ObjectKey { kind, namespace: namespace.into(), name: Arc::default() };
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind && *key.namespace == *namespace)
            .map(|(_, object)| object)
    }
}

/// What `object` refers to.
fn links(object: &Object, proxy: &Proxy) -> Vec<Link> {
    let namespace = &object.metadata.namespace;
    let name = &*object.metadata.name;
    let host = |host: &str| resolve_host(host, namespace, &proxy.cluster_domain);
    let own_host = |name: &str| service_host(name, namespace, &proxy.cluster_domain);
    match &object.spec {
        Spec::VirtualService(spec) => virtual_service_links(spec, namespace, proxy),
        Spec::DestinationRule(spec) => {
            vec![Link::Rule(HostPattern::parse(&host(&spec.host)))]
        }
        Spec::ServiceEntry(spec) => {
            let hosts = spec.hosts.iter().map(|name| Link::Host(host(name)));
            let workloads = spec.workload_selector.iter();
            hosts.chain(workloads.map(|_| Link::Workloads(Arc::clone(namespace)))).collect()
        }
        Spec::Service(spec) => {
            let mut links = vec![Link::Host(own_host(name))];
            if !spec.selector.is_empty() {
                links.push(Link::Workloads(Arc::clone(namespace)));
                if *namespace == proxy.namespace && contains(&proxy.labels, &spec.selector) {
                    links.push(Link::OwnService);
                }
            }
            links
        }
        Spec::EndpointSlice(_) => {
            let service = object.metadata.labels.get(SERVICE_NAME_LABEL);
            service.map(|service| Link::Endpoints(own_host(service))).into_iter().collect()
        }
        Spec::Endpoints(_) => vec![Link::Endpoints(own_host(name))],
        Spec::Gateway(_)
        | Spec::WorkloadEntry(_)
        | Spec::Sidecar(_)
        | Spec::PeerAuthentication(_)
        | Spec::RequestAuthentication(_)
        | Spec::AuthorizationPolicy(_)
        | Spec::EnvoyFilter(_)
        | Spec::Secret(_)
        | Spec::ConfigMap(_)
        | Spec::Pod(_)
        | Spec::Namespace(_) => Vec::new(),
    }
}

fn virtual_service_links(spec: &VirtualService, namespace: &Arc<str>, proxy: &Proxy) -> Vec<Link> {
    let gateways =
        spec.gateways.iter().filter_map(|name| resolve_gateway(name, namespace).map(Link::Gateway));
    let delegates = spec.http.iter().filter_map(|rule| rule.delegate.as_ref()).map(|delegate| {
        Link::Delegate(delegate_key(&delegate.name, &delegate.namespace, namespace))
    });
    let destinations = destinations(spec).map(|destination| {
        Link::Destination(resolve_host(&destination.host, namespace, &proxy.cluster_domain))
    });
    let mesh = mesh_hosts(spec, namespace, &proxy.cluster_domain).map(Link::Mesh);
    gateways.chain(delegates).chain(destinations).chain(mesh).collect()
}

/// The hosts a VirtualService is for at sidecars: none, unless it is bound to `mesh`, as it is when it
/// names no gateway.
pub fn mesh_hosts(
    spec: &VirtualService,
    namespace: &str,
    cluster_domain: &str,
) -> impl Iterator<Item = HostPattern> {
    let is_bound =
        spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH_GATEWAY);
    let hosts = spec.hosts.iter().filter(move |_| is_bound);
    hosts.map(move |host| HostPattern::parse(&resolve_host(host, namespace, cluster_domain)))
}

/// The VirtualService a rule in `own` namespace delegates to.
pub fn delegate_key(name: &str, namespace: &str, own: &Arc<str>) -> ObjectKey {
    let namespace = if namespace.is_empty() { Arc::clone(own) } else { namespace.into() };
    ObjectKey { kind: Kind::VirtualService, namespace, name: name.into() }
}

/// Every place a VirtualService sends traffic to, and copies of it.
pub fn destinations(spec: &VirtualService) -> impl Iterator<Item = &Destination> {
    let http = spec.http.iter().flat_map(http_destinations);
    let tls = spec.tls.iter().flat_map(|rule| &rule.route).map(|route| &route.destination);
    let tcp = spec.tcp.iter().flat_map(|rule| &rule.route).map(|route| &route.destination);
    http.chain(tls.chain(tcp).flatten())
}

/// Where an http rule sends requests and their copies.
pub(super) fn http_destinations(rule: &HttpRoute) -> impl Iterator<Item = &Destination> {
    let routes = rule.route.iter().filter_map(|route| route.destination.as_ref());
    let mirrors = rule.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
    routes.chain(&rule.mirror).chain(mirrors)
}

/// Whether `labels` has all of `selector`.
pub fn contains(labels: &impl LabelSet, selector: &impl LabelSet) -> bool {
    labels.has_all(selector)
}
