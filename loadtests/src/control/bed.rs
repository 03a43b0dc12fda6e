//! The API server of a case: a cluster's, of its own or one that is there.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use weir_tests::cluster::{Cluster, bed};

use super::{api::ApiServer, objects, until};

/// Objects written at once.
const WRITERS: usize = 32;

/// A list of all objects is not asked for more often.
const SETTLING: Duration = Duration::from_secs(2);

/// Of all proxies.
pub const SERVICE_ACCOUNT: &str = "proxy";

/// An API server with the kinds, and a namespace for everything of the case.
pub struct Bed {
    pub kubeconfig: PathBuf,
    pub namespace: String,
    api: ApiServer,
    /// Ends with the case.
    cluster: Option<Cluster>,
}

impl Bed {
    /// Brings a cluster up, unless one is given.
    pub async fn start(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let name = format!("loadtests-{}", std::process::id());
        let (kubeconfig, cluster) = match kubeconfig {
            Some(path) => (path.to_owned(), None),
            None => {
                let cluster = Cluster::up(&name, 1)?;
                (cluster.kubeconfig().to_owned(), Some(cluster))
            }
        };
        install_kinds(&kubeconfig)?;
        let api = ApiServer::connect(&kubeconfig).await?;
        let namespace = format!("{name}-{:04x}", fastrand::u16(..));
        let bed = Self { kubeconfig, namespace, api, cluster };
        bed.write(&objects::namespace(&bed.namespace)).await?;
        bed.write(&objects::service_account(&bed.namespace, SERVICE_ACCOUNT)).await?;
        Ok(bed)
    }

    /// Creates an object; when the API server had accepted it.
    pub async fn write(&self, object: &Value) -> anyhow::Result<Instant> {
        self.api.post(&objects::collection(object)?, object).await?;
        Ok(Instant::now())
    }

    /// Replaces what is named by `patch` in an object; when the API server had accepted it.
    pub async fn patch(&self, object: &Value, patch: &Value) -> anyhow::Result<Instant> {
        self.api.merge(&objects::path(object)?, patch).await?;
        Ok(Instant::now())
    }

    /// Creates many.
    pub async fn write_all(&self, objects: impl Iterator<Item = Value>) -> anyhow::Result<()> {
        stream::iter(objects)
            .map(|object| async move { self.write(&object).await.map(drop) })
            .buffer_unordered(WRITERS)
            .try_collect()
            .await
    }

    /// Tokens of as many proxies.
    pub async fn tokens(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let tokens = stream::iter(0..count).map(|_| self.token());
        tokens.buffer_unordered(WRITERS).try_collect().await
    }

    async fn token(&self) -> anyhow::Result<String> {
        let Self { namespace, .. } = self;
        let path =
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{SERVICE_ACCOUNT}/token");
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["istio-ca"], "expirationSeconds": 7200}});
        let answer = self.api.post(&path, &asked).await?;
        let token = answer["status"]["token"].as_str();
        Ok(token.context("the API server gave no token")?.to_owned())
    }

    /// The roots that the controller publishes, once it has.
    pub async fn root(&self) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{}/configmaps/istio-ca-root-cert", self.namespace);
        until("the controller publishes its root", async || {
            let found = self.api.get(&path).await?.unwrap_or_default();
            Ok(found["data"]["root-cert.pem"].as_str().map(str::to_owned))
        })
        .await
    }

    /// Waits until each object of the kind of `example` has its status: what the controller writes after
    /// many objects were created is over then.
    pub async fn has_all_status(&self, example: &Value) -> anyhow::Result<()> {
        let path = objects::collection(example)?;
        until("every object has its status", async || {
            tokio::time::sleep(SETTLING).await;
            let found = self.api.get(&path).await?.context("the kind is there")?;
            let mut items = found["items"].as_array().into_iter().flatten();
            Ok(items.all(|item| item["status"]["conditions"].is_array()).then_some(()))
        })
        .await
    }

    /// Leaves nothing behind.
    pub async fn end(self) -> anyhow::Result<()> {
        if let Some(cluster) = &self.cluster {
            return cluster.down();
        }
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        self.api.delete(&path).await?;
        until("the namespace is gone", async || {
            Ok(self.api.get(&path).await?.is_none().then_some(()))
        })
        .await
    }
}

/// The chart `base`, as a user would.
fn install_kinds(kubeconfig: &Path) -> anyhow::Result<()> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/base");
    let output = Command::new(bed::program()?.join("weir-cluster"))
        .args(["helm", "upgrade", "--install", "base", chart])
        .args(["--namespace", "weir-system", "--create-namespace", "--wait"])
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .output()
        .context("run weir-cluster")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm upgrade base: {}\n{told}", output.status);
    Ok(())
}
