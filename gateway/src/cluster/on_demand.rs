//! Clusters that are there when somebody asks for them: a sidecar knows ten thousand, and its workload
//! calls a few. One that nobody called is its configuration and nothing else.
//!
//! **Invariant**: what one snapshot has made, its successors have, as long as nothing of it changes.

use std::sync::{Arc, OnceLock};

use weir_config::model::{self, cluster::Discovery};

use super::{Cluster, Environment, dns::Members, transport};

/// What a cluster is made of, and the cluster from when it is called.
#[derive(Debug)]
pub(super) struct OnDemand {
    config: Arc<model::Cluster>,
    members: Members,
    environment: Arc<Environment>,
    made: OnceLock<Arc<Cluster>>,
}

impl OnDemand {
    /// The cluster of `config`, in the place of `prev`: what that has running is taken over, and what
    /// it has not made is not made now.
    pub(super) fn next(
        prev: Option<&Self>,
        config: &Arc<model::Cluster>,
        members: &Members,
        environment: &Arc<Environment>,
    ) -> Arc<Self> {
        let is_new = prev.is_none_or(|prev| {
            !prev.environment.secrets.is_same(&environment.secrets) || !same(&prev.config, config)
        });
        let made = match prev.and_then(Self::made) {
            None if waits(config) => {
                // Whoever configured it is told now, not whoever calls it.
                if is_new {
                    transport::tell_failures(config, &environment.secrets);
                }
                None
            }
            None => Some(Cluster::next(None, config, members, environment)),
            Some(cluster)
                if same(&cluster.config, config)
                    && cluster.transports.are_current(&environment.secrets) =>
            {
                if prev.is_some_and(|prev| !Arc::ptr_eq(&prev.members, members)) {
                    cluster.set_members(members);
                }
                Some(Arc::clone(cluster))
            }
            Some(cluster) => Some(Cluster::next(Some(cluster), config, members, environment)),
        };
        Arc::new(Self {
            config: Arc::clone(config),
            members: Arc::clone(members),
            environment: Arc::clone(environment),
            made: made.map(OnceLock::from).unwrap_or_default(),
        })
    }

    /// The same with other members or in another environment.
    pub(super) fn with(&self, members: &Members, environment: &Arc<Environment>) -> Arc<Self> {
        Self::next(Some(self), &self.config, members, environment)
    }

    /// The cluster, from now on if not before. Once it is there this is one load.
    pub(super) fn cluster(&self) -> &Arc<Cluster> {
        self.made.get_or_init(|| self.make())
    }

    /// The cluster, if anybody has asked for it.
    pub(super) fn made(&self) -> Option<&Arc<Cluster>> {
        self.made.get()
    }

    /// The cluster as it is or would be, for a look at it that leaves nothing behind.
    pub(super) fn look(&self) -> Arc<Cluster> {
        self.made().map_or_else(|| self.make(), Arc::clone)
    }

    fn make(&self) -> Arc<Cluster> {
        Cluster::next(None, &self.config, &self.members, &self.environment)
    }
}

/// Whether a cluster has nothing to do before it is called: neither names to resolve, nor endpoints of
/// which it counts how long they have been there.
fn waits(config: &model::Cluster) -> bool {
    let is_resolved = match config.discovery {
        Discovery::StrictDns { .. } | Discovery::LogicalDns { .. } => true,
        Discovery::Static | Discovery::OriginalDst { .. } | Discovery::DynamicDns(_) => false,
    };
    !is_resolved && config.warmup.is_none()
}

fn same(a: &Arc<model::Cluster>, b: &Arc<model::Cluster>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}
