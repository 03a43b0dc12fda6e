//! Pods of this node, as the API server has them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, Client, Config,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    decide::decide,
    health::{Health, Part},
};
use crate::question::{Answer, Question};

/// For one answer of the API server. The plugin waits for ours a little longer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a watch goes on.
const WATCH_SECONDS: u32 = 290;
/// Longer than a watch without news.
const SILENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_secs(1);
/// A static pod's is what the kubelet calls it by, not the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The way to the API server.
pub struct ApiServer {
    client: Mutex<Client>,
    node: String,
}

/// A pod whose rules are programmed from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirected {
    pub namespace: String,
    pub name: String,
    pub arguments: Vec<String>,
}

/// Those of this node, by uid.
pub type Pods = BTreeMap<String, Redirected>;

impl ApiServer {
    /// # Errors
    /// The pod's service account is missing.
    pub fn connect(node: String) -> anyhow::Result<Self> {
        Ok(Self { client: Mutex::new(client()?), node })
    }

    fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The API server's authorities are read once by a client, and may be others by now.
    fn renew(&self) {
        if let Ok(client) = client() {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        }
    }

    /// What is to be done about the pod that a runtime starts.
    pub async fn ask(&self, question: &Question) -> Answer {
        let api: Api<Pod> = Api::namespaced(self.client(), &question.namespace);
        let pod = match timeout(LIMIT, api.get_opt(&question.name)).await {
            Err(_) => return Answer::Unknown(format!("no answer of the API server in {LIMIT:?}")),
            Ok(Err(error)) => return Answer::Unknown(format!("ask the API server: {error}")),
            Ok(Ok(None)) => return Answer::Refuse("the API server does not know the pod".into()),
            Ok(Ok(Some(pod))) => pod,
        };
        let mirrored = pod.metadata.annotations.iter().flatten();
        let mut uids = mirrored.filter(|(name, _)| *name == MIRROR).map(|(_, uid)| uid);
        let is_it = pod.metadata.uid.as_ref() == Some(&question.uid)
            || uids.any(|uid| *uid == question.uid);
        match is_it || question.uid.is_empty() {
            true => decide(&pod),
            false => Answer::Refuse("another pod has its name by now".into()),
        }
    }

    /// Whether a DaemonSet is there to stay. An error says nothing about it.
    pub async fn is_to_stay(&self, namespace: &str, name: &str) -> anyhow::Result<bool> {
        let api: Api<DaemonSet> = Api::namespaced(self.client(), namespace);
        let found = timeout(LIMIT, api.get_opt(name)).await.context("no answer")?;
        match found {
            Ok(set) => Ok(set.is_some_and(|set| set.metadata.deletion_timestamp.is_none())),
            // With the DaemonSet go the rights to see it.
            Err(kube::Error::Api(status)) if [401, 403].contains(&status.code) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Until it breaks off.
    async fn watch(&self, pods: &watch::Sender<Pods>, health: &Health) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::all(self.client());
        let of_node = format!("spec.nodeName={}", self.node);
        // What the API server has in its cache is recent enough.
        let list = ListParams::default().fields(&of_node).match_any();
        let list = timeout(LIMIT, api.list(&list)).await.context("list pods: no answer")?;
        let list = list.context("list pods")?;
        let known: Pods = list.items.iter().filter_map(redirected).collect();
        pods.send_replace(known);
        health.set(Part::ApiServer, &Ok(()));

        let version = list.metadata.resource_version.unwrap_or_default();
        let parameters = WatchParams::default().fields(&of_node).timeout(WATCH_SECONDS);
        let events = api.watch(&parameters, &version).await.context("watch pods")?;
        let mut events = std::pin::pin!(events);
        while let Some(event) =
            timeout(SILENCE, events.try_next()).await.context("watch pods")??
        {
            match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => match redirected(&pod) {
                    Some((uid, it)) => change(pods, |pods| pods.insert(uid, it)),
                    None => forget(pods, &pod),
                },
                WatchEvent::Deleted(pod) => forget(pods, &pod),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => bail!("watch pods: {}", status.message),
            }
        }
        Ok(())
    }
}

fn client() -> anyhow::Result<Client> {
    let mut config = Config::incluster().context("use the pod's service account")?;
    // Whoever asks has a pause of his own.
    config.default_retry = false;
    config.connect_timeout = Some(LIMIT);
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).context("set up the Kubernetes client")
}

/// Follows the pods of this node, for as long as the process runs.
pub fn follow(api: Arc<ApiServer>, health: Arc<Health>) -> watch::Receiver<Pods> {
    let (pods, known) = watch::channel(Pods::new());
    tokio::spawn(async move {
        loop {
            if let Err(error) = api.watch(&pods, &health).await {
                health.set(Part::ApiServer, &Err(error));
                api.renew();
            }
            sleep(PAUSE).await;
        }
    });
    known
}

fn change<R>(pods: &watch::Sender<Pods>, how: impl FnOnce(&mut Pods) -> R) {
    pods.send_modify(|pods| drop(how(pods)));
}

fn forget(pods: &watch::Sender<Pods>, pod: &Pod) {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    pods.send_if_modified(|pods| pods.remove(uid).is_some());
}

/// A pod that runs, or will, with rules from the node.
fn redirected(pod: &Pod) -> Option<(String, Redirected)> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let Answer::Program(arguments) = decide(pod) else { return None };
    let metadata = &pod.metadata;
    let (namespace, name) = (metadata.namespace.clone()?, metadata.name.clone()?);
    Some((metadata.uid.clone()?, Redirected { namespace, name, arguments }))
}
