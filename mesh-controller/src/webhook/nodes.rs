//! What the nodes can do that injection depends on.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::ListParams};
use tokio::sync::watch;
use tracing::{info, warn};

/// How often is asked: nodes of another version are rare.
const INTERVAL: Duration = Duration::from_secs(60);
const PAGE: u32 = 500;
/// The first version of Kubernetes in which native sidecars are stable.
const NATIVE: (u32, u32) = (1, 33);

/// Keeps saying whether every node can run native sidecars. Until the nodes are known they cannot: an
/// older one would wait for such a sidecar to end.
pub async fn watch_nodes(client: Client, native: watch::Sender<bool>) {
    let api: Api<Node> = Api::all(client);
    let mut problem = String::new();
    loop {
        match all_native(&api).await {
            Ok(all) => {
                problem.clear();
                if native.send_if_modified(|known| std::mem::replace(known, all) != all) {
                    info!(native = all, "kind of sidecars, by the versions of the nodes");
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != problem {
                    warn!("the versions of the nodes are not known: {text}");
                    problem = text;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = native.closed() => return,
        }
    }
}

async fn all_native(api: &Api<Node>) -> anyhow::Result<bool> {
    let mut params = ListParams::default().limit(PAGE);
    let mut count = 0;
    loop {
        let page = api.list(&params).await.context("list the nodes")?;
        count += page.items.len();
        if !page.items.iter().all(is_native) {
            return Ok(false);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(count > 0),
        }
    }
}

fn is_native(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.and_then(|info| version(&info.kubelet_version)).is_some_and(|version| version >= NATIVE)
}

/// Of `v1.33.2+k3s1` major and minor.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix('v')?.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("v1.36.3"), Some((1, 36)));
        assert_eq!(version("v1.33.2+k3s1"), Some((1, 33)));
        assert_eq!(version("v1.9-gke"), Some((1, 9)));
        assert!(version("v1.9.1") < Some(NATIVE) && version("v1.100.0") > Some(NATIVE));
        assert_eq!(version("unknown"), None);
    }
}
