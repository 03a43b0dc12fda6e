//! VirtualService `tls` and `tcp` rules -> the chains of passed-through server names and the
//! clusters of TCP servers.

use std::sync::Arc;

use super::{
    Context, Contribution, Domain, Lookup, Scope,
    binding::{sni_hosts, tcp_rule, tls_applies},
    destination,
};
use crate::{
    api::{
        Object, Spec,
        istio::virtual_service::{RouteDestination, VirtualService},
    },
    compile::{
        finding::Findings,
        listener::{Table, TableServer},
    },
    model::{
        FilterChain, FilterChainName, listener::NetworkFilter, matcher::HostPattern,
        route::WeightedCluster,
    },
};

/// The VirtualServices of one domain, in order, with what to look them up in.
pub(in crate::compile) struct Contributors<'a> {
    pub(in crate::compile) lookup: Lookup<'a>,
    pub(in crate::compile) table: &'a Table,
    pub(in crate::compile) contributions: Vec<&'a Contribution>,
}

impl<'a> Contributors<'a> {
    fn objects(
        &self,
    ) -> impl Iterator<Item = (&'a Object, &'a VirtualService, &'a TableServer)> + use<'a> {
        let Self { lookup: Lookup { view, .. }, table, .. } = *self;
        self.contributions.clone().into_iter().filter_map(move |contribution| {
            let object = view.store.find(&contribution.virtual_service)?;
            let Spec::VirtualService(spec) = &object.spec else { return None };
            Some((&**object, spec, table.servers.get(&contribution.server)?))
        })
    }

    fn clusters(
        &self,
        object: &Object,
        server: &TableServer,
        route: &[RouteDestination],
        field: &str,
        findings: &mut Findings,
    ) -> Arc<[WeightedCluster]> {
        let mut context = Context { lookup: self.lookup, object, port: server.port, findings };
        let clusters = destination::tcp(&mut context, route, field);
        clusters.unwrap_or_default().into()
    }
}

/// The name of the chain a passed-through server name has.
pub(in crate::compile) fn sni_chain_name(domain: &Domain) -> FilterChainName {
    FilterChainName::new(format!("{}|{}", domain.table, domain.host))
}

/// The chain of a server name: the first rule of the oldest VirtualService for it. A name that a
/// terminating server of the same socket has is not available.
pub(in crate::compile) fn sni_chain(
    contributors: &Contributors<'_>,
    terminated: bool,
    domain: &Domain,
    findings: &mut Findings,
) -> Option<FilterChain> {
    let mut winner: Option<(FilterChain, &Object)> = None;
    for (object, spec, server) in contributors.objects() {
        let Some((index, condition)) = sni_rule(object, spec, server, &domain.host) else {
            continue;
        };
        let rule = format!("spec.tls[{index}]");
        let owner = match &winner {
            _ if terminated => Some("a server that terminates TLS".to_owned()),
            Some((_, owner)) => Some(owner.key().to_string()),
            None => None,
        };
        if let Some(owner) = owner {
            let message =
                format!("server name {} on {} belongs to {owner}", domain.host, domain.table);
            findings.warn(object, format!("{rule}.match[{condition}].sniHosts"), message);
            continue;
        }
        let Some(route) = spec.tls.get(index).map(|rule| &rule.route) else { continue };
        let clusters =
            contributors.clusters(object, server, route, &format!("{rule}.route"), findings);
        let chain = FilterChain {
            name: sni_chain_name(domain),
            listener: contributors.table.listener.clone(),
            server_names: Arc::from([domain.host.clone()]),
            redirected: None,
            mesh_only: false,
            tls: None,
            network: NetworkFilter::TcpProxy { clusters, idle_timeout: None },
            gateway: format!("{}/{}", server.gateway.namespace, server.gateway.name).into(),
        };
        winner = Some((chain, object));
    }
    winner.map(|(chain, _)| chain)
}

/// The first rule and match of `spec` for connections of `server` with server name `host`.
fn sni_rule(
    object: &Object,
    spec: &VirtualService,
    server: &TableServer,
    host: &HostPattern,
) -> Option<(usize, usize)> {
    let scope = Scope::of(server);
    spec.tls.iter().enumerate().find_map(|(index, rule)| {
        let condition = rule.matches.iter().position(|condition| {
            tls_applies(condition, &scope, &object.metadata.namespace)
                && sni_hosts(condition, object, server).contains(host)
        });
        condition.map(|condition| (index, condition))
    })
}

/// The chain of a TCP server with the clusters of the first VirtualService that has a rule for it
/// (istio-compat 1.1).
pub(in crate::compile) fn tcp_chain(
    contributors: &Contributors<'_>,
    chain: &FilterChain,
    findings: &mut Findings,
) -> FilterChain {
    let mut owner: Option<&Object> = None;
    let mut chain = chain.clone();
    for (object, spec, server) in contributors.objects() {
        let Some((index, rule)) = tcp_rule(object, spec, &Scope::of(server)) else { continue };
        let field = format!("spec.tcp[{index}]");
        if let Some(owner) = owner {
            let message = format!(
                "this rule has no effect: TCP connections of {} already go where {} says",
                contributors.table.name,
                owner.key()
            );
            findings.warn(object, field, message);
            continue;
        }
        if rule.matches.iter().any(|condition| !condition.source_subnet.is_empty()) {
            // Without it the rule would let in more clients than were meant.
            findings.warn(
                object,
                format!("{field}.match"),
                "this rule is skipped: sourceSubnet is not applied yet",
            );
            continue;
        }
        if rule.matches.iter().any(|condition| !condition.destination_subnets.is_empty()) {
            findings.warn(
                object,
                format!("{field}.match"),
                "destinationSubnets has no effect at a gateway",
            );
        }
        let field = format!("{field}.route");
        let clusters = contributors.clusters(object, server, &rule.route, &field, findings);
        chain.network = NetworkFilter::TcpProxy { clusters, idle_timeout: None };
        owner = Some(object);
    }
    chain
}
