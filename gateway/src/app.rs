//! Builds every component once, in start order, and takes them down in the other.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use weir_config::compile::{Change, Proxy};

use crate::{
    admin::{self, AdminState},
    bootstrap::{Bootstrap, ConfigSource, Discovery},
    cluster::{self, Resolver},
    control_plane::ControlPlane,
    discovery::{
        ads::{self, AdsSource, Push},
        apply::{Applier, Update},
        file::{self, FileSource},
    },
    dns::{self, DnsServer},
    engine::Engine,
    identity,
    limits::Limits,
    listener::{ListenerManager, raise_open_file_limit},
    telemetry::{Telemetry, discovery::DiscoveryStatus, labels::Reporter, log},
};

/// Between two looks at the certificate files that secrets name.
const FILES_INTERVAL: Duration = Duration::from_secs(5);
/// For a certificate that is said to be there.
const IDENTITY_LIMIT: Duration = Duration::from_secs(5);
/// For the access log's last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Runs a gateway until it is told to end.
///
/// # Errors
/// What keeps it from starting at all: its configuration cannot be read, or an address of its own
/// cannot be bound. Listeners that cannot be bound do not.
pub fn run(bootstrap: Bootstrap) -> anyhow::Result<ExitCode> {
    raise_open_file_limit();
    let data_plane = data_plane(bootstrap.workers)?;
    // The thread that configures is not one that serves: a large change adds no latency.
    let control_plane =
        Builder::new_current_thread().enable_all().build().context("start the control runtime")?;
    let outcome = control_plane.block_on(serve(&bootstrap, &data_plane));
    // Whatever is left was given its time.
    data_plane.shutdown_timeout(Duration::from_millis(100));
    outcome
}

fn data_plane(workers: usize) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("start the data plane runtime")
}

async fn serve(bootstrap: &Bootstrap, data_plane: &Runtime) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    // Supervisors send it on log rotation and terminals when they close; neither is meant.
    let _hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;

    let reporter = Reporter::new(&bootstrap.namespace, &bootstrap.labels);
    let telemetry = Arc::new(Telemetry::new(&reporter, bootstrap.workers));
    log::report_panics(telemetry.metrics.panics.clone());
    let engine = Arc::new(Engine::new(Limits::default(), telemetry));
    let listeners = ListenerManager::new(Arc::clone(&engine), data_plane.handle().clone());
    let resolver = match bootstrap.name_server {
        Some(address) => Resolver::with_name_server(address),
        None => Resolver::system(),
    }
    .context("read the system's name resolution settings")?;
    let proxy = Proxy {
        namespace: bootstrap.namespace.as_str().into(),
        labels: bootstrap.labels.clone(),
        kind: bootstrap.kind.clone(),
        has_identity: bootstrap.has_identity(),
        captures_dns: !bootstrap.dns.is_empty(),
        stands_alone: matches!(bootstrap.source, ConfigSource::Files { .. }),
        ..Proxy::default()
    };
    let applier = Applier::new(
        Arc::clone(&engine),
        Arc::clone(&listeners),
        resolver,
        data_plane.handle().clone(),
        proxy,
    );
    let source = Source::new(bootstrap, &engine.telemetry)?;

    let _dns = {
        let _runtime = data_plane.enter();
        let options =
            dns::Options { listen: bootstrap.dns.clone(), name_servers: name_servers(bootstrap) };
        DnsServer::start(options, Arc::clone(&engine)).context("listen for DNS queries")?
    };

    let (ready, is_ready) = watch::channel(false);
    let (quit, mut quitting) = mpsc::channel(1);
    let admin = admin::start(
        bootstrap,
        AdminState {
            engine: Arc::clone(&engine),
            listeners: Arc::clone(&listeners),
            configured: applier.configured(),
            ready: is_ready,
            discovery: source.status(),
            quit,
        },
    )?;

    let configuring = source.follow(applier, ready.clone());

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        _ = quitting.recv() => None,
        error = configuring => Some(error),
    };
    ready.send_replace(false);
    if let Some(Err(error)) = failed {
        return Err(error);
    }
    tracing::info!(seconds = bootstrap.drain_time.as_secs(), "draining");
    let cut = listeners.drain(bootstrap.drain_time).await;
    if cut > 0 {
        tracing::warn!(connections = cut, "still open at the end of the drain time, cut");
    }
    engine.telemetry.flush(FLUSH_LIMIT);
    admin.stop();
    Ok(ExitCode::SUCCESS)
}

/// Who is asked for names of others.
fn name_servers(bootstrap: &Bootstrap) -> Vec<SocketAddr> {
    match bootstrap.name_server {
        Some(address) => vec![address],
        None => cluster::system_name_servers(),
    }
}

/// Where the configuration comes from, with what is needed to follow it.
enum Source<'a> {
    Files(file::Options, (Option<PathBuf>, bool)),
    Controller(&'a Discovery, Arc<DiscoveryStatus>),
}

impl<'a> Source<'a> {
    fn new(bootstrap: &'a Bootstrap, telemetry: &Telemetry) -> anyhow::Result<Self> {
        Ok(match &bootstrap.source {
            ConfigSource::Files { paths, mesh_config } => {
                let options = file::Options {
                    paths: paths.clone(),
                    mesh_config: mesh_config.clone(),
                    namespace: bootstrap.namespace.clone(),
                };
                let identity = (bootstrap.identity_files.clone(), bootstrap.has_identity());
                Self::Files(options, identity)
            }
            ConfigSource::Discovery(discovery) => {
                Self::Controller(discovery, telemetry.metrics.discovery()?)
            }
        })
    }

    fn status(&self) -> Option<Arc<DiscoveryStatus>> {
        match self {
            Self::Files(..) => None,
            Self::Controller(_, status) => Some(Arc::clone(status)),
        }
    }

    /// Returns only with an error that leaves nothing to serve.
    async fn follow(self, applier: Applier, ready: watch::Sender<bool>) -> anyhow::Result<()> {
        match self {
            Self::Files(options, identity) => follow_files(applier, options, identity, ready).await,
            Self::Controller(discovery, status) => {
                // Large, and there is one.
                Box::pin(follow_controller(applier, discovery, status, ready)).await
            }
        }
    }
}

/// Puts in force what the copy on disk says, if there is one, and then push by push what the
/// controller says.
async fn follow_controller(
    mut applier: Applier,
    discovery: &Discovery,
    status: Arc<DiscoveryStatus>,
    ready: watch::Sender<bool>,
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
    let files = discovery.identity_files.clone();
    let identity = identity::Options { authority, identity: discovery.identity(), files };
    let _identity = AbortOnDropHandle::new(tokio::spawn(identity::keep(identity, issued)));
    let (source, saved) = AdsSource::open(ads::Options {
        control_plane,
        proxy: discovery.proxy.clone(),
        state_dir: discovery.state_dir.clone(),
        status,
    });
    // Connects while the copy is put in force.
    let mut pushes = source.follow();
    if let Some(saved) = saved {
        applier.apply(saved).await;
        is_ready(&ready);
    }
    let configured = applier.configured();
    let mut files = tokio::time::interval(FILES_INTERVAL);
    loop {
        tokio::select! {
            push = pushes.next() => match push {
                Some(Push { update, answer }) => {
                    applier.apply(update).await;
                    is_ready(&ready);
                    answer.send(|key| configured.refusal(key));
                }
                None => anyhow::bail!("the task that follows the controller ended"),
            },
            Ok(()) = workload.changed() => {
                let secret = workload.borrow_and_update().as_ref().map(|it| Arc::clone(&it.secret));
                applier.set_identity(secret).await;
            }
            _ = files.tick() => applier.refresh_files().await,
        }
    }
}

fn is_ready(ready: &watch::Sender<bool>) {
    if !ready.send_replace(true) {
        tracing::info!("ready");
    }
}

/// Puts in force what the folder says, first as a whole and then change by change. Returns only with
/// an error of the first kind: there is nothing to serve.
async fn follow_files(
    mut applier: Applier,
    options: file::Options,
    (identity, has_identity): (Option<PathBuf>, bool),
    ready: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let (issued, mut workload) = watch::channel(None);
    // Without a certificate the channel ends, and nothing is awaited from it.
    let _following = identity
        .filter(|_| has_identity)
        .map(|folder| AbortOnDropHandle::new(tokio::spawn(identity::follow(folder, issued))));
    let has_mesh = options.mesh_config.is_some();
    let (source, first) = FileSource::load(options)?;
    if has_identity && timeout(IDENTITY_LIMIT, workload.changed()).await.is_ok() {
        // Before the first connection, which may need it.
        let secret = workload.borrow_and_update().as_ref().map(|it| Arc::clone(&it.secret));
        applier.set_identity(secret).await;
    }
    applier.apply(update(first, has_mesh)).await;
    is_ready(&ready);
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
                let secret = workload.borrow_and_update().as_ref().map(|it| Arc::clone(&it.secret));
                applier.set_identity(secret).await;
            }
            _ = files.tick() => applier.refresh_files().await,
        }
    }
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
