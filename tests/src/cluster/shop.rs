//! What tests of Weir in a cluster start from: an application, a Gateway for every host, and the way
//! to ask.

use std::net::SocketAddr;

use super::{Cluster, Namespace, app, weir::INGRESS};
use crate::{
    client::http::{Connection, Reply, Request},
    eventually::eventually,
};

/// The Gateway all tests share, as VirtualServices name it: port 80, every host.
pub const PUBLIC: &str = "istio-ingress/public";

/// Entries of `http`: everything to the application.
pub const TO_WEB: &str = "[{ route: [{ destination: { host: web } }] }]";

impl Cluster {
    /// Weir with the Gateway [`PUBLIC`], once for all tests.
    pub async fn installed(&self) {
        self.installed_with(&[]).await;
    }

    /// The same, with these values of the controller's chart if nobody was before.
    pub async fn installed_with(&self, values: &[&str]) {
        self.weir
            .get_or_init(async || {
                self.load_app().await;
                self.install_weir_with(values).await;
                let gateway = gateway("public", "ingressgateway", "*");
                eventually("the webhook lets a Gateway pass", async || {
                    let output = self.existing(INGRESS).try_apply(&gateway).await;
                    output.status.success().then_some(())
                })
                .await;
            })
            .await;
    }

    /// A namespace with the application `web` in these versions, beside Weir.
    pub async fn shop(&self, name: &str, versions: &[&str]) -> Namespace<'_> {
        self.installed().await;
        let namespace = self.namespace(name).await;
        for version in versions {
            namespace.apply(&app::manifest("web", version, 1)).await;
        }
        for version in versions {
            namespace.rolled_out(&format!("web-{version}")).await;
        }
        namespace
    }

    /// A `web` that is divided into the subsets v1 and v2.
    pub async fn divided_shop(&self, name: &str) -> Namespace<'_> {
        let shop = self.shop(name, &["v1", "v2"]).await;
        shop.apply(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: { name: web }\nspec: { host: web, subsets: [\
             { name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }] }\n",
        )
        .await;
        shop
    }
}

/// A Gateway for plain HTTP.
#[must_use]
pub fn gateway(name: &str, selected: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  \
         selector: {{ istio: {selected} }}\n  servers:\n  \
         - {{ port: {{ number: 80, name: http, protocol: HTTP }}, hosts: ['{host}'] }}\n"
    )
}

/// A Gateway for TLS with a Secret of the gateway's namespace.
#[must_use]
pub fn tls_gateway(name: &str, host: &str, credential: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  \
         selector: {{ istio: ingressgateway }}\n  servers:\n  \
         - port: {{ number: 443, name: https-{name}, protocol: HTTPS }}\n    hosts: [{host}]\n    \
         tls: {{ mode: SIMPLE, credentialName: {credential} }}\n"
    )
}

/// A VirtualService `web`; `http` is the list of its rules.
#[must_use]
pub fn virtual_service(host: &str, gateway: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: web }}\nspec:\n  \
         hosts: [{host}]\n  gateways: [{gateway}]\n  http: {http}\n"
    )
}

/// One request on a connection of its own.
///
/// # Errors
/// When there is no whole answer.
pub async fn ask(address: SocketAddr, request: &Request) -> anyhow::Result<Reply> {
    Connection::http1_to(address).await?.send(request).await
}

/// The status that a host is answered with; `None` without an answer.
pub async fn status(address: SocketAddr, host: &str) -> Option<u16> {
    ask(address, &Request::get(host, "/")).await.ok().map(|reply| reply.status)
}

/// The first good answer of a host that is being configured.
pub async fn served(address: SocketAddr, host: &str) -> Reply {
    eventually(&format!("{host} is served"), async || {
        // A gateway that has just started does not listen yet.
        let reply = ask(address, &Request::get(host, "/")).await.ok()?;
        (reply.status == 200).then_some(reply)
    })
    .await
}
