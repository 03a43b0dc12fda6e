//! A server that tells what it was asked.

use std::{convert::Infallible, io, net::Ipv4Addr, net::TcpListener, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tracing::debug;

/// Of a request's body; more is not read.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A bound echo server.
#[derive(Debug)]
pub struct Echo {
    name: &'static str,
    version: &'static str,
    socket: TcpListener,
}

impl Echo {
    pub fn bind(name: &'static str, version: &'static str, port: u16) -> io::Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nonblocking(true)?;
        Ok(Self { name, version, socket })
    }

    async fn serve(self) -> io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let who = Arc::new((self.name, self.version));
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = socket.accept().await?;
            while connections.try_join_next().is_some() {}
            let who = Arc::clone(&who);
            connections.spawn(async move {
                let echo = |request| async { Ok::<_, Infallible>(answer(*who, request).await) };
                let served =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo));
                if let Err(error) = served.await {
                    debug!(%error, "demo connection");
                }
            });
        }
    }
}

/// Serves until it is dropped.
pub async fn serve(servers: Vec<Echo>) {
    let mut tasks = JoinSet::new();
    for server in servers {
        tasks.spawn(server.serve());
    }
    while let Some(ended) = tasks.join_next().await {
        tracing::error!(?ended, "a demo server ended");
    }
}

async fn answer(
    (name, version): (&str, &str),
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match headers.get_mut(name.as_str()) {
            Some(Value::String(all)) => *all = format!("{all}, {value}"),
            _ => drop(headers.insert(name.to_string(), value.into())),
        }
    }
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("({error})"),
    };
    let answer = json!({
        "name": name,
        "version": version,
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "protocol": format!("{:?}", head.version),
        "headers": headers,
        "body": body,
    });
    let mut response = Response::new(Full::new(format!("{answer:#}\n").into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn an_echo_tells_who_it_is_and_what_it_was_asked() {
        let echo = Echo::bind("web", "v2", 0).unwrap();
        let addr = echo.socket.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(vec![echo]));

        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request =
            "POST /a?b=c HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["name"], "web");
        assert_eq!(body["version"], "v2");
        assert_eq!(body["method"], "POST");
        assert_eq!(body["path"], "/a?b=c");
        assert_eq!(body["headers"]["host"], "x");
        assert_eq!(body["body"], "hi");
    }
}
