//! Which filter chains a redirected connection has: those of the narrowest destination, whatever wider
//! ones have. Addresses are looked up by hash; only networks are scanned, of which there are few.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use weir_config::model::{
    FilterChainName,
    listener::{Beginning, RedirectMatch},
};

use super::{filter_chain::Chain, server_names::ServerNames, tls::MeshOffer};
use crate::sharded_map::ShardedMap;

/// The chains by destination. Copies share what did not change.
#[derive(Debug, Default, Clone)]
pub(super) struct Destinations {
    addresses: ShardedMap<(IpAddr, Option<u16>), Arc<DestinationChains>>,
    /// The longest first.
    networks: Vec<(IpNet, Option<u16>, Arc<DestinationChains>)>,
    ports: ShardedMap<u16, Arc<DestinationChains>>,
    rest: Arc<DestinationChains>,
}

/// What can be done with the connections to one destination, by how they begin.
#[derive(Debug, Default, Clone)]
pub(super) struct DestinationChains {
    /// All of them in the order of their names.
    members: Vec<Arc<Chain>>,
    any: Option<Arc<Chain>>,
    http: Option<Arc<Chain>>,
    mesh_http: Option<Arc<Chain>>,
    mesh_tls: Option<Arc<Chain>>,
    tls: Option<Arc<ServerNames>>,
}

impl Destinations {
    pub(super) fn insert(&mut self, redirected: &RedirectMatch, chain: &Arc<Chain>) {
        self.change(redirected, |chains| chains.insert(chain));
    }

    pub(super) fn remove(&mut self, redirected: &RedirectMatch, chain: &Arc<Chain>) {
        self.change(redirected, |chains| chains.remove(&chain.config.name));
    }

    /// Changes the chains of one destination; where none are left, it is a destination no more.
    fn change(&mut self, redirected: &RedirectMatch, change: impl FnOnce(&mut DestinationChains)) {
        let RedirectMatch { address, port, .. } = *redirected;
        let changed = |chains: Option<Arc<DestinationChains>>| {
            let mut chains = chains.unwrap_or_default();
            change(Arc::make_mut(&mut chains));
            Some(chains).filter(|chains| !chains.members.is_empty())
        };
        match (address, port) {
            (Some(net), port) if net.prefix_len() == net.max_prefix_len() => {
                let key = (net.addr(), port);
                if let Some(chains) = changed(self.addresses.remove(&key)) {
                    self.addresses.insert(key, chains);
                }
            }
            (Some(net), port) => self.change_network(net.trunc(), port, changed),
            (None, Some(port)) => {
                if let Some(chains) = changed(self.ports.remove(&port)) {
                    self.ports.insert(port, chains);
                }
            }
            (None, None) => {
                self.rest = changed(Some(std::mem::take(&mut self.rest))).unwrap_or_default();
            }
        }
    }

    fn change_network(
        &mut self,
        net: IpNet,
        port: Option<u16>,
        changed: impl FnOnce(Option<Arc<DestinationChains>>) -> Option<Arc<DestinationChains>>,
    ) {
        // Of two of one length, that with a port first.
        let order = |net: &IpNet, port: Option<u16>| {
            (std::cmp::Reverse(net.prefix_len()), *net, std::cmp::Reverse(port))
        };
        let found = self
            .networks
            .binary_search_by_key(&order(&net, port), |(net, port, _)| order(net, *port));
        let (place, chains) = match found {
            Ok(place) => (place, Some(self.networks.remove(place).2)),
            Err(place) => (place, None),
        };
        if let Some(chains) = changed(chains) {
            self.networks.insert(place, (net, port, chains));
        }
    }

    pub(super) fn find(&self, address: SocketAddr) -> &Arc<DestinationChains> {
        let (ip, port) = (address.ip(), address.port());
        let single = |port| self.addresses.get(&(ip, port));
        let network = || {
            let mut networks = self.networks.iter();
            let found = networks
                .find(|(net, own, _)| own.is_none_or(|own| own == port) && net.contains(&ip));
            found.map(|(_, _, chains)| chains)
        };
        single(Some(port))
            .or_else(|| single(None))
            .or_else(network)
            .or_else(|| self.ports.get(&port))
            .unwrap_or(&self.rest)
    }
}

impl DestinationChains {
    fn insert(&mut self, chain: &Arc<Chain>) {
        let name = &chain.config.name;
        match self.members.binary_search_by(|member| member.config.name.cmp(name)) {
            Err(place) if place == self.members.len() => {
                self.members.push(Arc::clone(chain));
                self.place(chain);
            }
            Err(place) => {
                self.members.insert(place, Arc::clone(chain));
                self.place_all();
            }
            Ok(place) => {
                self.members[place] = Arc::clone(chain);
                self.place_all();
            }
        }
    }

    fn remove(&mut self, name: &FilterChainName) {
        if let Ok(place) = self.members.binary_search_by(|member| member.config.name.cmp(name)) {
            self.members.remove(place);
            self.place_all();
        }
    }

    fn place_all(&mut self) {
        let members = std::mem::take(&mut self.members);
        *self = Self::default();
        for chain in &members {
            self.place(chain);
        }
        self.members = members;
    }

    /// Of two chains for the same the first has it.
    fn place(&mut self, chain: &Arc<Chain>) {
        let Some(RedirectMatch { begins, .. }) = chain.config.redirected else { return };
        let slot = match begins {
            Beginning::Any => &mut self.any,
            Beginning::Http => &mut self.http,
            Beginning::MeshTls => &mut self.mesh_tls,
            Beginning::MeshHttp => &mut self.mesh_http,
            Beginning::Tls => {
                let names = Arc::make_mut(self.tls.get_or_insert_default());
                match chain.config.server_names.is_empty() {
                    true => names.insert_any(chain),
                    false => names.insert(chain),
                }
                return;
            }
        };
        slot.get_or_insert_with(|| Arc::clone(chain));
    }

    /// The chain of every connection, however it begins.
    pub(super) fn only(&self) -> Option<&Arc<Chain>> {
        let Self { members: _, any, http, mesh_http, mesh_tls, tls } = self;
        let is_alone = http.is_none() && mesh_http.is_none() && mesh_tls.is_none() && tls.is_none();
        any.as_ref().filter(|_| is_alone)
    }

    /// Clear text is served by none: what is no ClientHello is refused as soon as that shows.
    pub(super) fn is_tls_only(&self) -> bool {
        self.any.is_none() && self.http.is_none()
    }

    /// For what is neither TLS nor a request, and for TLS nobody else is for.
    pub(super) fn any(&self) -> Option<&Arc<Chain>> {
        self.any.as_ref()
    }

    /// For a request in clear text.
    pub(super) fn http(&self) -> Option<&Arc<Chain>> {
        self.http.as_ref().or(self.any.as_ref())
    }

    /// For a request of a client who has shown who he is: what mutual TLS is for, whatever else is.
    pub(super) fn known_http(&self) -> Option<&Arc<Chain>> {
        self.mesh_http.as_ref().or_else(|| self.secured()).or_else(|| self.http())
    }

    /// For anything else of such a client.
    pub(super) fn known_any(&self) -> Option<&Arc<Chain>> {
        self.secured().or(self.any.as_ref())
    }

    fn secured(&self) -> Option<&Arc<Chain>> {
        let strict = || self.tls.as_ref().and_then(|names| names.select(None));
        self.mesh_tls.as_ref().or_else(strict)
    }

    /// For a ClientHello.
    pub(super) fn tls(&self, offer: MeshOffer, server_name: Option<&str>) -> Option<&Arc<Chain>> {
        let of_mesh = match offer {
            MeshOffer::None => None,
            MeshOffer::Bytes => self.mesh_tls.as_ref(),
            MeshOffer::Http => self.mesh_http.as_ref().or(self.mesh_tls.as_ref()),
        };
        let named = || self.tls.as_ref().and_then(|names| names.select(server_name));
        of_mesh.or_else(named).or(self.any.as_ref())
    }
}
