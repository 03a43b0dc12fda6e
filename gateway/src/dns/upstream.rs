//! Asking the name server what is not known here, in the client's own words.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::message;

/// For the answer of one server; the next is asked then.
const PATIENCE: Duration = Duration::from_secs(2);
/// Turns around all servers.
const TURNS: usize = 2;
/// Nobody sends a larger datagram.
const MAX_DATAGRAM: usize = 4096;

/// The name servers in the order they are asked.
#[derive(Debug, Clone)]
pub(super) struct Upstream(Arc<[SocketAddr]>);

impl Upstream {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self(servers.into())
    }

    /// The response to `query`, unchanged; where no server has one, that there is none.
    pub(super) async fn ask(&self, query: &[u8], is_udp: bool) -> Vec<u8> {
        for server in self.0.iter().cycle().take(self.0.len() * TURNS) {
            let asked = async {
                match is_udp {
                    true => ask_udp(*server, query).await,
                    false => ask_tcp(*server, query).await,
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(response)) => return response,
                Ok(Err(error)) => tracing::debug!(%server, %error, "the name server is not there"),
                Err(_elapsed) => tracing::debug!(%server, "the name server does not answer"),
            }
        }
        message::server_failure(query)
    }
}

/// From a port nobody can guess, and from nobody but the server.
async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if message::is_response(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, query).await?;
    let response = read_framed(&mut stream).await?;
    match message::is_response(query, &response) {
        true => Ok(response),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One message with its length before it (RFC 1035 section 4.2.2).
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_larger| io::ErrorKind::InvalidData)?;
    // In one piece: some clients read no more than that.
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}
