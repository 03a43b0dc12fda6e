//! A TCP connection between two parties that can be led elsewhere, held up and cut.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

use crate::client::connect;

/// A port of loopback that leads to another. It ends with its handle.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    /// Nothing of the target's side is read.
    is_held: watch::Sender<bool>,
    connections: Mutex<Vec<AbortHandle>>,
}

impl Wire {
    /// Leads to that port.
    ///
    /// # Panics
    /// There is no port to listen on.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            target: target.into(),
            is_held: watch::Sender::new(false),
            connections: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { port, shared, accepting }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Reads no more of what the target sends, or goes on with it.
    pub fn hold(&self, is_held: bool) {
        self.shared.is_held.send_replace(is_held);
    }

    /// Leads to another port from now on, and breaks off every connection.
    pub fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::Relaxed);
        self.cut();
    }

    fn cut(&self) {
        let mut connections = self.shared.connections.lock().unwrap();
        connections.drain(..).for_each(|connection| connection.abort());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let connection = tokio::spawn(carry(client, Arc::clone(&shared)));
        shared.connections.lock().unwrap().push(connection.abort_handle());
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let Ok(target) = connect(shared.target.load(Ordering::Relaxed)).await else { return };
    let ((mut from_client, to_client), (from_target, mut to_target)) =
        (client.into_split(), target.into_split());
    let held = shared.is_held.subscribe();
    // However either ends, both sides see it by the sockets being closed.
    tokio::select! {
        _ = io::copy(&mut from_client, &mut to_target) => {}
        _ = bring(from_target, to_client, held) => {}
    }
}

/// Brings what the target sends to the client, while it is not held up.
async fn bring(
    mut target: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut held: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // The sender is there as long as this task.
        let _ = held.wait_for(|is_held| !is_held).await;
        let length = tokio::select! {
            length = target.read(&mut buffer) => length?,
            _ = held.wait_for(|is_held| *is_held) => continue,
        };
        if length == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..length]).await?;
    }
}
