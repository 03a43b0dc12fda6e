//! Whether connections are captured here: asked before a workload starts in a pod whose rules somebody
//! else is to program.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::errno::Errno;
use socket2::{Domain, SockRef, Socket, Type};

use super::settings::Settings;

/// Addresses of documentation, at which nobody is.
const NOWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Why connections of this namespace do not reach the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    /// The place of the proxy could not be taken.
    #[error("listen on port {port} in place of the proxy")]
    Listen {
        /// The proxy's port.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A connection did not arrive, or did but not by the rules.
    #[error(
        "a connection to {to} did not come to port {port}: the redirect rules are not programmed \
         in this pod; the node's agent does it or deletes the pod"
    )]
    NotCaptured {
        /// Where the connection was to.
        to: SocketAddr,
        /// Where it should have come to.
        port: u16,
    },
}

/// Somebody in the place of the proxy, before there is one.
#[derive(Debug)]
pub struct StandIn {
    listener: Socket,
    port: u16,
}

impl StandIn {
    /// # Errors
    /// When the place is taken.
    pub fn start(settings: &Settings) -> Result<Self, ValidationError> {
        let port = settings.outbound_port;
        let listener = listen(port).map_err(|source| ValidationError::Listen { port, source })?;
        Ok(Self { listener, port })
    }

    /// Calls somebody from outside the proxy's user: the call has to arrive, with its destination known.
    ///
    /// # Errors
    /// When it does not.
    pub fn validate(&self, probe: u16, within: Duration) -> Result<(), ValidationError> {
        let to: Vec<_> = NOWHERE.iter().map(|address| SocketAddr::new(*address, probe)).collect();
        // One family that is captured proves the rules; the other may have no route out.
        if to.iter().any(|to| arrives(&self.listener, *to, within).unwrap_or(false)) {
            return Ok(());
        }
        let to = SocketAddr::new(NOWHERE[0], probe);
        Err(ValidationError::NotCaptured { to, port: self.port })
    }
}

fn listen(port: u16) -> io::Result<Socket> {
    let both = bound(Domain::IPV6, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    match both {
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            bound(Domain::IPV4, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        }
        result => result,
    }
}

fn bound(domain: Domain, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(8)?;
    Ok(socket)
}

fn arrives(listener: &Socket, to: SocketAddr, within: Duration) -> io::Result<bool> {
    let caller = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // A captured connection is answered by this host's kernel, without anybody's help.
    caller.connect_timeout(&to.into(), within)?;
    listener.set_read_timeout(Some(within))?;
    let (connection, _) = listener.accept()?;
    Ok(original_destination(&connection) == Some(to))
}

fn original_destination(connection: &Socket) -> Option<SocketAddr> {
    let connection = SockRef::from(connection);
    let v4 = connection.original_dst_v4().ok().and_then(|address| address.as_socket());
    v4.or_else(|| connection.original_dst_v6().ok()?.as_socket())
}
