//! Vectors are named after their row in the hardening reference (C1, C2).

mod body;
mod client;
mod request;
mod response;
mod server;
pub(crate) mod vectors;

use tokio::net::{TcpListener, TcpStream};

use crate::{
    codec::{Options, Underscores},
    drain::{self, DrainSignal, DrainTrigger},
    io::Io,
    limits::Limits,
};

pub(crate) fn options() -> Options {
    Options::new(&Limits::default(), "http")
}

pub(crate) fn lenient_options() -> Options {
    Options { underscores: Underscores::Allow, connect: true, ..options() }
}

/// Our end and the peer's end of a connection.
pub(crate) async fn pair() -> (Io, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    (Io::Tcp(ours), peer)
}

pub(crate) fn no_drain() -> (DrainTrigger, DrainSignal) {
    drain::channel()
}

/// `bytes` with a few of them replaced, added or taken away, mostly by what means something in HTTP.
pub(crate) fn damaged(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    const MEANINGFUL: &[u8] = b"\r\n\t :,;#/\\%@[]\"\0\x7f\xff0aA_-.f";
    let mut damaged = bytes.to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..damaged.len());
        let byte = match random.u8(..4) {
            0 => random.u8(..),
            _ => MEANINGFUL[random.usize(..MEANINGFUL.len())],
        };
        match random.u8(..3) {
            0 => damaged[at] = byte,
            1 => damaged.insert(at, byte),
            _ => drop(damaged.remove(at)),
        }
    }
    damaged
}
