//! What a sidecar answers its workload's DNS queries with.

use std::{net::IpAddr, sync::Arc};

use super::matcher::HostPattern;

/// The addresses of one service under all its names.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsRecord {
    /// Lower case, without a trailing dot.
    pub names: Arc<[HostPattern]>,
    /// A name that has none of a family exists nevertheless.
    pub addresses: Arc<[IpAddr]>,
}
