//! Two network namespaces and the wire between them: a workload that calls, and one that is called.
//! Nothing touches the network of the host.

use std::{
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

use weir_tests::net::Namespace;

/// The address of the calling workload.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The address of the called one: the only endpoint of the service.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Where the called workload listens.
pub const SERVER_PORT: u16 = 8080;
/// The service's own address and port, which nobody has: a connection to it arrives only by way of a
/// sidecar.
pub const SERVICE_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);
/// The service's host.
pub const SERVICE: &str = "bench.shop.svc.cluster.local";
/// Who is called, and who calls.
pub const SERVER_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/bench";
pub const CLIENT_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/client";

/// The namespaces go when this does.
#[derive(Debug)]
pub struct Lan {
    pub client: Rc<Namespace>,
    pub server: Rc<Namespace>,
}

impl Lan {
    pub fn new(label: &str) -> Self {
        let client = Rc::new(Namespace::new(&format!("{label}-client")));
        let server = Rc::new(Namespace::new(&format!("{label}-server")));
        let at = |ip: Ipv4Addr| format!("{ip}/24");
        client.link(("eth0", &[&at(CLIENT)]), &server, ("eth0", &[&at(SERVER)]));
        // What has no address here goes where a cluster would route it, and nobody takes it.
        client.ip(&["route", "add", "default", "via", &SERVER.to_string()]);
        server.ip(&["route", "add", "default", "via", &CLIENT.to_string()]);
        Self { client, server }
    }
}
