//! `weir.config.v1`: the resources of our own that discovery carries.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value};

use super::{discovery::Resource, google::Any};
use crate::{
    api::{Kind, ObjectKey},
    xxh64::xxh64,
};

/// The mesh configuration that is in force. One resource, [`MESH_NAME`].
pub const MESH_TYPE: &str = "type.googleapis.com/weir.config.v1.Mesh";
/// Kubernetes Secrets, apart from other objects so that they can be told apart without looking inside.
pub const SECRET_TYPE: &str = "type.googleapis.com/weir.config.v1.Secret";
/// All other Kubernetes objects.
pub const OBJECT_TYPE: &str = "type.googleapis.com/weir.config.v1.Object";
/// The end of a push. One resource, [`SYNC_NAME`].
pub const SYNC_TYPE: &str = "type.googleapis.com/weir.config.v1.Sync";
/// Inside of the error details of an answer.
pub const REJECTIONS_TYPE: &str = "type.googleapis.com/weir.config.v1.Rejections";

/// Every type a proxy subscribes to, in the order of a push.
pub const TYPES: [&str; 4] = [MESH_TYPE, SECRET_TYPE, OBJECT_TYPE, SYNC_TYPE];

pub const MESH_NAME: &str = "mesh";
pub const SYNC_NAME: &str = "sync";

/// The body of [`MESH_TYPE`], [`SECRET_TYPE`] and [`OBJECT_TYPE`].
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct Document {
    /// The MeshConfig, or the Kubernetes object, as JSON.
    #[prost(bytes = "bytes", tag = "1")]
    pub json: Bytes,
}

impl fmt::Debug for Document {
    /// Without the content, which may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.json.len())
    }
}

/// The body of [`SYNC_TYPE`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sync {
    /// Names the push wherever it is spoken of: logs, the proxy's dump, status.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Up to where in the history of Kubernetes it is; empty: the controller does not say. For
    /// controllers alone, to be given back as it is.
    #[prost(string, tag = "2")]
    pub position: String,
}

/// What of a push could not be applied.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rejections {
    #[prost(message, repeated, tag = "1")]
    pub rejections: Vec<Rejection>,
}

/// A resource whose last good version stays in force, and why.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rejection {
    #[prost(string, tag = "1")]
    pub resource_name: String,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The type that the resource of that name has, if it is none that ends a push.
#[must_use]
pub fn type_of_name(name: &str) -> &'static str {
    match name {
        MESH_NAME => MESH_TYPE,
        _ if name.starts_with("/Secret/") => SECRET_TYPE,
        _ => OBJECT_TYPE,
    }
}

/// The version of a resource with this body: equal bodies have equal versions, always and everywhere.
#[must_use]
pub fn version(body: &[u8]) -> String {
    format!("{:016x}", xxh64(body, 0))
}

/// The name of an object's resource: `group/Kind/namespace/name`, where the core group is empty, and
/// so is the namespace of what has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    pub group: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl From<&ObjectKey> for ResourceName {
    fn from(key: &ObjectKey) -> Self {
        Self {
            group: key.kind.group().to_owned(),
            kind: key.kind.name().to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        }
    }
}

impl ResourceName {
    /// The object that is named; `None` for kinds that are not known here, which a controller of
    /// another version may send.
    #[must_use]
    pub fn key(&self) -> Option<ObjectKey> {
        let is_named = |kind: &Kind| kind.group() == self.group && kind.name() == self.kind;
        let kind = Kind::ALL.into_iter().find(is_named)?;
        let (namespace, name) = (self.namespace.as_str().into(), self.name.as_str().into());
        Some(ObjectKey { kind, namespace, name })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, kind, namespace, name } = self;
        write!(f, "{group}/{kind}/{namespace}/{name}")
    }
}

/// Not the name of an object's resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form group/Kind/namespace/name")]
pub struct InvalidName;

impl FromStr for ResourceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parts: Vec<_> = text.split('/').collect();
        let &[group, kind, namespace, name] = parts.as_slice() else { return Err(InvalidName) };
        if kind.is_empty() || name.is_empty() {
            return Err(InvalidName);
        }
        let [group, kind, namespace, name] = [group, kind, namespace, name].map(str::to_owned);
        Ok(Self { group, kind, namespace, name })
    }
}

/// What an API server returned cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing, or not a text")]
pub struct NotAnObject(&'static str);

/// Metadata that proxies read, or people look for in a dump. Everything else (`managedFields`,
/// `resourceVersion`, ...) is large, or changes without a change.
const METADATA: [&str; 7] =
    ["annotations", "creationTimestamp", "generation", "labels", "name", "namespace", "uid"];

impl Resource {
    /// The resource of a Kubernetes object, without what proxies do not read: status (but for pods,
    /// whose status says where they are), most metadata, and annotations of other domains than
    /// `istio.io` and `weir.dev`.
    ///
    /// # Errors
    /// The object has no apiVersion, kind or name.
    pub fn of_object(mut object: Map<String, Value>) -> Result<Self, NotAnObject> {
        let name = name_of(&object)?;
        if name.kind != "Pod" {
            object.remove("status");
        }
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.retain(|field, _| METADATA.contains(&field.as_str()));
            reduce_annotations(metadata);
        }
        let is_secret = name.group.is_empty() && name.kind == "Secret";
        let type_url = if is_secret { SECRET_TYPE } else { OBJECT_TYPE };
        Ok(Self::of_json(type_url, name.to_string(), &Value::Object(object)))
    }

    /// The resource of the mesh configuration.
    #[must_use]
    pub fn of_mesh_config(config: Map<String, Value>) -> Self {
        Self::of_json(MESH_TYPE, MESH_NAME.to_owned(), &Value::Object(config))
    }

    /// The resource that ends the push `version`.
    #[must_use]
    pub fn sync(version: String) -> Self {
        Self::sync_at(version, String::new())
    }

    /// The same for a push that is up to `position`.
    #[must_use]
    pub fn sync_at(version: String, position: String) -> Self {
        let body = Sync { version: version.clone(), position }.encode_to_vec();
        let body = Any { type_url: SYNC_TYPE.to_owned(), value: body.into() };
        Self { version, resource: Some(body), name: SYNC_NAME.to_owned() }
    }

    fn of_json(type_url: &str, name: String, json: &Value) -> Self {
        let body = Document { json: json.to_string().into() }.encode_to_vec();
        let version = version(&body);
        let body = Any { type_url: type_url.to_owned(), value: body.into() };
        Self { version, resource: Some(body), name }
    }
}

impl Rejections {
    /// As a detail of a [`super::google::Status`].
    #[must_use]
    pub fn to_any(&self) -> Any {
        Any { type_url: REJECTIONS_TYPE.to_owned(), value: self.encode_to_vec().into() }
    }

    /// All that the details of a [`super::google::Status`] name.
    #[must_use]
    pub fn of_details(details: &[Any]) -> Vec<Rejection> {
        details
            .iter()
            .filter(|detail| detail.type_url == REJECTIONS_TYPE)
            .filter_map(|detail| Self::decode(detail.value.clone()).ok())
            .flat_map(|rejections| rejections.rejections)
            .collect()
    }
}

fn name_of(object: &Map<String, Value>) -> Result<ResourceName, NotAnObject> {
    fn text<'a>(map: Option<&'a Map<String, Value>>, field: &str) -> Option<&'a str> {
        map?.get(field)?.as_str().filter(|text| !text.is_empty())
    }
    let metadata = object.get("metadata").and_then(Value::as_object);
    let api_version = text(Some(object), "apiVersion").ok_or(NotAnObject("apiVersion"))?;
    let kind = text(Some(object), "kind").ok_or(NotAnObject("kind"))?;
    let name = text(metadata, "name").ok_or(NotAnObject("metadata.name"))?;
    let (group, _) = api_version.rsplit_once('/').unwrap_or_default();
    let namespace = text(metadata, "namespace").unwrap_or_default();
    let [group, kind, namespace, name] = [group, kind, namespace, name].map(str::to_owned);
    Ok(ResourceName { group, kind, namespace, name })
}

fn reduce_annotations(metadata: &mut Map<String, Value>) {
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return };
    annotations.retain(|name, _| {
        let domain = name.split('/').next().unwrap_or_default();
        ["istio.io", "weir.dev"].iter().any(|known| {
            domain.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    });
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}
