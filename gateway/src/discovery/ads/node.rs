//! Who this proxy says it is.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weir_config::wire::discovery::{Node, WHOLE_PUSHES};

/// The pod this process runs in, or what stands for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    pub role: Role,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    /// The pod's; empty: not known.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub cluster_id: String,
}

/// Of Istio's proxies; the first part of their name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// A gateway.
    #[default]
    Router,
    Sidecar,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Sidecar => "sidecar",
        }
    }
}

impl Proxy {
    /// In the form of Istio's proxies, whose metadata people and tools know.
    pub(super) fn node(&self) -> Node {
        let Self { role, name, namespace, service_account, address, labels, cluster_id } = self;
        let metadata = json!({
            "NAME": name,
            "NAMESPACE": namespace,
            "SERVICE_ACCOUNT": service_account,
            "LABELS": labels,
            "CLUSTER_ID": cluster_id,
            "WEIR_VERSION": env!("CARGO_PKG_VERSION"),
        });
        let metadata = match metadata {
            Value::Object(fields) => Some(fields.into()),
            _ => None,
        };
        let address = if address.is_empty() { "0.0.0.0" } else { address };
        Node {
            id: format!(
                "{}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local",
                role.word()
            ),
            cluster: format!("{service_account}.{namespace}"),
            metadata,
            locality: None,
            user_agent_name: "weir-gateway".to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            client_features: vec![WHOLE_PUSHES.to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_those_of_istio_are() {
        let proxy = Proxy {
            role: Role::Router,
            name: "gateway-7d".to_owned(),
            namespace: "edge".to_owned(),
            service_account: "gateway".to_owned(),
            address: "10.0.0.7".to_owned(),
            labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
            cluster_id: "Kubernetes".to_owned(),
        };
        let node = proxy.node();
        assert_eq!(node.id, "router~10.0.0.7~gateway-7d.edge~edge.svc.cluster.local");
        let sidecar = Proxy { role: Role::Sidecar, ..proxy }.node();
        assert_eq!(sidecar.id, "sidecar~10.0.0.7~gateway-7d.edge~edge.svc.cluster.local");
        let metadata = node.metadata.unwrap();
        assert_eq!(metadata.text("NAMESPACE"), Some("edge"));
        assert_eq!(metadata.text("SERVICE_ACCOUNT"), Some("gateway"));
        let fields: serde_json::Map<_, _> = metadata.into();
        assert_eq!(fields["LABELS"], json!({"istio": "ingressgateway"}));
    }
}
