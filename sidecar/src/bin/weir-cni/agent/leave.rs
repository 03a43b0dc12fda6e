//! The end of the agent: whether somebody comes after it.

use tracing::warn;

use super::api::ApiServer;

/// Whether nothing is to be left on the node.
///
/// While there is the DaemonSet, as during an upgrade, the plugin stays, and pods that start meanwhile
/// wait for the next agent: without it they would run past their sidecars. Without the DaemonSet nobody
/// would ever come, and no pod of the node start again.
pub async fn for_good(api: &ApiServer, namespace: &str, daemon_set: Option<&str>) -> bool {
    // Run by hand.
    let Some(name) = daemon_set else { return true };
    match api.is_to_stay(namespace, name).await {
        Ok(is_to_stay) => !is_to_stay,
        Err(error) => {
            warn!("whether the DaemonSet {namespace}/{name} is to stay is not known: {error:#}");
            false
        }
    }
}
