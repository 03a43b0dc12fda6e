//! HTTP/1.1: the client's side of one connection. Every answer is checked completely.

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    tally::{Done, Failure},
    target::Stream,
    work::{Request, Work, generation},
};
use crate::pattern;

const MAX_HEADERS: usize = 64;
const BUFFER: usize = 16 * 1024;

/// A connection between two exchanges.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    input: BytesMut,
}

/// What the head of an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    len: usize,
    status: u16,
    content_length: Option<u64>,
    route: Option<Vec<u8>>,
    closes: bool,
}

impl Connection {
    pub fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::with_capacity(BUFFER) }
    }

    /// One exchange of the load.
    pub async fn exchange(&mut self, work: &Work, request: &Request) -> Result<Done, Failure> {
        self.send(&request.head).await?;
        self.upload(work.load.request_bytes).await?;
        let head = self.head().await?;
        check(&head, 200, request)?;
        let uploaded = work.load.request_bytes;
        let bytes = if uploaded > 0 {
            self.expect(format!("received {uploaded}\n").as_bytes(), &head).await?;
            uploaded
        } else {
            self.download(&head, work.load.answer_bytes).await?;
            work.load.answer_bytes
        };
        self.at_rest(&head)?;
        Ok(Done { units: 1, bytes })
    }

    /// One GET; the answer's body whatever it is, and what the head said of the route.
    pub async fn get(&mut self, head: &[u8]) -> Result<(u16, Vec<u8>, Option<Vec<u8>>), Failure> {
        self.send(head).await?;
        let head = self.head().await?;
        let length = head.content_length.unwrap_or(0);
        let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut body).await?;
        Ok((head.status, body, head.route))
    }

    /// Asks for another protocol on this connection.
    pub async fn upgrade(mut self, request: &Request) -> Result<Stream, Failure> {
        self.send(&request.head).await?;
        let head = self.head().await?;
        if head.status != 101 {
            return Err(Failure::Wrong(format!("status {} to an upgrade", head.status)));
        }
        Ok(self.stream)
    }

    /// Whether its TLS session continued an earlier one.
    pub fn resumed(&self) -> bool {
        self.stream.resumed()
    }

    /// Ends the connection; over TLS with a close notification.
    pub async fn close(mut self) {
        // The other side may have closed already.
        let _ = self.stream.shutdown().await;
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|error| Failure::broken("write", error))?;
        self.stream.flush().await.map_err(|error| Failure::broken("write", error))
    }

    async fn upload(&mut self, bytes: u64) -> Result<(), Failure> {
        let mut offset = 0;
        while offset < bytes {
            let piece = pattern::at(offset, bytes - offset);
            self.send(piece).await?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    async fn head(&mut self) -> Result<Head, Failure> {
        loop {
            if !self.input.is_empty()
                && let Some(head) = parse(&self.input)?
            {
                self.input.advance(head.len);
                return Ok(head);
            }
            self.read(BUFFER).await?;
        }
    }

    /// Reads the body and compares it as it comes.
    async fn download(&mut self, head: &Head, bytes: u64) -> Result<(), Failure> {
        if head.content_length != Some(bytes) {
            let length = head.content_length;
            return Err(Failure::Wrong(format!("a body of {length:?} instead of {bytes} bytes")));
        }
        let mut offset = 0;
        loop {
            let here = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(self.input.len());
            if !pattern::matches(offset, &self.input[..here]) {
                return Err(Failure::Wrong(format!("other bytes than sent, from {offset} on")));
            }
            self.input.advance(here);
            offset += here as u64;
            if offset == bytes {
                return Ok(());
            }
            self.read(pattern::PERIOD).await?;
        }
    }

    async fn expect(&mut self, expected: &[u8], head: &Head) -> Result<(), Failure> {
        let length = head.content_length.unwrap_or(0);
        let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut body).await?;
        if body != expected {
            let body = String::from_utf8_lossy(&body);
            return Err(Failure::Wrong(format!("the body {body:?}")));
        }
        Ok(())
    }

    async fn fill(&mut self, body: &mut [u8]) -> Result<(), Failure> {
        while self.input.len() < body.len() {
            self.read(BUFFER).await?;
        }
        self.input.copy_to_slice(body);
        Ok(())
    }

    async fn read(&mut self, room: usize) -> Result<(), Failure> {
        self.input.reserve(room);
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(Failure::Broken("closed before the answer was complete".into())),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::broken("read", error)),
        }
    }

    /// Nothing may follow an answer, and a connection that is to stay must not end.
    fn at_rest(&self, head: &Head) -> Result<(), Failure> {
        if !self.input.is_empty() {
            return Err(Failure::Wrong(format!("{} bytes too many", self.input.len())));
        }
        match head.closes {
            true => Err(Failure::Wrong("the connection is closed after the answer".into())),
            false => Ok(()),
        }
    }
}

fn check(head: &Head, status: u16, request: &Request) -> Result<(), Failure> {
    if head.status != status {
        return Err(Failure::Wrong(format!("status {}", head.status)));
    }
    check_route(request.route, head.route.as_deref())
}

/// The route the proxy wrote into the request, which the origin gave back.
pub fn check_route(wanted: Option<usize>, taken: Option<&[u8]>) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    match taken.and_then(|taken| generation(wanted, taken)) {
        Some(_) => Ok(()),
        None => {
            let taken = taken.map(String::from_utf8_lossy);
            Err(Failure::Wrong(format!("route {taken:?} instead of {wanted}")))
        }
    }
}

fn parse(input: &[u8]) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut fields);
    let wrong = |error: &dyn std::fmt::Display| Failure::Wrong(format!("not HTTP: {error}"));
    let httparse::Status::Complete(len) = response.parse(input).map_err(|e| wrong(&e))? else {
        return Ok(None);
    };
    let mut head = Head { len, status: response.code.unwrap_or(0), ..Head::default() };
    for field in response.headers.iter() {
        match field.name.len() {
            7 if field.name.eq_ignore_ascii_case("x-route") => {
                head.route = Some(field.value.into())
            }
            10 if field.name.eq_ignore_ascii_case("connection") => {
                head.closes = field.value.eq_ignore_ascii_case(b"close");
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let text = std::str::from_utf8(field.value).map_err(|e| wrong(&e))?;
                head.content_length = Some(text.parse().map_err(|e| wrong(&e))?);
            }
            _ => {}
        }
    }
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Route: v7-0\r\nConnection: close\r\n\r\n";
        assert_eq!(parse(&head[..head.len() - 1]), Ok(None));
        let parsed = parse(head).unwrap().unwrap();
        assert_eq!((parsed.status, parsed.content_length), (200, Some(3)));
        assert_eq!(parsed.len, head.len());
        assert!(parsed.closes);
        assert_eq!(check_route(Some(7), parsed.route.as_deref()), Ok(()));
        assert!(check_route(Some(8), parsed.route.as_deref()).is_err());
        assert!(check_route(Some(8), None).is_err());
    }
}
