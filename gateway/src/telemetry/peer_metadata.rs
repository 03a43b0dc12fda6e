//! What workloads of the mesh say of themselves to each other, as Istio's proxies put it: a
//! `google.protobuf.Struct`, in a header of requests or before the first byte of a TCP connection. For
//! metrics only, and only of peers whose certificate was verified: anybody can say anything.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use prost::Message;
use weir_config::wire::google::{Any, Kind, Struct, Value};

use super::labels::{Reporter, UNKNOWN};

pub const X_ENVOY_PEER_METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
pub const X_ENVOY_PEER_METADATA_ID: HeaderName =
    HeaderName::from_static("x-envoy-peer-metadata-id");
/// What is negotiated where the exchange comes before the first byte.
pub const PEER_EXCHANGE: &[u8] = b"istio-peer-exchange";

/// Before the length and the `Any` of an exchange on a TCP connection.
pub const MAGIC: u32 = 0x3D23_0467;
/// Nobody has this much to say of himself.
pub const MAX_BYTES: usize = 64 * 1024;

const STRUCT_TYPE: &str = "type.googleapis.com/google.protobuf.Struct";
/// Said by us only: what we are told in answers we know from our configuration.
const NEEDS_NO_ANSWER: &str = "WEIR";
/// Of a label's value; names of workloads are no longer than those of pods.
const MAX_TEXT: usize = 253;

/// What a peer says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    pub name: String,
    pub app: String,
    pub version: String,
    pub canonical_service: String,
    pub canonical_revision: String,
    /// It counts on being told the same.
    pub wants_answer: bool,
}

impl Described {
    /// From the header of a request.
    #[must_use]
    pub fn from_header(value: &HeaderValue) -> Option<Self> {
        let bytes = STANDARD.decode(value.as_bytes()).ok()?;
        Some(Self::from(&Struct::decode(&*bytes).ok()?))
    }

    /// From what comes before the first byte of a connection.
    #[must_use]
    pub fn from_exchange(bytes: &[u8]) -> Option<Self> {
        let any = Any::decode(bytes).ok().filter(|any| any.type_url == STRUCT_TYPE)?;
        let said = Struct::decode(any.value).ok()?;
        within(&said, X_ENVOY_PEER_METADATA.as_str()).map(Self::from)
    }
}

impl From<&Struct> for Described {
    fn from(said: &Struct) -> Self {
        let none = Struct::default();
        let labels = within(said, "LABELS").unwrap_or(&none);
        let text = |said: &Struct, name: &str| {
            let text = said.text(name).filter(|text| is_name(text));
            text.unwrap_or_default().to_owned()
        };
        let label = |names: &[&str]| {
            let found = names.iter().map(|name| text(labels, name)).find(|it| !it.is_empty());
            found.unwrap_or_default()
        };
        Self {
            name: text(said, "WORKLOAD_NAME"),
            app: label(&["app", "app.kubernetes.io/name"]),
            version: label(&["version", "app.kubernetes.io/version"]),
            canonical_service: label(&[
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ]),
            canonical_revision: label(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ]),
            wants_answer: !said.fields.contains_key(NEEDS_NO_ANSWER),
        }
    }
}

/// What labels and names of objects are made of: it becomes part of metrics.
fn is_name(text: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:".contains(&byte);
    text.len() <= MAX_TEXT && text.bytes().all(is_usual)
}

fn within<'a>(said: &'a Struct, name: &str) -> Option<&'a Struct> {
    match said.fields.get(name)?.kind.as_ref()? {
        Kind::Struct(inner) => Some(inner),
        _ => None,
    }
}

/// What this proxy's workload says of itself, in all forms.
#[derive(Debug, Clone)]
pub struct OwnMetadata {
    pub header: HeaderValue,
    pub id: HeaderValue,
    /// Magic, length, message.
    pub exchange: Bytes,
}

impl OwnMetadata {
    #[must_use]
    pub fn new(reporter: &Reporter) -> Self {
        let Reporter { workload, namespace, app, version, .. } = reporter;
        let Reporter { canonical_service, canonical_revision, instance, .. } = reporter;
        let labels = [
            ("app", app),
            ("version", version),
            ("service.istio.io/canonical-name", canonical_service),
            ("service.istio.io/canonical-revision", canonical_revision),
        ];
        let known = labels.into_iter().filter(|(_, value)| !matches!(&***value, "" | UNKNOWN));
        let labels = known.map(|(name, value)| (name.to_owned(), text(value))).collect();
        let said = structure([
            ("NAME", text(instance)),
            ("NAMESPACE", text(namespace)),
            ("WORKLOAD_NAME", text(workload)),
            ("LABELS", Value { kind: Some(Kind::Struct(Struct { fields: labels })) }),
            (NEEDS_NO_ANSWER, Value { kind: Some(Kind::Bool(true)) }),
        ]);
        let id = format!("sidecar~~{instance}.{namespace}~{namespace}.svc");
        let header = STANDARD.encode(said.encode_to_vec());
        let both = structure([
            (X_ENVOY_PEER_METADATA.as_str(), Value { kind: Some(Kind::Struct(said)) }),
            (X_ENVOY_PEER_METADATA_ID.as_str(), text(&id)),
        ]);
        let any = Any { type_url: STRUCT_TYPE.to_owned(), value: both.encode_to_vec().into() };
        Self { header: value(&header), id: value(&id), exchange: framed(&any.encode_to_vec()) }
    }
}

fn structure<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    Struct { fields: fields.collect::<BTreeMap<_, _>>() }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::String(text.to_owned())) }
}

/// Names come from labels, which are no arbitrary text; one that is none says nothing.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or_default();
    [&MAGIC.to_be_bytes()[..], &length.to_be_bytes(), message].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OwnMetadata {
        let labels = [("app", "web"), ("version", "v3"), ("service.istio.io/workload-name", "w")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        OwnMetadata::new(&Reporter::new("shop", &labels))
    }

    fn web() -> Described {
        Described {
            name: "w".to_owned(),
            app: "web".to_owned(),
            version: "v3".to_owned(),
            canonical_service: "web".to_owned(),
            canonical_revision: "v3".to_owned(),
            wants_answer: false,
        }
    }

    #[test]
    fn what_one_says_another_reads_in_both_forms() {
        let own = own();
        assert_eq!(Described::from_header(&own.header), Some(web()));
        let (magic, rest) = own.exchange.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*magic), MAGIC);
        let (length, message) = rest.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, message.len());
        assert_eq!(Described::from_exchange(message), Some(web()));
    }

    /// Made by hand from the definition of the message: `{WORKLOAD_NAME: "a", LABELS: {app: "b"}}`.
    #[test]
    fn istios_words_are_understood() {
        let labels = [&b"\x0a\x0a\x0a\x03app\x12\x03\x1a\x01b"[..]].concat();
        let labels = [&[0x2a, u8::try_from(labels.len()).unwrap()][..], &labels].concat();
        let mut entry = b"\x0a\x06LABELS\x12".to_vec();
        entry.push(u8::try_from(labels.len()).unwrap());
        entry.extend(labels);
        let mut message = b"\x0a\x14\x0a\x0dWORKLOAD_NAME\x12\x03\x1a\x01a\x0a".to_vec();
        message.push(u8::try_from(entry.len()).unwrap());
        message.extend(entry);
        let header = HeaderValue::from_str(&STANDARD.encode(message)).unwrap();
        let described = Described::from_header(&header).unwrap();
        assert_eq!((&*described.name, &*described.app), ("a", "b"));
        assert!(described.wants_answer);
    }

    #[test]
    fn what_is_no_name_is_not_taken_over() {
        for name in ["a\nb", "a b", "\u{1f30a}", &"a".repeat(MAX_TEXT + 1)] {
            let said = structure([("WORKLOAD_NAME", text(name))]);
            assert_eq!(Described::from(&said).name, "", "{name:?}");
        }
        for header in ["", "%", "AAAA", "////"] {
            // Nothing or nobody, never a panic.
            let _ = Described::from_header(&HeaderValue::from_static(header));
        }
    }
}
