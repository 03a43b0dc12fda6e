//! HTTP/1.1 as fast as it goes: one read, one write for each request.

use std::io::{self, Write as _};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::echo;
use crate::pattern;

const MAX_HEADERS: usize = 64;
const BUFFER: usize = 16 * 1024;

/// What is answered to everything.
pub struct Answer {
    bytes: u64,
}

/// What of a request matters to the answer.
#[derive(Default)]
struct Head {
    len: usize,
    content_length: u64,
    /// Which route the proxy took: it wrote it here.
    route: Option<Vec<u8>>,
    websocket_key: Option<Vec<u8>>,
    /// The whole head is wanted back.
    probe: bool,
    /// A form of body that is not expected here.
    unsupported: bool,
}

impl Answer {
    pub fn new(bytes: u64) -> Self {
        Self { bytes }
    }
}

/// Serves one connection until the other side closes it.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Answer,
) -> io::Result<()> {
    let mut input = BytesMut::with_capacity(BUFFER);
    let mut output = Vec::with_capacity(BUFFER);
    while let Some(head) = read_head(&mut stream, &mut input).await? {
        if let Some(key) = &head.websocket_key {
            stream.write_all(&switching_protocols(key)).await?;
            // Boxed, so that a connection without it is not as large.
            return Box::pin(echo::serve_websocket(stream)).await;
        }
        let sent = head.probe.then(|| input[..head.len].to_vec());
        input.advance(head.len);
        output.clear();
        if head.unsupported {
            status(&mut output, 501, b"")?;
        } else if head.content_length > 0 {
            let right = read_body(&mut stream, &mut input, head.content_length).await?;
            let body = if right {
                format!("received {}\n", head.content_length)
            } else {
                "wrong body\n".into()
            };
            status(&mut output, if right { 200 } else { 400 }, body.as_bytes())?;
        } else if let Some(sent) = sent {
            status(&mut output, 200, &sent)?;
        } else {
            answer.write(&head, &mut stream, &mut output).await?;
        }
        stream.write_all(&output).await?;
        stream.flush().await?;
    }
    Ok(())
}

impl Answer {
    /// Puts a small answer into the output; streams a large one but for its end.
    async fn write(
        &self,
        head: &Head,
        stream: &mut (impl AsyncWrite + Unpin),
        output: &mut Vec<u8>,
    ) -> io::Result<()> {
        output.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n");
        if let Some(route) = &head.route {
            output.extend_from_slice(b"x-route: ");
            output.extend_from_slice(route);
            output.extend_from_slice(b"\r\n");
        }
        write!(output, "content-length: {}\r\n\r\n", self.bytes)?;
        let mut offset = 0;
        while offset < self.bytes {
            let piece = pattern::at(offset, self.bytes - offset);
            offset += piece.len() as u64;
            if offset == self.bytes && output.len() + piece.len() <= BUFFER {
                output.extend_from_slice(piece);
                break;
            }
            stream.write_all(output).await?;
            output.clear();
            stream.write_all(piece).await?;
        }
        Ok(())
    }
}

/// `None`: the connection ended between requests.
async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<Option<Head>> {
    loop {
        if !input.is_empty()
            && let Some(head) = parse(input)?
        {
            return Ok(Some(head));
        }
        input.reserve(BUFFER);
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse(input: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(len) = request.parse(input).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let mut head = Head { len, ..Head::default() };
    for field in request.headers.iter() {
        match field.name.len() {
            7 if field.name.eq_ignore_ascii_case("x-route") => {
                head.route = Some(field.value.into())
            }
            7 if field.name.eq_ignore_ascii_case("x-probe") => head.probe = true,
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let text = std::str::from_utf8(field.value).map_err(io::Error::other)?;
                head.content_length = text.parse().map_err(io::Error::other)?;
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => head.unsupported = true,
            17 if field.name.eq_ignore_ascii_case("sec-websocket-key") => {
                head.websocket_key = Some(field.value.into());
            }
            _ => {}
        }
    }
    Ok(Some(head))
}

/// Reads a body to its end; whether it was the pattern.
async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    length: u64,
) -> io::Result<bool> {
    let (mut offset, mut right) = (0, true);
    loop {
        let here = usize::try_from(length - offset).unwrap_or(usize::MAX).min(input.len());
        right &= pattern::matches(offset, &input[..here]);
        offset += here as u64;
        input.advance(here);
        if offset == length {
            return Ok(right);
        }
        input.reserve(pattern::PERIOD);
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn status(output: &mut Vec<u8>, status: u16, body: &[u8]) -> io::Result<()> {
    write!(output, "HTTP/1.1 {status} Answer\r\ncontent-length: {}\r\n\r\n", body.len())?;
    output.extend_from_slice(body);
    Ok(())
}

fn switching_protocols(key: &[u8]) -> Vec<u8> {
    let accept = derive_accept_key(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}
