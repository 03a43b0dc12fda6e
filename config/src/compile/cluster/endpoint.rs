//! EndpointSlice, Endpoints, WorkloadEntry, Pod and the endpoints of ServiceEntries -> ClusterEndpoints.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use rustc_hash::FxHashSet;

use super::{Port, Service, slice::kubernetes_members};
use crate::{
    api::{
        Kind, LabelSet, Labels, Object, Spec,
        istio::{
            WorkloadEntry,
            service_entry::{Resolution, ServiceEntry},
        },
        kubernetes::{ObjectReference, Pod, service::ServiceType},
    },
    compile::{
        View,
        finding::Findings,
        mtls::PeerPolicies,
        name::cluster_name,
        ownership::{self, Claim},
        store::contains,
    },
    model::{
        ClusterEndpoints,
        cluster::{Endpoint, EndpointAddress, Locality, Workload},
    },
};

/// An endpoint with what subsets are chosen by.
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    labels: Labels,
}

/// The endpoints of every cluster of `service`.
pub(in crate::compile) fn compile(
    view: &View,
    service: &Service,
    findings: &mut Findings,
) -> Vec<ClusterEndpoints> {
    let mut clusters = Vec::new();
    let policies = PeerPolicies::of(view, &service.namespace);
    let mut before: Option<Endpoint> = None;
    for port in &service.ports {
        let mut members = unique(members(view, service, port, findings));
        for member in &mut members {
            if let Some(before) = &before {
                member.share_with(before);
            }
            before = Some(member.endpoint.clone());
        }
        let mut add = |subset: &str, labels: &BTreeMap<String, String>| {
            let endpoints = members
                .iter()
                .filter(|member| contains(&member.labels, labels))
                .map(|member| member.endpoint(&policies));
            clusters.push(ClusterEndpoints {
                cluster: cluster_name(&service.host, port.number, subset),
                endpoints: endpoints.collect(),
            });
        };
        add("", &BTreeMap::new());
        for subset in &service.subsets {
            add(&subset.name, &subset.labels);
        }
    }
    clusters
}

fn members(view: &View, service: &Service, port: &Port, findings: &mut Findings) -> Vec<Member> {
    let Some(owner) = view.store.find(&port.owner) else { return Vec::new() };
    match &owner.spec {
        Spec::Service(spec) if spec.r#type == ServiceType::ExternalName => {
            let name = &spec.external_name;
            let field = || "spec.externalName".to_owned();
            let address = address(name, port.number)
                .filter(|_| is_rightful(view, owner, name, field, findings));
            address.map(Member::at).into_iter().collect()
        }
        Spec::Service(spec) => {
            let mut members = kubernetes_members(view, service, spec, port, findings);
            if !spec.selector.is_empty() {
                // Of the pods it selects there are slices.
                let from = Selected { view, owner, labels: spec.selector.clone(), resolves: false };
                members.extend(from.workload_entries(port, findings));
            }
            members
        }
        Spec::ServiceEntry(entry) => entry_members(view, service, owner, entry, port, findings),
        _ => Vec::new(),
    }
}

fn unique(mut members: Vec<Member>) -> Vec<Member> {
    let mut seen = FxHashSet::default();
    members.retain(|member| seen.insert(member.endpoint.address.clone()));
    members
}

fn entry_members(
    view: &View,
    service: &Service,
    owner: &Object,
    entry: &ServiceEntry,
    port: &Port,
    findings: &mut Findings,
) -> Vec<Member> {
    let resolves = match entry.resolution {
        // The clients say where.
        Resolution::None if view.is_sidecar() => return Vec::new(),
        // Their names do.
        Resolution::DynamicDns => return Vec::new(),
        Resolution::None => {
            let message = format!(
                "resolution NONE sends to the address the client asked for, which a gateway does \
                 not have; requests to {} are answered 503: use STATIC or DNS",
                service.host
            );
            findings.warn(owner, "spec.resolution", message);
            return Vec::new();
        }
        Resolution::Static => false,
        Resolution::Dns | Resolution::DnsRoundRobin => true,
    };
    if let Some(selector) = &entry.workload_selector {
        let from = Selected { view, owner, labels: selector.labels.clone().into(), resolves };
        let mut members = from.workload_entries(port, findings);
        members.extend(from.pods(port));
        return members;
    }
    if entry.endpoints.is_empty() && resolves {
        let address = address(&service.host, port.target);
        return address.map(Member::at).into_iter().collect();
    }
    let mut members = Vec::new();
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let field = || format!("spec.endpoints[{index}].address");
        if !is_rightful(view, owner, &endpoint.address, field, findings) {
            continue;
        }
        let member = workload_member(endpoint, port).filter(|member| {
            resolves || !matches!(member.endpoint.address, EndpointAddress::Dns { .. })
        });
        match member {
            Some(mut member) => {
                member.labels = endpoint.labels.clone().into();
                *member.workload_mut() =
                    workload(view, owner, &endpoint.service_account, &endpoint.labels);
                members.push(member);
            }
            None => findings.warn(
                owner,
                field(),
                format!(
                    "this endpoint is not used: {:?} is not an address with resolution {}",
                    endpoint.address,
                    entry.resolution.name()
                ),
            ),
        }
    }
    members
}

/// The workloads of the owner's namespace, and of no other, that have these labels.
struct Selected<'a> {
    view: &'a View,
    owner: &'a Object,
    labels: Labels,
    /// Names are looked up.
    resolves: bool,
}

impl Selected<'_> {
    fn workload_entries(&self, port: &Port, findings: &mut Findings) -> Vec<Member> {
        let mut members = Vec::new();
        for object in self.of_kind(Kind::WorkloadEntry) {
            let Spec::WorkloadEntry(entry) = &object.spec else { continue };
            let own_labels = workload_labels(object, entry);
            let field = || "spec.address".to_owned();
            if !contains(&own_labels, &self.labels)
                || !is_rightful(self.view, object, &entry.address, field, findings)
            {
                continue;
            }
            let member = workload_member(entry, port).filter(|member| {
                self.resolves || !matches!(member.endpoint.address, EndpointAddress::Dns { .. })
            });
            let Some(mut member) = member else {
                let (field, why) = self.unusable(entry, port);
                let message =
                    format!("this workload is not reachable from {}: {why}", self.owner.key());
                findings.warn(object, field, message);
                continue;
            };
            *member.workload_mut() = Workload {
                name: Arc::clone(&object.metadata.name),
                ..workload(self.view, object, &entry.service_account, &own_labels)
            };
            member.labels = own_labels.into();
            members.push(member);
        }
        members
    }

    /// Where a workload falls short, and how.
    fn unusable(&self, entry: &WorkloadEntry, port: &Port) -> (&'static str, String) {
        let address = &entry.address;
        match &port.target_name {
            Some(name) if !entry.ports.contains_key(&**name) => {
                ("spec.ports", format!("it has no port {name}, which targetPort names"))
            }
            _ if !self.resolves && ip_address(address, 0).is_none() && !address.is_empty() => {
                ("spec.address", format!("{address:?} would have to be looked up"))
            }
            _ => ("spec.address", format!("{address:?} is not an address")),
        }
    }

    fn pods(&self, port: &Port) -> Vec<Member> {
        let members = self.of_kind(Kind::Pod).filter_map(|object| match &object.spec {
            Spec::Pod(pod) if contains(&object.metadata.labels, &self.labels) => {
                self.pod_member(object, pod, port)
            }
            _ => None,
        });
        members.collect()
    }

    /// A pod is one while it is ready; its port is the one of the same name, else the target port.
    fn pod_member(&self, object: &Object, pod: &Pod, port: &Port) -> Option<Member> {
        if !pod.is_ready() {
            return None;
        }
        let named = pod.named_ports().get(&*port.name).copied();
        let address = ip_address(&pod.status.pod_ip, named.unwrap_or(port.target))?;
        let mut member = Member::at(address);
        member.endpoint.locality = Arc::new(locality(&pod.locality));
        member.labels.clone_from(&object.metadata.labels);
        let account = &pod.spec.service_account_name;
        *member.workload_mut() = Workload {
            name: Arc::clone(&object.metadata.name),
            ..workload(self.view, object, account, &object.metadata.labels)
        };
        Some(member)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.view.store.in_namespace(kind, &self.owner.metadata.namespace)
    }
}

/// Whether an endpoint may be at that address: not where the workload of another namespace is.
pub(super) fn is_rightful(
    view: &View,
    object: &Object,
    address: &str,
    field: impl Fn() -> String,
    findings: &mut Findings,
) -> bool {
    let Some(place) = ownership::endpoint_place(address) else { return true };
    let claim = ownership::of_address(view, object, place);
    if let Some(said) = ownership::said_of_address(claim, ownership::FOREIGN_ENDPOINT) {
        findings.warn(object, field(), said);
    }
    claim != Claim::Refused
}

/// The labels of a WorkloadEntry; those of its metadata win.
pub(in crate::compile) fn workload_labels(
    object: &Object,
    entry: &WorkloadEntry,
) -> BTreeMap<String, String> {
    let mut labels = entry.labels.clone();
    labels.extend(BTreeMap::from(&object.metadata.labels));
    labels
}

/// An endpoint of an Istio object, without its labels; `None` when it has no usable address, or not the
/// port that a Service's `targetPort` names.
fn workload_member(entry: &WorkloadEntry, port: &Port) -> Option<Member> {
    let number = match &port.target_name {
        Some(name) => *entry.ports.get(&**name)?,
        None => entry.ports.get(&*port.name).copied().unwrap_or(port.target),
    };
    let mut member = Member::at(address(&entry.address, number)?);
    member.endpoint.weight = entry.weight.unwrap_or(1).max(1);
    member.endpoint.locality = Arc::new(locality(&entry.locality));
    Some(member)
}

/// `region/zone/subzone`.
fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Arc::from);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}

fn workload(view: &View, owner: &Object, account: &str, labels: &impl LabelSet) -> Workload {
    let namespace = &owner.metadata.namespace;
    Workload {
        namespace: Arc::clone(namespace),
        principal: principal(view, namespace, account),
        ..Workload::labelled(|name| labels.label(name))
    }
}

/// Who a workload with this service account is in the mesh; empty without one.
pub(super) fn principal(view: &View, namespace: &str, account: &str) -> Arc<str> {
    match account {
        "" => Arc::default(),
        account => format!("{}/ns/{namespace}/sa/{account}", view.trust_domain()).into(),
    }
}

/// On a workload: it takes the mesh's TLS.
const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// On a workload: it takes the mesh's tunnels.
const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";

impl Member {
    /// It takes the mesh's TLS if its workload can, and does on this port.
    fn endpoint(&self, policies: &PeerPolicies<'_>) -> Endpoint {
        let is_able = self.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio");
        let port = match &self.endpoint.address {
            EndpointAddress::Ip(address) => Some(address.port()),
            EndpointAddress::Dns { port, .. } => Some(*port),
            EndpointAddress::Unix(_) => None,
        };
        let mesh_tls = is_able && policies.take_mtls(&self.labels, port);
        let hbone = self.labels.get(TUNNEL_LABEL).is_some_and(|protocol| protocol == "http");
        Endpoint { mesh_tls, hbone, ..self.endpoint.clone() }
    }

    pub(super) fn at(address: EndpointAddress) -> Self {
        let endpoint = Endpoint {
            address,
            weight: 1,
            locality: Arc::default(),
            mesh_tls: false,
            hbone: false,
            workload: Arc::default(),
        };
        Self { endpoint, labels: Labels::default() }
    }

    /// Its own until it is shared.
    pub(super) fn workload_mut(&mut self) -> &mut Workload {
        Arc::make_mut(&mut self.endpoint.workload)
    }

    /// Keeps what both have in common once: there are many endpoints, and few workloads.
    fn share_with(&mut self, other: &Endpoint) {
        let Endpoint { locality, workload, .. } = &mut self.endpoint;
        if *locality == other.locality {
            locality.clone_from(&other.locality);
        }
        if *workload == other.workload {
            workload.clone_from(&other.workload);
        }
    }

    /// Takes over what a Kubernetes object says about its endpoints.
    pub(super) fn describe(
        &mut self,
        object: &Object,
        labels: &Labels,
        target: Option<&ObjectReference>,
    ) {
        self.labels.clone_from(labels);
        let namespace = target.map(|target| &*target.namespace).unwrap_or_default();
        *self.workload_mut() = Workload {
            name: target.map(|target| owner_name(target, labels).into()).unwrap_or_default(),
            namespace: match namespace {
                "" => Arc::clone(&object.metadata.namespace),
                namespace => namespace.into(),
            },
            ..Workload::labelled(|name| labels.get(name))
        };
    }
}

/// What a pod is one of: a Deployment, StatefulSet, DaemonSet or Job, by what these do to names of pods. Its
/// owner is not known here; a pod of none of them is a workload of its own.
fn owner_name<'a>(target: &'a ObjectReference, labels: &'a Labels) -> &'a str {
    let label = |name: &str| labels.get(name).filter(|text| !text.is_empty());
    if *target.kind != *"Pod" {
        return "";
    }
    if let Some(said) = label("service.istio.io/workload-name") {
        return said;
    }
    let name = &*target.name;
    let without_suffix = name.rsplit_once('-').map_or(name, |(owner, _)| owner);
    if let Some(hash) = label("pod-template-hash") {
        let deployment = without_suffix.strip_suffix(hash).and_then(|it| it.strip_suffix('-'));
        return deployment.unwrap_or(without_suffix);
    }
    if let Some(job) = label("batch.kubernetes.io/job-name") {
        return job;
    }
    let is_of_set = label("statefulset.kubernetes.io/pod-name").is_some()
        || label("controller-revision-hash").is_some();
    if is_of_set { without_suffix } else { name }
}

/// An IP address, a `unix://` path, or a name to be resolved.
fn address(text: &str, port: u16) -> Option<EndpointAddress> {
    if let Some(path) = text.strip_prefix("unix://") {
        return Some(EndpointAddress::Unix(Path::new(path).into()));
    }
    if let Some(address) = ip_address(text, port) {
        return Some(address);
    }
    let is_name = !text.is_empty() && !text.contains('*');
    let host = text.strip_suffix('.').unwrap_or(text);
    is_name.then(|| EndpointAddress::Dns { host: host.into(), port })
}

pub(super) fn ip_address(text: &str, port: u16) -> Option<EndpointAddress> {
    let ip = text.parse::<IpAddr>().ok()?;
    Some(EndpointAddress::Ip(SocketAddr::new(ip, port)))
}
