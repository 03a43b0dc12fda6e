//! The cluster a command is about: its API server, and through it the pages of its pods.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::Method;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::Value;
use tokio::time::timeout;

use super::{args::Target, page};
use crate::watch::Watched;

/// The label of the controller's pods.
const CONTROLLER: &str = "app=weir-controller";
/// Of the controller's debug pages.
const MONITORING: u16 = 15014;
/// Whoever waits for a command does not wait for minutes.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the reason of a failed connection is waited for; it follows right away or never.
const REASON: Duration = Duration::from_secs(1);
/// Objects of one answer of the API server.
const PAGE: u32 = 500;

/// A cluster that can be asked.
pub struct Cluster {
    client: Client,
    /// The one the command is about.
    pub namespace: String,
    /// The controller's.
    pub system: String,
}

/// A pod's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    pub name: String,
    pub namespace: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl PodName {
    fn of(pod: &Pod) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self { name: text(&pod.metadata.name), namespace: text(&pod.metadata.namespace) }
    }
}

/// What a kind has in the cluster.
pub enum Listed {
    Objects(Vec<Value>),
    /// The user may not list it.
    Forbidden,
}

impl Cluster {
    /// Reads how the API server is reached; it is not asked yet.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn connect(target: &Target) -> anyhow::Result<Self> {
        let mut config = config(target).await?;
        config.connect_timeout = Some(CONNECT);
        // It would go on for minutes, and say nothing.
        config.default_retry = false;
        let namespace = target.namespace.clone();
        Ok(Self {
            namespace: namespace.unwrap_or_else(|| config.default_namespace.clone()),
            system: target.system.clone(),
            client: Client::try_from(config).context("set up the Kubernetes client")?,
        })
    }

    /// The controller's pods that run.
    ///
    /// # Errors
    /// The API server does not answer, or there are none.
    pub async fn controllers(&self) -> anyhow::Result<Vec<PodName>> {
        let system = &self.system;
        let pods = self.running(system, CONTROLLER).await?;
        if pods.is_empty() {
            bail!(
                "no controller runs in namespace {system} (pods with the label {CONTROLLER}); name \
                 its namespace with --istioNamespace"
            );
        }
        Ok(pods)
    }

    /// What is in a ConfigMap of the controller's namespace.
    ///
    /// # Errors
    /// It is not there, or the API server does not answer.
    pub async fn config_map(&self, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.system);
        Ok(maps.get(name).await?.data.unwrap_or_default())
    }

    /// A debug page of a controller.
    ///
    /// # Errors
    /// The pod cannot be reached.
    pub async fn controller_page(&self, pod: &PodName, path: &str) -> anyhow::Result<String> {
        self.page(pod, MONITORING, Method::GET, path).await
    }

    /// The pod that `[pod/]name[.namespace]` or `deployment/name[.namespace]` means.
    ///
    /// # Errors
    /// There is none.
    pub async fn pod(&self, text: &str) -> anyhow::Result<PodName> {
        let (kind, name, namespace) = parse_name(text)?;
        let namespace = namespace.unwrap_or(&self.namespace);
        if kind == NamedKind::Pod {
            return Ok(PodName { name: name.to_owned(), namespace: namespace.to_owned() });
        }
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let deployment = deployments.get(name).await;
        let deployment =
            deployment.with_context(|| format!("look up Deployment {namespace}/{name}"))?;
        let selector = deployment.spec.and_then(|spec| spec.selector.match_labels);
        let labels: Vec<String> = selector
            .unwrap_or_default()
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let pods = self.running(namespace, &labels.join(",")).await?;
        let first = pods.into_iter().next();
        first.with_context(|| format!("no pod of Deployment {namespace}/{name} runs"))
    }

    /// A page that is on loopback of a pod.
    ///
    /// # Errors
    /// The pod cannot be reached, or does not listen there.
    pub async fn page(
        &self,
        pod: &PodName,
        port: u16,
        method: Method,
        path: &str,
    ) -> anyhow::Result<String> {
        let PodName { name, namespace } = pod;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let forwarded = pods.portforward(name, &[port]).await;
        let mut forwarded = forwarded.with_context(|| {
            format!(
                "forward port {port} of pod {namespace}/{name}; it takes the permission to create \
                 pods/portforward, and a name.namespace if the pod is not in {}",
                self.namespace
            )
        })?;
        let reason = forwarded.take_error(port);
        let stream = forwarded.take_stream(port).context("the port is forwarded once")?;
        let error = match page::ask(stream, method, path).await {
            Ok(page) => return Ok(page),
            Err(error) => error,
        };
        // What the kubelet says of it is better than that a stream has ended.
        let told = match reason {
            Some(reason) => timeout(REASON, reason).await.ok().flatten(),
            None => None,
        };
        let error = told.map_or(error, |told| anyhow::Error::msg(told.trim().to_owned()));
        Err(error.context(format!("ask {path} on port {port} of pod {namespace}/{name}")))
    }

    /// All objects of a kind, in every namespace. A kind that is not installed has none.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn list(&self, kind: &Watched) -> anyhow::Result<Listed> {
        let what = || format!("list {}", kind.plural);
        for version in kind.versions {
            match self.list_version(kind, version).await {
                Ok(objects) => return Ok(Listed::Objects(objects)),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Ok(Listed::Forbidden);
                }
                Err(error) => return Err(error).with_context(what),
            }
        }
        Ok(Listed::Objects(Vec::new()))
    }

    async fn list_version(&self, kind: &Watched, version: &str) -> kube::Result<Vec<Value>> {
        let group = kind.group;
        let api_version =
            if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let mut objects = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        if let Some(fields) = kind.field_selector {
            params = params.fields(fields);
        }
        loop {
            let request = Request::new(kind.path(version));
            let request = if kind.kind.is_metadata_only() {
                request.list_metadata(&params)
            } else {
                request.list(&params)
            };
            let mut list: Value =
                self.client.request(request.map_err(kube::Error::BuildRequest)?).await?;
            if let Value::Array(items) = list["items"].take() {
                objects.extend(items.into_iter().map(|mut item| {
                    // Items of a list do not say what they are.
                    item["apiVersion"] = api_version.as_str().into();
                    item["kind"] = kind.kind.name().into();
                    item
                }));
            }
            match list["metadata"]["continue"].as_str() {
                None | Some("") => return Ok(objects),
                Some(next) => params = params.continue_token(next),
            }
        }
    }

    /// Pods with these labels that run and are not about to end.
    async fn running(&self, namespace: &str, labels: &str) -> anyhow::Result<Vec<PodName>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let list = pods.list(&ListParams::default().labels(labels)).await;
        let list = list.with_context(|| format!("list the pods of namespace {namespace}"))?;
        let runs = |pod: &&Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
        };
        let mut names: Vec<PodName> = list.items.iter().filter(runs).map(PodName::of).collect();
        names.sort();
        Ok(names)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum NamedKind {
    Pod,
    Deployment,
}

fn parse_name(text: &str) -> anyhow::Result<(NamedKind, &str, Option<&str>)> {
    let (kind, rest) = text.split_once('/').unwrap_or(("pod", text));
    let kind = match kind {
        "pod" | "pods" | "po" => NamedKind::Pod,
        "deployment" | "deployments" | "deploy" => NamedKind::Deployment,
        _ => bail!("{text}: a proxy is [pod/]name[.namespace] or deployment/name[.namespace]"),
    };
    let (name, namespace) = match rest.rsplit_once('.') {
        Some((name, namespace)) => (name, Some(namespace)),
        None => (rest, None),
    };
    if name.is_empty() || namespace == Some("") {
        bail!("{text}: a proxy is [pod/]name[.namespace] or deployment/name[.namespace]");
    }
    Ok((kind, name, namespace))
}

async fn config(target: &Target) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { context: target.context.clone(), cluster: None, user: None };
    if let Some(path) = &target.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path)
            .with_context(|| format!("read --kubeconfig {}", path.display()))?;
        return Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("use --kubeconfig {}", path.display()));
    }
    match Config::from_kubeconfig(&options).await {
        Ok(config) => Ok(config),
        Err(error) => Config::incluster().map_err(|_not_in_a_pod| {
            // Its text has that of its cause in it.
            anyhow!("find a cluster: {error}; name a file with --kubeconfig or set KUBECONFIG")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_with_or_without_kind_and_namespace() {
        for (text, expected) in [
            ("gw-7d", (NamedKind::Pod, "gw-7d", None)),
            ("gw-7d.edge", (NamedKind::Pod, "gw-7d", Some("edge"))),
            ("pod/gw", (NamedKind::Pod, "gw", None)),
            ("deployment/gw.edge", (NamedKind::Deployment, "gw", Some("edge"))),
        ] {
            assert_eq!(parse_name(text).unwrap(), expected, "{text}");
        }
        for wrong in ["", ".edge", "gw.", "job/gw", "pod/"] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
    }
}
