//! The client side of an application that calls another one for every request it is sent: over kept
//! connections, each carrying one request at a time.

use std::sync::Mutex;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::net::lookup_host;

use crate::client::http::{Connection, Request, was_not_sent};

/// Whom to call.
#[derive(Debug)]
pub struct Next {
    /// Host and port.
    address: String,
    idle: Mutex<Vec<Connection>>,
}

impl Next {
    /// `HOST:PORT`.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), idle: Mutex::default() }
    }

    /// The body of its answer.
    ///
    /// # Errors
    /// There is no answer, or no good one.
    pub async fn ask(&self, path: &str) -> anyhow::Result<Bytes> {
        let host = self.address.split(':').next().unwrap_or_default();
        let request = Request::get(host, path);
        loop {
            let mut connection = match self.idle() {
                Some(connection) => connection,
                None => self.connect().await.context("connect")?,
            };
            match connection.send(&request).await {
                Ok(reply) => {
                    ensure!(reply.status == 200, "status {}", reply.status);
                    self.idle.lock().unwrap().push(connection);
                    return Ok(reply.body);
                }
                // It was closed at the same moment.
                Err(error) if was_not_sent(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap();
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let mut addresses = lookup_host(&self.address).await?;
        let address = addresses.next().context("the host has no address")?;
        Connection::http1_to(address).await
    }
}
