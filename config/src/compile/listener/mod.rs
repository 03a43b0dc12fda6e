//! Gateway servers -> Listener, FilterChain and the tables VirtualServices bind to.
//!
//! Gateways that select the proxy are merged by socket, oldest first (istio-compat 1.2). What a
//! server cannot have because an older one has it is said, and the rest is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

mod auto_passthrough;
mod merge;
mod server;
mod table;
mod tls;

pub(super) use self::auto_passthrough::{AutoServer, compile as auto_passthrough};
use self::merge::Merge;
pub(super) use self::table::{ServerId, Table, TableKind, TableServer};
use super::{
    View,
    finding::Findings,
    name::{Age, labels},
    secret::Reference,
    store::{Link, contains},
};
use crate::{
    api::{IntOrString, Object, ObjectKey, Spec, istio::gateway::Server},
    model::{FilterChain, Listener, ListenerName, RouteTableName, listener::BindAddress},
};

/// Below this, only privileged processes may bind.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// On a Service: its ports do not translate the ports of Gateways.
const DIRECT_PORT_LABEL: &str = "experimental.istio.io/disable-gateway-port-translation";

/// What a listener binds: the thing Gateways are merged by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Socket {
    /// Port the process listens on, 0 for a unix socket.
    port: u16,
    /// An IP address or a path; empty for every address.
    bind: Arc<str>,
}

impl Socket {
    pub(super) fn listener(&self) -> ListenerName {
        ListenerName::new(match &*self.bind {
            "" => format!("{}_{}", Ipv4Addr::UNSPECIFIED, self.port),
            path if path.starts_with('/') => format!("unix://{path}"),
            ip => format!("{ip}_{}", self.port),
        })
    }

    fn address(&self) -> Option<BindAddress> {
        if self.bind.starts_with('/') {
            return Some(BindAddress::Unix(Path::new(&*self.bind).into()));
        }
        let ip = match &*self.bind {
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            bind => bind.parse().ok()?,
        };
        Some(BindAddress::Ip(SocketAddr::new(ip, self.port)))
    }

    /// What the names of chains and tables end with, to be different on every bind of a port.
    fn suffix(&self) -> String {
        if self.bind.is_empty() { String::new() } else { format!(".{}", self.bind) }
    }
}

/// Everything one socket does, as far as Gateways decide it.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) listener: Listener,
    /// Chains that need no VirtualService.
    pub(super) chains: Vec<FilterChain>,
    pub(super) tables: BTreeMap<RouteTableName, Arc<Table>>,
    pub(super) secrets: Vec<Reference>,
    /// Servers that lead to services by what clients say.
    pub(super) auto: Vec<AutoServer>,
}

/// The sockets of a Gateway that selects this proxy.
pub(super) fn sockets(view: &View, object: &Object, findings: &mut Findings) -> BTreeSet<Socket> {
    let Spec::Gateway(spec) = &object.spec else { return BTreeSet::new() };
    if view.is_sidecar() {
        return BTreeSet::new();
    }
    if !contains(&view.proxy.labels, &spec.selector) {
        if view.proxy.stands_alone {
            let message = format!(
                "this Gateway is not served: it is for {}, and this gateway has the labels {}; \
                 give it others with --labels or change the selector",
                labels(&spec.selector),
                labels(&view.proxy.labels)
            );
            findings.warn(object, "spec.selector", message);
        }
        return BTreeSet::new();
    }
    let mut sockets = BTreeSet::new();
    for (index, server) in spec.servers.iter().enumerate() {
        let Some(socket) = socket(view, server) else { continue };
        let is_privileged = socket.port < FIRST_UNPRIVILEGED_PORT && !socket.bind.starts_with('/');
        if view.proxy.unprivileged && is_privileged {
            findings.warn(
                object,
                format!("spec.servers[{index}].port.number"),
                format!(
                    "the gateway may not bind ports below {FIRST_UNPRIVILEGED_PORT}, so port {} is \
                     not served; use a higher port and let a Service map it",
                    socket.port
                ),
            );
            continue;
        }
        sockets.insert(socket);
    }
    sockets
}

fn socket(view: &View, server: &Server) -> Option<Socket> {
    let number = server.port.as_ref()?.number;
    if let Some(path) = server.bind.strip_prefix("unix://") {
        return Some(Socket { port: 0, bind: path.into() });
    }
    let bind = match server.bind.as_str() {
        "0.0.0.0" => "",
        bind => bind,
    };
    Some(Socket { port: target_port(view, number), bind: bind.into() })
}

/// A Gateway's port is a port of the Service in front of the proxy; the proxy listens on what that
/// Service calls its target port (istio-compat trap 18).
fn target_port(view: &View, number: u16) -> u16 {
    let mut services: Vec<&Arc<Object>> = view.store.linked(&Link::OwnService).collect();
    services.sort_by_cached_key(|service| Age::of(service));
    for service in services {
        let Spec::Service(spec) = &service.spec else { continue };
        let Some(port) = spec.ports.iter().find(|port| port.port == number) else { continue };
        if service.metadata.labels.contains_key(DIRECT_PORT_LABEL) {
            return number;
        }
        return match port.target_port {
            Some(IntOrString::Int(target)) if target != 0 => target,
            // A name is resolved by the pod's container ports, which are not known here.
            Some(IntOrString::Int(_) | IntOrString::String(_)) | None => number,
        };
    }
    number
}

/// Merges the servers `gateways` have on `socket`; `None` when none of them can be served.
pub(super) fn layout(
    view: &View,
    socket: &Socket,
    gateways: &[Arc<Object>],
    findings: &mut Findings,
) -> Option<Layout> {
    let mut merge = Merge::new(view, socket, findings);
    for gateway in gateways {
        let Spec::Gateway(spec) = &gateway.spec else { continue };
        merge.add_gateway(gateway, spec);
    }
    merge.finish()
}

/// The Gateways by age, which is the order they are merged in.
pub(super) fn oldest_first<'a>(
    view: &View,
    gateways: impl Iterator<Item = &'a ObjectKey>,
) -> Vec<Arc<Object>> {
    let mut objects: Vec<Arc<Object>> =
        gateways.filter_map(|key| view.store.find(key).cloned()).collect();
    objects.sort_by_cached_key(|object| Age::of(object));
    objects
}
