//! What VirtualServices are bound to: the servers that share routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::server::ServerHosts;
use crate::{
    api::{Object, ObjectKey},
    compile::name::Age,
    model::{FilterChain, ListenerName, RouteTableName, matcher::HostPattern},
};

/// The domains of some servers.
#[derive(Debug, PartialEq)]
pub(in crate::compile) struct Table {
    pub(in crate::compile) name: RouteTableName,
    pub(in crate::compile) kind: TableKind,
    pub(in crate::compile) listener: ListenerName,
    pub(in crate::compile) servers: BTreeMap<ServerId, TableServer>,
}

#[derive(Debug, PartialEq)]
pub(in crate::compile) enum TableKind {
    /// A domain is a VirtualHost. These exist without VirtualService, to redirect to https.
    Http { redirecting: BTreeSet<HostPattern> },
    /// A domain is a server name of passed-through TLS and has a FilterChain. These belong to
    /// terminating servers of the same socket already.
    Sni { terminated: BTreeSet<HostPattern> },
    /// The only domain is `*`; this chain, with the clusters of the first VirtualService in it.
    Tcp { chain: Box<FilterChain> },
}

/// Names a server, and sorts as servers are merged: by the age of their Gateway, then as they are
/// written. That it says nothing about other servers keeps a changed Gateway from touching them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::compile) struct ServerId {
    gateway: Arc<Age>,
    index: usize,
}

impl ServerId {
    pub(super) fn new(gateway: &Object, index: usize) -> Self {
        Self { gateway: Arc::new(Age::of(gateway)), index }
    }
}

/// A server as the VirtualServices see it.
#[derive(Debug, PartialEq)]
pub(in crate::compile) struct TableServer {
    pub(in crate::compile) gateway: ObjectKey,
    /// The number in the Gateway, which `match.port` is compared with.
    pub(in crate::compile) port: u16,
    pub(in crate::compile) hosts: ServerHosts,
    /// `httpsRedirect`
    pub(in crate::compile) redirect: bool,
}

impl Table {
    pub(super) fn http(
        name: RouteTableName,
        listener: ListenerName,
        servers: BTreeMap<ServerId, TableServer>,
    ) -> Self {
        let redirecting = servers.values().filter(|server| server.redirect);
        let redirecting = redirecting.flat_map(|server| server.hosts.patterns().cloned()).collect();
        Self { name, kind: TableKind::Http { redirecting }, listener, servers }
    }

    pub(in crate::compile) fn is_http(&self) -> bool {
        matches!(self.kind, TableKind::Http { .. })
    }

    /// The servers of one Gateway.
    pub(in crate::compile) fn servers_of(
        &self,
        gateway: &Object,
    ) -> impl Iterator<Item = (&ServerId, &TableServer)> {
        self.servers.range(ServerId::new(gateway, 0)..=ServerId::new(gateway, usize::MAX))
    }

    /// The Gateways that have other servers in `new` than in `old`.
    pub(in crate::compile) fn changed_gateways(
        old: Option<&Self>,
        new: Option<&Self>,
    ) -> BTreeSet<ObjectKey> {
        let differing = |table: Option<&Self>, other: Option<&Self>| -> BTreeSet<ObjectKey> {
            let servers = table.into_iter().flat_map(|table| &table.servers);
            let differing = servers.filter(|(id, server)| {
                other.and_then(|other| other.servers.get(*id)) != Some(*server)
            });
            differing.map(|(_, server)| server.gateway.clone()).collect()
        };
        let mut gateways = differing(old, new);
        gateways.extend(differing(new, old));
        gateways
    }

    /// The domains whose meaning changes with the table, whatever VirtualServices say.
    pub(in crate::compile) fn changed_domains(
        old: Option<&Self>,
        new: Option<&Self>,
    ) -> BTreeSet<HostPattern> {
        let nothing = BTreeSet::new();
        let hosts = |table: Option<&'_ Self>| match table.map(|table| &table.kind) {
            Some(TableKind::Http { redirecting: hosts } | TableKind::Sni { terminated: hosts }) => {
                hosts.clone()
            }
            Some(TableKind::Tcp { .. }) | None => nothing.clone(),
        };
        let mut domains: BTreeSet<HostPattern> =
            hosts(old).symmetric_difference(&hosts(new)).cloned().collect();
        let chain = |table: Option<&Self>| match table.map(|table| &table.kind) {
            Some(TableKind::Tcp { chain }) => Some(chain.clone()),
            Some(TableKind::Http { .. } | TableKind::Sni { .. }) | None => None,
        };
        if chain(old) != chain(new) {
            domains.insert(HostPattern::Any);
        }
        domains
    }
}
