//! Where the configuration comes from, and how it gets from there into force.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use weir_config::compile::Change;

use super::readiness::Readiness;
use crate::{
    bootstrap::{Bootstrap, ConfigSource, Discovery},
    control_plane::ControlPlane,
    discovery::{
        ads::{self, AdsSource, Push},
        apply::{Applier, Update},
        file::{self, FileSource},
    },
    identity,
    telemetry::{Telemetry, discovery::DiscoveryStatus},
    tls::Workload,
};

/// Between two looks at the certificate files that secrets name.
const FILES_INTERVAL: Duration = Duration::from_secs(5);
/// For a certificate that is said to be there.
const IDENTITY_LIMIT: Duration = Duration::from_secs(5);

/// Where the configuration comes from, with what is needed to follow it.
pub enum Source<'a> {
    Files(file::Options, Given),
    Controller(&'a Discovery, Arc<DiscoveryStatus>, Sockets),
}

/// Where a certificate of the mesh comes from, without a controller.
pub struct Given {
    files: Option<PathBuf>,
    /// There is one.
    is_there: bool,
    sockets: Sockets,
}

/// Through which certificates come, or go.
pub struct Sockets {
    /// Of an agent.
    agent: Option<PathBuf>,
    /// Ours, for other programs; an agent needs no second.
    own: Option<PathBuf>,
}

impl Sockets {
    fn of(bootstrap: &Bootstrap) -> Self {
        let agent = bootstrap.agent_of_identities();
        let own = bootstrap.identity_socket.clone().filter(|_| agent.is_none());
        Self { agent, own }
    }

    /// Gives out what is issued, as long as the handle lives.
    fn provide(
        &self,
        issued: &watch::Receiver<Option<Arc<Workload>>>,
    ) -> Option<AbortOnDropHandle<()>> {
        let socket = self.own.clone()?;
        Some(AbortOnDropHandle::new(tokio::spawn(identity::provide(socket, issued.clone()))))
    }
}

impl<'a> Source<'a> {
    pub fn new(bootstrap: &'a Bootstrap, telemetry: &Telemetry) -> anyhow::Result<Self> {
        Ok(match &bootstrap.source {
            ConfigSource::Files { paths, mesh_config } => {
                let options = file::Options {
                    paths: paths.clone(),
                    mesh_config: mesh_config.clone(),
                    namespace: bootstrap.namespace.clone(),
                };
                let given = Given {
                    files: bootstrap.identity_files.clone(),
                    is_there: bootstrap.has_identity(),
                    sockets: Sockets::of(bootstrap),
                };
                Self::Files(options, given)
            }
            ConfigSource::Discovery(discovery) => {
                let status = telemetry.metrics.discovery()?;
                Self::Controller(discovery, status, Sockets::of(bootstrap))
            }
        })
    }

    pub fn status(&self) -> Option<Arc<DiscoveryStatus>> {
        match self {
            Self::Files(..) => None,
            Self::Controller(_, status, _) => Some(Arc::clone(status)),
        }
    }

    /// Returns only with an error that leaves nothing to serve.
    pub async fn follow(self, applier: Applier, ready: Readiness) -> anyhow::Result<()> {
        match self {
            Self::Files(options, given) => follow_files(applier, options, given, ready).await,
            Self::Controller(discovery, status, sockets) => {
                // Large, and there is one.
                Box::pin(follow_controller(applier, discovery, (status, sockets), ready)).await
            }
        }
    }
}

/// Puts in force what the copy on disk says, if there is one, and then push by push what the
/// controller says.
async fn follow_controller(
    mut applier: Applier,
    discovery: &Discovery,
    (status, sockets): (Arc<DiscoveryStatus>, Sockets),
    ready: Readiness,
) -> anyhow::Result<()> {
    let (issued, mut workload) = watch::channel(None);
    let control_plane = ControlPlane {
        address: discovery.address.clone(),
        server_name: discovery.server_name.clone(),
        root: discovery.root.clone(),
        token: discovery.token.clone(),
        workload: workload.clone(),
    };
    let authority = discovery.authority(&control_plane);
    let identity = identity::Options {
        authority,
        identity: discovery.identity(),
        agent: sockets.agent.clone(),
        files: discovery.identity_files.clone(),
        kept_in: discovery.identity_dir.clone(),
    };
    let _identity = AbortOnDropHandle::new(tokio::spawn(identity::keep(identity, issued)));
    let _providing = sockets.provide(&workload);
    let (source, saved) = AdsSource::open(ads::Options {
        control_plane,
        proxy: discovery.proxy.clone(),
        state_dir: discovery.state_dir.clone(),
        status,
    });
    // Connects while the copy is put in force.
    let mut pushes = source.follow();
    let mut warming = None;
    if ready.needs_identity() && timeout(IDENTITY_LIMIT, workload.changed()).await.is_ok() {
        // Before the first connection, which may need it.
        take_identity(&mut applier, &mut workload).await;
        ready.is_somebody();
    }
    if let Some(saved) = saved {
        applier.apply(saved).await;
        warming.get_or_insert_with(|| ready.is_configured_after(applier.warmed()));
    }
    let configured = applier.configured();
    let mut files = tokio::time::interval(FILES_INTERVAL);
    loop {
        tokio::select! {
            push = pushes.next() => match push {
                Some(Push { update, answer }) => {
                    applier.apply(update).await;
                    warming.get_or_insert_with(|| ready.is_configured_after(applier.warmed()));
                    answer.send(&configured);
                }
                None => anyhow::bail!("the task that follows the controller ended"),
            },
            Ok(()) = workload.changed() => {
                take_identity(&mut applier, &mut workload).await;
                ready.is_somebody();
            }
            _ = files.tick() => applier.refresh_files().await,
        }
    }
}

/// Puts in force what the folder says, first as a whole and then change by change. Returns only with
/// an error of the first kind: there is nothing to serve.
async fn follow_files(
    mut applier: Applier,
    options: file::Options,
    given: Given,
    ready: Readiness,
) -> anyhow::Result<()> {
    let (issued, mut workload) = watch::channel(None);
    // Without a certificate the channel ends, and nothing is awaited from it.
    let Given { files, is_there: has_identity, sockets } = given;
    let _providing = has_identity.then(|| sockets.provide(&workload));
    let _following = files.filter(|_| has_identity).map(|folder| {
        let following = identity::follow(sockets.agent.clone(), folder, issued);
        AbortOnDropHandle::new(tokio::spawn(following))
    });
    let has_mesh = options.mesh_config.is_some();
    let (source, first) = FileSource::load(options)?;
    if has_identity && timeout(IDENTITY_LIMIT, workload.changed()).await.is_ok() {
        // Before the first connection, which may need it.
        take_identity(&mut applier, &mut workload).await;
    }
    applier.apply(update(first, has_mesh)).await;
    let _warming = ready.is_configured_after(applier.warmed());
    // Without a certificate there is none to wait for.
    ready.is_somebody();
    let mut changes = source.watch()?;
    let mut files = tokio::time::interval(FILES_INTERVAL);
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => applier.apply(update(change, has_mesh)).await,
                // The watching thread ended, which it does not by itself: go on with what there is.
                None => std::future::pending().await,
            },
            Ok(()) = workload.changed() => {
                take_identity(&mut applier, &mut workload).await;
            }
            _ = files.tick() => applier.refresh_files().await,
        }
    }
}

/// Puts the workload's certificate in force, as it was issued last.
async fn take_identity(applier: &mut Applier, issued: &mut watch::Receiver<Option<Arc<Workload>>>) {
    let workload = issued.borrow_and_update().clone();
    applier.set_identity(workload.as_deref()).await;
}

/// `has_mesh`: without a MeshConfig file the defaults of a gateway that stands alone are in force, not
/// those of an empty file.
fn update(changes: file::Changes, has_mesh: bool) -> Update {
    let file::Changes { objects, mesh_config, diagnostics, noticed } = changes;
    let changes = objects.into_iter().map(|(key, object)| match object {
        Some(object) => Change::Upsert(object),
        None => Change::Remove(key),
    });
    Update {
        changes: changes.collect(),
        mesh: mesh_config.filter(|_| has_mesh).map(Arc::unwrap_or_clone),
        unread: diagnostics,
        noticed,
    }
}
