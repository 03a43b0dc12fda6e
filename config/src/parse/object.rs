//! From the tree of a document to the objects in it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    MAX_OBJECT_SIZE, Options, Parsed,
    deserialize::{Finding, Typed, typed},
    kind::{Lookup, lookup},
    value::Value,
};
use crate::api::Object;
use crate::{
    api::{
        Kind, Labels, Metadata, ObjectKey, Source, Spec,
        istio::EnvoyFilter,
        kubernetes::{EndpointSlice, Namespace, Pod},
    },
    diagnostic::{Diagnostic, FieldPath, Severity},
};

/// Reads the object, or the objects of the list, that `document` is.
pub(super) fn read(document: Value, source: &Source, options: &Options, parsed: &mut Parsed) {
    let mut reader = Reader { source, options, parsed };
    reader.document(document, FieldPath::ROOT, None);
}

/// Where the objects of one document go.
struct Reader<'a> {
    source: &'a Source,
    options: &'a Options,
    parsed: &'a mut Parsed,
}

/// The parts every object has, and the rest.
#[derive(Default)]
struct Envelope {
    api_version: Value,
    kind: Value,
    metadata: Value,
    spec: Value,
    status: Value,
    rest: Vec<(String, Value)>,
}

impl Envelope {
    fn open(entries: Vec<(String, Value)>) -> Self {
        let mut envelope = Self::default();
        for (key, value) in entries {
            match key.as_str() {
                "apiVersion" => envelope.api_version = value,
                "kind" => envelope.kind = value,
                "metadata" => envelope.metadata = value,
                "spec" => envelope.spec = value,
                "status" => envelope.status = value,
                _ => envelope.rest.push((key, value)),
            }
        }
        envelope
    }
}

impl Reader<'_> {
    /// `place` is where the object stands in its document: nowhere, or in the items of a list.
    /// `default_kind` is what an item is when it does not say.
    fn document(&mut self, value: Value, place: FieldPath<'_>, default_kind: Option<(&str, &str)>) {
        if value == Value::Null {
            return;
        }
        let Value::Mapping(entries) = value else {
            let message = format!(
                "expected a Kubernetes object, a mapping with apiVersion and kind, found {}",
                value.describe()
            );
            return self.report(Severity::Error, None, place, message);
        };
        let mut envelope = Envelope::open(entries);
        let (default_version, default_kind) = default_kind.unwrap_or_default();
        let api_version = self.text(&envelope.api_version, default_version, place, "apiVersion");
        let kind = self.text(&envelope.kind, default_kind, place, "kind");
        let (Some(api_version), Some(kind)) = (api_version, kind) else { return };
        if let Some(items) = items(&kind, &mut envelope.rest) {
            let item_kind = kind.strip_suffix("List").unwrap_or_default();
            return self.list(items, place, (&api_version, item_kind));
        }
        match lookup(&api_version, &kind) {
            Lookup::Known(kind) => self.object(kind, envelope, place),
            Lookup::Application => {}
            Lookup::NotUsed(why) => self.report(Severity::Warning, None, place, why),
        }
    }

    /// A required string of the envelope.
    fn text(
        &mut self,
        value: &Value,
        default: &str,
        place: FieldPath<'_>,
        name: &str,
    ) -> Option<String> {
        let message = match value {
            Value::String(text) if !text.is_empty() => return Some(text.clone()),
            Value::Null if !default.is_empty() => return Some(default.to_owned()),
            Value::Null | Value::String(_) => {
                format!("{name} is missing; every object needs apiVersion and kind")
            }
            other => format!("expected a string, found {}", other.describe()),
        };
        self.report(Severity::Error, None, place.field(name), message);
        None
    }

    fn list(&mut self, items: Vec<Value>, place: FieldPath<'_>, item_kind: (&str, &str)) {
        let place = place.field("items");
        for (index, item) in items.into_iter().enumerate() {
            self.document(item, place.index(index), Some(item_kind));
        }
    }

    fn object(&mut self, kind: Kind, envelope: Envelope, place: FieldPath<'_>) {
        let Some(metadata) = self.metadata(kind, &envelope.metadata, place) else { return };
        let key =
            ObjectKey { kind, namespace: metadata.namespace.clone(), name: metadata.name.clone() };
        let size = envelope.spec.size()
            + envelope.rest.iter().map(|(_, value)| value.size()).sum::<usize>();
        if size > MAX_OBJECT_SIZE {
            let message = super::too_large(size);
            return self.report(Severity::Error, Some(key), FieldPath::ROOT, message);
        }
        if let Some(spec) = self.spec(kind, envelope, &key) {
            self.parsed.objects.push(Object { metadata, spec, source: self.source.clone() });
        }
    }

    fn metadata(&mut self, kind: Kind, value: &Value, place: FieldPath<'_>) -> Option<Metadata> {
        let place = place.field("metadata");
        let empty = Value::Mapping(Vec::new());
        let value = if *value == Value::Null { &empty } else { value };
        // Fields that are unknown here belong to Kubernetes: managedFields, ownerReferences, ...
        let Typed { value: written, errors, unknown: _ } = typed::<WrittenMetadata>(value, place);
        for Finding { field, message } in errors {
            self.push(Severity::Error, None, field, format!("{kind}: {message}"));
        }
        let written = written?;
        if written.name.is_empty() {
            let message = format!("{kind} needs a name");
            self.report(Severity::Error, None, place.field("name"), message);
            return None;
        }
        Some(written.into_metadata(kind, &self.options.default_namespace))
    }

    fn spec(&mut self, kind: Kind, envelope: Envelope, key: &ObjectKey) -> Option<Spec> {
        match kind {
            Kind::Gateway => self.read_spec(envelope, key).map(Spec::Gateway),
            Kind::VirtualService => self.read_spec(envelope, key).map(Spec::VirtualService),
            Kind::DestinationRule => {
                self.read_spec(envelope, key).map(Box::new).map(Spec::DestinationRule)
            }
            Kind::ServiceEntry => self.read_spec(envelope, key).map(Spec::ServiceEntry),
            Kind::WorkloadEntry => self.read_spec(envelope, key).map(Spec::WorkloadEntry),
            Kind::Sidecar => self.read_spec(envelope, key).map(Box::new).map(Spec::Sidecar),
            Kind::PeerAuthentication => self.read_spec(envelope, key).map(Spec::PeerAuthentication),
            Kind::RequestAuthentication => {
                self.read_spec(envelope, key).map(Spec::RequestAuthentication)
            }
            Kind::AuthorizationPolicy => {
                self.read_spec(envelope, key).map(Spec::AuthorizationPolicy)
            }
            Kind::Service => self.read_spec(envelope, key).map(Spec::Service),
            Kind::EndpointSlice => self.read_body(envelope, key).map(|mut slice: EndpointSlice| {
                slice.share();
                Spec::EndpointSlice(slice)
            }),
            Kind::Endpoints => self.read_body(envelope, key).map(Spec::Endpoints),
            Kind::Secret => self.read_body(envelope, key).map(Spec::Secret),
            Kind::ConfigMap => self.read_body(envelope, key).map(Spec::ConfigMap),
            Kind::Pod => self.read_pod(envelope, key).map(Spec::Pod),
            // What else these hold is not read at all.
            Kind::EnvoyFilter => Some(Spec::EnvoyFilter(EnvoyFilter {})),
            Kind::Namespace => Some(Spec::Namespace(Namespace {})),
        }
    }

    /// For kinds that say what they want in `spec`.
    fn read_spec<T: DeserializeOwned>(&mut self, envelope: Envelope, key: &ObjectKey) -> Option<T> {
        for (name, _) in &envelope.rest {
            let message = "unknown field, it has no effect; did you mean to put it under spec?";
            self.push(Severity::Warning, Some(key.clone()), name.clone(), message.to_owned());
        }
        let spec = match envelope.spec {
            Value::Null => Value::Mapping(Vec::new()),
            spec => spec,
        };
        self.read_value(&spec, FieldPath::ROOT.field("spec"), key)
    }

    /// For kinds whose fields stand beside `metadata`.
    fn read_body<T: DeserializeOwned>(&mut self, envelope: Envelope, key: &ObjectKey) -> Option<T> {
        let mut body = envelope.rest;
        if envelope.spec != Value::Null {
            body.push(("spec".to_owned(), envelope.spec));
        }
        self.read_value(&Value::Mapping(body), FieldPath::ROOT, key)
    }

    /// The one kind whose status is about traffic; that of others is written by controllers, and read
    /// by people.
    fn read_pod(&mut self, mut envelope: Envelope, key: &ObjectKey) -> Option<Pod> {
        let status = std::mem::take(&mut envelope.status);
        if status != Value::Null {
            envelope.rest.push(("status".to_owned(), status));
        }
        self.read_body(envelope, key)
    }

    fn read_value<T: DeserializeOwned>(
        &mut self,
        value: &Value,
        path: FieldPath<'_>,
        key: &ObjectKey,
    ) -> Option<T> {
        let Typed { value, errors, unknown } = typed(value, path);
        for Finding { field, message } in errors {
            self.push(Severity::Error, Some(key.clone()), field, message);
        }
        for Finding { field, message } in unknown {
            if !key.kind.ignores(&field) {
                self.push(Severity::Warning, Some(key.clone()), field, message);
            }
        }
        value
    }

    fn report(
        &mut self,
        severity: Severity,
        object: Option<ObjectKey>,
        place: FieldPath<'_>,
        message: String,
    ) {
        self.push(severity, object, place.to_string(), message);
    }

    fn push(
        &mut self,
        severity: Severity,
        object: Option<ObjectKey>,
        field: String,
        message: String,
    ) {
        let source = self.source.clone();
        self.parsed.diagnostics.push(Diagnostic { severity, object, source, field, message });
    }
}

impl Kind {
    /// Fields of Kubernetes' own kinds that are about other things than traffic.
    fn ignores(self, field: &str) -> bool {
        let fields: &[&str] = match self {
            Self::Service => SERVICE_FIELDS_NOT_READ,
            Self::EndpointSlice | Self::Endpoints => ENDPOINT_FIELDS_NOT_READ,
            // Nearly all of them.
            Self::Pod => return true,
            _ => return false,
        };
        let name = field.rsplit('.').next().unwrap_or(field);
        fields.contains(&name)
    }
}

const SERVICE_FIELDS_NOT_READ: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinity",
    "sessionAffinityConfig",
];

const ENDPOINT_FIELDS_NOT_READ: &[&str] = &[
    "apiVersion",
    "deprecatedTopology",
    "fieldPath",
    "hints",
    "hostname",
    "nodeName",
    "resourceVersion",
    "uid",
];

/// The items of a `List` or `GatewayList`.
fn items(kind: &str, rest: &mut Vec<(String, Value)>) -> Option<Vec<Value>> {
    if !kind.ends_with("List") {
        return None;
    }
    let at = rest.iter().position(|(key, _)| key == "items")?;
    match rest.swap_remove(at).1 {
        Value::Sequence(items) => Some(items),
        Value::Null => Some(Vec::new()),
        other => Some(vec![other]),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMetadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, Option<String>>,
    annotations: BTreeMap<String, Option<String>>,
    creation_timestamp: Option<String>,
}

impl WrittenMetadata {
    fn into_metadata(self, kind: Kind, default_namespace: &str) -> Metadata {
        let namespace: Arc<str> = match (kind, self.namespace) {
            (Kind::Namespace, _) => "".into(),
            (_, none) if none.is_empty() => default_namespace.into(),
            (_, namespace) => namespace.into(),
        };
        Metadata {
            name: self.name.into(),
            namespace,
            labels: without_null(self.labels),
            annotations: without_null(self.annotations),
            creation_timestamp: self.creation_timestamp,
        }
    }
}

/// Kubernetes reads a label or annotation that is null as an empty one.
fn without_null(map: BTreeMap<String, Option<String>>) -> Labels {
    let present = map.into_iter().map(|(key, value)| (key, value.unwrap_or_default()));
    present.collect::<BTreeMap<_, _>>().into()
}
