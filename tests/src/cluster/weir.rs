//! Weir in a cluster, installed as a user would: three charts.

use std::net::SocketAddr;

use super::{Cluster, Namespace};
use crate::binaries;

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
        for program in ["weir-controller", "weir-gateway"] {
            let image = format!("{HUB}/{program}:{TAG}");
            self.load_image(&image, &[&binaries::built(program)]).await;
        }
        self.helm_install("base", "base", SYSTEM, &[]).await;
        let image = format!("global.hub={HUB},global.tag={TAG},global.imagePullPolicy=Never");
        self.helm_install(
            "controller",
            "weir-controller",
            SYSTEM,
            &[&image, "autoscaleEnabled=false"],
        )
        .await;
        self.install_gateway(INGRESS_GATEWAY, INGRESS, &[]).await;
    }

    /// Installs a gateway; its pods have the labels `app: {release}` and `istio:` without `istio-`.
    pub async fn install_gateway(&self, release: &str, namespace: &str, values: &[&str]) {
        let image = format!("hub={HUB},tag={TAG},imagePullPolicy=Never");
        let fixed = [image.as_str(), "autoscaling.enabled=false"];
        self.helm_install("gateway", release, namespace, &[&fixed[..], values].concat()).await;
    }

    async fn helm_install(&self, chart: &str, release: &str, namespace: &str, values: &[&str]) {
        let path = format!("{}/../charts/{chart}", env!("CARGO_MANIFEST_DIR"));
        let mut args = vec!["upgrade", "--install", release, &path, "--namespace", namespace];
        args.extend(["--create-namespace", "--wait", "--timeout", "180s"]);
        for value in values {
            args.extend(["--set", value]);
        }
        let output = self.try_helm(&args).await;
        if !output.status.success() {
            let pods = self.kubectl(&["--namespace", namespace, "describe", "pods"]).await;
            let told = String::from_utf8_lossy(&output.stderr);
            panic!("helm install {chart}: {told}\n{pods}");
        }
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
