use std::collections::BTreeMap;

use serde::Deserialize;

use super::TransportProtocol;

/// `v1` Pod: an endpoint of the ServiceEntries of its namespace whose `workloadSelector` has its
/// labels. Services have their EndpointSlices for that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub spec: PodSpec,
    pub status: PodStatus,
    /// Not of Kubernetes: where its node is, `region/zone/subzone`. The controller adds it.
    pub locality: String,
}

/// What of a pod is about traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub service_account_name: String,
    pub containers: Vec<Container>,
}

/// The ports of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub ports: Vec<ContainerPort>,
}

/// A port of a container; by its name a port of a ServiceEntry finds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    pub name: String,
    pub container_port: u16,
    pub protocol: TransportProtocol,
}

/// What Kubernetes made of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    pub conditions: Vec<PodCondition>,
}

/// One condition of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    pub r#type: String,
    pub status: String,
}

impl Pod {
    /// Whether it is one to send traffic to: it runs, and nothing says that it is not ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let PodStatus { phase, conditions, pod_ip: _ } = &self.status;
        let is_over = matches!(phase.as_str(), "Pending" | "Succeeded" | "Failed");
        let mut readiness = conditions.iter().filter(|condition| condition.r#type == "Ready");
        !is_over && readiness.all(|condition| condition.status == "True")
    }

    /// The TCP ports that have names.
    #[must_use]
    pub fn named_ports(&self) -> BTreeMap<String, u16> {
        let ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        let named =
            ports.filter(|port| !port.name.is_empty() && port.protocol == TransportProtocol::Tcp);
        named.map(|port| (port.name.clone(), port.container_port)).collect()
    }
}
