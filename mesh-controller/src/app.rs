//! Builds every part once, in start order.

use std::process::ExitCode;

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::args::Arguments;

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
    let client = client(&arguments).await?;
    let version = client.apiserver_version().await;
    info!(server = ?version.map(|version| version.git_version).ok(), "connected to Kubernetes");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// How the API server is reached.
async fn client(arguments: &Arguments) -> anyhow::Result<Client> {
    let config = match &arguments.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("read --kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use --kubeconfig {}", path.display()))?
        }
        None => Config::incluster().context(
            "use the pod's service account; outside of a cluster, name a file with --kubeconfig",
        )?,
    };
    Client::try_from(config).context("set up the Kubernetes client")
}
