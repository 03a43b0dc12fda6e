//! Which Sidecar resource applies, and what it lets the workload know (istio-compat 1.6).

use std::sync::Arc;

use crate::{
    api::{
        Kind, Object, Spec,
        istio::sidecar::{CaptureMode, EgressListener, Sidecar},
        mesh_config::OutboundTrafficPolicyMode,
    },
    compile::{
        View,
        finding::Findings,
        name::{Age, cluster_name, resolve_host},
    },
    model::{ClusterName, matcher::HostPattern},
};

/// What a workload knows of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::compile) struct Scope {
    /// `None`: everything that is exported to it.
    listeners: Option<Arc<[Imports]>>,
    pub(in crate::compile) unknown: Unknown,
}

/// What happens to connections to hosts it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::compile) enum Unknown {
    /// They go where they were going.
    #[default]
    Passed,
    /// They go there instead (`egressProxy`).
    Proxied(ClusterName),
    Refused,
}

/// The hosts of one egress listener.
#[derive(Debug, PartialEq, Eq)]
struct Imports {
    /// `None`: on every port.
    port: Option<u16>,
    hosts: Vec<Import>,
    excluded: Vec<Import>,
}

#[derive(Debug, PartialEq, Eq)]
struct Import {
    /// `None`: any.
    namespace: Option<Arc<str>>,
    host: HostPattern,
}

impl Scope {
    pub(in crate::compile) fn of(view: &View, findings: &mut Findings) -> Self {
        let Some((object, sidecar)) = resource(view) else {
            return Self { listeners: None, unknown: mesh_policy(view) };
        };
        let imports = |(index, listener): (usize, &EgressListener)| {
            if listener.capture_mode == CaptureMode::None || !listener.bind.is_empty() {
                let field = format!("spec.egress[{index}]");
                let message = "nothing listens there: applications are redirected, and bind and \
                               captureMode NONE are not applied; its hosts are known";
                findings.warn(object, field, message);
            }
            Imports::of(view, object, listener)
        };
        let listeners: Arc<[Imports]> = sidecar.egress.iter().enumerate().map(imports).collect();
        let unknown = match &sidecar.outbound_traffic_policy {
            None => mesh_policy(view),
            Some(policy) => match (policy.mode, &policy.egress_proxy) {
                (Some(OutboundTrafficPolicyMode::AllowAny), Some(proxy)) => {
                    let domain = &view.proxy.cluster_domain;
                    let host = resolve_host(&proxy.host, &object.metadata.namespace, domain);
                    let port = proxy.port.map(|port| port.number).unwrap_or_default();
                    Unknown::Proxied(cluster_name(&host, port, &proxy.subset))
                }
                (Some(OutboundTrafficPolicyMode::AllowAny), None) => Unknown::Passed,
                (_, _) => Unknown::Refused,
            },
        };
        Self { listeners: Some(listeners).filter(|all| !all.is_empty()), unknown }
    }

    /// Whether a host of `namespace` is known on `port`.
    pub(in crate::compile) fn admits(&self, namespace: &str, host: &str, port: u16) -> bool {
        self.admits_if(namespace, host, |own| own.is_none_or(|own| own == port))
    }

    /// Whether what a VirtualService of `namespace` says about `host` counts.
    pub(in crate::compile) fn admits_rules(&self, namespace: &str, host: &str) -> bool {
        self.admits_if(namespace, host, |_| true)
    }

    pub(in crate::compile) fn is_everything(&self) -> bool {
        self.listeners.is_none()
    }

    fn admits_if(&self, namespace: &str, host: &str, is_on: impl Fn(Option<u16>) -> bool) -> bool {
        let Some(listeners) = &self.listeners else { return true };
        let host = HostPattern::parse(host);
        let has = |imports: &[Import]| imports.iter().any(|it| it.includes(namespace, &host));
        listeners.iter().any(|it| is_on(it.port) && has(&it.hosts) && !has(&it.excluded))
    }
}

impl Imports {
    fn of(view: &View, object: &Object, listener: &EgressListener) -> Self {
        let mut imports = Self {
            port: listener.port.as_ref().map(|port| port.number),
            hosts: Vec::new(),
            excluded: Vec::new(),
        };
        for text in &listener.hosts {
            let Some((namespace, host)) = text.split_once('/') else { continue };
            let (namespace, is_excluded) = match namespace.strip_prefix('~') {
                Some("") if host == "*" => continue,
                Some("") => ("*", true),
                Some(namespace) => (namespace, true),
                None => (namespace, false),
            };
            let namespace = match namespace {
                "*" => None,
                "." => Some(Arc::clone(&object.metadata.namespace)),
                name => Some(name.into()),
            };
            let domain = &view.proxy.cluster_domain;
            let own = namespace.as_deref().unwrap_or_default();
            let host = HostPattern::parse(&resolve_host(host, own, domain));
            let list = if is_excluded { &mut imports.excluded } else { &mut imports.hosts };
            list.push(Import { namespace, host });
        }
        imports
    }
}

impl Import {
    fn includes(&self, namespace: &str, host: &HostPattern) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace) && self.host.covers(host)
    }
}

/// The Sidecar of the workload: its own, else the namespace's, else the mesh's; the oldest of several.
pub(super) fn resource(view: &View) -> Option<(&Object, &Sidecar)> {
    let candidates = |namespace: &str, selected: bool| {
        let mut found: Vec<(&Object, &Sidecar)> = view
            .store
            .of_kind(Kind::Sidecar)
            .filter(|object| *object.metadata.namespace == *namespace)
            .filter_map(|object| match &object.spec {
                Spec::Sidecar(spec) => Some((&**object, &**spec)),
                _ => None,
            })
            .filter(|(_, spec)| match &spec.workload_selector {
                Some(selector) => {
                    selected
                        && crate::compile::store::contains(&view.proxy.labels, &selector.labels)
                }
                None => !selected,
            })
            .collect();
        found.sort_by_cached_key(|(object, _)| Age::of(object));
        found.into_iter().next()
    };
    let own = &*view.proxy.namespace;
    candidates(own, true)
        .or_else(|| candidates(own, false))
        .or_else(|| candidates(view.root_namespace(), false))
}

fn mesh_policy(view: &View) -> Unknown {
    match view.mesh.outbound_traffic_policy.mode {
        OutboundTrafficPolicyMode::RegistryOnly => Unknown::Refused,
        OutboundTrafficPolicyMode::AllowAny | OutboundTrafficPolicyMode::AllowAnyDynamicDns => {
            Unknown::Passed
        }
    }
}
