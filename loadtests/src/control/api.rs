//! The API server, asked over one HTTP/2 connection as the user of a kubeconfig.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use weir_tests::client::http::{Connection, Reply, Request};

/// A connected client.
pub struct ApiServer {
    connection: Connection,
    host: String,
}

impl ApiServer {
    /// Connects to the first cluster of a kubeconfig, as its first user, who needs a certificate.
    pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Self> {
        let read = || format!("read {}", kubeconfig.display());
        let text = fs::read_to_string(kubeconfig).with_context(read)?;
        let config: Value = serde_yaml::from_str(&text).with_context(read)?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let server = cluster["server"].as_str().context("a server").with_context(read)?;
        let host = server.strip_prefix("https://").context("an https server").with_context(read)?;
        let tls = client_config(cluster, user).with_context(read)?;
        let address = tokio::net::lookup_host(host).await.context("find the API server")?.next();
        let address: SocketAddr = address.context("the API server has an address")?;
        let (name, _) = host.rsplit_once(':').context("a port")?;
        let connection = Connection::tls_to(address, &tls, name).await?;
        Ok(Self { connection, host: host.to_owned() })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let reply = self.send(&Request::get(&self.host, path)).await?;
        if reply.status == 404 { Ok(None) } else { accepted(path, &reply).map(Some) }
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::post(&self.host, path, serde_json::to_vec(body)?)
            .header("content-type", "application/json");
        accepted(path, &self.send(&request).await?)
    }

    /// A JSON merge patch.
    pub async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let request = Request::post(&self.host, path, serde_json::to_vec(patch)?)
            .method("PATCH")
            .header("content-type", "application/merge-patch+json");
        accepted(path, &self.send(&request).await?)
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let request = Request::get(&self.host, path).method("DELETE");
        accepted(path, &self.send(&request).await?)
    }

    async fn send(&self, request: &Request) -> anyhow::Result<Reply> {
        self.connection.share().send(&request.clone().https()).await.context("the API server")
    }
}

/// What the API server returns for a request that succeeded.
fn accepted(path: &str, reply: &Reply) -> anyhow::Result<Value> {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    ensure!((200..300).contains(&reply.status), "{path}: {}: {}", reply.status, body["message"]);
    Ok(body)
}

fn client_config(cluster: &Value, user: &Value) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&part(cluster, "certificate-authority")?) {
        roots.add(root?)?;
    }
    let certificates = part(user, "client-certificate")?;
    let certificates = CertificateDer::pem_slice_iter(&certificates).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&part(user, "client-key")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key)?;
    // Requests at the same time share the connection.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The PEM in a kubeconfig, or in the file that it names.
fn part(of: &Value, name: &str) -> anyhow::Result<Vec<u8>> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        return Ok(BASE64_STANDARD.decode(data)?);
    }
    let Some(path) = of[name].as_str() else { bail!("there is no {name}") };
    fs::read(path).with_context(|| format!("read {path}"))
}
