//! The servers of one socket -> its layout. What a server cannot have because an older one has it is
//! said, and the rest is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    AutoServer, Layout, Socket,
    server::{ServerHosts, ServerKind, classify},
    socket,
    table::{ServerId, Table, TableKind, TableServer},
    tls,
};
use crate::{
    api::{
        Object,
        istio::gateway::{Gateway, Server},
    },
    compile::{View, finding::Findings, name::origin, secret::Reference},
    model::{
        FilterChain, FilterChainName, Listener, RouteTableName,
        listener::{ListenerKind, NetworkFilter},
        matcher::HostPattern,
    },
};

/// The servers of one socket, while they are put together.
pub(super) struct Merge<'a> {
    view: &'a View,
    socket: &'a Socket,
    findings: &'a mut Findings,
    /// The server that decided what the socket is.
    first: Option<First<'a>>,
    /// Hosts of TLS servers and the Gateway each belongs to.
    tls_hosts: BTreeMap<HostPattern, Arc<str>>,
    terminated: BTreeSet<HostPattern>,
    http: BTreeMap<ServerId, TableServer>,
    passthrough: BTreeMap<ServerId, TableServer>,
    chains: Vec<FilterChain>,
    tables: BTreeMap<RouteTableName, Arc<Table>>,
    secrets: Vec<Reference>,
    auto: Vec<AutoServer>,
}

struct First<'a> {
    kind: ListenerKind,
    gateway: &'a Object,
    port: u16,
}

/// A server on its way into the socket.
struct Candidate<'a> {
    gateway: &'a Object,
    server: &'a Server,
    /// Position in the Gateway.
    index: usize,
    port: u16,
}

impl Candidate<'_> {
    fn field(&self) -> String {
        format!("spec.servers[{}]", self.index)
    }

    fn id(&self) -> ServerId {
        ServerId::new(self.gateway, self.index)
    }
}

impl<'a> Merge<'a> {
    pub(super) fn new(view: &'a View, socket: &'a Socket, findings: &'a mut Findings) -> Self {
        Self {
            view,
            socket,
            findings,
            first: None,
            tls_hosts: BTreeMap::new(),
            terminated: BTreeSet::new(),
            http: BTreeMap::new(),
            passthrough: BTreeMap::new(),
            chains: Vec::new(),
            tables: BTreeMap::new(),
            secrets: Vec::new(),
            auto: Vec::new(),
        }
    }

    pub(super) fn add_gateway(&mut self, gateway: &'a Object, spec: &'a Gateway) {
        for (index, server) in spec.servers.iter().enumerate() {
            if socket(self.view, server).as_ref() != Some(self.socket) {
                continue;
            }
            let port = server.port.as_ref().map_or(0, |port| port.number);
            self.add(&Candidate { gateway, server, index, port });
        }
    }

    fn add(&mut self, candidate: &Candidate<'a>) {
        let Candidate { gateway, server, .. } = candidate;
        let field = candidate.field();
        let kind = match classify(server, self.view.proxy.has_identity) {
            Ok(kind) => kind,
            Err(reason) => {
                self.findings.warn(gateway, field, format!("this server is skipped: {reason}"));
                return;
            }
        };
        if !self.fits(candidate, kind) {
            return;
        }
        if !server.default_endpoint.is_empty() {
            self.findings.warn(
                gateway,
                format!("{field}.defaultEndpoint"),
                "defaultEndpoint has no effect; route with a VirtualService",
            );
        }
        match kind {
            ServerKind::Http => {
                self.http.insert(candidate.id(), table_server(candidate));
            }
            ServerKind::Tcp => self.add_tcp(candidate),
            ServerKind::Passthrough => {
                self.passthrough.insert(candidate.id(), table_server(candidate));
            }
            ServerKind::AutoPassthrough => self.auto.push(AutoServer {
                listener: self.socket.listener(),
                hosts: ServerHosts::new(&server.hosts, &gateway.metadata.namespace),
                gateway: origin(gateway),
            }),
            ServerKind::TerminatedHttp | ServerKind::TerminatedTcp => {
                self.add_terminated(candidate, kind);
            }
        }
    }

    /// Whether the socket is, or becomes, what the server needs, and its hosts are still free.
    fn fits(&mut self, candidate: &Candidate<'a>, kind: ServerKind) -> bool {
        let Candidate { gateway, port, .. } = candidate;
        if let Some(first) = &self.first {
            let is_second_tcp = kind == ServerKind::Tcp && first.kind == ListenerKind::Tcp;
            if first.kind != kind.listener() || is_second_tcp {
                self.findings.warn(
                    gateway,
                    format!("{}.port", candidate.field()),
                    format!(
                        "this server is skipped: {} already serves {} on {} and the two cannot \
                         share it; use another port or bind",
                        first.gateway.key(),
                        describe(first.kind),
                        self.socket.listener(),
                    ),
                );
                return false;
            }
        }
        if kind.listener() == ListenerKind::Tls && !self.claim_hosts(candidate) {
            return false;
        }
        if self.first.is_none() {
            self.first = Some(First { kind: kind.listener(), gateway, port: *port });
        }
        true
    }

    /// A server name can lead to one chain only; the older server keeps it.
    fn claim_hosts(&mut self, candidate: &Candidate<'_>) -> bool {
        let Candidate { gateway, server, .. } = candidate;
        let hosts = ServerHosts::new(&server.hosts, &gateway.metadata.namespace);
        let taken = hosts.patterns().find_map(|host| Some((host, self.tls_hosts.get(host)?)));
        if let Some((host, owner)) = taken {
            self.findings.warn(
                gateway,
                format!("{}.hosts", candidate.field()),
                format!(
                    "this server is skipped: TLS for host {host} on {} already belongs to Gateway \
                     {owner}; a host can have one TLS server per port",
                    self.socket.listener(),
                ),
            );
            return false;
        }
        let owner = origin(gateway);
        self.tls_hosts.extend(hosts.patterns().map(|host| (host.clone(), Arc::clone(&owner))));
        true
    }

    fn add_tcp(&mut self, candidate: &Candidate<'_>) {
        let name = self.own_name("tcp", candidate);
        let chain = FilterChain {
            name: FilterChainName::new(name.clone()),
            listener: self.socket.listener(),
            server_names: Arc::default(),
            redirected: None,
            mesh_only: false,
            tls: None,
            network: closed(),
            gateway: origin(candidate.gateway),
        };
        self.add_tcp_table(name, chain, candidate);
    }

    fn add_terminated(&mut self, candidate: &Candidate<'_>, kind: ServerKind) {
        let Candidate { gateway, server, .. } = candidate;
        let field = candidate.field();
        let Some(settings) = &server.tls else { return };
        let mut tls = tls::Builder::new(self.view, gateway, format!("{field}.tls"), self.findings);
        let context = tls.build(settings, kind == ServerKind::TerminatedHttp);
        let secrets = tls.into_references();
        let Some(context) = context else { return };
        self.secrets.extend(secrets);

        let hosts = ServerHosts::new(&server.hosts, &gateway.metadata.namespace);
        self.terminated.extend(hosts.patterns().cloned());
        let is_http = kind == ServerKind::TerminatedHttp;
        let name = self.own_name(if is_http { "https" } else { "tls" }, candidate);
        let route_table = RouteTableName::new(name.clone());
        let chain = FilterChain {
            name: FilterChainName::new(name.clone()),
            listener: self.socket.listener(),
            server_names: hosts.patterns().cloned().collect(),
            redirected: None,
            mesh_only: false,
            tls: Some(context),
            network: NetworkFilter::Http { route_table: route_table.clone() },
            gateway: origin(gateway),
        };
        if self.tables.contains_key(&route_table) {
            self.findings.warn(
                gateway,
                format!("{field}.port.name"),
                "this server is skipped: another server of this Gateway has the same port name",
            );
            return;
        }
        if is_http {
            // Each server has its own table: a client that reuses its connection for a host of
            // another server is told 404, as in Istio (trap 20).
            let servers = BTreeMap::from([(candidate.id(), table_server(candidate))]);
            self.add_table(Table::http(route_table, self.socket.listener(), servers));
            self.chains.push(chain);
        } else {
            let chain = FilterChain { network: closed(), ..chain };
            self.add_tcp_table(name, chain, candidate);
        }
    }

    fn add_tcp_table(&mut self, name: String, chain: FilterChain, candidate: &Candidate<'_>) {
        self.add_table(Table {
            name: RouteTableName::new(name),
            kind: TableKind::Tcp { chain: Box::new(chain) },
            listener: self.socket.listener(),
            servers: BTreeMap::from([(candidate.id(), table_server(candidate))]),
        });
    }

    fn add_table(&mut self, table: Table) {
        self.tables.insert(table.name.clone(), Arc::new(table));
    }

    /// `https.443.https.bookinfo-gateway.default`
    fn own_name(&self, prefix: &str, candidate: &Candidate<'_>) -> String {
        let Candidate { gateway, server, .. } = candidate;
        let port_name = server.port.as_ref().map_or("", |port| port.name.as_str());
        format!(
            "{prefix}.{}.{port_name}.{}.{}{}",
            self.socket.port,
            gateway.metadata.name,
            gateway.metadata.namespace,
            self.socket.suffix(),
        )
    }

    pub(super) fn finish(mut self) -> Option<Layout> {
        let first = self.first.take()?;
        let Some(address) = self.socket.address() else {
            self.findings.warn(
                first.gateway,
                "spec.servers",
                format!("{:?} is not an address to bind; use an IP address", self.socket.bind),
            );
            return None;
        };
        let listener = self.socket.listener();
        let socket = self.socket;
        let shared_name = |prefix: &str| format!("{prefix}.{}{}", socket.port, socket.suffix());
        if !self.http.is_empty() {
            let name = shared_name("http");
            let route_table = RouteTableName::new(name.clone());
            self.chains.push(FilterChain {
                name: FilterChainName::new(name),
                listener: listener.clone(),
                server_names: Arc::default(),
                redirected: None,
                mesh_only: false,
                tls: None,
                network: NetworkFilter::Http { route_table: route_table.clone() },
                gateway: origin(first.gateway),
            });
            let servers = std::mem::take(&mut self.http);
            self.add_table(Table::http(route_table, listener.clone(), servers));
        }
        if !self.passthrough.is_empty() {
            let terminated = std::mem::take(&mut self.terminated);
            let servers = std::mem::take(&mut self.passthrough);
            self.add_table(Table {
                name: RouteTableName::new(shared_name("passthrough")),
                kind: TableKind::Sni { terminated },
                listener: listener.clone(),
                servers,
            });
        }
        Some(Layout {
            listener: Listener {
                name: listener,
                address,
                port: first.port,
                kind: first.kind,
                is_transparent: false,
            },
            chains: self.chains,
            tables: self.tables,
            secrets: self.secrets,
            auto: self.auto,
        })
    }
}

fn table_server(candidate: &Candidate<'_>) -> TableServer {
    let Candidate { gateway, server, port, .. } = candidate;
    TableServer {
        gateway: gateway.key(),
        port: *port,
        hosts: ServerHosts::new(&server.hosts, &gateway.metadata.namespace),
        redirect: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
    }
}

fn describe(kind: ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Http => "plain HTTP",
        ListenerKind::Tls => "TLS",
        ListenerKind::Tcp => "TCP",
        ListenerKind::Inbound | ListenerKind::Outbound => "redirected connections",
        ListenerKind::Tunnel => "HBONE",
    }
}

/// Until a VirtualService says where bytes go, they go nowhere.
fn closed() -> NetworkFilter {
    NetworkFilter::TcpProxy { clusters: Arc::default(), idle_timeout: None }
}
