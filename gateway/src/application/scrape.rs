//! The application's metrics, beside the sidecar's own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::settings::ScrapeTarget;

/// What is merged is held in memory.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// The form that the sidecar's own metrics have: two forms cannot be merged.
const TEXT: &str = "text/plain;version=0.0.4";

/// What an application has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scraped(pub Bytes);

/// Why there is nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("ask: {0}")]
    Http(#[from] hyper::Error),
    #[error("the path makes no request: {0}")]
    Request(#[from] http::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("read the answer: {0}")]
    Body(String),
    #[error("it is in a form that cannot be merged: {0}")]
    Form(String),
    #[error("no answer in time")]
    Timeout,
}

/// Asks the application, on loopback, which is not captured.
///
/// # Errors
/// It has no metrics to be merged, within `limit`.
pub async fn scrape(target: &ScrapeTarget, limit: Duration) -> Result<Scraped, ScrapeError> {
    timeout(limit, ask(target)).await.unwrap_or(Err(ScrapeError::Timeout))
}

async fn ask(target: &ScrapeTarget) -> Result<Scraped, ScrapeError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, target.port));
    let stream = TcpStream::connect(address).await?;
    let request = Request::get(target.path.as_str())
        .header(HOST, address.to_string())
        .header(ACCEPT, TEXT)
        .header(USER_AGENT, "weir-sidecar")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends, the answer tells.
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(ScrapeError::Status(response.status()));
    }
    let form = response.headers().get(http::header::CONTENT_TYPE);
    let form = form.and_then(|form| form.to_str().ok()).unwrap_or(TEXT);
    if !form.starts_with("text/plain") {
        return Err(ScrapeError::Form(form.to_owned()));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    Ok(Scraped(body.map_err(|error| ScrapeError::Body(error.to_string()))?.to_bytes()))
}
