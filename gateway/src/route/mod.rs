//! Stage 8: which route a request takes.
//!
//! The host decides for one virtual host (exact, then the longest suffix, then `*`), and there the first
//! route that matches, in the order of the configuration. Neither is a scan: 10,000 hosts or routes cost
//! a request what one costs. A change rebuilds the virtual host it is about and shares the rest.

use std::sync::Arc;

use http::Method;
use weir_config::model::{self, RouteTableName, VirtualHostName, route::Scheme};

use crate::{
    canonical::authority,
    filter::{RequestContext, RouteFilters},
    head::RequestHeader,
    local_reply::LocalReply,
    sharded_map::ShardedMap,
    telemetry::ResponseFlag,
};

mod action;
mod host;
mod index;
mod matcher;
mod prefix_map;
mod rewrite;
mod routes;
#[cfg(test)]
pub(crate) mod tests;

pub use self::action::Destination;
use self::{host::HostMap, matcher::Subject, routes::Routes};

/// All route tables of a configuration.
#[derive(Debug, Clone, Default)]
pub struct RouteTables {
    tables: ShardedMap<RouteTableName, Arc<RouteTable>>,
    /// Where a virtual host is, for when it is removed or moved.
    virtual_hosts: ShardedMap<VirtualHostName, Arc<VirtualHost>>,
}

/// The virtual hosts a connection's requests choose from.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    hosts: HostMap,
    /// How many domains have routes that match on claims.
    with_claims: usize,
}

/// One host, by whatever domains it is called, with its routes.
#[derive(Debug)]
pub struct VirtualHost {
    pub config: Arc<model::VirtualHost>,
    routes: Routes,
    with_claims: bool,
}

/// A route, ready to run.
#[derive(Debug)]
pub struct Route {
    pub config: Arc<model::Route>,
    pub filters: RouteFilters,
    /// Sum of the weights of the clusters.
    total_weight: u64,
}

impl RouteTables {
    /// The tables after a change.
    #[must_use]
    pub fn next(previous: &Self, delta: &model::Delta) -> Self {
        let mut next = previous.clone();
        for (name, change) in &delta.virtual_hosts {
            let before = next.virtual_hosts.remove(name);
            if let Some(before) = &before {
                next.edit(&before.config.route_table, |table| table.remove(before));
            }
            if let Some(config) = change {
                let after = Arc::new(VirtualHost::new(config, before.as_deref()));
                next.edit(&config.route_table, |table| table.insert(&after));
                next.virtual_hosts.insert(name.clone(), after);
            }
        }
        next
    }

    /// The table a listener's connections use.
    ///
    /// # Errors
    /// 404 `NR`: no virtual host is bound to it.
    pub fn find(&self, name: &RouteTableName) -> Result<&Arc<RouteTable>, LocalReply> {
        self.tables.get(name).ok_or_else(no_route)
    }

    fn edit(&mut self, name: &RouteTableName, change: impl FnOnce(&mut RouteTable)) {
        // Taken out, so that a table changed for the second time is not copied for the second time.
        let mut table = self.tables.remove(name).unwrap_or_default();
        change(Arc::make_mut(&mut table));
        if !table.hosts.is_empty() {
            self.tables.insert(name.clone(), table);
        }
    }
}

impl RouteTable {
    /// The route `request` takes. It has to be canonical.
    ///
    /// # Errors
    /// 404 `NR` without a matching host or route; 301 where a host is served over https only.
    pub fn select(
        &self,
        request: &RequestHeader,
        context: &RequestContext,
    ) -> Result<&Arc<Route>, LocalReply> {
        let subject = Subject { request, context };
        // No route is for tunnels; the prefix `/` is not meant to open one (Envoy answers the same).
        if request.method == Method::CONNECT {
            return Err(no_route());
        }
        let virtual_host =
            self.hosts.find(authority::host(subject.authority())).ok_or_else(no_route)?;
        if virtual_host.config.require_tls && context.scheme != Scheme::Https {
            return Err(action::redirect_to_https(subject));
        }
        virtual_host.select(subject).ok_or_else(no_route)
    }

    /// Whether a route may depend on the token, so that it has to be selected again once that is known.
    #[must_use]
    pub fn has_claim_matches(&self) -> bool {
        self.with_claims > 0
    }

    fn insert(&mut self, virtual_host: &Arc<VirtualHost>) {
        for domain in virtual_host.config.domains() {
            self.with_claims += usize::from(virtual_host.with_claims);
            if let Some(replaced) = self.hosts.insert(domain, Arc::clone(virtual_host)) {
                self.with_claims -= usize::from(replaced.with_claims);
            }
        }
    }

    fn remove(&mut self, virtual_host: &VirtualHost) {
        for domain in virtual_host.config.domains() {
            // It may have passed to another one in the same change.
            if let Some(removed) = self.hosts.remove(domain, virtual_host) {
                self.with_claims -= usize::from(removed.with_claims);
            }
        }
    }
}

impl VirtualHost {
    fn new(config: &Arc<model::VirtualHost>, before: Option<&Self>) -> Self {
        let routes = Routes::new(&config.routes, before.map(|before| &before.routes));
        let with_claims = routes.have_claims();
        Self { config: Arc::clone(config), routes, with_claims }
    }

    fn select(&self, subject: Subject<'_>) -> Option<&Arc<Route>> {
        self.routes.select(subject)
    }
}

fn no_route() -> LocalReply {
    LocalReply::new(http::StatusCode::NOT_FOUND, ResponseFlag::NoRoute, "route_not_found", "")
}
