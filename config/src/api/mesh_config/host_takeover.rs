use serde::Deserialize;

/// Not of Istio, which does what `ALLOW` says: whether objects of a namespace count for hosts of
/// another one where clients of third namespaces connect to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HostTakeover {
    /// A host is routed and defined by its own namespace and the root namespace.
    #[default]
    Deny,
    /// By any namespace whose objects are exported.
    Allow,
}
