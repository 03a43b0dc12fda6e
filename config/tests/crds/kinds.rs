//! The kinds, as Istio names, groups, versions and prints them.

use serde_json::{Value, json};

use super::{schema, source::Types};

/// A kind that Weir reads and Kubernetes does not know.
pub struct Kind {
    group: &'static str,
    /// Also the name of its type.
    name: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    /// The first one is stored. All have the same schema.
    versions: &'static [&'static str],
    columns: &'static [Column],
}

/// What `kubectl get` shows: name, field, description.
type Column = (&'static str, &'static str, &'static str);

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const NETWORKING_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY_VERSIONS: &[&str] = &["v1", "v1beta1"];

pub const KINDS: &[Kind] = &[
    Kind {
        group: NETWORKING,
        name: "DestinationRule",
        plural: "destinationrules",
        short_names: &["dr"],
        versions: NETWORKING_VERSIONS,
        columns: &[("Host", ".spec.host", "The service the rule is for")],
    },
    Kind {
        group: NETWORKING,
        name: "EnvoyFilter",
        plural: "envoyfilters",
        short_names: &[],
        versions: &["v1alpha3"],
        columns: &[],
    },
    Kind {
        group: NETWORKING,
        name: "Gateway",
        plural: "gateways",
        short_names: &["gw"],
        versions: NETWORKING_VERSIONS,
        columns: &[],
    },
    Kind {
        group: NETWORKING,
        name: "ServiceEntry",
        plural: "serviceentries",
        short_names: &["se"],
        versions: NETWORKING_VERSIONS,
        columns: &[
            ("Hosts", ".spec.hosts", "The names of the service"),
            ("Location", ".spec.location", "Whether it is inside the mesh"),
            ("Resolution", ".spec.resolution", "How its addresses are found"),
        ],
    },
    Kind {
        group: NETWORKING,
        name: "Sidecar",
        plural: "sidecars",
        short_names: &[],
        versions: NETWORKING_VERSIONS,
        columns: &[],
    },
    Kind {
        group: NETWORKING,
        name: "VirtualService",
        plural: "virtualservices",
        short_names: &["vs"],
        versions: NETWORKING_VERSIONS,
        columns: &[
            ("Gateways", ".spec.gateways", "The gateways that use these routes"),
            ("Hosts", ".spec.hosts", "The hosts that the routes are for"),
        ],
    },
    Kind {
        group: NETWORKING,
        name: "WorkloadEntry",
        plural: "workloadentries",
        short_names: &["we"],
        versions: NETWORKING_VERSIONS,
        columns: &[("Address", ".spec.address", "Where it is reached")],
    },
    Kind {
        group: SECURITY,
        name: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short_names: &["ap"],
        versions: SECURITY_VERSIONS,
        columns: &[("Action", ".spec.action", "What is done with requests that match")],
    },
    Kind {
        group: SECURITY,
        name: "PeerAuthentication",
        plural: "peerauthentications",
        short_names: &["pa"],
        versions: SECURITY_VERSIONS,
        columns: &[("Mode", ".spec.mtls.mode", "Whether connections have to be mutual TLS")],
    },
    Kind {
        group: SECURITY,
        name: "RequestAuthentication",
        plural: "requestauthentications",
        short_names: &["ra"],
        versions: SECURITY_VERSIONS,
        columns: &[],
    },
];

impl Kind {
    fn full_name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    pub fn file(&self) -> String {
        format!("{}.yaml", self.full_name())
    }

    /// The whole CustomResourceDefinition, as `kubectl apply` takes it.
    pub fn definition(&self, types: &Types) -> String {
        let spec = schema::of_type(types, self.name);
        let versions: Vec<Value> = self
            .versions
            .iter()
            .enumerate()
            .map(|(index, version)| self.version(version, index == 0, &spec))
            .collect();
        let mut names = json!({
            "kind": self.name,
            "listKind": format!("{}List", self.name),
            "plural": self.plural,
            "singular": self.name.to_ascii_lowercase(),
            "categories": ["istio-io", self.group.replace('.', "-")],
        });
        if !self.short_names.is_empty() {
            names["shortNames"] = json!(self.short_names);
        }
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": self.full_name() },
            "spec": {
                "group": self.group,
                "names": names,
                "scope": "Namespaced",
                "versions": versions,
            },
        });
        let yaml = serde_yaml::to_string(&definition).unwrap();
        format!("# Made from the types in config/src/api by `make crds`; do not edit.\n{yaml}")
    }

    fn version(&self, name: &str, is_stored: bool, spec: &Value) -> Value {
        let column = |(name, path, description): &Column| json!({ "name": name, "type": "string", "description": description, "jsonPath": path });
        let mut columns: Vec<Value> = self.columns.iter().map(column).collect();
        columns.push(json!({
            "name": "Age",
            "type": "date",
            "jsonPath": ".metadata.creationTimestamp",
        }));
        let status = json!({
            "type": "object",
            "description": "What became of the object, written by the controller.",
            "x-kubernetes-preserve-unknown-fields": true,
            // Of every writer its own: who writes one leaves the others.
            "properties": { "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["type"],
                    "properties": { "type": { "type": "string" } },
                },
            }},
        });
        json!({
            "name": name,
            "served": true,
            "storage": is_stored,
            "subresources": { "status": {} },
            "additionalPrinterColumns": columns,
            "schema": { "openAPIV3Schema": {
                "type": "object",
                "properties": { "spec": spec, "status": status },
            }},
        })
    }
}
