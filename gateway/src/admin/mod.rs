//! The admin port, where an operator looks at the proxy and turns its knobs, the status port, where a
//! load balancer asks whether it is ready, ports for metrics alone, and the port of a sidecar's pod.
//!
//! They run on a thread of their own: a dump never delays a request, and they answer when the data
//! plane is overloaded. Everything that changes something is a POST.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Instant, SystemTime},
};

use anyhow::Context;
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

mod agent;
mod certificates;
mod clusters;
mod dump;
mod guard;
mod pages;
mod server;

use self::server::{Kind, Server};
use crate::{
    bootstrap::Bootstrap, discovery::apply::Configured, engine::Engine, listener::ListenerManager,
    telemetry::discovery::DiscoveryStatus,
};

/// What the pages show and what the knobs turn.
#[derive(Debug)]
pub struct AdminState {
    pub engine: Arc<Engine>,
    pub listeners: Arc<ListenerManager>,
    pub configured: Configured,
    /// True while traffic is wanted: after the first configuration, before the end.
    pub ready: watch::Receiver<bool>,
    /// Where a controller sends the configuration.
    pub discovery: Option<Arc<DiscoveryStatus>>,
    /// Told to end what is inbound, while the application ends.
    pub drain: watch::Sender<bool>,
    /// Told to end the process.
    pub quit: mpsc::Sender<()>,
}

/// The running admin thread.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens; `None` if it could not.
    pub admin: Option<SocketAddr>,
    pub status: Option<SocketAddr>,
    /// Those that could be bound.
    pub metrics: Vec<SocketAddr>,
    pub agent: Option<SocketAddr>,
    stop: CancellationToken,
}

impl Admin {
    /// Ends it, whatever it is doing.
    pub fn stop(self) {
        self.stop.cancel();
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What every page has at hand.
#[derive(Debug)]
struct Shared {
    state: AdminState,
    bootstrap: Bootstrap,
    started: Instant,
    started_at: SystemTime,
    /// Listeners were told to end by `/drain_listeners`.
    draining: AtomicBool,
}

/// Starts the ports. One that cannot be bound is an error in the log: the proxy serves without it.
///
/// # Errors
/// The operating system gives no thread.
pub fn start(bootstrap: &Bootstrap, state: AdminState) -> anyhow::Result<Admin> {
    let shared = Arc::new(Shared {
        state,
        bootstrap: bootstrap.clone(),
        started: Instant::now(),
        started_at: SystemTime::now(),
        draining: AtomicBool::new(false),
    });
    let metrics = bootstrap.metrics.iter().map(|addr| (Kind::Metrics, "metrics", *addr));
    let agent = bootstrap.agent.map(|addr| (Kind::Agent, "agent", addr));
    let servers: Vec<_> = [
        (Kind::Admin, "admin", bootstrap.admin),
        (Kind::Status, "status", bootstrap.status),
    ]
    .into_iter()
    .chain(metrics)
    .chain(agent)
    .filter_map(|(kind, name, addr)| {
        Server::bind(kind, addr)
            .inspect_err(|error| {
                error!(%error, "bind the {name} address {addr}, which --{name} changes; nothing is served there");
            })
            .ok()
    })
    .collect();
    let addrs_of = |kind| servers.iter().filter(move |it| it.kind == kind).map(|it| it.addr);
    let admin = Admin {
        admin: addrs_of(Kind::Admin).next(),
        status: addrs_of(Kind::Status).next(),
        metrics: addrs_of(Kind::Metrics).collect(),
        agent: addrs_of(Kind::Agent).next(),
        stop: CancellationToken::new(),
    };
    let stop = admin.stop.clone();
    let runtime =
        Builder::new_current_thread().enable_all().build().context("start the admin runtime")?;
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(stop.run_until_cancelled(server::run(servers, shared))))
        .context("start the admin thread")?;
    Ok(admin)
}

#[cfg(test)]
mod tests;
