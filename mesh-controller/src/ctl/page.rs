//! One request for a page, over whatever reaches it.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Uri, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// A page is made in less; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a page says.
///
/// # Errors
/// The connection breaks, or the page is not there.
pub async fn ask<S>(stream: S, method: Method, path: &str) -> anyhow::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The pages are for loopback, and say so to a browser that comes by another name.
    let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new()).context("make the request")?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; what it fails with, the response fails with.
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    let (status, body) =
        timeout(PATIENCE, exchange).await.context("no answer within 30 seconds")??;
    let body = String::from_utf8_lossy(&body).into_owned();
    ensure!(status.is_success(), "{path} is answered {status}: {}", body.trim());
    Ok(body)
}

/// What a page says that is JSON.
///
/// # Errors
/// It is something else.
pub fn json(page: &str) -> anyhow::Result<Value> {
    serde_json::from_str(page).context("the page is not JSON; is this a proxy of Weir?")
}

/// The `host:port` of a URL.
///
/// # Errors
/// It is none of plain HTTP.
pub fn authority(url: &str) -> anyhow::Result<String> {
    let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
    let Some(host) = uri.host() else { bail!("{url} names no host; write http://127.0.0.1:15000") };
    ensure!(uri.scheme_str() == Some("http"), "{url}: the admin pages are served over plain http");
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

/// Connects to `host:port`.
///
/// # Errors
/// Nobody listens there.
pub async fn connect(authority: &str) -> anyhow::Result<TcpStream> {
    let connected = timeout(PATIENCE, TcpStream::connect(authority)).await;
    let stream = connected.with_context(|| format!("connect to {authority}"))?;
    stream.with_context(|| format!("connect to {authority}; is a gateway running there?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_of_plain_http() {
        assert_eq!(authority("http://127.0.0.1:15000").unwrap(), "127.0.0.1:15000");
        assert_eq!(authority("http://[::1]:15000/").unwrap(), "[::1]:15000");
        assert_eq!(authority("http://gateway").unwrap(), "gateway:80");
        for wrong in ["127.0.0.1:15000", "https://a:1", "http://"] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }
}
