//! The two requests of a watch, and what comes back.

use anyhow::Context;
use futures_util::{AsyncBufRead, AsyncBufReadExt};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use kube::{
    Client,
    core::{
        Request,
        params::{ListParams, WatchParams},
    },
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Watched;

/// Objects of one page: what one response may hold in memory.
const PAGE: u32 = 500;
/// Bytes of one event: an object of the largest size etcd takes, and what its JSON adds.
const MAX_EVENT: usize = 8 * 1024 * 1024;

/// Why a request of a watch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The version asked for is no longer kept. Normal after a while; the kind is listed again.
    #[error("expired")]
    Expired,
    /// The API server does not know the kind.
    #[error("not installed")]
    NotInstalled,
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            kube::Error::Api(status) if status.code == 404 => Self::NotInstalled,
            _ => Self::Failed(error.into()),
        }
    }
}

/// Metadata of a list, or of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Document>>,
}

/// An object as it comes.
pub(super) type Document = Map<String, Value>;

/// Who an object is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    /// Empty for objects of the cluster.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) resource_version: &'a str,
}

impl<'a> Identity<'a> {
    pub(super) fn of(object: &'a Document) -> Self {
        let metadata = object.get("metadata");
        let text = |field| metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
        Self {
            namespace: text("namespace").unwrap_or_default(),
            name: text("name").unwrap_or_default(),
            resource_version: text("resourceVersion").unwrap_or_default(),
        }
    }
}

/// Some objects of a list, where the next ones begin, and the version of the whole.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: String,
    pub(super) next: Option<String>,
    pub(super) items: Vec<Document>,
}

/// Asks for one page.
pub(super) async fn list(
    client: &Client,
    watched: &Watched,
    version: &str,
    next: Option<&str>,
) -> Result<Page, Error> {
    let mut params = ListParams::default().limit(PAGE);
    if let Some(fields) = watched.field_selector {
        params = params.fields(fields);
    }
    if let Some(next) = next {
        params = params.continue_token(next);
    }
    let request = Request::new(watched.path(version));
    let request = if watched.kind.is_metadata_only() {
        request.list_metadata(&params)
    } else {
        request.list(&params)
    };
    let text = client.request_text(request.context("make the request")?).await?;
    let list: List = serde_json::from_str(&text).context("read the list")?;
    Ok(Page {
        version: list.metadata.resource_version,
        next: Some(list.metadata.next).filter(|next| !next.is_empty()),
        items: list.items.unwrap_or_default(),
    })
}

/// The events of a watch.
pub(super) struct Events<R> {
    lines: R,
    line: Vec<u8>,
}

/// One of them.
pub(super) enum Event {
    Upsert(Document),
    Delete(Document),
    /// Nothing else happened up to the version of this.
    Bookmark(Document),
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    event: String,
    object: Document,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorStatus {
    code: u16,
    message: String,
    reason: String,
}

/// Watches from `resource_version` on.
pub(super) async fn watch(
    client: &Client,
    watched: &Watched,
    version: &str,
    resource_version: &str,
    seconds: u32,
) -> Result<Events<impl AsyncBufRead + Unpin + use<>>, Error> {
    let mut params = WatchParams::default().timeout(seconds);
    if let Some(fields) = watched.field_selector {
        params = params.fields(fields);
    }
    let request = Request::new(watched.path(version));
    let request = if watched.kind.is_metadata_only() {
        request.watch_metadata(&params, resource_version)
    } else {
        request.watch(&params, resource_version)
    };
    let mut request = request.context("make the request")?;
    // Compressed event by event, which the client's decoder does not follow.
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let stream = client.request_stream(request).await?;
    Ok(Events { lines: Box::pin(stream), line: Vec::new() })
}

impl<R: AsyncBufRead + Unpin> Events<R> {
    /// The next event; `None` at the end of the stream, whole or not: what comes next is found by the
    /// version it stopped at.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Error> {
        self.line.clear();
        loop {
            let buffer = self.lines.fill_buf().await.context("read the watch")?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(buffer.len(), |end| end + 1);
            self.line.extend_from_slice(&buffer[..taken]);
            self.lines.consume_unpin(taken);
            if self.line.len() > MAX_EVENT {
                return Err(anyhow::anyhow!("an event of the watch is too large").into());
            }
            if end.is_some() {
                break;
            }
        }
        let RawEvent { event, object } =
            serde_json::from_slice(&self.line).context("read an event of the watch")?;
        match &*event {
            "ADDED" | "MODIFIED" => Ok(Some(Event::Upsert(object))),
            "DELETED" => Ok(Some(Event::Delete(object))),
            "ERROR" => {
                let status: ErrorStatus = serde_json::from_value(Value::Object(object)).unwrap_or_default();
                if status.code == 410 {
                    return Err(Error::Expired);
                }
                let ErrorStatus { code, message, reason } = status;
                Err(anyhow::anyhow!("the watch ended: {code} {reason} {message}").into())
            }
            // Bookmarks, and what may be invented later.
            _ => Ok(Some(Event::Bookmark(object))),
        }
    }
}
