//! Which services there are, as seen from the proxy's namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    api::{
        IntOrString, Kind, Object, ObjectKey, Protocol, Spec,
        istio::{destination_rule, service_entry},
        kubernetes::{TransportProtocol, service},
        mesh_config::HostTakeover,
    },
    compile::{
        View,
        finding::Findings,
        name::{Age, is_exported},
        ownership::{self, Claim},
        packed::pack,
        store::Link,
    },
};

/// What `clusterIP` says where there is none.
const HEADLESS: &str = "None";
/// On a Service: the namespaces that see it, in the form of `exportTo`.
const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";

/// The services by host.
#[derive(Debug, Default)]
pub(in crate::compile) struct Registry(BTreeMap<Arc<str>, Service>);

impl Registry {
    pub(in crate::compile) fn find(&self, host: &str) -> Option<&Service> {
        self.0.get(host)
    }

    pub(in crate::compile) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    pub(in crate::compile) fn services(&self) -> impl Iterator<Item = &Service> {
        self.0.values()
    }

    pub(in crate::compile) fn pack(&mut self) {
        pack(&mut self.0);
    }

    /// Puts `service` in the place of the one that had the host, which is returned.
    pub(in crate::compile) fn replace(
        &mut self,
        host: &Arc<str>,
        service: Option<Service>,
    ) -> Option<Service> {
        match service {
            Some(service) => self.0.insert(Arc::clone(host), service),
            None => self.0.remove(host),
        }
    }
}

/// One host with its ports.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::compile) struct Service {
    pub(in crate::compile) host: Arc<str>,
    /// What metrics call it: the Service's name, or the host.
    pub(in crate::compile) name: Arc<str>,
    pub(in crate::compile) namespace: Arc<str>,
    pub(in crate::compile) ports: Vec<Port>,
    pub(in crate::compile) subsets: Vec<Subset>,
    /// What clients connect to, if it is not the endpoints.
    pub(in crate::compile) addresses: Vec<IpNet>,
    /// The addresses are ours: who has not asked us for them does not know them.
    pub(in crate::compile) has_auto_addresses: bool,
    /// An address that was written is somebody else's: without it, it is not at every address.
    pub(in crate::compile) lacks_addresses: bool,
    /// Clients connect to an endpoint of their own choice.
    pub(in crate::compile) is_headless: bool,
    pub(in crate::compile) is_kubernetes: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::compile) struct Port {
    pub(in crate::compile) number: u16,
    pub(in crate::compile) name: Arc<str>,
    /// `None`: not said, and not known in advance.
    pub(in crate::compile) protocol: Option<Protocol>,
    /// Where endpoints listen when they do not say; a name of theirs counts as not said.
    pub(in crate::compile) target: u16,
    /// That name: every workload has a number of its own for it.
    pub(in crate::compile) target_name: Option<Arc<str>>,
    /// The object that has the port.
    pub(in crate::compile) owner: ObjectKey,
}

/// The endpoints of a service that have some labels.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::compile) struct Subset {
    pub(in crate::compile) name: Arc<str>,
    pub(in crate::compile) labels: BTreeMap<String, String>,
    /// The DestinationRule and where it says so.
    pub(in crate::compile) rule: ObjectKey,
    pub(in crate::compile) index: usize,
}

impl Subset {
    pub(super) fn new(object: &Object, index: usize, subset: &destination_rule::Subset) -> Self {
        Self {
            name: subset.name.as_str().into(),
            labels: subset.labels.clone(),
            rule: object.key(),
            index,
        }
    }
}

impl Service {
    pub(in crate::compile) fn only_port(&self) -> Option<u16> {
        match self.ports.as_slice() {
            [port] => Some(port.number),
            _ => None,
        }
    }

    pub(in crate::compile) fn has_port(&self, number: u16) -> bool {
        self.ports.iter().any(|port| port.number == number)
    }

    pub(in crate::compile) fn has_subset(&self, name: &str) -> bool {
        self.subsets.iter().any(|subset| &*subset.name == name)
    }

    /// Clients come by the addresses of `object`, but for those that are somebody else's.
    fn add_addresses(&mut self, view: &View, object: &Object, findings: &mut Findings) {
        for net in addresses(object) {
            let claim = ownership::of_address(view, object, net);
            let refusal = ownership::FOREIGN_VIRTUAL_ADDRESS;
            if let Some(said) = ownership::said_of_address(claim, refusal) {
                let place = ownership::place_text(&net);
                findings.warn(object, "spec.addresses", format!("{place}: {said}"));
            }
            if claim == Claim::Refused {
                self.lacks_addresses = true;
            } else {
                self.addresses.push(net);
            }
        }
    }

    /// Whether routes find the same clusters in both.
    pub(super) fn has_same_clusters(&self, other: &Self) -> bool {
        let ports = |service: &Self| -> BTreeSet<u16> {
            service.ports.iter().map(|port| port.number).collect()
        };
        let subsets = |service: &Self| -> BTreeSet<Arc<str>> {
            service.subsets.iter().map(|subset| Arc::clone(&subset.name)).collect()
        };
        ports(self) == ports(other) && subsets(self) == subsets(other)
    }
}

/// The service called `host`, as far as the proxy may know it as a client.
pub(super) fn define(view: &View, host: &Arc<str>, findings: &mut Findings) -> Option<Service> {
    let counts =
        |object: &Object| is_visible(view, object) && claim(view, object, host) != Claim::Refused;
    let service = merge(view, host, counts, findings);
    for object in view.store.linked(&Link::Host(Arc::clone(host))) {
        let claim = claim(view, object, host);
        if let Some(said) = ownership::said_of_definition(claim)
            && is_visible(view, object)
        {
            findings.warn(object, "spec.hosts", said);
        }
    }
    let mut service = service?;
    let scope = &view.scope;
    service.ports.retain(|port| scope.admits(&service.namespace, host, port.number));
    // Of a service without ports nothing is to be known but that it exists.
    (!service.ports.is_empty() || scope.is_everything()).then_some(service)
}

/// Whether an object may define a host.
fn claim(view: &View, object: &Object, host: &str) -> Claim {
    match object.kind() {
        Kind::ServiceEntry => ownership::of_definition(view, object, host),
        _ => Claim::Rightful,
    }
}

/// The service called `host` that objects of the proxy's namespace define: the proxy's workload can be
/// it, whatever it may know as a client.
pub(in crate::compile) fn own(view: &View, host: &Arc<str>) -> Option<Service> {
    let is_own = |object: &Object| object.metadata.namespace == view.proxy.namespace;
    // What there is to say about them is said to their clients.
    merge(view, host, is_own, &mut Findings::default())
}

/// The service of the objects that `count`: Kubernetes' first, which nothing else may stand in for,
/// then of the proxy's own namespace, then the oldest (istio-compat 1.6, where the first two are the
/// other way round; so they are with `hostTakeover: ALLOW`). Further ServiceEntries of the same
/// namespace add ports.
fn merge(
    view: &View,
    host: &Arc<str>,
    count: impl Fn(&Object) -> bool,
    findings: &mut Findings,
) -> Option<Service> {
    let mut objects: Vec<&Arc<Object>> =
        view.store.linked(&Link::Host(Arc::clone(host))).filter(|object| count(object)).collect();
    objects.sort_by_cached_key(|object| {
        let is_foreign = object.metadata.namespace != view.proxy.namespace;
        let is_entry = object.kind() != Kind::Service;
        let (first, second) = match view.mesh.host_takeover {
            HostTakeover::Deny => (is_entry, is_foreign),
            HostTakeover::Allow => (is_foreign, is_entry),
        };
        (first, second, Age::of(object))
    });
    let (first, rest) = objects.split_first()?;
    let mut service = Service {
        host: Arc::clone(host),
        name: match first.kind() {
            Kind::Service => Arc::clone(&first.metadata.name),
            _ => Arc::clone(host),
        },
        namespace: Arc::clone(&first.metadata.namespace),
        ports: ports(first),
        subsets: Vec::new(),
        addresses: Vec::new(),
        has_auto_addresses: false,
        lacks_addresses: false,
        is_headless: matches!(&first.spec, Spec::Service(spec) if spec.cluster_ip == HEADLESS),
        is_kubernetes: first.kind() == Kind::Service,
    };
    service.add_addresses(view, first, findings);
    for object in rest {
        let adds_ports = first.kind() == Kind::ServiceEntry
            && object.kind() == Kind::ServiceEntry
            && object.metadata.namespace == service.namespace;
        let new: Vec<Port> = ports(object)
            .into_iter()
            .filter(|port| adds_ports && !service.has_port(port.number))
            .collect();
        if new.is_empty() {
            findings.warn(
                object,
                "spec.hosts",
                format!("{host} is defined by {} already; this object adds nothing", first.key()),
            );
        }
        if adds_ports {
            service.add_addresses(view, object, findings);
        }
        service.ports.extend(new);
    }
    if service.addresses.is_empty() && !service.is_kubernetes {
        service.addresses = view.auto_addresses.find(&view.proxy, host);
        service.has_auto_addresses = !service.addresses.is_empty();
    }
    service.addresses.sort_unstable();
    service.addresses.dedup();
    // Most have one port and one address, and room for four.
    service.addresses.shrink_to_fit();
    service.ports.shrink_to_fit();
    Some(service)
}

fn is_visible(view: &View, object: &Object) -> bool {
    let default = &view.mesh.default_service_export_to;
    let own = &object.metadata.namespace;
    let to = &view.proxy.namespace;
    match &object.spec {
        Spec::ServiceEntry(entry) => is_exported(&entry.export_to, default, own, to),
        Spec::Service(_) => is_exported(&service_export_to(object), default, own, to),
        _ => false,
    }
}

/// The `exportTo` of a Kubernetes Service, which is an annotation.
#[must_use]
pub fn service_export_to(object: &Object) -> Vec<String> {
    let annotation = object.metadata.annotations.get(EXPORT_TO_ANNOTATION);
    annotation
        .map(|text| text.split(',').map(|entry| entry.trim().to_owned()).collect())
        .unwrap_or_default()
}

fn ports(object: &Object) -> Vec<Port> {
    match &object.spec {
        Spec::Service(spec) => {
            let tcp = spec.ports.iter().filter(|port| port.protocol == TransportProtocol::Tcp);
            tcp.map(|port| service_port(object, port)).collect()
        }
        Spec::ServiceEntry(spec) => {
            spec.ports.iter().map(|port| entry_port(object, port)).collect()
        }
        _ => Vec::new(),
    }
}

/// The virtual addresses of a service.
fn addresses(object: &Object) -> Vec<IpNet> {
    let parse = |text: &String| ownership::network(text);
    match &object.spec {
        Spec::Service(spec) if spec.cluster_ips.is_empty() => {
            parse(&spec.cluster_ip).into_iter().collect()
        }
        Spec::Service(spec) => spec.cluster_ips.iter().filter_map(parse).collect(),
        Spec::ServiceEntry(spec) => spec.addresses.iter().filter_map(parse).collect(),
        _ => Vec::new(),
    }
}

fn service_port(object: &Object, port: &service::ServicePort) -> Port {
    let (target, target_name) = match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => (*number, None),
        Some(IntOrString::String(name)) => (port.port, Some(name.as_str().into())),
        Some(IntOrString::Int(_)) | None => (port.port, None),
    };
    Port {
        number: port.port,
        name: port.name.as_str().into(),
        protocol: protocol(&port.app_protocol, &port.name, port.port),
        target,
        target_name,
        owner: object.key(),
    }
}

fn entry_port(object: &Object, port: &service_entry::ServicePort) -> Port {
    Port {
        number: port.number,
        name: port.name.as_str().into(),
        protocol: port.protocol,
        target: port.target_port.filter(|&number| number != 0).unwrap_or(port.number),
        target_name: None,
        owner: object.key(),
    }
}

/// What a Kubernetes port speaks: `appProtocol`, else the prefix of its name, else what is usual on
/// the number (istio-compat 1.6, "Protocol selection").
fn protocol(app_protocol: &str, name: &str, number: u16) -> Option<Protocol> {
    match app_protocol {
        "" => {}
        "kubernetes.io/h2c" => return Some(Protocol::Http2),
        "kubernetes.io/ws" => return Some(Protocol::Http),
        "kubernetes.io/wss" => return Some(Protocol::Https),
        other => return Protocol::parse(other),
    }
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Some(Protocol::GrpcWeb);
    }
    let prefix = name.split_once('-').map_or(name, |(prefix, _)| prefix);
    Protocol::parse(prefix).or(match number {
        25 | 53 | 3306 | 27017 => Some(Protocol::Tcp),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_says_what_it_speaks_by_app_protocol_then_name_then_number() {
        for (app_protocol, name, number, expected) in [
            ("", "http", 80, Some(Protocol::Http)),
            ("", "http-web", 80, Some(Protocol::Http)),
            ("", "http2-api", 80, Some(Protocol::Http2)),
            ("", "grpc", 80, Some(Protocol::Grpc)),
            ("", "grpc-web", 80, Some(Protocol::GrpcWeb)),
            ("", "grpc-web-x", 80, Some(Protocol::GrpcWeb)),
            ("", "web", 80, None),
            ("", "", 3306, Some(Protocol::Tcp)),
            ("http", "tcp-x", 80, Some(Protocol::Http)),
            ("kubernetes.io/h2c", "http", 80, Some(Protocol::Http2)),
            ("kubernetes.io/wss", "http", 80, Some(Protocol::Https)),
            ("something.else/x", "http", 80, None),
        ] {
            assert_eq!(protocol(app_protocol, name, number), expected, "{app_protocol} {name}");
        }
    }
}
