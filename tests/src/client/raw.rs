//! Bytes to and from a socket, for what proper clients refuse to send.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::connect;
use crate::eventually::DEADLINE;

#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// Read but not yet consumed.
    buffer: Vec<u8>,
}

/// A response, as far as a raw client understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawResponse {
    pub status: u16,
    /// The status line and fields, with their line ends.
    pub head: String,
    pub body: Vec<u8>,
}

impl RawResponse {
    /// The value of the first field of that name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl RawClient {
    pub async fn connect(port: u16) -> Self {
        Self { stream: connect(port).await.expect("connect"), buffer: Vec::new() }
    }

    /// Writes; that the other side has closed already is for the reads to find out.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// No more bytes will follow.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Everything up to the end of the stream; a reset counts as its end.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// The bytes up to and including `marker`.
    pub async fn read_until(&mut self, marker: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(marker.len()).position(|w| w == marker) {
                return self.buffer.drain(..at + marker.len()).collect();
            }
            if self.fill().await == 0 {
                let seen = String::from_utf8_lossy(&self.buffer).into_owned();
                panic!("the stream ended; before that came {seen:?}");
            }
        }
    }

    /// A head, without looking for a body.
    pub async fn read_head(&mut self) -> RawResponse {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n").await).expect("a text head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        RawResponse { status, head, body: Vec::new() }
    }

    /// A response to a request that was not HEAD, with a sized, chunked or no body.
    pub async fn read_response(&mut self) -> RawResponse {
        let mut response = self.read_head().await;
        if let Some(length) = response.header("content-length") {
            let length = length.parse().expect("a length");
            while self.buffer.len() < length {
                assert!(self.fill().await > 0, "the body is cut");
            }
            response.body = self.buffer.drain(..length).collect();
        } else if response.header("transfer-encoding") == Some("chunked") {
            response.body = self.read_chunks().await;
        }
        response
    }

    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.read_until(b"\r\n").await).expect("a chunk size");
            let size = usize::from_str_radix(line.trim(), 16).expect("a chunk size");
            if size == 0 {
                self.read_until(b"\r\n").await;
                return body;
            }
            while self.buffer.len() < size + 2 {
                assert!(self.fill().await > 0, "a chunk is cut");
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    /// Whether the server closes the connection instead of answering; reads the answer's head if not.
    pub async fn is_closed_within_head(&mut self) -> bool {
        while !self.buffer.windows(4).any(|window| window == b"\r\n\r\n") {
            if self.fill().await == 0 {
                return true;
            }
        }
        self.read_response().await;
        false
    }

    /// Whether the server closes the connection without another byte.
    pub async fn is_closed_by_server(&mut self) -> bool {
        self.read_to_end().await.is_empty()
    }

    /// Reads what is there, at least a byte; 0 is the end.
    async fn fill(&mut self) -> usize {
        match timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(n)) => n,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Ok(Err(error)) => panic!("read: {error}"),
            Err(_) => panic!("no byte and no end within {DEADLINE:?}; buffered: {:?}", self.text()),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}
