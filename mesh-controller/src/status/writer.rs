//! Writes conditions: one replica, one object after another, and only what is not there yet.
//!
//! It goes by the state, not by events: an object that was touched is compared with what its status
//! says, so a controller that starts rewrites nothing, and a write that failed is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use weir_config::{
    api::{Kind, ObjectKey},
    wire::resource::ResourceName,
};

use super::conditions::{Judgement, Known, desired};
use crate::{
    discovery::{
        Proxies, Rejected,
        push::{State, Writer},
    },
    leader::Leadership,
    metrics::Metrics,
    store::{Dirty, Written},
    watch::{WATCHED, WatchedKind},
};

/// Who owns the fields.
const MANAGER: &str = "weir-controller";
/// The time between two writes: what the API server is asked for at most, and the time in which
/// changes of one object become one write.
const INTERVAL: Duration = Duration::from_millis(50);
/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Kinds with a status of ours.
const KINDS: [Kind; 10] = [
    Kind::Gateway,
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::Sidecar,
    Kind::PeerAuthentication,
    Kind::RequestAuthentication,
    Kind::AuthorizationPolicy,
    Kind::EnvoyFilter,
];

/// What it needs of the others.
pub struct Parts {
    pub client: Client,
    pub writer: Writer,
    pub proxies: Arc<Proxies>,
    pub metrics: Arc<Metrics>,
    pub touched: mpsc::UnboundedReceiver<Dirty>,
    pub leadership: Leadership,
}

/// Starts to write, whenever this replica leads.
pub fn start(parts: Parts) {
    let Parts { client, writer, proxies, metrics, touched, leadership } = parts;
    let rejections = proxies.watch_rejections();
    let statuses = Statuses {
        client,
        writer,
        proxies,
        metrics,
        pending: BTreeSet::new(),
        rejected: BTreeMap::new(),
    };
    tokio::spawn(statuses.run(touched, leadership, rejections));
}

struct Statuses {
    client: Client,
    writer: Writer,
    proxies: Arc<Proxies>,
    metrics: Arc<Metrics>,
    /// Objects to be looked at.
    pending: BTreeSet<ObjectKey>,
    /// What proxies did not apply, by object.
    rejected: BTreeMap<ObjectKey, Vec<String>>,
}

/// A status to be written.
struct Write {
    api_version: String,
    status: Written,
}

impl Statuses {
    async fn run(
        mut self,
        mut touched: mpsc::UnboundedReceiver<Dirty>,
        mut leadership: Leadership,
        mut rejections: watch::Receiver<u64>,
    ) {
        let mut next = tokio::time::Instant::now();
        loop {
            let leads = leadership.leads();
            let has_work = leads && !self.pending.is_empty();
            tokio::select! {
                dirty = touched.recv() => {
                    let Some(dirty) = dirty else { return };
                    // Whoever leads later looks at everything anyway.
                    if leads {
                        let keys = dirty.objects.into_iter().chain(dirty.claims);
                        self.pending.extend(keys.filter(|key| KINDS.contains(&key.kind)));
                        if dirty.mesh {
                            self.look_at_everything().await;
                        }
                    }
                }
                result = leadership.changed() => {
                    if result.is_err() {
                        return;
                    }
                    self.pending.clear();
                    if leadership.leads() {
                        self.look_at_everything().await;
                    }
                }
                result = rejections.changed() => {
                    if result.is_err() {
                        return;
                    }
                    self.follow_rejections();
                }
                () = tokio::time::sleep_until(next), if has_work => {
                    next = tokio::time::Instant::now() + self.write_one(&leadership).await;
                }
            }
        }
    }

    async fn look_at_everything(&mut self) {
        self.follow_rejections();
        let keys = self.writer.visit(|state| {
            let entries = state.store.entries().map(|entry| entry.key.clone());
            let unreadable = state.store.unreadable().map(|(key, _)| key.clone());
            let keys = entries.chain(unreadable);
            keys.filter(|key| KINDS.contains(&key.kind)).collect::<BTreeSet<_>>()
        });
        self.pending.extend(keys.await.unwrap_or_default());
    }

    /// Looks again at what is no longer rejected, or newly.
    fn follow_rejections(&mut self) {
        let mut rejected: BTreeMap<ObjectKey, Vec<String>> = BTreeMap::new();
        for Rejected { resource, message } in self.proxies.rejected() {
            if let Some(key) = key_of(&resource) {
                rejected.entry(key).or_default().push(message);
            }
        }
        let before = std::mem::replace(&mut self.rejected, rejected);
        self.pending.extend(before.into_keys());
        self.pending.extend(self.rejected.keys().cloned());
    }

    /// Returns how long to wait before the next one.
    async fn write_one(&mut self, leadership: &Leadership) -> Duration {
        let Some(key) = self.pending.pop_first() else { return INTERVAL };
        let rejections = self.rejected.get(&key).cloned().unwrap_or_default();
        let wanted = key.clone();
        let write = self.writer.visit(move |state| write_for(state, &wanted, &rejections)).await;
        let Some(Some(write)) = write else { return Duration::ZERO };
        // Looked at as late as can be: another replica may lead by now.
        if !leadership.is_held() {
            self.pending.insert(key);
            return PAUSE;
        }
        match self.write(&key, &write).await {
            Ok(()) => {
                self.metrics.status_writes.with_label_values(&["ok"]).inc();
                INTERVAL
            }
            Err(error) => {
                self.metrics.status_writes.with_label_values(&["error"]).inc();
                if is_gone(&error) {
                    debug!(object = %key, "has no status: {error:#}");
                    return INTERVAL;
                }
                warn!(object = %key, "the status cannot be written: {error:#}");
                self.pending.insert(key);
                PAUSE
            }
        }
    }

    async fn write(&self, key: &ObjectKey, write: &Write) -> anyhow::Result<()> {
        let watched = WATCHED.iter().find(|watched| watched.kind == WatchedKind::Object(key.kind));
        let watched = watched.context("a kind that is watched")?;
        let version = write.api_version.rsplit('/').next().unwrap_or_default();
        let resource = ApiResource {
            group: watched.group.to_owned(),
            version: version.to_owned(),
            api_version: write.api_version.clone(),
            kind: key.kind.name().to_owned(),
            plural: watched.plural.to_owned(),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let patch = json!({
            "apiVersion": write.api_version,
            "kind": key.kind.name(),
            "metadata": { "name": &*key.name, "namespace": &*key.namespace },
            "status": {
                "observedGeneration": write.status.observed_generation,
                "conditions": &*write.status.conditions,
            },
        });
        let params = PatchParams::apply(MANAGER).force();
        api.patch_status(&key.name, &params, &Patch::Apply(&patch)).await?;
        Ok(())
    }
}

/// What is to be written for an object; `None` if it is there already.
fn write_for(state: &State, key: &ObjectKey, rejections: &[String]) -> Option<Write> {
    let entry = state.store.find(key);
    let takeover = entry.and_then(|entry| state.store.takeover(entry));
    let findings: Vec<_> =
        entry.iter().flat_map(|entry| &entry.findings).chain(&takeover).cloned().collect();
    let (generation, judgement, written) = match (state.store.find_unreadable(key), entry) {
        (Some(refused), _) => {
            (refused.generation, Judgement::Unreadable(&refused.reason), &refused.written)
        }
        (None, Some(entry)) if key.kind == Kind::EnvoyFilter => {
            (entry.generation, Judgement::NotApplied, &entry.written)
        }
        (None, Some(entry)) => (entry.generation, Judgement::Read(&findings), &entry.written),
        (None, None) => return None,
    };
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = desired(Known { generation, judgement, rejections }, written, &now);
    let api_version = entry.and_then(|entry| {
        let object = entry.object();
        object.get("apiVersion").and_then(Value::as_str).map(str::to_owned)
    });
    let api_version = api_version.unwrap_or_else(|| format!("{}/v1", key.kind.group()));
    (status != *written).then_some(Write { api_version, status })
}

/// The object a resource is of.
fn key_of(resource: &str) -> Option<ObjectKey> {
    let name: ResourceName = resource.parse().ok()?;
    let kind =
        KINDS.into_iter().find(|kind| kind.name() == name.kind && kind.group() == name.group)?;
    Some(ObjectKey { kind, namespace: name.namespace.into(), name: name.name.into() })
}

/// The object, or its status, is not there (any more).
fn is_gone(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<kube::Error>();
    matches!(status, Some(kube::Error::Api(status)) if status.code == 404)
}
