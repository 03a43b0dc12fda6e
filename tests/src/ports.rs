//! Ports for gateways to listen on.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range the kernel hands to outgoing connections, which could take a port between our
/// looking and the gateway's binding.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port nobody listens on, never given twice by this process.
#[must_use]
pub fn free() -> u16 {
    // Test binaries that run at the same time start at different places.
    let start = (std::process::id() as u16).wrapping_mul(251) % COUNT;
    loop {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}
