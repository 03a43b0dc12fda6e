//! Stage 2 of redirected connections: where they were going.

use std::net::SocketAddr;

use super::bind::canonical;
use crate::io::Io;

/// Where a connection was going before it was redirected.
#[derive(Debug, Clone, Copy)]
pub(super) struct OriginalDst {
    pub(super) address: SocketAddr,
    /// It still is, for both sides: its addresses were not changed (TPROXY).
    pub(super) is_untouched: bool,
}

/// Where the client was connecting to, `local` being where it arrived. `None`: it was not redirected,
/// but connected to the proxy itself, which as its own destination would connect to itself for ever.
///
/// `own_port` is what the listener is bound to. A connection that arrives with another one was
/// redirected without a change of its addresses (TPROXY).
pub(super) fn original_dst(io: &Io, local: SocketAddr, own_port: u16) -> Option<OriginalDst> {
    if local.port() != own_port {
        return Some(OriginalDst { address: local, is_untouched: true });
    }
    let socket = io.socket()?;
    // What was IPv4 on the wire is asked for as such, on sockets of both families.
    let found = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    let address = canonical(found.ok()?.as_socket()?);
    (address != local).then_some(OriginalDst { address, is_untouched: false })
}
