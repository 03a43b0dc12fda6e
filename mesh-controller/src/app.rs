//! Builds every part once, in start order.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use kube::Client;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    admin::{self, Admin},
    api_server,
    args::Arguments,
    ca,
    discovery::{
        Proxies, push,
        server::{self, Parts, Server},
    },
    leader::{self, Leadership},
    log,
    metrics::Metrics,
    review::Reviews,
    status,
    store::Store,
    tls::{self, Serving},
    watch, webhook,
};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A part cannot be started.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    let mut running = start(&arguments).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        end = &mut running.writer => {
            end.context("the writer failed; this is a bug, please report it")?;
            bail!("the watches have ended");
        }
    }
    info!(time = ?arguments.drain_time, "ending; streams are ended one after another");
    running.end(arguments.drain_time).await?;
    Ok(ExitCode::SUCCESS)
}

/// What has to be ended in order.
struct Running {
    writer: JoinHandle<()>,
    ending: CancellationToken,
    discovery: Server,
    admission: webhook::server::Server,
    election: JoinHandle<()>,
    /// Ends when it is dropped.
    _authority: ca::Ca,
}

impl Running {
    async fn end(self, drain_time: Duration) -> anyhow::Result<()> {
        self.ending.cancel();
        self.discovery.drain(drain_time).await;
        self.admission.drain().await;
        // The next replica need not wait for the Lease to run out.
        self.election.await.context("let the Lease go")
    }
}

async fn start(arguments: &Arguments) -> anyhow::Result<Running> {
    let client = api_server::connect(arguments.kubeconfig.as_deref()).await?;
    let metrics = Arc::new(Metrics::new().context("set up metrics")?);
    log::report_panics(metrics.panics.clone());
    let proxies = Arc::new(Proxies::default());
    let serving = Arc::new(Serving::default());
    let ending = CancellationToken::new();
    let replica: Arc<str> = replica(arguments).into();
    let has_certificate = tls::from_files(arguments, &serving)?;

    let timing = watch::Timing::default();
    let (changes, listed) = watch::start(&client, &arguments.domain, timing, &metrics);
    let store = Store::new(&arguments.namespace, &arguments.domain);
    let (touched, touches) = mpsc::unbounded_channel();
    let (writer, writer_task) = push::start(push::Parts {
        store,
        changes,
        listed: listed.clone(),
        metrics: Arc::clone(&metrics),
        replica: Arc::clone(&replica),
        touched,
    });

    let admin = Admin {
        metrics: Arc::clone(&metrics),
        proxies: Arc::clone(&proxies),
        writer: writer.clone(),
        listed,
        ending: ending.clone(),
    };
    admin::start(arguments.monitoring_addr, admin).await?;
    let (leadership, election) = leader::start(
        client.clone(),
        &arguments.namespace,
        Arc::clone(&replica),
        Arc::clone(&metrics),
        ending.clone(),
    );
    // A certificate from elsewhere is shown in the place of one of our own.
    let own = (!has_certificate).then(|| Arc::clone(&serving));
    let ca = ca::start(&client, ca_options(arguments), own, &metrics, leadership.clone())
        .context("start the certificate authority")?;
    if arguments.status {
        status::start(status::Parts {
            client: client.clone(),
            writer: writer.clone(),
            proxies: Arc::clone(&proxies),
            metrics: Arc::clone(&metrics),
            touched: touches,
            leadership: leadership.clone(),
        });
    }
    let admission = admission(arguments, &client, &serving, &metrics, leadership, &ending).await?;
    let parts = Parts {
        serving,
        writer,
        reviews: Arc::new(Reviews::new(client, arguments.token_audiences.clone())),
        proxies,
        metrics,
        own_gateways_only: arguments.scope_gateway_to_namespace,
        push_timeout: arguments.push_timeout,
        authorities: Arc::clone(&ca.authorities),
    };
    let discovery = server::start(arguments.discovery_addr, parts).await?;
    Ok(Running { writer: writer_task, ending, discovery, admission, election, _authority: ca })
}

/// The webhook, and that the API server knows of it.
async fn admission(
    arguments: &Arguments,
    client: &Client,
    serving: &Arc<Serving>,
    metrics: &Arc<Metrics>,
    leadership: Leadership,
    ending: &CancellationToken,
) -> anyhow::Result<webhook::server::Server> {
    let (address, serving) = (arguments.webhook_addr, Arc::clone(serving));
    let injector = injector(arguments, client, metrics)?;
    let injects = injector.is_some();
    let (shown, counted, ending) = (Arc::clone(&serving), Arc::clone(metrics), ending.clone());
    let server = webhook::server::start(address, shown, counted, injector, ending).await?;
    let name = arguments.webhook_configuration();
    tokio::spawn(webhook::keep_registered(client.clone(), name, injects, serving, leadership));
    Ok(server)
}

/// What injects pods, if that is configured.
fn injector(
    arguments: &Arguments,
    client: &Client,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<webhook::Injector>> {
    let Some(file) = &arguments.injection_config else { return Ok(None) };
    let (native, is_native) = tokio::sync::watch::channel(false);
    let injector = webhook::Injector::new(file.clone(), is_native, Arc::clone(metrics))?;
    tokio::spawn(webhook::watch_nodes(client.clone(), native));
    Ok(Some(injector))
}

fn ca_options(arguments: &Arguments) -> ca::Options {
    let max = arguments.max_workload_cert_ttl;
    ca::Options {
        namespace: arguments.namespace.clone(),
        domain: arguments.domain.clone(),
        trust_domain: arguments.trust_domain.clone(),
        hosts: arguments.hosts.iter().filter(|host| !host.is_empty()).cloned().collect(),
        limits: ca::Limits { default: arguments.workload_cert_ttl.min(max), max },
        root_lifetime: arguments.root_cert_ttl,
    }
}

/// Names this process in what it sends. Part of it is made up, so that no push of an earlier process
/// of the same pod has the same name.
fn replica(arguments: &Arguments) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = arguments.pod_name.clone().or_else(host).unwrap_or_default();
    format!("{}-{:04x}", name.trim(), fastrand::u16(..))
}
