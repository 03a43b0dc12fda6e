//! Clients in front of the gateway.

pub mod curl;
pub mod discovery;
pub mod frames;
pub mod grpc;
pub mod hbone;
pub mod http;
pub mod load;
pub mod raw;
pub mod tools;
pub mod websocket;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A connection to that port of loopback.
pub async fn connect(port: u16) -> io::Result<TcpStream> {
    connect_to((Ipv4Addr::LOCALHOST, port).into()).await
}

/// A connection to that address.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A TLS connection to that port of loopback, asking for `server_name`.
///
/// # Errors
/// When the handshake fails. A server that refuses a TLS 1.3 client's certificate says so only
/// after the handshake: then the first read fails.
pub async fn connect_tls(
    port: u16,
    config: &ClientConfig,
    server_name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    connect_tls_to((Ipv4Addr::LOCALHOST, port).into(), config, server_name).await
}

/// The same, to that address.
///
/// # Errors
/// When the handshake fails.
pub async fn connect_tls_to(
    address: SocketAddr,
    config: &ClientConfig,
    server_name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(server_name.to_owned()).expect("a server name");
    let stream = connect_to(address).await?;
    // The handshake's state is large.
    Box::pin(TlsConnector::from(Arc::new(config.clone())).connect(name, stream)).await
}
