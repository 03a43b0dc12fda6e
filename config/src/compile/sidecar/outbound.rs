//! One host -> what is done with the workload's connections to it: chains by address and port, virtual
//! hosts in the tables of its ports (sidecar reference 6).
//!
//! A service with an address of its own is told by that, before anything is read. HTTP of one port has
//! one table, so that the request's host decides and not the address that was dialled; only where the
//! protocol is not known has an address a table of its own.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Made, Uses,
    catch_all::{chain, table, tcp},
};
use crate::{
    api::{Object, Protocol, Spec, istio::virtual_service::VirtualService},
    compile::{
        ProxyKind, View,
        cluster::{Port, Service},
        finding::Findings,
        name::{Age, is_exported, service_host},
        ownership::{self, Claim},
        route::{Lookup, mesh},
        store::Link,
    },
    model::{
        FilterChain, RouteTableName, VirtualHost, VirtualHostName,
        cluster::EndpointAddress,
        listener::{Beginning, NetworkFilter, RedirectMatch},
        matcher::HostPattern,
        route::Route,
    },
};

/// Where requests go to hosts that are only in a VirtualService.
const HTTP_PORT: u16 = 80;

#[derive(Debug, Default)]
pub(in crate::compile) struct Outbound {
    pub(in crate::compile) made: Made,
    pub(in crate::compile) uses: BTreeMap<u16, Uses>,
}

/// What is done with connections to `host`; nothing, if nobody knows it.
pub(in crate::compile) fn compile(
    lookup: Lookup<'_>,
    host: &Arc<str>,
    findings: &mut Findings,
) -> Outbound {
    let mut outbound = Outbound::default();
    let service = lookup.registry.find(host);
    let rules = rules(lookup.view, host, service, findings);
    let Some(service) = service else {
        if let Some(rules) = rules.filter(|(object, spec)| is_for(lookup.view, object, spec, host))
        {
            outbound.serviceless(lookup, host, rules, findings);
        }
        return outbound;
    };
    for port in &service.ports {
        let mut builder =
            Builder { lookup, service, port, rules, outbound: &mut outbound, findings };
        builder.port();
    }
    outbound
}

/// The VirtualService for a host: the most specific one, of several the oldest. Sidecars merge none
/// (istio-compat trap 4). One that is not entitled to the host does not count.
fn rules<'a>(
    view: &'a View,
    host: &str,
    service: Option<&Service>,
    findings: &mut Findings,
) -> Option<(&'a Object, &'a VirtualService)> {
    let default = &view.mesh.default_virtual_service_export_to;
    let to = &view.proxy.namespace;
    for pattern in crate::compile::cluster::patterns(host) {
        let mut found: Vec<(&Object, &VirtualService)> = view
            .store
            .linked(&Link::Mesh(pattern))
            .filter_map(|object| match &object.spec {
                Spec::VirtualService(spec) => Some((&**object, spec)),
                _ => None,
            })
            .filter(|(object, spec)| {
                let namespace = &object.metadata.namespace;
                is_exported(&spec.export_to, default, namespace, to)
                    && view.scope.admits_rules(namespace, host)
            })
            .filter(|(object, _)| {
                let claim = ownership::of_rules(view, object, host, service);
                if let Some(said) = ownership::said_of_rules(claim) {
                    findings.warn(object, "spec.hosts", said);
                }
                claim != Claim::Refused
            })
            .collect();
        found.sort_by_cached_key(|(object, _)| Age::of(object));
        let mut found = found.into_iter();
        let Some(first) = found.next() else { continue };
        for (object, _) in found {
            let message = format!("{host} is routed by {} already, which is older", first.0.key());
            findings.warn(object, "spec.hosts", message);
        }
        return Some(first);
    }
    None
}

/// Whether the VirtualService has just this host, and not only covers it.
fn is_for(view: &View, object: &Object, spec: &VirtualService, host: &str) -> bool {
    let domain = &view.proxy.cluster_domain;
    let mut own = crate::compile::store::mesh_hosts(spec, &object.metadata.namespace, domain);
    own.any(|pattern| pattern.to_string() == host)
}

impl Outbound {
    /// A host that is only in a VirtualService: its requests on the usual port.
    fn serviceless(
        &mut self,
        lookup: Lookup<'_>,
        host: &Arc<str>,
        rules: (&Object, &VirtualService),
        findings: &mut Findings,
    ) {
        let routes = mesh::http(lookup, rules, HTTP_PORT, findings);
        if !routes.is_empty() {
            let domains = vec![HostPattern::parse(host)];
            self.made.virtual_hosts.push(virtual_host(&table(HTTP_PORT), host, domains, routes));
            self.uses.insert(HTTP_PORT, Uses { http: true, rest: false });
        }
    }
}

struct Builder<'a, 'b> {
    lookup: Lookup<'a>,
    service: &'a Service,
    port: &'a Port,
    rules: Option<(&'a Object, &'a VirtualService)>,
    outbound: &'b mut Outbound,
    findings: &'b mut Findings,
}

impl Builder<'_, '_> {
    fn port(&mut self) {
        match self.port.protocol {
            Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb) => {
                self.http();
            }
            Some(Protocol::Https | Protocol::Tls) => self.tls(),
            Some(Protocol::Tcp | Protocol::Mongo | Protocol::Redis | Protocol::Mysql) => {
                self.tcp();
            }
            Some(Protocol::Udp) => {}
            None => self.detected(),
        }
    }

    /// By host, in the table of the port.
    fn http(&mut self) {
        let route_table = table(self.port.number);
        self.add_hosts(&route_table);
        for address in self.addresses() {
            let network = NetworkFilter::Http { route_table: route_table.clone() };
            self.add(Some(address), Beginning::Any, network);
        }
    }

    /// By server name where that is all there is.
    fn tls(&mut self) {
        let addresses = self.destinations();
        let connections = self
            .rules
            .map(|rules| mesh::tls(self.lookup, rules, self.port.number, self.findings))
            .unwrap_or_default();
        for (index, it) in connections.iter().enumerate() {
            let server_names: Arc<[HostPattern]> =
                it.server_names.iter().map(|name| HostPattern::parse(name)).collect();
            for address in nets(it.destinations).unwrap_or_else(|| addresses.clone()) {
                let clusters = Arc::clone(&it.clusters);
                let network = NetworkFilter::TcpProxy { clusters, idle_timeout: None };
                // The first rule that has a name is the one, and the service comes last.
                let chain = self.chain(address, Beginning::Tls, network, &format!("|{index:04}"));
                self.push(FilterChain { server_names: Arc::clone(&server_names), ..chain });
            }
        }
        self.by_server_name(&addresses);
    }

    /// The service itself, for what no rule took.
    fn by_server_name(&mut self, addresses: &[Option<IpNet>]) {
        let network = tcp(mesh::cluster(&self.service.host, self.port.number));
        for address in addresses {
            if address.is_some() {
                self.add(*address, Beginning::Any, network.clone());
            } else {
                let chain = self.chain(None, Beginning::Tls, network.clone(), "|~");
                let server_names = [HostPattern::parse(&self.service.host)].into();
                self.push(FilterChain { server_names, ..chain });
            }
        }
    }

    /// By address, without a look.
    fn tcp(&mut self) {
        let network = tcp(mesh::cluster(&self.service.host, self.port.number));
        let mut addresses = self.destinations();
        let Service { is_kubernetes, has_auto_addresses, lacks_addresses, .. } = self.service;
        if *is_kubernetes || *has_auto_addresses || *lacks_addresses {
            // Without an address of its own (ExternalName) it would take everything on its port.
            addresses.retain(Option::is_some);
        }
        let connections = self
            .rules
            .map(|rules| mesh::tcp(self.lookup, rules, self.port.number, self.findings))
            .unwrap_or_default();
        for it in connections {
            let network = NetworkFilter::TcpProxy { clusters: it.clusters, idle_timeout: None };
            match nets(it.destinations) {
                Some(nets) => {
                    nets.into_iter().for_each(|net| self.add(net, Beginning::Any, network.clone()));
                }
                None => {
                    // Whatever comes after it is for nothing.
                    addresses
                        .into_iter()
                        .for_each(|net| self.add(net, Beginning::Any, network.clone()));
                    return;
                }
            }
        }
        addresses.into_iter().for_each(|net| self.add(net, Beginning::Any, network.clone()));
    }

    /// What it speaks is seen when it does: a request, or else the service's bytes.
    fn detected(&mut self) {
        let cluster = mesh::cluster(&self.service.host, self.port.number);
        let mut addresses: Vec<IpNet> = self.addresses();
        addresses.extend(self.endpoints());
        if addresses.is_empty() || self.service.has_auto_addresses {
            self.add_hosts(&table(self.port.number));
            self.by_server_name(&[None]);
        }
        if addresses.is_empty() {
            return;
        }
        let name = format!("{}:{}", self.service.host, self.port.number);
        let route_table = RouteTableName::new(name);
        let routes = self.routes();
        let host = virtual_host(&route_table, &self.service.host, vec![HostPattern::Any], routes);
        self.outbound.made.virtual_hosts.push(host);
        let tcp_rule = self
            .rules
            .map(|rules| mesh::tcp(self.lookup, rules, self.port.number, self.findings))
            .and_then(|all| all.into_iter().find(|it| it.destinations.is_empty()));
        let rest = match tcp_rule {
            Some(it) => NetworkFilter::TcpProxy { clusters: it.clusters, idle_timeout: None },
            None => tcp(cluster),
        };
        for address in addresses {
            let network = NetworkFilter::Http { route_table: route_table.clone() };
            self.add(Some(address), Beginning::Http, network);
            self.add(Some(address), Beginning::Any, rest.clone());
        }
    }

    fn routes(&mut self) -> Arc<[Arc<Route>]> {
        let number = self.port.number;
        if let Some(rules) = self.rules.filter(|(_, spec)| !spec.http.is_empty()) {
            return mesh::http(self.lookup, rules, number, self.findings);
        }
        let cluster = mesh::cluster(&self.service.host, number);
        let owner = self.lookup.view.store.find(&self.port.owner);
        owner.map(|owner| mesh::to_service(self.lookup, owner, cluster)).unwrap_or_default()
    }

    /// Everything clients may call the service.
    fn add_hosts(&mut self, route_table: &RouteTableName) {
        let routes = self.routes();
        let host = virtual_host(route_table, &self.service.host, self.domains(), routes);
        self.outbound.made.virtual_hosts.push(host);
        self.outbound.uses.entry(self.port.number).or_default().http = true;
    }

    fn domains(&self) -> Vec<HostPattern> {
        let Service { host, name, namespace, addresses, .. } = self.service;
        let proxy = &self.lookup.view.proxy;
        let mut domains = vec![HostPattern::parse(host)];
        if self.service.is_kubernetes
            && **host == *service_host(name, namespace, &proxy.cluster_domain)
        {
            let mut shorter =
                vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")];
            shorter.extend((*namespace == proxy.namespace).then(|| name.to_string()));
            domains.extend(shorter.iter().map(|name| HostPattern::parse(name)));
        }
        if self.service.is_headless {
            // The names of a StatefulSet's pods.
            domains.push(HostPattern::Suffix(format!(".{host}").into()));
        }
        let single = addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        domains.extend(single.map(|net| HostPattern::Exact(net.addr().to_string().into())));
        domains
    }

    fn addresses(&self) -> Vec<IpNet> {
        self.service.addresses.clone()
    }

    /// Where connections to the service go: its addresses, or its endpoints; `None`: anywhere.
    fn destinations(&self) -> Vec<Option<IpNet>> {
        let mut nets = self.addresses();
        nets.extend(self.endpoints());
        let is_anywhere = nets.is_empty() && !self.service.is_headless;
        let mut all: Vec<Option<IpNet>> = nets.into_iter().map(Some).collect();
        // Not everybody asks us where a host is.
        if is_anywhere || self.service.has_auto_addresses {
            all.push(None);
        }
        all
    }

    /// Of a headless service, but for the workload itself.
    fn endpoints(&self) -> Vec<IpNet> {
        if !self.service.is_headless {
            return Vec::new();
        }
        let view = self.lookup.view;
        let own: &[IpAddr] = match &view.proxy.kind {
            ProxyKind::Sidecar { addresses } => addresses,
            ProxyKind::Gateway => &[],
        };
        // What there is to say about them is said where they are compiled.
        let mut unsaid = Findings::default();
        let all = crate::compile::cluster::compile_endpoints(view, self.service, &mut unsaid);
        let cluster = mesh::cluster(&self.service.host, self.port.number);
        let members = all.iter().filter(|members| members.cluster == cluster);
        let addresses = members.flat_map(|members| &*members.endpoints);
        addresses
            .filter_map(|endpoint| match endpoint.address {
                EndpointAddress::Ip(address) => Some(address.ip()),
                EndpointAddress::Dns { .. } | EndpointAddress::Unix(_) => None,
            })
            .filter(|ip| !own.contains(ip))
            .map(IpNet::from)
            .collect()
    }

    fn add(&mut self, address: Option<IpNet>, begins: Beginning, network: NetworkFilter) {
        let chain = self.chain(address, begins, network, "|~");
        self.push(chain);
    }

    fn push(&mut self, chain: FilterChain) {
        if let Some(RedirectMatch { address: None, begins, .. }) = chain.redirected {
            let uses = self.outbound.uses.entry(self.port.number).or_default();
            uses.rest |= begins == Beginning::Any;
        }
        self.outbound.made.chains.push(chain);
    }

    fn chain(
        &self,
        address: Option<IpNet>,
        begins: Beginning,
        network: NetworkFilter,
        suffix: &str,
    ) -> FilterChain {
        let number = self.port.number;
        let place = address.map_or_else(|| "0.0.0.0".to_owned(), |net| net.to_string());
        let begins_with = match begins {
            Beginning::Any => "",
            Beginning::Http => "|http",
            Beginning::Tls | Beginning::MeshTls | Beginning::MeshHttp => "|tls",
        };
        let name = format!("{place}_{number}|{}{begins_with}{suffix}", self.service.host);
        let redirected = RedirectMatch { address, port: Some(number), begins };
        FilterChain {
            gateway: format!("{}/{}", self.service.namespace, self.service.name).into(),
            ..chain(name, redirected, network)
        }
    }
}

/// `domains`: at least one.
fn virtual_host(
    route_table: &RouteTableName,
    host: &str,
    mut domains: Vec<HostPattern>,
    routes: Arc<[Arc<Route>]>,
) -> VirtualHost {
    VirtualHost {
        name: VirtualHostName::new(format!("{route_table}|{host}")),
        route_table: route_table.clone(),
        domain: domains.remove(0),
        aliases: domains.into(),
        require_tls: false,
        routes,
    }
}

/// The CIDRs of a condition; `None` where there is none.
fn nets(texts: &[String]) -> Option<Vec<Option<IpNet>>> {
    let parse = |text: &String| -> Option<Option<IpNet>> {
        let net = text.parse().ok().or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
        net.map(Some)
    };
    (!texts.is_empty()).then(|| texts.iter().filter_map(parse).collect())
}
