//! What decides who an object is for, taken out of it once.

use std::{collections::BTreeMap, sync::Arc};

use weir_config::{
    api::{
        Kind, Object, ObjectKey, Spec,
        istio::{
            destination_rule::{ClientTlsSettings, DestinationRule, TrafficPolicy},
            gateway::{Gateway, Server, ServerTlsMode, ServerTlsSettings},
            virtual_service::VirtualService,
        },
        kubernetes::{EndpointSlice, endpoint_slice::SERVICE_NAME_LABEL},
    },
    compile::reference::{
        Age, delegate_key, destinations, mesh_hosts, resolve_gateway, resolve_host,
        service_export_to, service_host,
    },
    model::matcher::HostPattern,
};

use super::Imports;

pub type Labels = BTreeMap<String, String>;

/// The facts by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Facts {
    Gateway {
        selector: Labels,
        admits: Admits,
        credentials: Box<[Credential]>,
        /// What servers with `AUTO_PASSTHROUGH` lead to.
        passes: Box<[Passes]>,
    },
    VirtualService {
        /// It has hosts of its own; one without is only for others to delegate to.
        is_root: bool,
        export_to: Box<[String]>,
        gateways: Box<[ObjectKey]>,
        /// What it is for at sidecars; none, unless it is bound to `mesh`.
        mesh_hosts: Box<[HostPattern]>,
        /// Where it sends traffic, in full.
        hosts: Box<[Arc<str>]>,
        delegates: Box<[ObjectKey]>,
    },
    DestinationRule {
        /// Host or wildcard, in full.
        host: Arc<str>,
        export_to: Box<[String]>,
        /// The workloads of its own namespace it is limited to.
        selector: Option<Labels>,
        credentials: Box<[Credential]>,
    },
    Service {
        host: Arc<str>,
        export_to: Box<[String]>,
        selector: Arc<Labels>,
    },
    ServiceEntry {
        hosts: Box<[Arc<str>]>,
        export_to: Box<[String]>,
        selector: Option<Arc<Labels>>,
    },
    /// WorkloadEntries, and pods: what is selected by its labels.
    Workload {
        labels: Labels,
    },
    EndpointSlice {
        service: Arc<str>,
        /// The pods behind it.
        pods: Box<[Arc<str>]>,
    },
    /// Policies of workloads. Without a selector: of every one.
    Policy {
        selector: Option<Labels>,
    },
    Sidecar {
        /// The workloads of its namespace it is for; all, if there is none.
        selector: Option<Labels>,
        age: Age,
        imports: Imports,
    },
    /// Secrets and ConfigMaps: sent to who is told to use them.
    Material,
    /// No proxy needs it.
    Unused,
}

/// The namespaces whose VirtualServices some server of a Gateway takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admits {
    Every,
    Only(Box<[Arc<str>]>),
}

impl Admits {
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Only(names) => names.iter().any(|name| **name == *namespace),
        }
    }
}

/// Services a server leads to without a VirtualService: of a namespace (`None`: of every one), and with
/// a host that is covered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passes {
    pub namespace: Option<Arc<str>>,
    pub hosts: HostPattern,
}

impl Passes {
    #[must_use]
    pub fn includes(&self, namespace: &str, host: &HostPattern) -> bool {
        self.namespace.as_ref().is_none_or(|own| **own == *namespace) && self.hosts.covers(host)
    }
}

/// Where a certificate is: a Secret or ConfigMap of this name, in the namespace of the proxy unless
/// another is named, in which case it is only for proxies of that namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub kind: Kind,
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl Credential {
    /// `None` for schemes that are not supported.
    fn parse(text: &str) -> Option<Self> {
        let (kind, path) = match text.split_once("://") {
            Some(("configmap", path)) => (Kind::ConfigMap, path),
            Some(("kubernetes", path)) => (Kind::Secret, path),
            Some(_) => return None,
            None => (Kind::Secret, text),
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace.into()), name),
            None => (None, path),
        };
        (!name.is_empty()).then(|| Self { kind, namespace, name: name.into() })
    }
}

impl Facts {
    /// The labels of the proxies it is for, where it says that. An empty one asks for none.
    #[must_use]
    pub fn selector(&self) -> Option<&Labels> {
        match self {
            Self::Gateway { selector, .. } => Some(selector),
            Self::Service { selector, .. } => Some(selector),
            Self::ServiceEntry { selector, .. } => selector.as_deref(),
            Self::DestinationRule { selector, .. }
            | Self::Policy { selector }
            | Self::Sidecar { selector, .. } => selector.as_ref(),
            Self::VirtualService { .. }
            | Self::Workload { .. }
            | Self::EndpointSlice { .. }
            | Self::Material
            | Self::Unused => None,
        }
    }

    /// Whether it tells the same proxies apart as the `other`. Which Services do, depends on Sidecars.
    pub(super) fn tells_apart_like(&self, other: &Self) -> bool {
        match self {
            Self::Sidecar { .. } | Self::ServiceEntry { selector: Some(_), .. } => self == other,
            _ => self.selector() == other.selector(),
        }
    }

    #[must_use]
    pub fn of(object: &Object, domain: &str) -> Self {
        let namespace = &object.metadata.namespace;
        match &object.spec {
            Spec::Gateway(spec) => gateway(spec, namespace),
            Spec::VirtualService(spec) => virtual_service(spec, namespace, domain),
            Spec::DestinationRule(spec) => Self::DestinationRule {
                host: resolve_host(&spec.host, namespace, domain),
                export_to: spec.export_to.as_slice().into(),
                selector: spec.workload_selector.clone().map(|selector| selector.match_labels),
                credentials: rule_credentials(spec),
            },
            Spec::Service(spec) => Self::Service {
                host: service_host(&object.metadata.name, namespace, domain),
                export_to: service_export_to(object).into(),
                selector: Arc::new((&spec.selector).into()),
            },
            Spec::ServiceEntry(spec) => Self::ServiceEntry {
                hosts: spec
                    .hosts
                    .iter()
                    .map(|host| resolve_host(host, namespace, domain))
                    .collect(),
                export_to: spec.export_to.as_slice().into(),
                selector: spec.workload_selector.clone().map(|selector| Arc::new(selector.labels)),
            },
            Spec::WorkloadEntry(spec) => {
                let mut labels = spec.labels.clone();
                labels.extend(Labels::from(&object.metadata.labels));
                Self::Workload { labels }
            }
            Spec::Pod(_) => Self::Workload { labels: (&object.metadata.labels).into() },
            Spec::EndpointSlice(spec) => endpoint_slice(object, spec),
            Spec::RequestAuthentication(spec) => Self::Policy {
                selector: spec.selector.clone().map(|selector| selector.match_labels),
            },
            Spec::AuthorizationPolicy(spec) => Self::Policy {
                selector: spec.selector.clone().map(|selector| selector.match_labels),
            },
            Spec::PeerAuthentication(spec) => Self::Policy {
                selector: spec.selector.clone().map(|selector| selector.match_labels),
            },
            Spec::Secret(_) | Spec::ConfigMap(_) => Self::Material,
            Spec::Sidecar(spec) => Self::Sidecar {
                selector: spec.workload_selector.clone().map(|selector| selector.labels),
                age: Age::of(object),
                imports: Imports::of(spec, namespace, domain),
            },
            Spec::EnvoyFilter(_) | Spec::Endpoints(_) | Spec::Namespace(_) => Self::Unused,
        }
    }
}

fn gateway(spec: &Gateway, own: &Arc<str>) -> Facts {
    let tls = spec.servers.iter().filter_map(|server| server.tls.as_ref());
    let credentials = tls.flat_map(server_credentials).filter_map(Credential::parse);
    Facts::Gateway {
        selector: spec.selector.clone(),
        admits: admits(spec, own),
        credentials: credentials.collect(),
        passes: passes(spec, own),
    }
}

fn passes(spec: &Gateway, own: &Arc<str>) -> Box<[Passes]> {
    let is_auto = |server: &&Server| {
        server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough)
    };
    let hosts = spec.servers.iter().filter(is_auto).flat_map(|server| &server.hosts);
    hosts
        .map(|entry| {
            let (namespace, host) = entry.split_once('/').unwrap_or(("*", entry));
            let namespace = match namespace {
                "*" => None,
                "." => Some(Arc::clone(own)),
                name => Some(name.into()),
            };
            Passes { namespace, hosts: HostPattern::parse(host) }
        })
        .collect()
}

fn admits(spec: &Gateway, own: &Arc<str>) -> Admits {
    let mut names: Vec<Arc<str>> = Vec::new();
    for host in spec.servers.iter().flat_map(|server| &server.hosts) {
        match host.split_once('/') {
            None | Some(("*", _)) => return Admits::Every,
            Some((".", _)) => names.push(Arc::clone(own)),
            Some((namespace, _)) => names.push(namespace.into()),
        }
    }
    names.sort_unstable();
    names.dedup();
    Admits::Only(names.into())
}

fn server_credentials(tls: &ServerTlsSettings) -> impl Iterator<Item = &str> {
    let one = [&tls.credential_name, &tls.ca_cert_credential_name];
    one.into_iter().chain(&tls.credential_names).map(String::as_str)
}

fn virtual_service(spec: &VirtualService, namespace: &Arc<str>, domain: &str) -> Facts {
    let mut hosts: Vec<Arc<str>> = destinations(spec)
        .map(|destination| resolve_host(&destination.host, namespace, domain))
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut gateways: Vec<ObjectKey> =
        spec.gateways.iter().filter_map(|name| resolve_gateway(name, namespace)).collect();
    gateways.sort_unstable();
    gateways.dedup();
    let delegates = spec.http.iter().filter_map(|rule| rule.delegate.as_ref());
    let mut delegates: Vec<ObjectKey> = delegates
        .map(|delegate| delegate_key(&delegate.name, &delegate.namespace, namespace))
        .collect();
    delegates.sort_unstable();
    delegates.dedup();
    Facts::VirtualService {
        is_root: !spec.hosts.is_empty(),
        export_to: spec.export_to.as_slice().into(),
        gateways: gateways.into(),
        mesh_hosts: mesh_hosts(spec, namespace, domain).collect(),
        hosts: hosts.into(),
        delegates: delegates.into(),
    }
}

/// Everywhere a DestinationRule can name a client certificate.
fn rule_credentials(spec: &DestinationRule) -> Box<[Credential]> {
    let policies = spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let policies = spec.traffic_policy.iter().chain(policies);
    let settings = policies.flat_map(tls_settings);
    settings.filter_map(|tls| Credential::parse(&tls.credential_name)).collect()
}

fn tls_settings(policy: &TrafficPolicy) -> impl Iterator<Item = &ClientTlsSettings> {
    let ports = policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref());
    policy.tls.iter().chain(ports)
}

fn endpoint_slice(object: &Object, spec: &EndpointSlice) -> Facts {
    let Some(service) = object.metadata.labels.get(SERVICE_NAME_LABEL) else {
        return Facts::Unused;
    };
    let targets = spec.endpoints.iter().filter_map(|endpoint| endpoint.target_ref.as_ref());
    let pods =
        targets.filter(|target| *target.kind == *"Pod").map(|target| Arc::clone(&target.name));
    Facts::EndpointSlice { service: service.into(), pods: pods.collect() }
}

#[cfg(test)]
mod tests {
    use weir_config::parse::{Options, parse};

    use super::*;

    fn facts(yaml: &str) -> Facts {
        let parsed = parse("test", yaml.as_bytes(), &Options::default());
        assert_eq!(parsed.diagnostics, []);
        Facts::of(&parsed.objects[0], "cluster.local")
    }

    #[test]
    fn a_gateway_admits_the_namespaces_before_its_hosts() {
        let admits = |hosts: &str| {
            let facts = facts(&format!(
                "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: own}}\n\
                 spec:\n  servers:\n  - port: {{number: 80, name: http, protocol: HTTP}}\n    hosts: {hosts}\n"
            ));
            let Facts::Gateway { admits, .. } = facts else { panic!("{facts:?}") };
            ["own", "a", "b"].map(|namespace| admits.namespace(namespace))
        };
        assert_eq!(admits("['*.x.com']"), [true, true, true]);
        assert_eq!(admits("['./x.com']"), [true, false, false]);
        assert_eq!(admits("['a/x.com', './y.com']"), [true, true, false]);
        assert_eq!(admits("['a/x.com', '*/y.com']"), [true, true, true]);
    }

    #[test]
    fn a_credential_names_a_secret_or_config_map_and_perhaps_a_namespace() {
        let parse = |text| {
            Credential::parse(text).map(|credential| {
                (
                    credential.kind,
                    credential.namespace.as_deref().map(str::to_owned),
                    credential.name,
                )
            })
        };
        assert_eq!(parse("web"), Some((Kind::Secret, None, "web".into())));
        assert_eq!(
            parse("kubernetes://a/web"),
            Some((Kind::Secret, Some("a".into()), "web".into()))
        );
        assert_eq!(
            parse("configmap://a/ca"),
            Some((Kind::ConfigMap, Some("a".into()), "ca".into()))
        );
        assert_eq!(parse("sds://x"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_destinations_of_a_virtual_service_are_named_in_full() {
        let facts = facts(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: a}\n\
             spec:\n  hosts: [x.com]\n  gateways: [b/g, mesh, g]\n  http:\n\
             \x20 - route: [{destination: {host: web}}]\n    mirror: {host: copy.b.svc.cluster.local}\n\
             \x20 - match: [{uri: {prefix: /d}}]\n    delegate: {name: d, namespace: c}\n",
        );
        let Facts::VirtualService { hosts, gateways, delegates, is_root, .. } = facts else {
            panic!("{facts:?}")
        };
        let names: Vec<&str> = hosts.iter().map(|host| &**host).collect();
        assert_eq!(names, ["copy.b.svc.cluster.local", "web.a.svc.cluster.local"]);
        let gateways: Vec<String> = gateways.iter().map(ToString::to_string).collect();
        assert_eq!(gateways, ["Gateway a/g", "Gateway b/g"]);
        assert_eq!(delegates[0].to_string(), "VirtualService c/d");
        assert!(is_root);
    }
}
