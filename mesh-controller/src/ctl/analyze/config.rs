//! The configuration under analysis: objects of the cluster, and of files in their place.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_config::{
    api::{Kind, MeshConfig, Metadata, Object, ObjectKey, Spec, istio::VirtualService},
    compile::reference::{Definition, resolve_host, service_host},
    diagnostic::{Diagnostic, Severity},
    model::matcher::HostPattern,
    parse::Parsed,
    validate::validate,
};

use super::message::Message;

/// What host names of the cluster end with.
pub const DOMAIN: &str = "cluster.local";

/// Everything an analysis looks at.
#[derive(Debug, Default)]
pub struct Config {
    /// Only those without errors of their own.
    pub objects: BTreeMap<ObjectKey, Arc<Object>>,
    pub mesh: Option<MeshConfig>,
    /// Pods; `None` without a cluster.
    pub workloads: Option<Vec<Workload>>,
    /// The user may not list Secrets, so nothing is known of them.
    pub hides_secrets: bool,
    /// What was found while objects were read.
    pub found: Vec<Message>,
}

/// A pod, or several that are the same to configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
}

/// A service that routes can name.
#[derive(Debug, Clone)]
pub struct Host {
    pub ports: BTreeSet<u16>,
}

impl Config {
    /// Takes in what was read; later objects take the place of earlier ones. Every finding is about the
    /// object in force.
    pub fn add(&mut self, parsed: Parsed) {
        for object in &parsed.objects {
            let key = Some(object.key());
            self.found.retain(|message| message.object != key);
            self.found.extend(self.duplicate(object));
        }
        self.found.extend(parsed.diagnostics.iter().map(Message::schema));
        for object in parsed.objects {
            let diagnostics = validate(&object);
            self.found.extend(diagnostics.iter().map(Message::schema));
            let is_valid = diagnostics.iter().all(|it| it.severity != Severity::Error);
            if is_valid {
                self.objects.insert(object.key(), Arc::new(object));
            } else {
                self.objects.remove(&object.key());
            }
        }
    }

    /// What there is to say when files define an object twice. One of the cluster is only replaced.
    fn duplicate(&self, object: &Object) -> Option<Message> {
        let first = &self.objects.get(&object.key())?.source;
        if first.file.is_empty() {
            return None;
        }
        Some(Message::schema(&Diagnostic {
            severity: Severity::Warning,
            object: Some(object.key()),
            source: object.source.clone(),
            field: String::new(),
            message: format!("already defined at {first}, which this takes the place of"),
        }))
    }

    /// Objects of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values().filter(move |object| object.kind() == kind)
    }

    pub fn virtual_services(&self) -> impl Iterator<Item = (&Arc<Object>, &VirtualService)> {
        self.of_kind(Kind::VirtualService).filter_map(|object| match &object.spec {
            Spec::VirtualService(spec) => Some((object, spec)),
            _ => None,
        })
    }

    /// Objects that define hosts, with these.
    pub fn definitions(&self) -> Vec<(HostPattern, Definition)> {
        let mut all = Vec::new();
        for object in self.objects.values() {
            let Metadata { name, namespace, .. } = &object.metadata;
            let hosts = match &object.spec {
                Spec::Service(_) => vec![service_host(name, namespace, DOMAIN)],
                Spec::ServiceEntry(entry) => {
                    let hosts = entry.hosts.iter();
                    hosts.map(|host| resolve_host(host, namespace, DOMAIN)).collect()
                }
                _ => continue,
            };
            let definition = Definition::of(object);
            let patterns = hosts.iter().map(|host| HostPattern::parse(host));
            all.extend(patterns.map(|pattern| (pattern, definition.clone())));
        }
        all
    }

    /// Every host that a Service or ServiceEntry defines; some begin with `*`.
    pub fn hosts(&self) -> BTreeMap<String, Host> {
        let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
        let mut define = |host: String, ports: &mut dyn Iterator<Item = u16>| {
            let host = hosts.entry(host).or_insert_with(|| Host { ports: BTreeSet::new() });
            host.ports.extend(ports);
        };
        for object in self.objects.values() {
            let metadata = &object.metadata;
            match &object.spec {
                Spec::Service(service) => {
                    let host = service_host(&metadata.name, &metadata.namespace, DOMAIN);
                    define(host.to_string(), &mut service.ports.iter().map(|port| port.port));
                }
                Spec::ServiceEntry(entry) => {
                    for host in &entry.hosts {
                        let host = host.to_ascii_lowercase();
                        define(host, &mut entry.ports.iter().map(|port| port.number));
                    }
                }
                _ => {}
            }
        }
        hosts
    }
}
