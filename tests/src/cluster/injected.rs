//! Namespaces whose pods get a sidecar, and what is asked of and through those.

use std::net::{IpAddr, SocketAddr};

use super::{Cluster, Namespace, app};
use crate::{
    client::{
        curl::curl,
        http::{Reply, Request},
    },
    cluster::shop::ask,
    eventually::eventually,
};

/// Port of the application in its pods.
pub const APP_PORT: u16 = 8080;

impl Cluster {
    /// A namespace that asks for sidecars, with these applications, each of a service account that has
    /// its name.
    pub async fn injected(&self, name: &str, apps: &[&str]) -> Namespace<'_> {
        let namespace = self.asking_for_sidecars(name).await;
        for app in apps {
            namespace.apply(&manifest(app, "v1", 1)).await;
        }
        for app in apps {
            namespace.rolled_out(&format!("{app}-v1")).await;
        }
        namespace
    }

    /// A namespace that asks for sidecars, empty, once the API server knows whom to ask.
    pub async fn asking_for_sidecars(&self, name: &str) -> Namespace<'_> {
        self.installed().await;
        let webhook = "mutatingwebhookconfiguration/weir-controller-weir-system";
        let authority = "jsonpath={.webhooks[*].clientConfig.caBundle}";
        eventually("the injector is registered", async || {
            let known = self.kubectl(&["get", webhook, "--output", authority]).await;
            known.starts_with("LS0t").then_some(())
        })
        .await;
        let namespace = self.namespace(name).await;
        self.kubectl(&["label", "namespace", name, "istio-injection=enabled"]).await;
        namespace
    }
}

/// [`app::manifest`] with a service account that has the application's name.
#[must_use]
pub fn manifest(name: &str, version: &str, replicas: u32) -> String {
    let account =
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: {name} }}\n---");
    let pod = "    spec:\n      securityContext:";
    let with_account =
        format!("    spec:\n      serviceAccountName: {name}\n      securityContext:");
    account + &app::manifest(name, version, replicas).replace(pod, &with_account)
}

/// What somebody was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 0: there was none.
    pub status: u16,
    pub body: String,
}

impl Namespace<'_> {
    /// The first pod of an application.
    ///
    /// # Panics
    /// It has none.
    pub async fn pod(&self, app: &str) -> String {
        self.pods(app).await.into_iter().next().expect("the application has a pod")
    }

    /// The address of a pod of an application.
    ///
    /// # Panics
    /// It has none.
    pub async fn pod_ip(&self, app: &str) -> IpAddr {
        let pod = self.get(&format!("pod/{}", self.pod(app).await)).await;
        let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
        ip.expect("a pod that runs has an address")
    }

    /// Asks from the application's container, through the pod's sidecar.
    pub async fn ask_from(&self, app: &str, arguments: &[&str]) -> Answer {
        let pod = self.pod(app).await;
        let fixed = ["--namespace", self.name(), "exec", &pod, "--container=app", "--"];
        let curl = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}"];
        let output = self.cluster.try_kubectl(&[&fixed[..], &curl, arguments].concat(), "").await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or((&text, "0"));
        Answer { status: status.trim().parse().unwrap_or_default(), body: body.to_owned() }
    }

    /// The answer to the application's question, once it is a good one.
    pub async fn served_to(&self, app: &str, arguments: &[&str]) -> Answer {
        eventually(&format!("{app} is served {arguments:?}"), async || {
            let answer = self.ask_from(app, arguments).await;
            (answer.status == 200).then_some(answer)
        })
        .await
    }

    /// Asks the pod of an application from the host, which is in no mesh.
    pub async fn ask_plainly(&self, app: &str, port: u16, request: &Request) -> Option<Reply> {
        ask(SocketAddr::new(self.pod_ip(app).await, port), request).await.ok()
    }

    /// The lines of a pod's metrics that have all of `labels`.
    pub async fn metrics(&self, app: &str, labels: &[&str]) -> Vec<String> {
        let url = format!("http://{}:15020/stats/prometheus", self.pod_ip(app).await);
        let answer = curl(&[&url]).await;
        let lines = answer.body.lines().filter(|line| labels.iter().all(|it| line.contains(it)));
        lines.map(str::to_owned).collect()
    }
}
