//! What a proxy says before it is told anything.

use std::collections::{BTreeMap, BTreeSet};

use hyper::body::Incoming;
use tonic::Status;
use tracing::debug;
use weir_config::wire::{
    discovery::Node,
    google::{Kind, Struct},
    resource::{SYNC_NAME, SYNC_TYPE, TYPES},
};

use super::requests::Requests;
use crate::{
    store::{Labels, Position},
    translate::ProxyType,
};

/// What a proxy says first.
#[derive(Debug, Default)]
pub(super) struct Hello {
    pub(super) node: Node,
    /// What it has: versions by name.
    pub(super) known: BTreeMap<String, String>,
    /// Up to where that was told.
    pub(super) position: Position,
}

/// Reads up to the first request for the end of pushes, with which all is said. `None` if the proxy
/// leaves before.
pub(super) async fn first_requests(
    requests: &mut Requests<Incoming>,
) -> Result<Option<Hello>, Status> {
    let mut hello = Hello::default();
    let mut subscribed = BTreeSet::new();
    while let Some(request) = requests.message().await? {
        let Some(type_url) = TYPES.iter().find(|known| **known == request.type_url) else {
            // Of a newer proxy; it is not answered.
            debug!(type_url = request.type_url, "a type that is not served");
            continue;
        };
        if let Some(node) = request.node {
            hello.node = node;
        }
        hello.known.extend(request.initial_resource_versions);
        if !subscribed.insert(*type_url) {
            return Err(Status::invalid_argument("a type was subscribed to twice"));
        }
        if *type_url == SYNC_TYPE {
            let position = hello.known.remove(SYNC_NAME).unwrap_or_default();
            // What cannot be read is of a controller that measures otherwise.
            hello.position = position.parse().unwrap_or_default();
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

/// The labels a proxy says it has.
pub(super) fn labels(node: &Node) -> Labels {
    let metadata = node.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.fields.get("LABELS")?.kind.as_ref());
    let Some(Kind::Struct(Struct { fields })) = labels else { return Labels::new() };
    let texts = fields.iter().filter_map(|(name, value)| match &value.kind {
        Some(Kind::String(text)) => Some((name.clone(), text.clone())),
        _ => None,
    });
    texts.collect()
}

/// What a proxy says it is, by the first part of its name. It may say so: a sidecar sees what is
/// exported to its namespace, a gateway less of that.
pub(super) fn proxy_type(node: &Node) -> ProxyType {
    match node.id.split('~').next() {
        Some("sidecar") => ProxyType::Sidecar,
        Some(_) | None => ProxyType::Gateway,
    }
}
