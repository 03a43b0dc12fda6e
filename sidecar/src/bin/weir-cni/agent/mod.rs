//! The agent: one process for each node. It keeps the plugin where runtimes find it, tells it about
//! pods, and programs those that were started without it.

mod api;
mod conflist;
mod decide;
mod health;
mod install;
mod leave;
mod pages;
mod processes;
mod repair;
mod serve;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tracing::info;
use weir_gateway::telemetry::log;

use self::{api::ApiServer, health::Health, install::Place};

/// What the agent is told. Folders are the node's, as they are mounted.
#[derive(Debug, Args)]
pub struct Options {
    /// The node that it runs on.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: String,
    /// Where the container runtime looks for plugins.
    #[arg(long, value_name = "DIR", env = "WEIR_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where it looks for the list of those that it runs.
    #[arg(long, value_name = "DIR", env = "WEIR_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The list by its file [default: the first, which is the one that runtimes take]
    #[arg(long, value_name = "NAME", env = "WEIR_CNI_CONF_FILE")]
    conf_file: Option<String>,
    /// The agent's own folder, by the same path on the node: the plugin asks there.
    #[arg(long, value_name = "DIR", env = "WEIR_CNI_RUN_DIR", default_value = "/var/run/weir-cni")]
    run_dir: PathBuf,
    /// Processes of the node.
    #[arg(long, value_name = "DIR", env = "WEIR_CNI_PROC", default_value = "/proc")]
    proc: PathBuf,
    /// Namespaces whose pods are left alone, and start without an agent too.
    #[arg(long, value_name = "NS,...", env = "WEIR_CNI_EXCLUDE_NAMESPACES", value_delimiter = ',')]
    exclude_namespaces: Vec<String>,
    /// Leaves pods alone that run without rules.
    #[arg(long, env = "WEIR_CNI_NO_REPAIR")]
    no_repair: bool,
    /// The DaemonSet that this is of, in the namespace POD_NAMESPACE. While there is it, a successor
    /// comes, and pods wait for that; without it, nothing of the agent is left on the node.
    #[arg(long, value_name = "NAME", env = "WEIR_CNI_DAEMON_SET")]
    daemon_set: Option<String>,
    #[arg(long, value_name = "NS", env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Where /readyz and /healthz are served.
    #[arg(long, value_name = "ADDR", env = "WEIR_STATUS", default_value = "127.0.0.1:15025")]
    status: SocketAddr,
    /// `error`, `warn`, `info`, `debug`, or directives.
    #[arg(long, value_name = "L", env = "WEIR_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// JSON in the place of text, on standard error.
    #[arg(long, env = "WEIR_LOG_AS_JSON")]
    log_as_json: bool,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting. What fails later is tried again, and told by `/readyz` and the log.
pub fn run(options: Options) -> anyhow::Result<()> {
    // What the client says of a request that failed, whoever made it says better.
    log::init(&format!("{},kube_client=off", options.log_level), options.log_as_json)?;
    let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    let health = Arc::new(Health::default());
    let api = Arc::new(ApiServer::connect(options.node.clone())?);
    let place = Arc::new(Place::new(&options));

    pages::start(options.status, Arc::clone(&health)).await?;
    let pods = api::follow(Arc::clone(&api), Arc::clone(&health));
    // Before the plugin is there, which asks.
    serve::start(&options.run_dir, Arc::clone(&api))?;
    let installing = tokio::spawn(install::keep(Arc::clone(&place), Arc::clone(&health)));
    if !options.no_repair {
        let repair = repair::Repair::new(options.proc, options.exclude_namespaces);
        tokio::spawn(repair.keep(pods));
    }
    info!(node = %options.node, "started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // What is taken away would be put back.
    installing.abort();
    let daemon_set = options.daemon_set.as_deref();
    if leave::for_good(&api, &options.namespace, daemon_set).await {
        info!("the agent is uninstalled: pods start without it");
        install::remove(&place);
        serve::remove(&options.run_dir);
    } else {
        info!("a successor is expected: new pods wait for it");
    }
    Ok(())
}
