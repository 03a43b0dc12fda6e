//! `google.protobuf` and `google.rpc`: messages others are made of.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde_json::Value as Json;

/// A message with the name of its type.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl fmt::Debug for Any {
    /// Without the value, which may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { type_url, value } = self;
        write!(f, "Any({type_url}, {} bytes)", value.len())
    }
}

/// `google.rpc.Status`: what went wrong.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// Of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A JSON object.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// A JSON value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// `None`, which the protocol does not allow, is read as null.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

/// What a [`Value`] is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// The only value of the enumeration is 0.
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(ListValue),
}

/// A JSON array.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListValue {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

impl Struct {
    /// The text under `name`, if it is one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.fields.get(name)?.kind.as_ref()? {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }
}

impl From<serde_json::Map<String, Json>> for Struct {
    fn from(map: serde_json::Map<String, Json>) -> Self {
        Self { fields: map.into_iter().map(|(name, value)| (name, value.into())).collect() }
    }
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        let kind = match json {
            Json::Null => Kind::Null(0),
            Json::Bool(value) => Kind::Bool(value),
            // Every JSON number has a nearest double; the protocol has nothing else.
            Json::Number(number) => Kind::Number(number.as_f64().unwrap_or_default()),
            Json::String(text) => Kind::String(text),
            Json::Array(values) => {
                let values = values.into_iter().map(Self::from).collect();
                Kind::List(ListValue { values })
            }
            Json::Object(map) => Kind::Struct(map.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Struct> for serde_json::Map<String, Json> {
    fn from(message: Struct) -> Self {
        message.fields.into_iter().map(|(name, value)| (name, value.into())).collect()
    }
}

impl From<Value> for Json {
    fn from(message: Value) -> Self {
        match message.kind {
            None | Some(Kind::Null(_)) => Self::Null,
            Some(Kind::Bool(value)) => Self::Bool(value),
            Some(Kind::Number(number)) => Self::from(number),
            Some(Kind::String(text)) => Self::String(text),
            Some(Kind::List(list)) => list.values.into_iter().map(Self::from).collect(),
            Some(Kind::Struct(fields)) => Self::Object(fields.into()),
        }
    }
}
