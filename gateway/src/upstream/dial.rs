//! From an address to a connected byte stream.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use weir_config::model::cluster::{self, SourceAddress, UpstreamTls, UpstreamTrust};

use super::{
    Address, Caller, Protocol, Target, TlsContext, Transport,
    error::ConnectError,
    own::{is_private, is_private_connection},
    source::{connect_as, connect_inbound},
    verify,
};
use crate::{io::Io, tls::Secrets};

/// Connects to `target`, handshake included, within its connect timeout.
///
/// # Errors
/// Says what went wrong; nothing was sent that belongs to a request.
pub async fn dial(target: &Target, caller: Caller<'_>) -> Result<Io, ConnectError> {
    timeout(target.transport.connect_timeout, connect(target, caller))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

/// Connects to the application beside this proxy, past the redirection: on behalf of the kubelet, which
/// takes any certificate. With `alpn` over TLS.
///
/// # Errors
/// Says what went wrong.
pub async fn dial_application(
    address: SocketAddr,
    alpn: Option<&[&str]>,
) -> Result<Io, ConnectError> {
    // Nothing on loopback is redirected, and not every host has our address there.
    let source = match address.ip().is_loopback() {
        true => SourceAddress::Any,
        false => SourceAddress::Inbound,
    };
    let io = connect_tcp(address, None, source, None).await;
    let io = io.map_err(|error| ConnectError::from_connect(&error))?;
    let Some(alpn) = alpn else { return Ok(Io::Tcp(io)) };
    let tls = UpstreamTls {
        sni: None,
        certificate: None,
        trust: UpstreamTrust::Insecure,
        alpn: alpn.iter().map(|&name| name.into()).collect(),
    };
    // What is spoken is seen when it is chosen: everything is offered.
    let tls = TlsContext::new(&tls, Protocol::Tcp, &Secrets::default());
    let io = tls.connect(io, None, Some(address.ip())).await.map_err(ConnectError::Tls)?;
    Ok(Io::ClientTls(Box::new(io)))
}

async fn connect(target: &Target, caller: Caller<'_>) -> Result<Io, ConnectError> {
    let Caller { host, source } = caller;
    let address = match &target.address {
        Address::Ip(address) => *address,
        Address::Logical(current) => (**current.load()).ok_or(ConnectError::NoAddress)?,
        Address::Unix(path) => return connect_unix(path, target, host).await,
    };
    if let Some(tunnels) = &target.transport.tunnels {
        let opening = tunnels.open(address, target.identity.as_ref(), &target.transport);
        // Boxed, so that others do not hold the room for it.
        return Ok(Io::Tunnel(Box::new(Box::pin(opening).await?)));
    }
    if is_private(address) {
        return Err(ConnectError::OwnPages);
    }
    let Transport { keepalive, source_address, .. } = *target.transport;
    let io = connect_tcp(address, keepalive, source_address, source)
        .await
        .map_err(|error| ConnectError::from_connect(&error))?;
    if io.local_addr().is_ok_and(|from| is_private_connection(from, address)) {
        return Err(ConnectError::OwnPages);
    }
    match &target.transport.tls {
        None => Ok(Io::Tcp(io)),
        Some(tls) => {
            let io = tls.connect(io, host, Some(address.ip())).await.map_err(ConnectError::Tls)?;
            if let Some(identity) = &target.identity {
                let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
                verify::is_workload(chain, identity).map_err(ConnectError::Tls)?;
            }
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

pub(super) async fn connect_tcp(
    address: SocketAddr,
    keepalive: Option<cluster::TcpKeepalive>,
    source: SourceAddress,
    client: Option<IpAddr>,
) -> io::Result<TcpStream> {
    let io = match (source, client) {
        (SourceAddress::Any, _) => TcpStream::connect(address).await?,
        (SourceAddress::Inbound, None) => connect_inbound(address).await?,
        (SourceAddress::Inbound, Some(client)) => connect_as(client, address).await?,
    };
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
    let Some(socket) = io.socket() else { return (None, None) };
    let local = socket.local_addr().ok().and_then(|address| address.as_socket());
    let remote = socket.peer_addr().ok().and_then(|address| address.as_socket());
    (local, remote)
}
