//! Which filter chains a redirected connection has: those of the narrowest destination, whatever wider
//! ones have. Addresses are looked up by hash; only networks are scanned, of which there are few.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use weir_config::model::listener::{Beginning, RedirectMatch};

use super::{filter_chain::Chain, server_names::ServerNames, tls::MeshOffer};

/// The chains by destination.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    addresses: FxHashMap<(IpAddr, Option<u16>), Arc<DestinationChains>>,
    /// The longest first.
    networks: Vec<(IpNet, Option<u16>, Arc<DestinationChains>)>,
    ports: FxHashMap<u16, Arc<DestinationChains>>,
    rest: Arc<DestinationChains>,
}

/// What can be done with the connections to one destination, by how they begin.
#[derive(Debug, Default, Clone)]
pub(super) struct DestinationChains {
    any: Option<Arc<Chain>>,
    http: Option<Arc<Chain>>,
    mesh_http: Option<Arc<Chain>>,
    mesh_tls: Option<Arc<Chain>>,
    tls: Option<Arc<ServerNames>>,
}

impl Destinations {
    pub(super) fn insert(&mut self, redirected: &RedirectMatch, chain: &Arc<Chain>) {
        let RedirectMatch { address, port, begins } = *redirected;
        let chains = match (address, port) {
            (Some(net), port) if net.prefix_len() == net.max_prefix_len() => {
                self.addresses.entry((net.addr(), port)).or_default()
            }
            (Some(net), port) => self.network(net.trunc(), port),
            (None, Some(port)) => self.ports.entry(port).or_default(),
            (None, None) => &mut self.rest,
        };
        Arc::make_mut(chains).insert(begins, chain);
    }

    fn network(&mut self, net: IpNet, port: Option<u16>) -> &mut Arc<DestinationChains> {
        // Of two of one length, that with a port first.
        let order = |net: &IpNet, port: Option<u16>| {
            (std::cmp::Reverse(net.prefix_len()), *net, std::cmp::Reverse(port))
        };
        let place = self
            .networks
            .binary_search_by_key(&order(&net, port), |(net, port, _)| order(net, *port))
            .unwrap_or_else(|place| {
                self.networks.insert(place, (net, port, Arc::default()));
                place
            });
        &mut self.networks[place].2
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
    fn insert(&mut self, begins: Beginning, chain: &Arc<Chain>) {
        let slot = match begins {
            Beginning::Any => &mut self.any,
            Beginning::Http => &mut self.http,
            Beginning::MeshTls => &mut self.mesh_tls,
            Beginning::MeshHttp => &mut self.mesh_http,
            Beginning::Tls => {
                let names = self.tls.get_or_insert_default();
                if let Some(names) = Arc::get_mut(names) {
                    match chain.config.server_names.is_empty() {
                        true => names.insert_any(chain),
                        false => names.insert(chain),
                    }
                }
                return;
            }
        };
        slot.get_or_insert_with(|| Arc::clone(chain));
    }

    /// The chain of every connection, however it begins.
    pub(super) fn only(&self) -> Option<&Arc<Chain>> {
        let Self { any, http, mesh_http, mesh_tls, tls } = self;
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
