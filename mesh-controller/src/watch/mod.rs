//! What is watched in Kubernetes, and what is kept of it.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::{Notify, mpsc, watch};
use weir_config::api::Kind;

mod known;
mod reduce;
mod reflect;
mod request;

use self::reflect::Reflector;
use crate::{metrics::Metrics, store::Change};

/// One kind in the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    pub kind: WatchedKind,
    pub group: &'static str,
    /// The versions that are read, the preferred one first.
    pub versions: &'static [&'static str],
    pub plural: &'static str,
    /// Only objects with these fields are asked for.
    pub field_selector: Option<&'static str>,
}

/// What an object becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchedKind {
    Object(Kind),
    /// Its labels, its service account, and where it is.
    Pod,
    /// Where it is, and its addresses.
    Node,
    /// Its labels.
    Namespace,
}

impl WatchedKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Object(kind) => kind.name(),
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
        }
    }

    /// Of namespaces nothing but the metadata is asked for.
    #[must_use]
    pub fn is_metadata_only(self) -> bool {
        self == Self::Namespace
    }
}

const NETWORKING: &str = "networking.istio.io";
const NETWORKING_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &str = "security.istio.io";
const SECURITY_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// Secrets that are never certificates: releases of Helm and tokens.
const SECRETS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,\
                       type!=bootstrap.kubernetes.io/token,type!=kubernetes.io/dockerconfigjson";
/// Every namespace has these two, and no proxy is told to use them.
const CONFIG_MAPS: &str = "metadata.name!=kube-root-ca.crt,metadata.name!=istio-ca-root-cert";

/// Everything that is watched.
pub const WATCHED: [Watched; 17] = [
    networking(Kind::Gateway, "gateways"),
    networking(Kind::VirtualService, "virtualservices"),
    networking(Kind::DestinationRule, "destinationrules"),
    networking(Kind::ServiceEntry, "serviceentries"),
    networking(Kind::WorkloadEntry, "workloadentries"),
    networking(Kind::Sidecar, "sidecars"),
    security(Kind::PeerAuthentication, "peerauthentications"),
    security(Kind::RequestAuthentication, "requestauthentications"),
    security(Kind::AuthorizationPolicy, "authorizationpolicies"),
    core(WatchedKind::Object(Kind::Service), "services", None),
    Watched {
        kind: WatchedKind::Object(Kind::EndpointSlice),
        group: "discovery.k8s.io",
        versions: &["v1"],
        plural: "endpointslices",
        field_selector: None,
    },
    core(WatchedKind::Object(Kind::Secret), "secrets", Some(SECRETS)),
    core(WatchedKind::Object(Kind::ConfigMap), "configmaps", Some(CONFIG_MAPS)),
    core(WatchedKind::Pod, "pods", None),
    core(WatchedKind::Node, "nodes", None),
    core(WatchedKind::Namespace, "namespaces", None),
    // Not applied, and said so in its status.
    Watched {
        kind: WatchedKind::Object(Kind::EnvoyFilter),
        group: NETWORKING,
        versions: &["v1alpha3"],
        plural: "envoyfilters",
        field_selector: None,
    },
];

const fn networking(kind: Kind, plural: &'static str) -> Watched {
    Watched {
        kind: WatchedKind::Object(kind),
        group: NETWORKING,
        versions: NETWORKING_VERSIONS,
        plural,
        field_selector: None,
    }
}

const fn security(kind: Kind, plural: &'static str) -> Watched {
    Watched {
        kind: WatchedKind::Object(kind),
        group: SECURITY,
        versions: SECURITY_VERSIONS,
        plural,
        field_selector: None,
    }
}

const fn core(
    kind: WatchedKind,
    plural: &'static str,
    field_selector: Option<&'static str>,
) -> Watched {
    Watched { kind, group: "", versions: &["v1"], plural, field_selector }
}

impl Watched {
    /// Where its objects are, in every namespace.
    #[must_use]
    pub fn path(&self, version: &str) -> String {
        let Self { group, plural, .. } = self;
        if group.is_empty() {
            format!("/api/{version}/{plural}")
        } else {
            format!("/apis/{group}/{version}/{plural}")
        }
    }

    /// Whether the API server may not know it: a kind that is not Kubernetes' own.
    fn is_custom(&self) -> bool {
        self.group.ends_with("istio.io")
    }
}

/// How long things take; shorter in tests.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// After the first failure; doubled by each further one.
    pub first_retry: Duration,
    pub longest_retry: Duration,
    /// How long a list that lost too much is not believed.
    pub doubt: Duration,
    /// How often a kind that is not installed is asked for.
    pub not_installed: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(30),
            doubt: Duration::from_secs(120),
            not_installed: Duration::from_secs(5),
        }
    }
}

/// How the first lists stand, of every kind in the order of [`WATCHED`].
pub type Listed = watch::Receiver<[bool; WATCHED.len()]>;

/// Starts the watches. Changes arrive in batches, in the order the API server has them.
pub fn start(
    client: &Client,
    domain: &str,
    timing: Timing,
    metrics: &Arc<Metrics>,
) -> (mpsc::Receiver<Vec<Change>>, Listed) {
    // A batch is a page of a list or a single event: bounded, and enough to never wait in between.
    let (sender, changes) = mpsc::channel(64);
    let (listed, is_listed) = watch::channel([false; WATCHED.len()]);
    let listed = Arc::new(listed);
    let reachable = Arc::new(Notify::new());
    for (index, watched) in WATCHED.iter().enumerate() {
        let reflector = Reflector {
            watched,
            client: client.clone(),
            domain: domain.into(),
            timing,
            metrics: Arc::clone(metrics),
            changes: sender.clone(),
            reachable: Arc::clone(&reachable),
        };
        let listed = Arc::clone(&listed);
        let done = move || {
            listed.send_modify(|listed| listed[index] = true);
        };
        tokio::spawn(reflector.run(done));
    }
    (changes, is_listed)
}
