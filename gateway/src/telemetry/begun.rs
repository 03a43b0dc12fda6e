//! What is kept of a TCP connection while it is open.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use weir_config::model::cluster::Workload;

use super::{Protocol, StreamInfo, UpstreamInfo, labels::ClusterStats};
use crate::connection::ConnectionInfo;

/// The beginning of a [`StreamInfo`], as small as that: there are as many as idle TCP connections.
#[derive(Debug)]
pub struct Begun {
    started: Instant,
    started_at: SystemTime,
    connection: Arc<ConnectionInfo>,
    protocol: Protocol,
    stats: Option<Arc<ClusterStats>>,
    cluster_name: Option<Arc<str>>,
    workload: Option<Arc<Workload>>,
    remote_addr: Option<SocketAddr>,
    local_addr: Option<SocketAddr>,
    attempts: u32,
    tls: bool,
    is_mesh: bool,
}

impl Begun {
    /// To be told how it went on.
    #[must_use]
    pub fn ended(self) -> StreamInfo {
        let upstream = UpstreamInfo {
            stats: self.stats,
            cluster_name: self.cluster_name,
            workload: self.workload,
            remote_addr: self.remote_addr,
            local_addr: self.local_addr,
            attempts: self.attempts,
            tls: self.tls,
            is_mesh: self.is_mesh,
            ..UpstreamInfo::default()
        };
        let Self { started, started_at, connection, protocol, .. } = self;
        StreamInfo { started, started_at, upstream, ..StreamInfo::start(connection, protocol) }
    }
}

impl StreamInfo {
    /// What has to be kept of it while it goes on, where that is all there is: of a TCP connection that
    /// has its upstream.
    #[must_use]
    pub fn begun(self) -> Begun {
        let Self { started, started_at, connection, protocol, upstream, .. } = self;
        let UpstreamInfo {
            stats,
            cluster_name,
            workload,
            remote_addr,
            local_addr,
            attempts,
            tls,
            is_mesh,
            // Nothing failed in the end, and there are no responses.
            failure: _,
            service_time: _,
            responded_after: _,
        } = upstream;
        Begun {
            started,
            started_at,
            connection,
            protocol,
            stats,
            cluster_name,
            workload,
            remote_addr,
            local_addr,
            attempts,
            tls,
            is_mesh,
        }
    }
}
