//! Builds every component once, in start order, and takes them down in the other.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::task::AbortOnDropHandle;
use weir_config::compile::{Proxy, ProxyKind};

mod data_plane;
mod ending;
mod readiness;
mod source;

use self::{data_plane::DataPlane, ending::Ending, readiness::Readiness, source::Source};
use crate::{
    admin::{self, AdminState},
    bootstrap::{Bootstrap, ConfigSource, Interception},
    cluster::{self, Resolver},
    discovery::apply::Applier,
    dns::{self, DnsServer},
    engine::Engine,
    limits::Limits,
    listener::{ListenerManager, raise_open_file_limit},
    telemetry::{Telemetry, labels::Reporter, log},
    upstream,
};

/// For the access log's last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Runs a gateway until it is told to end.
///
/// # Errors
/// What keeps it from starting at all: its configuration cannot be read, or an address of its own
/// cannot be bound. Listeners that cannot be bound do not.
pub fn run(bootstrap: Bootstrap) -> anyhow::Result<ExitCode> {
    raise_open_file_limit();
    let data_plane = DataPlane::start(bootstrap.workers)?;
    // The thread that configures is not one that serves: a large change adds no latency.
    let control_plane =
        Builder::new_current_thread().enable_all().build().context("start the control runtime")?;
    let outcome = control_plane.block_on(serve(&bootstrap, &data_plane));
    // Whatever is left was given its time.
    data_plane.shutdown(Duration::from_millis(100));
    outcome
}

async fn serve(bootstrap: &Bootstrap, data_plane: &DataPlane) -> anyhow::Result<ExitCode> {
    let is_transparent = bootstrap.interception == Interception::Tproxy;
    if is_transparent {
        upstream::may_be_transparent()?;
    }
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    // Supervisors send it on log rotation and terminals when they close; neither is meant.
    let _hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;

    let workers = data_plane.workers();
    let telemetry = Arc::new(Telemetry::new(&reporter(bootstrap), workers.count()));
    log::report_panics(telemetry.metrics.panics.clone());
    let limits = Limits { workers: workers.count(), ..Limits::default() };
    let engine = Arc::new(Engine::new(limits, telemetry));
    let listeners = ListenerManager::new(Arc::clone(&engine), workers.clone());
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
        is_transparent,
        hbone: bootstrap.hbone.as_deref().map(Into::into),
        own_ports: bootstrap.own_ports(),
        named_ports: bootstrap.application.settings.ports.clone(),
        stands_alone: matches!(bootstrap.source, ConfigSource::Files { .. }),
        ..Proxy::default()
    };
    let applier = Applier::new(
        Arc::clone(&engine),
        Arc::clone(&listeners),
        resolver,
        workers.first().clone(),
        proxy,
    );
    let source = Source::new(bootstrap, &engine.telemetry)?;

    let _dns = {
        let _runtime = workers.first().enter();
        let options =
            dns::Options { listen: bootstrap.dns.clone(), name_servers: name_servers(bootstrap) };
        DnsServer::start(options, Arc::clone(&engine)).context("listen for DNS queries")?
    };

    let (ready, is_ready) = watch::channel(false);
    let (quit, mut quitting) = mpsc::channel(1);
    let ending = Ending::new(bootstrap, &listeners);
    let admin = admin::start(
        bootstrap,
        AdminState {
            engine: Arc::clone(&engine),
            listeners: Arc::clone(&listeners),
            configured: applier.configured(),
            ready: is_ready,
            discovery: source.status(),
            drain: ending.asking(),
            quit,
        },
    )?;
    upstream::keep_private(admin.admin);

    let ready = Readiness::new(bootstrap, ready);
    let _redirecting = bootstrap.awaits_redirection.then(|| {
        let (engine, ready) = (Arc::clone(&engine), ready.clone());
        // Large, and there is one.
        AbortOnDropHandle::new(tokio::spawn(Box::pin(async move {
            // Before, nobody listens for what is redirected.
            ready.configuration().await;
            engine.redirection.awaited().await;
            ready.is_reached();
        })))
    });
    let configuring = source.follow(applier, ready.clone());

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        _ = quitting.recv() => None,
        error = configuring => Some(error),
    };
    if let Some(Err(error)) = failed {
        return Err(error);
    }
    tracing::info!(seconds = bootstrap.drain_time.as_secs(), "draining");
    let cut = match bootstrap.kind {
        ProxyKind::Gateway => {
            ready.end();
            listeners.drain(bootstrap.drain_time).await
        }
        // A pod that ends is an endpoint only while it is ready, should no other be left.
        ProxyKind::Sidecar { .. } => ending.end(bootstrap.drain_time).await,
    };
    if cut > 0 {
        tracing::warn!(connections = cut, "still open at the end of the drain time, cut");
    }
    engine.telemetry.flush(FLUSH_LIMIT);
    admin.stop();
    Ok(ExitCode::SUCCESS)
}

/// Who tells what happened.
fn reporter(bootstrap: &Bootstrap) -> Reporter {
    let Bootstrap { namespace, labels, workload, .. } = bootstrap;
    let principal = bootstrap.principal().unwrap_or_default().into();
    let instance = bootstrap.instance.as_str().into();
    let reporter = Reporter::named(namespace, labels, workload.as_deref());
    Reporter { principal, instance, ..reporter }
}

/// Who is asked for names of others.
fn name_servers(bootstrap: &Bootstrap) -> Vec<SocketAddr> {
    match bootstrap.name_server {
        Some(address) => vec![address],
        None => cluster::system_name_servers(),
    }
}
