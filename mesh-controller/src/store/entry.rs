//! One object as it is kept: the bytes that are sent, and what has to be known to choose who gets it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value};
use weir_config::{
    api::{Object, ObjectKey},
    diagnostic::{Diagnostic, Severity},
    parse::{Options, parse},
    validate::validate,
    wire::{
        discovery::Resource,
        google::Any,
        resource::{Document, NotAnObject},
    },
};

use super::{Facts, Labels, Named, Written};
use crate::on_purpose;

/// A resource in the form it is sent in. Encoded once, shared by every proxy that gets it.
#[derive(Debug)]
pub struct Encoded {
    pub name: Arc<str>,
    /// Of the content: equal bodies have equal versions, on every replica and after a restart.
    pub version: Box<str>,
    /// The encoded [`Resource`].
    pub bytes: Bytes,
}

impl From<Resource> for Encoded {
    fn from(resource: Resource) -> Self {
        Self {
            bytes: resource.encode_to_vec().into(),
            name: resource.name.into(),
            version: resource.version.into(),
        }
    }
}

/// An object in force.
#[derive(Debug)]
pub struct Entry {
    pub key: ObjectKey,
    pub facts: Facts,
    /// The addresses in it, of kinds that have some.
    pub named: Box<[Named]>,
    /// What proxies are told of those at which somebody else is.
    pub foreign: Box<str>,
    pub resource: Arc<Encoded>,
    /// `metadata.generation`: which edit of the object this is.
    pub generation: Option<i64>,
    /// What is wrong with it. Errors are the proxies' to refuse: they have its last good version.
    pub findings: Box<[Diagnostic]>,
    pub written: Written,
}

/// Why an object is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(transparent)]
    NotAnObject(#[from] NotAnObject),
    /// Its types are wrong: nothing can be said about who it is for.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unreadable(Box<[Diagnostic]>),
    #[error("reading it brings out a bug: the controller's log says where, please report it")]
    Bug,
}

impl Entry {
    /// Reads an object of the API server.
    ///
    /// # Errors
    /// It cannot be read at all.
    pub fn read(object: Map<String, Value>, domain: &str) -> Result<Self, Unusable> {
        let (generation, written) = (generation(&object), Written::of(&object));
        let resource = Resource::of_object(object)?;
        let (parsed, mut findings) = parse_body(&resource)?;
        on_purpose::panic_over(&parsed);
        findings.extend(validate(&parsed));
        Ok(Self {
            key: parsed.key(),
            facts: Facts::of(&parsed, domain),
            named: Named::of(&parsed),
            foreign: Box::default(),
            resource: Arc::new(resource.into()),
            generation,
            findings: findings.into(),
            written,
        })
    }

    /// The object as it is sent.
    #[must_use]
    pub fn object(&self) -> Map<String, Value> {
        let resource = Resource::decode(self.resource.bytes.clone()).unwrap_or_default();
        serde_json::from_slice(&json(&resource)).unwrap_or_default()
    }

    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The labels of the pods that are its endpoints; `None` if it selects none.
    #[must_use]
    pub fn pod_selector(&self) -> Option<&Labels> {
        match &self.facts {
            Facts::ServiceEntry { selector, .. } => selector.as_deref(),
            _ => None,
        }
    }

    /// Whether the proxies that have `other` need this one.
    #[must_use]
    pub fn is_same_resource(&self, other: &Self) -> bool {
        self.resource.version == other.resource.version
    }
}

/// `metadata.generation`.
#[must_use]
pub fn generation(object: &Map<String, Value>) -> Option<i64> {
    object.get("metadata")?.get("generation")?.as_i64()
}

/// The object as the proxy will read it, from the very bytes it gets.
fn parse_body(resource: &Resource) -> Result<(Object, Vec<Diagnostic>), Unusable> {
    let mut parsed = parse(&resource.name, &json(resource), &Options::default());
    match parsed.objects.pop() {
        Some(object) => Ok((object, parsed.diagnostics)),
        None => Err(Unusable::Unreadable(parsed.diagnostics.into())),
    }
}

fn json(resource: &Resource) -> Bytes {
    let body = resource.resource.as_ref().map(|Any { value, .. }| value.clone());
    Document::decode(body.unwrap_or_default()).unwrap_or_default().json
}
