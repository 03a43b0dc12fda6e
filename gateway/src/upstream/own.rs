//! What nobody is to be connected to by way of this process: its own admin pages, which take whoever is
//! on this host for its operator (hardening C05). A name in somebody's configuration may resolve to this
//! host at any time, so it is looked at where connections are made.

use std::{net::SocketAddr, sync::OnceLock};

/// Of the process, not of a proxy in it: so are its sockets.
static PAGES: OnceLock<Box<[SocketAddr]>> = OnceLock::new();

/// From now on nothing is dialled there. To be said once, when they are bound.
pub fn keep_private(pages: impl IntoIterator<Item = SocketAddr>) {
    // A second time would be another proxy in this process, whose pages are tests'.
    let _ = PAGES.set(pages.into_iter().collect());
}

/// Whether `to` is one of the pages, as far as an address tells.
pub(super) fn is_private(to: SocketAddr) -> bool {
    let pages = PAGES.get().map(|pages| &pages[..]).unwrap_or_default();
    is_one_of(pages, to)
}

/// The same of a connection: one to an address of this host comes from the same address.
pub(super) fn is_private_connection(from: SocketAddr, to: SocketAddr) -> bool {
    let pages = PAGES.get().map(|pages| &pages[..]).unwrap_or_default();
    is_here(pages, from, to)
}

fn is_one_of(pages: &[SocketAddr], to: SocketAddr) -> bool {
    let ip = to.ip().to_canonical();
    pages.iter().any(|page| {
        let is_here = ip.is_loopback() || ip.is_unspecified() || ip == page.ip().to_canonical();
        page.port() == to.port() && is_here
    })
}

fn is_here(pages: &[SocketAddr], from: SocketAddr, to: SocketAddr) -> bool {
    let is_local = from.ip().to_canonical() == to.ip().to_canonical();
    is_local && pages.iter().any(|page| page.port() == to.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_known_by_every_name_of_this_host() {
        let pages = ["127.0.0.1:15000".parse().unwrap()];
        let to = |text: &str| text.parse().unwrap();
        for address in [
            "127.0.0.1:15000",
            "127.0.0.2:15000",
            "0.0.0.0:15000",
            "[::1]:15000",
            "[::]:15000",
            "[::ffff:127.0.0.1]:15000",
        ] {
            assert!(is_one_of(&pages, to(address)), "{address}");
        }
        for address in ["127.0.0.1:15001", "10.0.0.1:15000"] {
            assert!(!is_one_of(&pages, to(address)), "{address}");
        }
        assert!(is_here(&pages, to("10.0.0.1:40000"), to("10.0.0.1:15000")));
        assert!(!is_here(&pages, to("10.0.0.1:40000"), to("10.0.0.2:15000")));
        assert!(!is_here(&pages, to("10.0.0.1:40000"), to("10.0.0.1:80")));
    }
}
