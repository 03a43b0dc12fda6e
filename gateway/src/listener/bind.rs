//! Listening sockets.

use std::{
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, PermissionsExt},
            net as unix,
        },
    },
    path::Path,
    sync::Arc,
    task::{Context, Poll, ready},
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use weir_config::model::listener::BindAddress;

use super::serve::Accepted;
use crate::io::Io;

const BACKLOG: i32 = 4096;
const EAFNOSUPPORT: i32 = nix::errno::Errno::EAFNOSUPPORT as i32;
/// Of Unix sockets: the owner and its group may connect.
const UNIX_MODE: u32 = 0o660;

/// Where a listener really listens: the port is never 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    Ip(SocketAddr),
    Unix(Arc<Path>),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Why an address cannot be listened on, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "bind {address}: the address is already in use; `ss -ltnp` shows by whom; stop that \
         process or change the port"
    )]
    InUse { address: String },
    #[error(
        "bind {address}: not permitted; ports below 1024 need root, CAP_NET_BIND_SERVICE or the \
         sysctl net.ipv4.ip_unprivileged_port_start"
    )]
    NotPermitted { address: String },
    #[error("bind {address}: no interface of this machine has that address")]
    NotLocal { address: String },
    #[error("bind {address}: something that is not a socket is in its place; remove it")]
    NotASocket { address: String },
    #[error("bind {address}: listener `{listener}` listens there already")]
    Duplicate { address: String, listener: String },
    #[error(
        "open {address}: Weir failed over this listener, which is a bug: its log says where; please \
         report it"
    )]
    Bug { address: String },
    #[error("bind {address}")]
    Other {
        address: String,
        #[source]
        source: io::Error,
    },
}

impl BindError {
    pub(super) fn new(address: String, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { address },
            _ => Self::Other { address, source: error },
        }
    }
}

/// What sockets of redirected connections need.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BindOptions {
    /// `[::]` is for IPv4 as well.
    pub(super) both_families: bool,
    /// Connections come with the addresses they had.
    pub(super) is_transparent: bool,
}

/// A socket that accepts.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp { socket: TcpListener, address: SocketAddr },
    Unix { socket: UnixListener, path: Arc<Path> },
}

impl ListeningSocket {
    /// Binds and listens. Has to be called in the runtime that will accept.
    ///
    /// # Errors
    /// One sentence for the user.
    pub(super) fn bind(address: &BindAddress, options: BindOptions) -> Result<Self, BindError> {
        match address {
            BindAddress::Ip(address) => bind_families(*address, options)
                .map_err(|error| BindError::new(address.to_string(), error)),
            BindAddress::Unix(path) => bind_unix(path),
        }
    }

    pub(super) fn address(&self) -> BoundAddress {
        match self {
            Self::Tcp { address, .. } => BoundAddress::Ip(*address),
            Self::Unix { path, .. } => BoundAddress::Unix(Arc::clone(path)),
        }
    }

    /// The next connection, of the runtime this is called in.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let accepted = match self {
            Self::Tcp { socket, .. } => {
                let (stream, peer) = ready!(socket.poll_accept(cx))?;
                // Only a socket that is gone already refuses; it ends at its first read.
                let _ = stream.set_nodelay(true);
                let local = stream.local_addr()?;
                let (peer_addr, local_addr) = (canonical(peer), canonical(local));
                Accepted { io: Io::Tcp(stream), peer_addr, local_addr }
            }
            Self::Unix { socket, .. } => {
                let (stream, _) = ready!(socket.poll_accept(cx))?;
                let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let (peer_addr, local_addr) = (unspecified, unspecified);
                Accepted { io: Io::Unix(stream), peer_addr, local_addr }
            }
        };
        Poll::Ready(Ok(accepted))
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self
            && abstract_name(path).is_none()
        {
            // It may have been removed by hand.
            let _ = fs::remove_file(&**path);
        }
    }
}

/// `::ffff:a.b.c.d` is a.b.c.d to everybody who compares addresses.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind_families(address: SocketAddr, options: BindOptions) -> io::Result<ListeningSocket> {
    match bind_tcp(address, options) {
        // A kernel without IPv6.
        Err(error) if options.both_families && error.raw_os_error() == Some(EAFNOSUPPORT) => {
            bind_tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), options)
        }
        bound => bound,
    }
}

fn bind_tcp(address: SocketAddr, options: BindOptions) -> io::Result<ListeningSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!options.both_families)?;
    }
    if options.is_transparent {
        // Of a socket of both families: for both.
        setsockopt(&socket, sockopt::IpTransparent, &true)?;
    }
    // A restart must not wait for the connections of the one before.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from_std(socket.into())?;
    let address = socket.local_addr()?;
    Ok(ListeningSocket::Tcp { socket, address })
}

fn bind_unix(path: &Arc<Path>) -> Result<ListeningSocket, BindError> {
    let address = || format!("unix://{}", path.display());
    let other = |error| BindError::new(address(), error);
    let socket = match abstract_name(path) {
        Some(name) => unix::SocketAddr::from_abstract_name(name)
            .and_then(|name| unix::UnixListener::bind_addr(&name))
            .map_err(other)?,
        None => {
            remove_stale(path, &address)?;
            let socket = unix::UnixListener::bind(path).map_err(other)?;
            fs::set_permissions(path, fs::Permissions::from_mode(UNIX_MODE)).map_err(other)?;
            socket
        }
    };
    socket.set_nonblocking(true).map_err(other)?;
    let socket = UnixListener::from_std(socket).map_err(other)?;
    Ok(ListeningSocket::Unix { socket, path: Arc::clone(path) })
}

/// Removes the socket of a process that is gone; one that answers is in use.
fn remove_stale(path: &Path, address: &dyn Fn() -> String) -> Result<(), BindError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket { address: address() });
    }
    match unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| BindError::new(address(), error))
        }
        Ok(_) | Err(_) => Err(BindError::InUse { address: address() }),
    }
}

/// `@name`: Linux' abstract namespace, which leaves no file.
fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_bytes().strip_prefix(b"@")
}
