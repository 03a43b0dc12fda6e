//! The programs of the control plane as processes.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use weir_tests::{
    client::http::{Connection, Request},
    metrics::Metrics,
    ports,
};

use super::{Stage, objects::LABEL, until};
use crate::{account::Account, measure::mebibytes};

/// Memory is asked for this often while it is given back.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// So often in a row it has to be no less than before, to be called at rest.
const AT_REST: usize = 4;
/// Freed memory goes back to the system within ten seconds or so.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// A program that runs. It ends when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let errors = File::create(&log).context("create a log")?;
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log })
    }

    /// Waits until a page says 200.
    async fn ready(&mut self, port: u16, path: &str) -> anyhow::Result<()> {
        until("ready", async || {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}: {}", self.last_words());
            }
            let Ok(mut connection) = Connection::http1(port).await else { return Ok(None) };
            let reply = connection.send(&Request::get("localhost", path)).await;
            Ok(reply.is_ok_and(|reply| reply.status == 200).then_some(()))
        })
        .await
        .with_context(|| self.last_words())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The controller.
pub struct Controller {
    process: Process,
    pub discovery: SocketAddr,
    /// In its certificate.
    pub name: String,
    /// Just before it was started.
    pub started: Instant,
    monitoring: u16,
}

/// Where a controller is reached: discovery, monitoring, webhook.
#[derive(Clone, Copy)]
pub struct Ports([SocketAddr; 3]);

impl Ports {
    /// Those that nobody uses now.
    pub fn free() -> Self {
        Self([(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], ports::free()))))
    }
}

impl Controller {
    /// Starts it, without waiting for anything.
    pub fn spawn(stage: &Stage<'_>) -> anyhow::Result<Self> {
        Self::spawn_at(stage, &Ports::free(), &[])
    }

    fn spawn_at(stage: &Stage<'_>, ports: &Ports, arguments: &[&str]) -> anyhow::Result<Self> {
        let Ports([discovery, monitoring, webhook]) = *ports;
        let mut command = Command::new(&stage.programs.controller);
        command
            .arg("--kubeconfig")
            .arg(&stage.bed.kubeconfig)
            .args(["--namespace", &stage.bed.namespace, "--pod-name", "loadtests"])
            .args(["--discovery-addr", &discovery.to_string()])
            .args(["--monitoring-addr", &monitoring.to_string()])
            .args(["--webhook-addr", &webhook.to_string()])
            .args(["--log-level", "warn"])
            .args(arguments)
            .env_remove("KUBECONFIG");
        let name = format!("weir-controller.{}.svc", stage.bed.namespace);
        let log = stage.folder.join("controller.log");
        let started = Instant::now();
        let process = Process::start(&mut command, log)?;
        Ok(Self { process, discovery, name, started, monitoring: monitoring.port() })
    }

    /// Starts it and waits until it has seen everything.
    pub async fn start(stage: &Stage<'_>) -> anyhow::Result<Self> {
        Self::start_at(stage, &Ports::free(), &[]).await
    }

    /// The same at these ports, with more of the command line.
    pub async fn start_at(
        stage: &Stage<'_>,
        ports: &Ports,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut controller = Self::spawn_at(stage, ports, arguments)?;
        let ready = controller.process.ready(controller.monitoring, "/ready").await;
        ready.context("the controller")?;
        Ok(controller)
    }

    /// Bytes resident once what was freed is given back.
    pub async fn resident(&self) -> anyhow::Result<u64> {
        let account = Account::of([self.process.child.id()]);
        let deadline = Instant::now() + GIVEN_BACK;
        let (mut least, mut unmoved) = (account.resident_bytes()?, 0);
        while unmoved < AT_REST && Instant::now() < deadline {
            tokio::time::sleep(ASK_AGAIN).await;
            let now = account.resident_bytes()?;
            unmoved = if mebibytes(now) < mebibytes(least) - 0.5 { 0 } else { unmoved + 1 };
            least = least.min(now);
        }
        Ok(least)
    }

    /// How many certificates were asked for, and how many were signed.
    pub async fn signed(&self) -> anyhow::Result<(f64, f64)> {
        let mut connection = Connection::http1(self.monitoring).await?;
        let reply = connection.send(&Request::get("localhost", "/metrics")).await?;
        let metrics = Metrics::parse(reply.text());
        let count = |name: &str| metrics.sum(name, &[]);
        Ok((count("citadel_server_csr_count"), count("citadel_server_success_cert_issuance_count")))
    }

    /// Processor time used so far.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        Ok(Account::of([self.process.child.id()]).cpu_time()?)
    }

    /// Why a case that failed may have failed.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }
}

/// How a gateway follows the controller.
pub struct Follower<'a> {
    stage: Stage<'a>,
    discovery: SocketAddr,
    name: String,
    root: PathBuf,
    token: PathBuf,
}

/// A gateway.
pub struct Gateway {
    process: Process,
    admin: u16,
    /// Just before it was started.
    pub started: Instant,
}

impl<'a> Follower<'a> {
    pub fn new(
        stage: &Stage<'a>,
        controller: &Controller,
        root: &str,
        token: &str,
    ) -> anyhow::Result<Self> {
        let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = stage.folder.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let (root, token) = (write("root.pem", root)?, write("token", token)?);
        let name = controller.name.clone();
        Ok(Self { stage: *stage, discovery: controller.discovery, name, root, token })
    }

    /// The copy on disk of gateways that keep one.
    pub fn copy(&self) -> PathBuf {
        self.state_dir().join("last-good")
    }

    fn state_dir(&self) -> PathBuf {
        self.stage.folder.join("state")
    }

    /// Starts one that keeps a copy, without waiting for anything.
    pub fn spawn_with_copy(&self) -> anyhow::Result<Gateway> {
        self.spawn(|command| command.arg("--state-dir").arg(self.state_dir()))
    }

    /// Starts one and waits until it serves.
    pub async fn start(&self) -> anyhow::Result<Gateway> {
        let mut gateway = self.spawn(|command| command)?;
        gateway.process.ready(gateway.admin, "/ready").await.context("the gateway")?;
        Ok(gateway)
    }

    fn spawn(&self, more: impl FnOnce(&mut Command) -> &mut Command) -> anyhow::Result<Gateway> {
        let (admin, status) = (ports::free(), ports::free());
        let (label, value) = LABEL;
        let mut command = Command::new(&self.stage.programs.gateway);
        command
            .args(["--discovery", &self.discovery.to_string()])
            .args(["--discovery-name", &self.name])
            .arg("--discovery-root")
            .arg(&self.root)
            .arg("--discovery-token")
            .arg(&self.token)
            .args(["--namespace", &self.stage.bed.namespace, "--service-account", "proxy"])
            .args(["--labels", &format!("{label}={value}"), "--log-level", "warn"])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .args(["--status", &format!("127.0.0.1:{status}")])
            .args(["--drain-time", "0s"]);
        let log = self.stage.folder.join("gateway.log");
        let started = Instant::now();
        let process = Process::start(more(&mut command), log)?;
        Ok(Gateway { process, admin, started })
    }
}

impl Gateway {
    /// Asks it to end, and waits until it has.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let pid = self.process.child.id().to_string();
        Command::new("kill").arg(pid).status().context("kill a gateway")?;
        let ended = until("the gateway ends", async || Ok(self.process.child.try_wait()?)).await;
        ended.map(drop)
    }

    /// Why a case that failed may have failed.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }
}
