//! Where a VirtualService takes part: which domains of which tables of its Gateways.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api::{
        Kind, Object, ObjectKey,
        istio::virtual_service::{L4MatchAttributes, TcpRoute, TlsMatchAttributes, VirtualService},
    },
    compile::{
        View,
        listener::{ServerId, Table, TableKind, TableServer},
        name::{Age, MESH_GATEWAY, resolve_gateway, resolve_host},
    },
    model::{RouteTableName, matcher::HostPattern},
};

/// One host of one table: a virtual host, or the chain of a server name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::compile) struct Domain {
    pub(in crate::compile) table: RouteTableName,
    pub(in crate::compile) host: HostPattern,
}

/// A VirtualService in a domain. Sorts as routes are tried: by server, then oldest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::compile) struct Contribution {
    pub(in crate::compile) server: ServerId,
    age: Age,
    pub(in crate::compile) virtual_service: ObjectKey,
}

/// What static conditions of a rule are compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::compile) struct Scope {
    pub(in crate::compile) gateway: ObjectKey,
    /// The number of the Gateway's server.
    pub(in crate::compile) port: u16,
}

impl Scope {
    pub(in crate::compile) fn of(server: &TableServer) -> Self {
        Self { gateway: server.gateway.clone(), port: server.port }
    }

    /// A connection of the workload itself to this port of a service.
    pub(in crate::compile) fn mesh(port: u16) -> Self {
        let name = MESH_GATEWAY.into();
        let gateway = ObjectKey { kind: Kind::Gateway, namespace: Arc::default(), name };
        Self { gateway, port }
    }

    /// No Gateway is without a namespace.
    fn is_mesh(&self) -> bool {
        self.gateway.namespace.is_empty()
    }

    /// Whether a match limited to `port` and `gateways` (of an object in `namespace`) can hold.
    pub(in crate::compile) fn satisfies(
        &self,
        port: Option<u16>,
        gateways: &[String],
        namespace: &Arc<str>,
    ) -> bool {
        port.is_none_or(|port| port == 0 || port == self.port)
            && (gateways.is_empty()
                || gateways.iter().any(|name| match resolve_gateway(name, namespace) {
                    Some(key) => key == self.gateway,
                    None => self.is_mesh(),
                }))
    }
}

/// The domains of `table` that `object` takes part in through these of its servers.
pub(in crate::compile) fn bind<'a>(
    view: &View,
    object: &Object,
    spec: &VirtualService,
    table: &Table,
    servers: impl Iterator<Item = (&'a ServerId, &'a TableServer)>,
) -> Vec<(Domain, Contribution)> {
    let mut bindings = Vec::new();
    for (id, server) in servers {
        for host in hosts(view, object, spec, table, server) {
            let domain = Domain { table: table.name.clone(), host };
            let contribution = Contribution {
                server: id.clone(),
                age: Age::of(object),
                virtual_service: object.key(),
            };
            bindings.push((domain, contribution));
        }
    }
    bindings
}

fn hosts(
    view: &View,
    object: &Object,
    spec: &VirtualService,
    table: &Table,
    server: &TableServer,
) -> BTreeSet<HostPattern> {
    match table.kind {
        TableKind::Http { .. } if spec.http.is_empty() => BTreeSet::new(),
        TableKind::Http { .. } => shared_hosts(view, object, spec, server),
        TableKind::Sni { .. } => {
            let scope = Scope::of(server);
            let matches = spec.tls.iter().flat_map(|rule| &rule.matches);
            matches
                .filter(|condition| tls_applies(condition, &scope, &object.metadata.namespace))
                .flat_map(|condition| sni_hosts(condition, object, server))
                .collect()
        }
        TableKind::Tcp { .. } => {
            let takes_part = tcp_rule(object, spec, &Scope::of(server)).is_some()
                && !shared_hosts(view, object, spec, server).is_empty();
            if takes_part { BTreeSet::from([HostPattern::Any]) } else { BTreeSet::new() }
        }
    }
}

/// The hosts of the VirtualService that the server has too.
fn shared_hosts(
    view: &View,
    object: &Object,
    spec: &VirtualService,
    server: &TableServer,
) -> BTreeSet<HostPattern> {
    let namespace = &object.metadata.namespace;
    spec.hosts
        .iter()
        .map(|host| resolve_host(host, namespace, &view.proxy.cluster_domain))
        .flat_map(|host| server.hosts.intersect(&HostPattern::parse(&host), namespace))
        .collect()
}

/// The server names of a condition, narrowed by the hosts of the server.
pub(super) fn sni_hosts(
    condition: &TlsMatchAttributes,
    object: &Object,
    server: &TableServer,
) -> BTreeSet<HostPattern> {
    condition
        .sni_hosts
        .iter()
        .flat_map(|host| {
            server.hosts.intersect(&HostPattern::parse(host), &object.metadata.namespace)
        })
        .collect()
}

pub(super) fn tls_applies(
    condition: &TlsMatchAttributes,
    scope: &Scope,
    namespace: &Arc<str>,
) -> bool {
    scope.satisfies(condition.port, &condition.gateways, namespace)
}

/// The first TCP rule for connections of `scope`.
pub(super) fn tcp_rule<'a>(
    object: &Object,
    spec: &'a VirtualService,
    scope: &Scope,
) -> Option<(usize, &'a TcpRoute)> {
    let applies = |condition: &L4MatchAttributes| {
        scope.satisfies(condition.port, &condition.gateways, &object.metadata.namespace)
    };
    spec.tcp
        .iter()
        .enumerate()
        .find(|(_, rule)| rule.matches.is_empty() || rule.matches.iter().any(applies))
}
