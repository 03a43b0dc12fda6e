use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error};

use crate::api::Selector;

/// `security.istio.io` PeerAuthentication: whether connections to workloads are mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthentication {
    /// Workloads of the namespace the policy is for; the whole namespace when absent, and the whole
    /// mesh in the root namespace.
    pub selector: Option<Selector>,
    pub mtls: Option<MutualTls>,
    /// Other modes for single ports of the workload, by the number the workload listens on. Needs a
    /// selector.
    #[serde(deserialize_with = "by_port")]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

/// What connections have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    pub mode: MutualTlsMode,
}

/// How strict a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MutualTlsMode {
    /// As the wider policy says; PERMISSIVE where there is none.
    #[default]
    Unset,
    /// Clear text only; TLS of the application passes as it is.
    Disable,
    /// Both on the same port.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// Keys are text, whatever stands in them.
fn by_port<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, MutualTls>, D::Error> {
    let modes = BTreeMap::<String, MutualTls>::deserialize(from)?;
    modes
        .into_iter()
        .map(|(port, mode)| match port.parse() {
            Ok(port) => Ok((port, mode)),
            Err(_) => Err(D::Error::custom(format_args!("{port:?} is not the number of a port"))),
        })
        .collect()
}
