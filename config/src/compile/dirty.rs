//! Which units a change makes compile again.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Compiler, Domain, Socket,
    cluster::workload_labels,
    name::{resolve_host, service_host},
    secret,
    store::{Link, contains, mesh_hosts},
};
use crate::{
    api::{
        Kind, LabelSet, Object, ObjectKey, Spec, istio::VirtualService,
        kubernetes::endpoint_slice::SERVICE_NAME_LABEL,
    },
    model::{SecretName, matcher::HostPattern},
};

/// Units to compile, by kind, in the order of `Compiler::recompile`; each kind may add to the ones
/// after it.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) settings: bool,
    pub(super) policies: bool,
    pub(super) gateways: BTreeSet<ObjectKey>,
    pub(super) listeners: BTreeSet<Socket>,
    /// By host.
    pub(super) services: BTreeSet<Arc<str>>,
    pub(super) destination_rules: BTreeSet<ObjectKey>,
    /// VirtualServices whose routes may be others now.
    pub(super) virtual_services: BTreeSet<ObjectKey>,
    /// VirtualServices that may take part elsewhere now, with the routes they have.
    pub(super) bindings: BTreeSet<ObjectKey>,
    pub(super) domains: BTreeSet<Domain>,
    /// By host.
    pub(super) endpoints: BTreeSet<Arc<str>>,
    pub(super) secrets: BTreeSet<SecretName>,
    /// Servers lead to other services than before.
    pub(super) auto_passthrough: bool,
    /// Of sidecars: hosts they connect to.
    pub(super) outbound: BTreeSet<Arc<str>>,
    /// Of sidecars: what their workload listens on.
    pub(super) inbound: bool,
    /// Of sidecars: what they know may be something else.
    pub(super) scope: bool,
}

impl Dirty {
    /// All units there are.
    pub(super) fn everything(compiler: &Compiler) -> Self {
        let mut dirty = Self {
            settings: true,
            policies: true,
            inbound: true,
            scope: true,
            auto_passthrough: true,
            ..Self::default()
        };
        for object in compiler.view.store.objects() {
            dirty.mark_object(compiler, object);
        }
        dirty.secrets.extend(compiler.references.names().cloned());
        dirty
    }

    /// Marks what depends on an object that was `old` and is `new`.
    pub(super) fn mark(
        &mut self,
        compiler: &Compiler,
        key: &ObjectKey,
        old: Option<&Object>,
        new: Option<&Object>,
    ) {
        for object in [old, new].into_iter().flatten() {
            self.mark_object(compiler, object);
        }
        // That a Gateway exists is all that VirtualServices ask of one that is not ours.
        if key.kind == Kind::Gateway && old.is_some() != new.is_some() {
            self.bindings
                .extend(compiler.view.store.linked_keys(&Link::Gateway(key.clone())).cloned());
        }
    }

    fn mark_object(&mut self, compiler: &Compiler, object: &Object) {
        let proxy = &compiler.view.proxy;
        let store = &compiler.view.store;
        let namespace = &object.metadata.namespace;
        let own_host = |name: &str| service_host(name, namespace, &proxy.cluster_domain);
        match &object.spec {
            Spec::Gateway(_) => {
                self.gateways.insert(object.key());
            }
            Spec::VirtualService(spec) => {
                self.mark_mesh_hosts(compiler, namespace, spec);
                self.mark_virtual_service(compiler, object.key());
            }
            Spec::DestinationRule(rule) => {
                self.destination_rules.insert(object.key());
                let host = resolve_host(&rule.host, namespace, &proxy.cluster_domain);
                self.mark_services(compiler, host);
            }
            Spec::ServiceEntry(entry) => {
                let selects = entry.workload_selector.is_some();
                self.inbound |= selects && *namespace == proxy.namespace;
                let hosts = entry.hosts.iter();
                self.services
                    .extend(hosts.map(|host| resolve_host(host, namespace, &proxy.cluster_domain)));
            }
            Spec::Service(service) => {
                self.services.insert(own_host(&object.metadata.name));
                let is_own = *namespace == proxy.namespace
                    && !service.selector.is_empty()
                    && contains(&proxy.labels, &service.selector);
                if is_own {
                    self.inbound = true;
                    self.gateways.extend(compiler.sockets.keys().cloned());
                }
            }
            Spec::WorkloadEntry(entry) => {
                let labels = workload_labels(object, entry);
                for owner in store.linked(&Link::Workloads(Arc::clone(namespace))) {
                    self.mark_selecting(compiler, owner, &labels);
                }
            }
            Spec::Pod(_) => {
                for owner in store.linked(&Link::Workloads(Arc::clone(namespace))) {
                    self.mark_selecting(compiler, owner, &object.metadata.labels);
                }
            }
            Spec::EndpointSlice(_) => {
                let service = object.metadata.labels.get(SERVICE_NAME_LABEL);
                self.endpoints.extend(service.map(own_host));
            }
            Spec::Endpoints(_) => {
                self.endpoints.insert(own_host(&object.metadata.name));
            }
            Spec::Secret(_) | Spec::ConfigMap(_) => {
                let names = secret::names_of(&object.key()).into_iter();
                self.secrets.extend(names.filter(|name| compiler.references.is_used(name)));
            }
            Spec::RequestAuthentication(_) | Spec::AuthorizationPolicy(_) => {
                let root = compiler.view.root_namespace();
                self.policies |=
                    *namespace == proxy.namespace || **namespace == *root || proxy.stands_alone;
            }
            Spec::PeerAuthentication(_) => {
                let is_of_mesh = **namespace == *compiler.view.root_namespace();
                self.inbound |= *namespace == proxy.namespace || is_of_mesh;
                // Whether clients speak TLS with these workloads.
                let services = compiler.registry.services();
                let services = services.filter(|it| is_of_mesh || it.namespace == *namespace);
                self.endpoints.extend(services.map(|service| Arc::clone(&service.host)));
            }
            Spec::Sidecar(_) => {
                let root = compiler.view.root_namespace();
                self.scope |= *namespace == proxy.namespace || **namespace == *root;
            }
            Spec::EnvoyFilter(_) | Spec::Namespace(_) => {}
        }
    }

    /// A VirtualService, and those that include it by `delegate`.
    pub(super) fn mark_virtual_service(&mut self, compiler: &Compiler, key: ObjectKey) {
        let store = &compiler.view.store;
        let roots = store.linked_keys(&Link::Delegate(key.clone())).cloned();
        for key in roots.chain([key]) {
            if let Some(object) = store.find(&key)
                && let Spec::VirtualService(spec) = &object.spec
            {
                self.mark_mesh_hosts(compiler, &object.metadata.namespace, spec);
            }
            self.virtual_services.insert(key);
        }
    }

    /// The hosts sidecars reach by way of a VirtualService.
    fn mark_mesh_hosts(&mut self, compiler: &Compiler, namespace: &str, spec: &VirtualService) {
        if !compiler.view.is_sidecar() {
            return;
        }
        for pattern in mesh_hosts(spec, namespace, &compiler.view.proxy.cluster_domain) {
            let hosts = compiler.registry.hosts();
            let covered = hosts.filter(|host| pattern.covers(&HostPattern::parse(host)));
            self.outbound.extend(covered.cloned());
            self.outbound.insert(pattern.to_string().into());
        }
    }

    /// The services a DestinationRule's host includes.
    fn mark_services(&mut self, compiler: &Compiler, host: Arc<str>) {
        let pattern = HostPattern::parse(&host);
        if !matches!(pattern, HostPattern::Exact(_)) {
            let hosts = compiler.registry.hosts();
            self.services
                .extend(hosts.filter(|host| pattern.covers(&HostPattern::parse(host))).cloned());
        }
        self.services.insert(host);
    }

    /// The hosts of `owner`, if it selects workloads with `labels`.
    fn mark_selecting(&mut self, compiler: &Compiler, owner: &Object, labels: &impl LabelSet) {
        let proxy = &compiler.view.proxy;
        let namespace = &owner.metadata.namespace;
        match &owner.spec {
            Spec::Service(service) if contains(labels, &service.selector) => {
                let name = &owner.metadata.name;
                self.endpoints.insert(service_host(name, namespace, &proxy.cluster_domain));
            }
            Spec::ServiceEntry(entry) => {
                let selector = entry.workload_selector.as_ref();
                if selector.is_some_and(|selector| contains(labels, &selector.labels)) {
                    let hosts = entry.hosts.iter();
                    self.endpoints.extend(
                        hosts.map(|host| resolve_host(host, namespace, &proxy.cluster_domain)),
                    );
                }
            }
            _ => {}
        }
    }
}
