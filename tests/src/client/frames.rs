//! HTTP/2 frames to and from a socket, for what proper clients refuse to send.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::connect;
use crate::eventually::DEADLINE;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

/// Error codes of RFC 9113 section 7.
pub const PROTOCOL_ERROR: u32 = 0x1;
pub const REFUSED_STREAM: u32 = 0x7;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// One frame, as it is on the wire but for its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// A whole head. Names and values are sent as they are.
    #[must_use]
    pub fn headers(stream: u32, flags: u8, fields: &[(&str, &[u8])]) -> Self {
        Self::new(HEADERS, flags | END_HEADERS, stream, block(fields))
    }

    #[must_use]
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        Self::new(SETTINGS, 0, 0, payload)
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a frame of less than 16 MiB");
        let [_, length @ ..] = length.to_be_bytes();
        let stream = self.stream.to_be_bytes();
        [&length[..], &[self.kind, self.flags], &stream, &self.payload].concat()
    }

    /// The code of a RST_STREAM or GOAWAY.
    #[must_use]
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("a code has four bytes"))
    }
}

/// HPACK literals without indexing: no field depends on another (RFC 7541 section 6.2.2).
#[must_use]
pub fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_bytes(), value] {
            integer(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// With a prefix of seven bits (RFC 7541 section 5.1).
fn integer(value: usize, out: &mut Vec<u8>) {
    let byte = |value: usize| u8::try_from(value).expect("seven bits and a flag");
    if value < 127 {
        return out.push(byte(value));
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
}

/// The pseudo-header fields of a GET of `path`.
#[must_use]
pub fn get(path: &str) -> Vec<(&str, &[u8])> {
    vec![
        (":method", b"GET"),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"a.test"),
    ]
}

#[derive(Debug)]
pub struct FrameClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl FrameClient {
    /// Connects and sends the preface, with these settings.
    pub async fn connect(port: u16, settings: &[(u16, u32)]) -> Self {
        let mut stream = connect(port).await.expect("connect");
        let hello = [PREFACE, &Frame::settings(settings).encode()].concat();
        stream.write_all(&hello).await.expect("write");
        Self { stream, buffer: Vec::new() }
    }

    /// Writes; that the other side has closed already is for the reads to find out.
    pub async fn send(&mut self, frames: &[Frame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let _ = self.stream.write_all(&bytes).await;
    }

    /// Writes `frame` up to `times` times, reading everything at the same time, until the server
    /// ends the connection. The code of its GOAWAY; `None` where the flood left no room to read it.
    ///
    /// # Panics
    /// When the server takes them all.
    pub async fn flood(mut self, frame: &Frame, times: usize) -> Option<u32> {
        let batch = frame.encode().repeat(100);
        let (mut reader, mut writer) = self.stream.split();
        let write = async {
            for _ in 0..times / 100 {
                if writer.write_all(&batch).await.is_err() {
                    return;
                }
            }
            panic!("the server took {times} frames of kind {}", frame.kind);
        };
        let read = async { while let Ok(1..) = reader.read_buf(&mut self.buffer).await {} };
        timeout(DEADLINE * 3, async {
            tokio::select! {
                () = write => {}
                () = read => {}
            }
        })
        .await
        .expect("the server ends the connection in time");
        while let Ok(1..) = self.stream.read_buf(&mut self.buffer).await {}
        while let Some(frame) = self.take_frame() {
            if frame.kind == GOAWAY && frame.error_code() != 0 {
                return Some(frame.error_code());
            }
        }
        None
    }

    /// The next frame; `None` is the end of the connection.
    pub async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
            match read.expect("a frame or the end of the connection in time") {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// The next frame of that kind, whatever comes before it.
    pub async fn read_kind(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.read().await.expect("the connection goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// What becomes of a stream: `Ok` with the payload of its HEADERS, `Err` with the code it or the
    /// connection is ended with.
    pub async fn outcome(&mut self, stream: u32) -> Result<Vec<u8>, u32> {
        loop {
            let frame = self.read().await.expect("an answer before the end of the connection");
            match frame.kind {
                HEADERS if frame.stream == stream => return Ok(frame.payload),
                RST_STREAM if frame.stream == stream => return Err(frame.error_code()),
                GOAWAY if frame.error_code() != 0 => return Err(frame.error_code()),
                _ => {}
            }
        }
    }

    /// The code of the GOAWAY the server ends the connection with.
    pub async fn goaway(&mut self) -> u32 {
        loop {
            let frame = self.read_kind(GOAWAY).await;
            if frame.error_code() != 0 {
                return frame.error_code();
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (head, rest) = self.buffer.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = rest.get(..length)?.to_vec();
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.buffer.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }
}
