//! Where connections to the workload come from: an address that says that they were taken in already,
//! or the client's own (TPROXY, sidecar reference 1.4).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use tokio::net::{TcpSocket, TcpStream};

/// What inbound connections go on from (sidecar reference 1.3).
const INBOUND_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const INBOUND_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// By this the redirect rules know what is sent in the name of others (`weir-init`, `-t`).
const MARK: u32 = 1337;
/// Ports that connections in a client's name come from: below those that operating systems choose from,
/// so that none is one of the client's own. To the workload both would be one connection, and the kernel
/// breaks off the one that was there.
const PORTS: std::ops::Range<u16> = 1024..32768;
/// Ports tried; each is free unless a connection of ours to the same place has it, or had it in the last
/// minute.
const ATTEMPTS: usize = 64;

/// What TPROXY needs is not allowed.
#[derive(Debug, thiserror::Error)]
#[error(
    "interception mode TPROXY: listening and connecting in the name of others is not permitted to \
     this process; it needs the capability NET_ADMIN, which a container has as user 0 only (with \
     group 1337); give it that, or use REDIRECT"
)]
pub struct TransparentError(#[source] io::Error);

/// Whether this process may do what TPROXY needs.
///
/// # Errors
/// It may not.
pub fn may_be_transparent() -> Result<(), TransparentError> {
    let socket = TcpSocket::new_v4().map_err(TransparentError)?;
    in_the_name_of_others(&socket).map_err(TransparentError)
}

/// The options of one level are good for sockets of both families.
fn in_the_name_of_others(socket: &TcpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::IpTransparent, &true)?;
    setsockopt(socket, sockopt::Mark, &MARK)?;
    Ok(())
}

/// From the address that says that a connection was taken in already. Its port is chosen when it is
/// known where the connection goes: else every one of the few ports there are would be taken for all
/// destinations, also those of the application.
pub(super) async fn connect_inbound(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket_for(address)?;
    let source: IpAddr = match address {
        SocketAddr::V4(_) => INBOUND_V4.into(),
        SocketAddr::V6(_) => INBOUND_V6.into(),
    };
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}

/// From the client's address, and a port that is not its own.
pub(super) async fn connect_as(client: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let mut taken = io::Error::from(Errno::EADDRINUSE);
    for _ in 0..ATTEMPTS {
        let socket = socket_for(address)?;
        in_the_name_of_others(&socket)?;
        // A port may serve for several destinations, and is not taken from others by that.
        socket.set_reuseaddr(true)?;
        let port = fastrand::u16(PORTS);
        let connected = match socket.bind(SocketAddr::new(client, port)) {
            Ok(()) => socket.connect(address).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if is_taken(&error) => taken = error,
            connected => return connected,
        }
    }
    Err(taken)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}
