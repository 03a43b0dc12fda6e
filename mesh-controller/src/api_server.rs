//! The way to the API server, which outlives its certificate, its authorities and our token.
//!
//! The client re-reads a token of a file by itself; authorities it reads once. They are followed here:
//! what changed is used for the next request, and connections there are go on.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use http::{Request, Response};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tower_service::Service;
use tracing::{info, warn};

/// How often authorities are looked at. A request that fails has them looked at as well.
const LOOK: Duration = Duration::from_secs(60);
/// Between two looks, however many requests fail.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a connection may say nothing while something is expected of it. More than a minute, which
/// is how often a watch is told that nothing happened.
const SILENCE: Duration = Duration::from_secs(90);

/// A client for the API server that a kubeconfig leads to, or the one of the cluster.
///
/// # Errors
/// There is no usable configuration. The API server is not asked for anything yet.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = read(kubeconfig).await?;
    let namespace = config.default_namespace.clone();
    let authorities = config.root_cert.clone();
    let client = Client::try_from(config).context("set up the Kubernetes client")?;
    let way = Way { current: Arc::new(ArcSwap::from_pointee(client)), failed: Arc::default() };
    let source = kubeconfig.map(Path::to_owned);
    tokio::spawn(follow(source, authorities, way.clone()));
    Ok(Client::new(way, namespace))
}

async fn read(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let mut config = match kubeconfig {
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
    // Whoever asks has a back-off of his own. The client's goes on for minutes in which nobody knows
    // that something failed.
    config.default_retry = false;
    // A connection that is half open would otherwise be waited for until TCP gives up.
    config.read_timeout = Some(SILENCE);
    Ok(config)
}

/// Gives `way` a new client whenever the authorities are others.
async fn follow(source: Option<PathBuf>, mut known: Option<Vec<Vec<u8>>>, way: Way) {
    // For as long as somebody else has it.
    while Arc::strong_count(&way.current) > 1 {
        // In time, or because a request failed.
        let _ = timeout(LOOK, way.failed.notified()).await;
        let fresh = match read(source.as_deref()).await {
            Ok(config) if config.root_cert != known => {
                known.clone_from(&config.root_cert);
                Client::try_from(config).context("set up the Kubernetes client")
            }
            Ok(_) => {
                sleep(PAUSE).await;
                continue;
            }
            Err(error) => Err(error),
        };
        match fresh {
            Ok(client) => {
                info!("the API server's certificate authorities were replaced");
                way.current.store(Arc::new(client));
            }
            Err(error) => warn!("the API server's new authorities cannot be used: {error:#}"),
        }
        sleep(PAUSE).await;
    }
}

/// Requests by the client of the moment.
#[derive(Clone)]
struct Way {
    current: Arc<ArcSwap<Client>>,
    failed: Arc<Notify>,
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<kube::Result<()>> {
        // It is waited for where the request is sent.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.current.load_full();
        let failed = Arc::clone(&self.failed);
        Box::pin(async move {
            let result = client.send(request).await;
            if result.is_err() {
                failed.notify_one();
            }
            result
        })
    }
}
