//! Somebody else's admission webhook, which adds a container to pods.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio_rustls::TlsAcceptor;

use super::Cluster;
use crate::{backend::Server, certs::Authority};

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Webhook {
    _server: Server,
}

impl Cluster {
    /// Adds `container` to every pod of namespaces with that label, unless it has one of that name. The
    /// API server asks it after those whose configurations are named before `zz`.
    pub async fn add_to_pods(&self, label: &str, container: Value) -> Webhook {
        let host = self.host().await;
        let authority = Authority::new("somebody");
        let own = authority.server(&[&host.ip().to_string()]);
        let acceptor = TlsAcceptor::from(Arc::new(own.server_config(&["http/1.1"])));
        let server = Server::start_on(host, move |stream| {
            let (acceptor, container) = (acceptor.clone(), container.clone());
            async move {
                let answer = service_fn(move |request| answer(request, container.clone()));
                // An API server that goes away is no failure of the test.
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                }
            }
        })
        .await;
        let url = format!("https://{}/", server.address());
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "zz-somebody" },
            "webhooks": [{
                "name": "somebody.weir.test",
                "clientConfig": { "url": url, "caBundle": STANDARD.encode(authority.root()) },
                "rules": [{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                            "resources": ["pods"] }],
                "namespaceSelector": { "matchExpressions": [{ "key": label, "operator": "Exists" }] },
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
            }],
        });
        let applied = self.try_kubectl(&["apply", "-f", "-"], &webhook.to_string()).await;
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        Webhook { _server: server }
    }

    /// An address of this host that the cluster's programs reach, with a free port.
    async fn host(&self) -> SocketAddr {
        let api = self.existing("default").cluster_ip("kubernetes", 443).await;
        let probe = UdpSocket::bind("0.0.0.0:0").await.expect("make a socket");
        probe.connect(api).await.expect("the host has a route to the cluster");
        SocketAddr::new(probe.local_addr().expect("it is connected").ip(), 0)
    }
}

async fn answer(
    request: Request<Incoming>,
    container: Value,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let asked = &review["request"];
    let containers = asked["object"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let mut response = json!({ "uid": asked["uid"], "allowed": true });
    if containers.iter().all(|it| it["name"] != container["name"]) {
        let add = json!([{ "op": "add", "path": "/spec/containers/-", "value": container }]);
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(add.to_string()));
    }
    let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                         "response": response });
    Ok(Response::new(Full::from(review.to_string())))
}
