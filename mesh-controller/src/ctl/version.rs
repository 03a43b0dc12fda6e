//! `weirctl version`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    args::{Target, VersionArguments},
    cluster::Cluster,
    proxy_status, structured,
};

/// What runs in the cluster.
struct Remote {
    /// Versions of the controller by pod.
    controllers: BTreeMap<String, String>,
    /// Numbers of proxies by version.
    proxies: BTreeMap<String, usize>,
}

pub async fn run(target: &Target, arguments: &VersionArguments) -> anyhow::Result<String> {
    let client = env!("CARGO_PKG_VERSION");
    // Without a cluster, the version of this program is still worth printing.
    let remote = if arguments.remote { Some(remote(target).await) } else { None };
    if let Some(output) = arguments.output {
        return structured(&document(client, remote.as_ref()), output);
    }
    let mut out = format!("client version: {client}\n");
    match remote {
        None => {}
        Some(Err(why)) => out.push_str(&format!("control plane version: unknown ({why:#})\n")),
        Some(Ok(Remote { controllers, proxies })) => {
            for (pod, version) in controllers {
                out.push_str(&format!("control plane version: {version} ({pod})\n"));
            }
            for (version, count) in proxies {
                let noun = if count == 1 { "proxy" } else { "proxies" };
                out.push_str(&format!("data plane version: {version} ({count} {noun})\n"));
            }
        }
    }
    Ok(out)
}

async fn remote(target: &Target) -> anyhow::Result<Remote> {
    let cluster = Cluster::connect(target).await?;
    let mut controllers = BTreeMap::new();
    for pod in cluster.controllers().await? {
        let version = cluster.controller_page(&pod, "/version").await?;
        controllers.insert(pod.to_string(), version.trim().to_owned());
    }
    let mut proxies = BTreeMap::new();
    for proxy in proxy_status::all(&cluster).await?.connected {
        *proxies.entry(proxy.version).or_insert(0) += 1;
    }
    Ok(Remote { controllers, proxies })
}

fn document(client: &str, remote: Option<&anyhow::Result<Remote>>) -> Value {
    let mut document = json!({ "clientVersion": { "version": client } });
    match remote {
        None => {}
        Some(Err(why)) => document["error"] = format!("{why:#}").into(),
        Some(Ok(Remote { controllers, proxies })) => {
            document["controlPlaneVersion"] = json!(controllers);
            document["dataPlaneVersion"] = json!(proxies);
        }
    }
    document
}
