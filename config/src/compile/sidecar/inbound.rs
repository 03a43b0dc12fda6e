//! The workload's ports -> what is done with connections to them (sidecar reference 5).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use super::{
    Made,
    catch_all::{listener, plain, tcp},
    scope,
};
use crate::{
    api::{
        LabelSet, Protocol, Spec,
        istio::sidecar::{CaptureMode, IngressListener},
        mesh_config::InboundTrafficPolicyMode,
    },
    compile::{
        ProxyKind, View,
        cluster::own_service,
        finding::Findings,
        mesh_tls::{self, HTTP_ALPN, INBOUND_TCP_ALPN},
        mtls::{Mode, Modes, PeerPolicies},
        name::{Age, resolve_host, service_host},
        route::mesh,
        store::contains,
    },
    model::{
        Cluster, ClusterEndpoints, ClusterName, FilterChain, FilterChainName, Listener,
        ListenerName, RouteTableName, VirtualHost, VirtualHostName,
        cluster::{
            Destination, Discovery, Endpoint, EndpointAddress, SourceAddress, UpstreamProtocol,
        },
        listener::{Beginning, ListenerKind, NetworkFilter, RedirectMatch},
        matcher::HostPattern,
    },
};

const INBOUND_PORT: u16 = 15006;
const INBOUND: &str = "virtualInbound";
/// HBONE, by the name Istio has for it.
const TUNNEL_PORT: u16 = 15008;
const TUNNEL: &str = "connect_terminate";
/// What metrics call what is not of a service.
const PASSTHROUGH: &str = "InboundPassthroughCluster";

/// One port of the workload.
struct Port {
    number: u16,
    protocol: Option<Protocol>,
    destination: Destination,
    /// `None`: where the connection was going.
    endpoint: Option<EndpointAddress>,
}

/// Everything about connections to the workload.
pub(in crate::compile) fn compile(view: &View, findings: &mut Findings) -> Made {
    let number = view.mesh.proxy_inbound_listen_port.filter(|&port| port != 0);
    let modes = PeerPolicies::of(view, &view.proxy.namespace).modes(&view.proxy.labels);
    let mut inbound = Inbound { view, modes, made: Made::default() };
    let listener = listener(INBOUND, number.unwrap_or(INBOUND_PORT), ListenerKind::Inbound);
    let is_transparent = view.proxy.is_transparent;
    inbound.made.listeners.push(Listener { is_transparent, ..listener });
    let ports = ports(view, findings);
    for port in ports.values() {
        inbound.add_port(port);
    }
    inbound.add_rest();
    for port in inbound.modes.ports().collect::<Vec<_>>() {
        if !ports.contains_key(&port) {
            inbound.add_undeclared(port);
        }
    }
    if view.proxy.hbone.is_some() {
        inbound.add_tunnel();
    }
    inbound.made
}

/// The ports somebody says something about: the Sidecar's, where it says any, else the services'.
fn ports(view: &View, findings: &mut Findings) -> BTreeMap<u16, Port> {
    let services = service_ports(view);
    let Some((object, sidecar)) = scope::resource(view).filter(|(_, it)| !it.ingress.is_empty())
    else {
        return services;
    };
    let mut ports = BTreeMap::new();
    for (index, ingress) in sidecar.ingress.iter().enumerate() {
        let mut warn = |field: &str, is_set: bool| {
            if is_set {
                let field = format!("spec.ingress[{index}].{field}");
                findings.warn(object, field, "not applied: the port is served as it is redirected");
            }
        };
        warn("bind", !ingress.bind.is_empty());
        warn("captureMode", ingress.capture_mode == CaptureMode::None);
        warn("tls", ingress.tls.is_some());
        warn("connectionPool", ingress.connection_pool.is_some());
        let Some(port) = &ingress.port else { continue };
        let known = services.get(&port.number);
        ports.entry(port.number).or_insert_with(|| Port {
            number: port.number,
            protocol: port.protocol.or_else(|| known.and_then(|known| known.protocol)),
            destination: known.map(|known| known.destination.clone()).unwrap_or_default(),
            endpoint: endpoint(view, ingress),
        });
    }
    ports
}

/// Where a Sidecar says the application listens.
fn endpoint(view: &View, ingress: &IngressListener) -> Option<EndpointAddress> {
    let text = ingress.default_endpoint.as_str();
    if let Some(path) = text.strip_prefix("unix://") {
        return Some(EndpointAddress::Unix(Path::new(path).into()));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() => ip,
        Ok(_) | Err(_) => *own_addresses(view).first()?,
    };
    Some(EndpointAddress::Ip(SocketAddr::new(ip, port)))
}

fn own_addresses(view: &View) -> &[IpAddr] {
    match &view.proxy.kind {
        ProxyKind::Sidecar { addresses } => addresses,
        ProxyKind::Gateway => &[],
    }
}

/// The ports of the services that select the workload; of two with one port the older says what it is.
fn service_ports(view: &View) -> BTreeMap<u16, Port> {
    let domain = &view.proxy.cluster_domain;
    let own = &view.proxy.namespace;
    let mut hosts: Vec<(Age, Arc<str>)> = Vec::new();
    for object in view.store.objects().filter(|object| object.metadata.namespace == *own) {
        match &object.spec {
            Spec::Service(spec) if is_own(view, Some(&spec.selector)) => {
                hosts.push((Age::of(object), service_host(&object.metadata.name, own, domain)));
            }
            Spec::ServiceEntry(spec) => {
                let selector = spec.workload_selector.as_ref().map(|it| &it.labels);
                if is_own(view, selector) {
                    let names = spec.hosts.iter().map(|host| resolve_host(host, own, domain));
                    hosts.extend(names.map(|host| (Age::of(object), host)));
                }
            }
            _ => {}
        }
    }
    hosts.sort();
    let mut ports = BTreeMap::new();
    for (_, host) in hosts {
        // What the workload may not know as a client it is nevertheless.
        let Some(service) = own_service(view, &host) else { continue };
        for port in &service.ports {
            let named = port.target_name.as_deref();
            let named = named.and_then(|name| view.proxy.named_ports.get(name));
            let number = named.copied().unwrap_or(port.target);
            ports.entry(number).or_insert_with(|| Port {
                number,
                protocol: port.protocol,
                destination: Destination {
                    service: Arc::clone(&service.host),
                    service_name: Arc::clone(&service.name),
                    service_namespace: Arc::clone(&service.namespace),
                    is_own: true,
                },
                endpoint: None,
            });
        }
    }
    ports.retain(|_, port| port.protocol != Some(Protocol::Udp));
    ports
}

fn is_own(view: &View, selector: Option<&impl LabelSet>) -> bool {
    selector.is_some_and(|it| !it.selects_all() && contains(&view.proxy.labels, it))
}

struct Inbound<'a> {
    view: &'a View,
    modes: Modes,
    made: Made,
}

/// What the bytes of a port are.
#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Http,
    Bytes,
    /// To be seen.
    Either,
}

impl Inbound<'_> {
    fn add_port(&mut self, port: &Port) {
        let name = ClusterName::new(format!("inbound|{}||", port.number));
        let speaks = match port.protocol {
            Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb) => {
                Speaks::Http
            }
            None => Speaks::Either,
            Some(_) => Speaks::Bytes,
        };
        let protocol = match port.protocol {
            Some(Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb) => UpstreamProtocol::Http2,
            // A proxy on the other side may speak HTTP/2 to us; the application of such a port need not.
            Some(Protocol::Http) => UpstreamProtocol::Http1,
            Some(_) => UpstreamProtocol::Tcp,
            None => UpstreamProtocol::MatchDownstream,
        };
        let endpoint = port.endpoint.clone().or_else(|| self.localhost(port.number));
        self.add_cluster(&name, protocol, port.destination.clone(), endpoint);
        let mode = self.modes.on(port.number);
        self.add_chains(Some(port.number), speaks, mode, &name);
    }

    /// `inboundTrafficPolicy: LOCALHOST`
    fn localhost(&self, port: u16) -> Option<EndpointAddress> {
        let is_local =
            self.view.mesh.inbound_traffic_policy.mode == InboundTrafficPolicyMode::Localhost;
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        is_local.then_some(EndpointAddress::Ip(address))
    }

    /// Ports nobody says anything about.
    fn add_rest(&mut self) {
        let name = ClusterName::new(PASSTHROUGH);
        let destination =
            Destination { service_name: PASSTHROUGH.into(), ..Destination::default() };
        self.add_cluster(&name, UpstreamProtocol::MatchDownstream, destination, None);
        self.add_chains(None, Speaks::Either, self.modes.elsewhere(), &name);
    }

    /// A port of which only the mode is said.
    fn add_undeclared(&mut self, port: u16) {
        let mode = self.modes.on(port);
        self.add_chains(Some(port), Speaks::Either, mode, &ClusterName::new(PASSTHROUGH));
    }

    /// Mutual TLS whatever the policy: it is what a tunnel is made of. What is inside comes to the
    /// chains of its destination.
    fn add_tunnel(&mut self) {
        self.made.listeners.push(listener(TUNNEL, TUNNEL_PORT, ListenerKind::Tunnel));
        self.made.chains.push(FilterChain {
            name: FilterChainName::new(TUNNEL),
            listener: ListenerName::new(TUNNEL),
            server_names: [HostPattern::Any].into(),
            redirected: None,
            mesh_only: false,
            tls: Some(mesh_tls::downstream(self.view, &["h2"], &[])),
            network: NetworkFilter::Connect {
                listener: ListenerName::new(INBOUND),
                addresses: own_addresses(self.view).into(),
                closed_ports: self.view.proxy.own_ports.as_slice().into(),
            },
            gateway: Arc::default(),
        });
    }

    fn add_cluster(
        &mut self,
        name: &ClusterName,
        protocol: UpstreamProtocol,
        destination: Destination,
        endpoint: Option<EndpointAddress>,
    ) {
        let discovery = match endpoint {
            Some(_) => Discovery::Static,
            None => Discovery::OriginalDst { members_only: false },
        };
        let source_address = match &endpoint {
            Some(EndpointAddress::Ip(address)) if address.ip().is_loopback() => SourceAddress::Any,
            Some(EndpointAddress::Unix(_)) => SourceAddress::Any,
            _ => SourceAddress::Inbound,
        };
        if let Some(address) = endpoint {
            let endpoint = Endpoint {
                address,
                weight: 1,
                locality: Arc::default(),
                mesh_tls: false,
                hbone: false,
                workload: Arc::default(),
            };
            let endpoints = [endpoint].into();
            self.made.endpoints.push(ClusterEndpoints { cluster: name.clone(), endpoints });
        }
        let destination = Destination { is_own: true, ..destination };
        let cluster = plain(self.view, name.clone(), discovery, protocol, destination);
        self.made.clusters.push(Cluster { source_address, ..cluster });
    }

    fn add_chains(&mut self, port: Option<u16>, speaks: Speaks, mode: Mode, cluster: &ClusterName) {
        let place = port.map_or_else(|| INBOUND.to_owned(), |port| format!("0.0.0.0_{port}"));
        let route_table = RouteTableName::new(format!("{INBOUND}|{place}"));
        if speaks != Speaks::Bytes {
            self.made.virtual_hosts.push(VirtualHost {
                name: VirtualHostName::new(format!("{route_table}|*")),
                route_table: route_table.clone(),
                domain: HostPattern::Any,
                aliases: Arc::default(),
                require_tls: false,
                routes: mesh::once("default", cluster.clone()),
            });
        }
        let http = NetworkFilter::Http { route_table };
        let bytes = tcp(cluster.clone());
        let own = match speaks {
            Speaks::Http => (http.clone(), &HTTP_ALPN[..]),
            Speaks::Bytes | Speaks::Either => (bytes, &INBOUND_TCP_ALPN[..]),
        };
        let is_seen = speaks == Speaks::Either;
        let mut add = |begins: Beginning, alpn: Option<&[&str]>, network: &NetworkFilter| {
            let kind = match (begins, alpn) {
                (Beginning::MeshHttp, _) => "mtls-http",
                (_, Some(_)) => "mtls",
                (Beginning::Http, None) => "http",
                (_, None) => "clear",
            };
            self.made.chains.push(FilterChain {
                name: FilterChainName::new(format!("{INBOUND}|{place}|{kind}")),
                listener: ListenerName::new(INBOUND),
                server_names: Arc::default(),
                redirected: Some(RedirectMatch { address: None, port, begins }),
                mesh_only: false,
                tls: alpn.map(|alpn| mesh_tls::downstream(self.view, alpn, &[])),
                network: network.clone(),
                gateway: Arc::default(),
            });
        };
        let (network, alpn) = own;
        if is_seen && mode != Mode::Disable {
            add(Beginning::MeshHttp, Some(&HTTP_ALPN), &http);
        }
        match mode {
            Mode::Strict => add(Beginning::Tls, Some(alpn), &network),
            Mode::Permissive => add(Beginning::MeshTls, Some(alpn), &network),
            Mode::Disable => {}
        }
        if mode != Mode::Strict {
            if is_seen {
                add(Beginning::Http, None, &http);
            }
            add(Beginning::Any, None, &network);
        }
    }
}
