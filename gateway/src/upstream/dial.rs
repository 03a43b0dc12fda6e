//! From an address to a connected byte stream.

use std::{io, net::SocketAddr, path::Path};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use weir_config::model::cluster;

use super::{Address, Target, error::ConnectError};
use crate::io::Io;

/// Connects to `target`, handshake included, within its connect timeout. `host` is the request's; TLS
/// without a configured server name uses it.
///
/// # Errors
/// Says what went wrong; nothing was sent that belongs to a request.
pub async fn dial(target: &Target, host: Option<&str>) -> Result<Io, ConnectError> {
    timeout(target.transport.connect_timeout, connect(target, host))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

async fn connect(target: &Target, host: Option<&str>) -> Result<Io, ConnectError> {
    let address = match &target.address {
        Address::Ip(address) => *address,
        Address::Logical(current) => (**current.load()).ok_or(ConnectError::NoAddress)?,
        Address::Unix(path) => return connect_unix(path, target, host).await,
    };
    let io = connect_tcp(address, target.transport.keepalive)
        .await
        .map_err(|error| ConnectError::from_connect(&error))?;
    match &target.transport.tls {
        None => Ok(Io::Tcp(io)),
        Some(tls) => {
            let io = tls.connect(io, host, Some(address.ip())).await.map_err(ConnectError::Tls)?;
            Ok(Io::ClientTls(Box::new(io)))
        }
    }
}

async fn connect_unix(
    path: &Path,
    target: &Target,
    host: Option<&str>,
) -> Result<Io, ConnectError> {
    let io = UnixStream::connect(path).await.map_err(|error| ConnectError::from_connect(&error))?;
    match &target.transport.tls {
        None => Ok(Io::Unix(io)),
        Some(tls) => {
            let io = tls.connect(io, host, None).await.map_err(ConnectError::Tls)?;
            Ok(Io::UnixClientTls(Box::new(io)))
        }
    }
}

async fn connect_tcp(
    address: SocketAddr,
    keepalive: Option<cluster::TcpKeepalive>,
) -> io::Result<TcpStream> {
    let io = TcpStream::connect(address).await?;
    io.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        SockRef::from(&io).set_tcp_keepalive(&socket_keepalive(keepalive))?;
    }
    Ok(io)
}

fn socket_keepalive(keepalive: cluster::TcpKeepalive) -> TcpKeepalive {
    let cluster::TcpKeepalive { probes, time, interval } = keepalive;
    let mut options = TcpKeepalive::new();
    if let Some(probes) = probes {
        options = options.with_retries(probes);
    }
    if let Some(time) = time {
        options = options.with_time(time);
    }
    if let Some(interval) = interval {
        options = options.with_interval(interval);
    }
    options
}

/// Both ends of a connection; `None` for Unix sockets.
pub(super) fn socket_addresses(io: &Io) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let socket = SockRef::from(io);
    let local = socket.local_addr().ok().and_then(|address| address.as_socket());
    let remote = socket.peer_addr().ok().and_then(|address| address.as_socket());
    (local, remote)
}
