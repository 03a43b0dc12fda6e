//! Metrics: Prometheus is sent to the sidecar, which gives its own and the application's.

use serde_json::json;

use super::{
    knobs::Knobs,
    pod::{PROXY, Pod, set_env},
};

/// The sidecar's variable with where the application's metrics are.
pub const ENV: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
/// Ports of the sidecar that answer with its own metrics: asked by itself, it would ask itself.
const RESERVED: [&str; 2] = ["15020", "15090"];

/// Moves the annotations for Prometheus to the sidecar, unless its user keeps out of it.
pub fn merge(pod: &mut Pod, knobs: &Knobs, earlier: Option<&str>) -> Result<(), String> {
    let Some(status_port) = knobs.status_port.filter(|_| knobs.merges_metrics) else {
        return Ok(());
    };
    if pod.annotation(SCRAPE) == Some("false") {
        return Ok(());
    }
    let ours = status_port.to_string();
    let application = match earlier {
        Some(earlier) => Some(earlier.to_owned()),
        None if is_moved(pod, &ours) => None,
        None => application(pod, &ours)?,
    };
    if let (Some(application), Some(proxy)) = (application, pod.container_mut(PROXY)) {
        set_env(proxy, ENV, &application);
    }
    pod.set_annotation(SCRAPE, "true");
    pod.set_annotation(PORT, ours);
    pod.set_annotation(PATH, "/stats/prometheus");
    Ok(())
}

/// An application without annotations was injected before: ours are there.
fn is_moved(pod: &Pod, ours: &str) -> bool {
    pod.annotation(PORT) == Some(ours) && pod.annotation(PATH) == Some("/stats/prometheus")
}

fn application(pod: &Pod, ours: &str) -> Result<Option<String>, String> {
    let said = |name| pod.annotation(name).unwrap_or_default();
    let (scrape, path, port) = (said(SCRAPE), said(PATH), said(PORT));
    if RESERVED.contains(&port) || port == ours {
        return Err(format!("metadata.annotations[{PORT}]: {port} is a port of the sidecar"));
    }
    let is_silent = scrape.is_empty() && path.is_empty() && port.is_empty();
    let application = json!({ "scrape": scrape, "path": path, "port": port });
    Ok((!is_silent).then(|| application.to_string()))
}
