use std::collections::BTreeMap;

use serde::Deserialize;

/// `networking.istio.io` WorkloadEntry: one endpoint outside Kubernetes; also an endpoint written
/// inside a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntry {
    /// IP address, name (with DNS resolution) or `unix://` path; may be empty when `network` is set.
    pub address: String,
    /// Port number by service port name; the service's target port when absent.
    pub ports: BTreeMap<String, u16>,
    pub labels: BTreeMap<String, String>,
    pub network: String,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Share of the load relative to the other endpoints; 1 when absent.
    pub weight: Option<u32>,
    pub service_account: String,
}
