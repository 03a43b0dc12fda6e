//! What users write: one Rust type per kind, one internal form for all served versions.
//!
//! The types mirror the published schemas field by field, and keep protobuf's convention for "not
//! set": an empty string or list, or `None` where zero and absent mean different things. They say
//! what was written, not what it means: `validate` judges it and `compile` gives it meaning.

use std::{fmt, sync::Arc};

pub mod bytes;
pub mod duration;
pub mod istio;
pub mod kubernetes;
pub mod labels;
pub mod mesh_config;
pub mod number;
pub mod protocol;
pub mod selector;
pub mod string_match;

pub use bytes::{Base64Bytes, SecretBytes, SecretText};
pub use duration::Duration;
pub use labels::{LabelSet, Labels};
pub use mesh_config::MeshConfig;
pub use number::{IntOrString, Percent, PortSelector};
pub use protocol::Protocol;
pub use selector::{LabelSelector, PolicyTargetReference, Selector};
pub use string_match::StringMatch;

use istio::{
    AuthorizationPolicy, DestinationRule, EnvoyFilter, Gateway, PeerAuthentication,
    RequestAuthentication, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
};
use kubernetes::{ConfigMap, EndpointSlice, Endpoints, Namespace, Pod, Secret, Service};

/// One configuration object: who it is, what it asks for, and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub metadata: Metadata,
    pub spec: Spec,
    pub source: Source,
}

impl Object {
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }
}

/// The kind-specific part of an object. For kinds without a `spec` (Secret, ConfigMap,
/// EndpointSlice, Endpoints) it is everything beside `metadata`.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    Gateway(Gateway),
    VirtualService(VirtualService),
    /// Boxed: a traffic policy has ten times the fields of anything else.
    DestinationRule(Box<DestinationRule>),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    /// Boxed, for its connection pools.
    Sidecar(Box<Sidecar>),
    PeerAuthentication(PeerAuthentication),
    RequestAuthentication(RequestAuthentication),
    AuthorizationPolicy(AuthorizationPolicy),
    EnvoyFilter(EnvoyFilter),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Endpoints(Endpoints),
    Secret(Secret),
    ConfigMap(ConfigMap),
    Namespace(Namespace),
    /// With its status, which says where it is.
    Pod(Pod),
}

impl Spec {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Gateway(_) => Kind::Gateway,
            Self::VirtualService(_) => Kind::VirtualService,
            Self::DestinationRule(_) => Kind::DestinationRule,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::WorkloadEntry(_) => Kind::WorkloadEntry,
            Self::Sidecar(_) => Kind::Sidecar,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::RequestAuthentication(_) => Kind::RequestAuthentication,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::EnvoyFilter(_) => Kind::EnvoyFilter,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Secret(_) => Kind::Secret,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
        }
    }
}

/// The part of Kubernetes object metadata that configuration depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    pub name: Arc<str>,
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    pub labels: Labels,
    pub annotations: Labels,
    /// RFC 3339 `creationTimestamp`, when present. Orders objects that claim the same thing; objects
    /// without one sort as if created at the same moment, then by name and namespace.
    pub creation_timestamp: Option<String>,
}

/// Where an object was read: a file and the 1-based line its document starts on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
pub struct Source {
    pub file: Arc<str>,
    pub line: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Identity of an object: its kind (API group is implied by the kind) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The kinds Weir understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Kind {
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    Sidecar,
    PeerAuthentication,
    RequestAuthentication,
    AuthorizationPolicy,
    EnvoyFilter,
    Service,
    EndpointSlice,
    Endpoints,
    Secret,
    ConfigMap,
    Namespace,
    Pod,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Gateway,
        Self::VirtualService,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Sidecar,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::AuthorizationPolicy,
        Self::EnvoyFilter,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::Secret,
        Self::ConfigMap,
        Self::Namespace,
        Self::Pod,
    ];

    /// The kind as written in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Sidecar => "Sidecar",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
        }
    }

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Gateway
            | Self::VirtualService
            | Self::DestinationRule
            | Self::ServiceEntry
            | Self::WorkloadEntry
            | Self::Sidecar
            | Self::EnvoyFilter => "networking.istio.io",
            Self::PeerAuthentication | Self::RequestAuthentication | Self::AuthorizationPolicy => {
                "security.istio.io"
            }
            Self::Service
            | Self::Endpoints
            | Self::Secret
            | Self::ConfigMap
            | Self::Namespace
            | Self::Pod => "",
            Self::EndpointSlice => "discovery.k8s.io",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
