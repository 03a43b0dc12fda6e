//! Weir in a cluster, installed as a user would: three charts.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Cluster, Namespace};
use crate::{binaries, eventually::eventually};

/// Where the controller runs.
pub const SYSTEM: &str = "weir-system";
/// The namespace and the release of the first gateway.
pub const INGRESS: &str = "istio-ingress";
pub const INGRESS_GATEWAY: &str = "istio-ingressgateway";

const HUB: &str = "weir.test";
const TAG: &str = "dev";

impl Cluster {
    /// Installs the controller and one gateway from the programs of this build.
    ///
    /// # Panics
    /// When a chart cannot be installed, or what it installs does not become ready.
    pub async fn install_weir(&self) {
        self.install_weir_with(&[]).await;
    }

    /// The same with these values of the controller's chart.
    pub async fn install_weir_with(&self, values: &[&str]) {
        self.load_weir().await;
        for namespace in [SYSTEM, INGRESS] {
            self.namespace(namespace).await.restrict().await;
        }
        self.helm_install("base", "base", SYSTEM, &[]).await;
        let image = format!("global.hub={HUB},global.tag={TAG},global.imagePullPolicy=Never");
        self.helm_install(
            "controller",
            "weir-controller",
            SYSTEM,
            &[&[&*image, "autoscaleEnabled=false"], values].concat(),
        )
        .await;
        self.install_gateway(INGRESS_GATEWAY, INGRESS, &[]).await;
    }

    /// The images of all programs, with the names that the charts are given.
    pub async fn load_weir(&self) {
        let images: [&'static [&'static str]; 3] =
            [&["weir-controller"], &["weir-gateway"], &["weir-sidecar", "weir-init"]];
        for programs in images {
            self.load_programs(programs).await;
        }
    }

    /// An image of these programs, called as the first of them.
    async fn load_programs(&self, programs: &'static [&'static str]) {
        let built = || programs.iter().map(|program| binaries::built(program)).collect();
        let built: Vec<PathBuf> =
            tokio::task::spawn_blocking(built).await.expect("build the workspace");
        let built: Vec<&Path> = built.iter().map(PathBuf::as_path).collect();
        self.load_image(&format!("{HUB}/{}:{TAG}", programs[0]), &built).await;
    }

    /// Installs the agent of the nodes, with these values of its chart, into the cluster's own namespace.
    pub async fn install_cni(&self, values: &[&str]) {
        self.load_programs(&["weir-cni"]).await;
        let image = format!("hub={HUB},tag={TAG},pullPolicy=Never");
        let values = [&[image.as_str()][..], values].concat();
        self.helm_install("cni", "weir-cni", "kube-system", &values).await;
    }

    /// Installs a gateway; its pods have the labels `app: {release}` and `istio:` without `istio-`.
    pub async fn install_gateway(&self, release: &str, namespace: &str, values: &[&str]) {
        let image = format!("hub={HUB},tag={TAG},imagePullPolicy=Never");
        let fixed = [image.as_str(), "autoscaling.enabled=false"];
        self.helm_install("gateway", release, namespace, &[&fixed[..], values].concat()).await;
    }

    async fn helm_install(&self, chart: &str, release: &str, namespace: &str, values: &[&str]) {
        self.helm(&["--install", "--create-namespace"], chart, release, namespace, values).await;
    }

    /// Changes values of a release, and waits until that is done.
    ///
    /// # Panics
    /// When it is not.
    pub async fn helm_upgrade(&self, chart: &str, release: &str, namespace: &str, values: &[&str]) {
        self.helm(&["--reuse-values"], chart, release, namespace, values).await;
    }

    async fn helm(
        &self,
        how: &[&str],
        chart: &str,
        release: &str,
        namespace: &str,
        values: &[&str],
    ) {
        let path = format!("{}/../charts/{chart}", env!("CARGO_MANIFEST_DIR"));
        let mut args = vec!["upgrade", release, &path, "--namespace", namespace];
        args.extend(["--wait", "--timeout", "180s"]);
        args.extend(how);
        for value in values {
            args.extend(["--set", value]);
        }
        let output = self.try_helm(&args).await;
        if output.status.success() {
            return;
        }
        let logs = ["logs", "--all-containers", "--selector", "app"];
        let namespace = self.existing(namespace);
        panic!(
            "helm {args:?}: {}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            namespace.kubectl(&["describe", "pods"]).await,
            namespace.kubectl(&logs).await
        );
    }

    /// Scales the controller, to none or back to one, and waits until that is so.
    pub async fn scale_controller(&self, replicas: u32) {
        let system = self.existing(SYSTEM);
        let wanted = format!("--replicas={replicas}");
        system.kubectl(&["scale", "deployment/weir-controller", &wanted]).await;
        system.rolled_out("weir-controller").await;
        if replicas > 0 {
            return;
        }
        // One that ends still tells the proxies what it sees.
        eventually("the controller is gone", async || {
            let pods = system.kubectl(&["get", "pods", "--output=name"]).await;
            (!pods.contains("pod/weir-controller-")).then_some(())
        })
        .await;
    }

    /// The webhook's failure policy and authorities.
    pub async fn webhook(&self) -> String {
        let path = "jsonpath={.webhooks[0].failurePolicy} {.webhooks[0].clientConfig.caBundle}";
        let name = "validatingwebhookconfiguration/weir-controller-weir-system";
        self.kubectl(&["get", name, "--output", path]).await
    }

    /// Waits until the API server asks the controller before it takes an object.
    pub async fn asked_first(&self) {
        eventually("the webhook is registered", async || {
            self.webhook().await.starts_with("Fail LS0t").then_some(())
        })
        .await;
    }

    /// A namespace that is there already.
    #[must_use]
    pub fn existing(&self, name: &str) -> Namespace<'_> {
        Namespace { cluster: self, name: name.into() }
    }

    /// Where the first gateway is reached from outside.
    pub async fn ingress(&self, port: u16) -> SocketAddr {
        self.existing(INGRESS).balanced(INGRESS_GATEWAY, port).await
    }
}

impl Namespace<'_> {
    /// Its pods have to satisfy Pod Security's strictest level.
    async fn restrict(&self) {
        let label = "pod-security.kubernetes.io/enforce=restricted";
        self.cluster.kubectl(&["label", "namespace", &self.name, label]).await;
    }

    /// The pods there are, those that are going included.
    pub async fn all_pods(&self) -> Vec<Value> {
        let list = self.kubectl(&["get", "pods", "--output", "json"]).await;
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        list["items"].as_array().expect("a list of pods").clone()
    }
}
