//! What a sidecar does: connections of its workload to others (outbound), and to its workload
//! (inbound). Both are listeners that everything is redirected to; the chains say what is done, by
//! where a connection was going and how it begins.

use std::{collections::BTreeMap, sync::Arc};

mod auto_address;
mod catch_all;
mod dns;
mod inbound;
mod outbound;
mod scope;

pub(super) use self::{
    auto_address::AutoAddresses,
    catch_all::{Uses, catch_all, port},
    dns::record as dns_record,
    inbound::compile as inbound,
    outbound::{Outbound, compile as outbound},
    scope::Scope,
};
use super::{output::Output, packed::pack};
use crate::model::{
    Cluster, ClusterEndpoints, ClusterName, FilterChain, FilterChainName, Listener, ListenerName,
    VirtualHost, VirtualHostName,
};

/// What was compiled of it, by what it is for.
#[derive(Debug, Default)]
pub(super) struct Sidecar {
    pub(super) hosts: BTreeMap<Arc<str>, Names>,
    /// What the chains of each host leave to be done on the ports they are on.
    pub(super) ports: BTreeMap<u16, BTreeMap<Arc<str>, Uses>>,
    pub(super) port_names: BTreeMap<u16, Names>,
    pub(super) catch_all: Names,
    pub(super) inbound: Names,
}

impl Sidecar {
    pub(super) fn pack(&mut self) {
        pack(&mut self.hosts);
        self.ports.values_mut().for_each(pack);
    }
}

/// Resources that belong together.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) listeners: Vec<Listener>,
    pub(super) chains: Vec<FilterChain>,
    pub(super) virtual_hosts: Vec<VirtualHost>,
    pub(super) clusters: Vec<Cluster>,
    pub(super) endpoints: Vec<ClusterEndpoints>,
}

/// What they are called, to know what is gone when they are made again. Sorted; a set of one as a tree
/// would take the room of eleven.
#[derive(Debug, Default)]
pub(super) struct Names {
    listeners: Box<[ListenerName]>,
    chains: Box<[FilterChainName]>,
    virtual_hosts: Box<[VirtualHostName]>,
    clusters: Box<[ClusterName]>,
}

impl Made {
    /// Puts these in the place of those called `before`.
    pub(super) fn replace(self, before: &mut Names, output: &mut Output) {
        let names = Names {
            listeners: sorted(self.listeners.iter().map(|listener| &listener.name)),
            chains: sorted(self.chains.iter().map(|chain| &chain.name)),
            virtual_hosts: sorted(self.virtual_hosts.iter().map(|host| &host.name)),
            clusters: sorted(self.clusters.iter().map(|cluster| &cluster.name)),
        };
        for name in gone(&before.listeners, &names.listeners) {
            output.set_listener(name.clone(), None);
        }
        for name in gone(&before.chains, &names.chains) {
            output.set_filter_chain(name.clone(), None);
        }
        for name in gone(&before.virtual_hosts, &names.virtual_hosts) {
            output.set_virtual_host(name.clone(), None);
        }
        for name in gone(&before.clusters, &names.clusters) {
            output.set_cluster(name.clone(), None);
            output.set_endpoints(name.clone(), None);
        }
        for listener in self.listeners {
            output.set_listener(listener.name.clone(), Some(listener));
        }
        for chain in self.chains {
            output.set_filter_chain(chain.name.clone(), Some(chain));
        }
        for host in self.virtual_hosts {
            output.set_virtual_host(host.name.clone(), Some(host));
        }
        for cluster in self.clusters {
            output.set_cluster(cluster.name.clone(), Some(cluster));
        }
        for endpoints in self.endpoints {
            output.set_endpoints(endpoints.cluster.clone(), Some(endpoints));
        }
        *before = names;
    }
}

fn sorted<'a, N: Ord + Clone + 'a>(names: impl Iterator<Item = &'a N>) -> Box<[N]> {
    let mut names: Vec<N> = names.cloned().collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}

/// What is no longer there of `before`.
fn gone<'a, N: Ord>(before: &'a [N], now: &'a [N]) -> impl Iterator<Item = &'a N> {
    before.iter().filter(|name| now.binary_search(name).is_err())
}
