//! An HTTP/1.1 upstream that keeps the exact bytes it was sent and answers with exact bytes.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Server;

/// What every connection is answered with, and what was received on all of them.
#[derive(Debug)]
pub struct RawUpstream {
    server: Server,
    received: Arc<Mutex<Vec<u8>>>,
}

/// What the upstream does once it has seen the end of a request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the next request on the connection.
    KeepOpen,
    /// Closes the connection.
    Close,
}

impl RawUpstream {
    /// Answers each request head (bodies are not understood) with `response`.
    pub async fn start(response: impl Into<Vec<u8>>, then: Then) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let response = Arc::new(response.into());
        let log = Arc::clone(&received);
        let server = Server::start(move |stream| {
            answer(stream, Arc::clone(&log), Arc::clone(&response), then)
        })
        .await;
        Self { server, received }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Every byte received so far, as text.
    #[must_use]
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}

async fn answer(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<u8>>>,
    response: Arc<Vec<u8>>,
    then: Then,
) {
    let mut unanswered = Vec::new();
    loop {
        let known = unanswered.len();
        if !matches!(stream.read_buf(&mut unanswered).await, Ok(1..)) {
            return;
        }
        log.lock().unwrap().extend_from_slice(&unanswered[known..]);
        while let Some(end) = end_of_head(&unanswered) {
            unanswered.drain(..end);
            if stream.write_all(&response).await.is_err() || then == Then::Close {
                return;
            }
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
