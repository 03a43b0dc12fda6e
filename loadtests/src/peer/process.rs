//! A proxy that runs.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{
    Peer, Program, Settings, probe,
    sidecar::{self, Pair, Side},
};
use crate::{
    account::Account,
    affinity::{self, Cpus},
    certs::Credentials,
    lan::Lan,
    load::{Client, Place, Work},
    origin::Origin,
    scenario::{Case, Listener, Measure},
};

/// Reading 100,000 routes takes some of them a while.
const START: Duration = Duration::from_secs(180);

const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A proxy that has not grown for this long has started.
const AT_REST: Duration = Duration::from_millis(500);

/// How long a proxy may take to end before it is killed.
const END: Duration = Duration::from_secs(3);

/// A proxy in front of an origin, configured for one case. It ends when dropped.
#[derive(Debug)]
pub struct Running {
    pub peer: Peer,
    pub case: Case,
    pub account: Account,
    pub settings: Settings,
    /// What is sent to it.
    pub work: Rc<Work>,
    /// Bytes resident before the first request, of a case that is about connections that are idle.
    pub resident_at_start: u64,
    children: Vec<Child>,
    /// Of sidecars.
    pub pair: Option<Pair>,
    _dir: TempDir,
}

impl Running {
    /// Starts a proxy, waits for its first right answer and looks whether it does all that the case
    /// asks for.
    pub async fn start(
        program: &Program,
        case: &Case,
        origin: &Origin,
        credentials: &Credentials,
        cpus: Cpus,
    ) -> anyhow::Result<Self> {
        let mut running = match case.proxy.listener {
            Listener::Sidecar => Self::sidecars(program, case, credentials, cpus)?,
            _ => Self::alone(program, case, origin, credentials, cpus)?,
        };
        if case.measure == Measure::Memory {
            running.configured().await?;
            return Ok(running);
        }
        running.listening().await?;
        if case.measure == Measure::Idle {
            running.resident_at_start = running.resident_when_started().await?;
        }
        running.ready().await?;
        let features = probe::features(&running, credentials).await;
        features.with_context(|| running.peer.to_string())?;
        Ok(running)
    }

    /// One process, on the host's loopback interface.
    fn alone(
        program: &Program,
        case: &Case,
        origin: &Origin,
        credentials: &Credentials,
        cpus: Cpus,
    ) -> anyhow::Result<Self> {
        let dir = folder(program.peer)?;
        let workers = cpus.workers;
        let settings = Settings::new(program, case, origin, credentials, dir.path(), workers)?;
        settings.write()?;
        let work = Work::new(case, credentials, settings.listen)?;
        let mut running = Self::of(case, settings, work, dir);
        let child = affinity::spawn(cpus, &mut command(program, &running.settings, workers)?);
        running.take(child.with_context(|| format!("start {}", program.path.display()))?);
        Ok(running)
    }

    /// Two processes, each in a namespace; where it is about memory, the caller's.
    fn sidecars(
        program: &Program,
        case: &Case,
        credentials: &Credentials,
        cpus: Cpus,
    ) -> anyhow::Result<Self> {
        let dir = folder(program.peer)?;
        let lan = Lan::new(program.peer.name());
        let origin = Origin::start(case, credentials, cpus.generator, Some(&lan))?;
        let [client, server] = Side::BOTH.map(|side| {
            let settings = Settings::of_sidecar(program, case, credentials, dir.path(), side)?;
            settings.write()?;
            anyhow::Ok(settings)
        });
        let (client, server) = (client?, server?);
        let place = Place { addr: client.listen, namespace: Some(Rc::clone(&lan.client)) };
        let work = Work::new(case, credentials, place)?;
        let pair = Pair { lan, server, _origin: origin };
        let mut running = Self::of(case, client, work, dir);
        let sides = match case.measure {
            Measure::Memory => &[Side::Client][..],
            _ => &Side::BOTH,
        };
        for side in sides {
            let settings = if *side == Side::Client { &running.settings } else { &pair.server };
            if case.measure != Measure::Memory {
                sidecar::redirect(side.namespace(&pair.lan))?;
            }
            let child = sidecar::start(*side, program, settings, &pair.lan, cpus)?;
            running.take(child);
        }
        running.pair = Some(pair);
        Ok(running)
    }

    /// Nothing runs yet.
    fn of(case: &Case, settings: Settings, work: Rc<Work>, dir: TempDir) -> Self {
        Self {
            peer: settings.peer,
            case: case.clone(),
            account: Account::of([]),
            settings,
            work,
            resident_at_start: 0,
            children: Vec::new(),
            pair: None,
            _dir: dir,
        }
    }

    /// A process that is ended with this.
    fn take(&mut self, child: Child) {
        self.children.push(child);
        self.account = Account::of(self.children.iter().map(Child::id));
    }

    /// Where the proxy answers questions about itself.
    pub fn admin(&self) -> Place {
        let namespace = self.pair.as_ref().map(|pair| Rc::clone(&pair.lan.client));
        Place { addr: self.settings.admin, namespace }
    }

    /// Waits until it has taken its configuration, as it says itself.
    async fn configured(&mut self) -> anyhow::Result<()> {
        let admin = crate::load::plain(self.admin());
        self.until("not ready", async |_| {
            let answer = probe::page(&admin, "/ready").await;
            answer.map(drop).map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// Waits until the port is open.
    async fn listening(&mut self) -> anyhow::Result<()> {
        self.until("no port", async |work| {
            work.target.connect_plain().await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// Memory once a proxy whose port is open has done the rest of its start as well: when it has not grown
    /// for a while.
    async fn resident_when_started(&self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + START;
        let mut resident = self.account.resident_bytes()?;
        loop {
            tokio::time::sleep(AT_REST).await;
            let now = self.account.resident_bytes()?;
            if now <= resident || Instant::now() > deadline {
                return Ok(now);
            }
            resident = now;
        }
    }

    /// Waits until an exchange of the load succeeds.
    async fn ready(&mut self) -> anyhow::Result<()> {
        self.until("no right answer", async |work| {
            let mut random = fastrand::Rng::with_seed(0);
            let mut client = Client::open(&work).await.map_err(|failure| failure.to_string())?;
            let done = client.exchange(&work, &mut random).await;
            done.map(drop).map_err(|failure| failure.to_string())
        })
        .await
    }

    async fn until(
        &mut self,
        what: &str,
        ask: impl AsyncFn(Rc<Work>) -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let Err(reason) = ask(Rc::clone(&self.work)).await else { return Ok(()) };
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("{} ended with {status}: {}", self.peer, self.errors());
                }
            }
            if Instant::now() > deadline {
                bail!("{}: {what} within {START:?}: {reason}\n{}", self.peer, self.errors());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// What it wrote to standard error, the last of it.
    pub fn errors(&self) -> String {
        let server = self.pair.as_ref().map(|pair| &pair.server);
        let folders = [&self.settings].into_iter().chain(server).map(|settings| &settings.dir);
        let text: Vec<u8> = folders
            .flat_map(|folder| fs::read(folder.join("stderr.log")).unwrap_or_default())
            .collect();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("[NOTICE]")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Changes one route, in the way of this proxy, and returns when the change was made known to it.
    pub fn change(&mut self, route: usize) -> anyhow::Result<Instant> {
        let value = self.settings.change(route);
        // HAProxy's map is changed in memory, at run time; its file is for the next start.
        if self.peer == Peer::Haproxy {
            let map = self.settings.dir.join("routes.map");
            let key = &self.work.requests[route];
            let key = if self.case.proxy.routes > 0 { &key.path } else { &key.host };
            let mut socket = UnixStream::connect(self.settings.dir.join("haproxy.sock"))?;
            let at = Instant::now();
            writeln!(socket, "set map {} {key} {value}", map.display())?;
            return Ok(at);
        }
        let (aside, target) = self.settings.write_change(route)?;
        let at = Instant::now();
        fs::rename(aside, target)?;
        if self.peer == Peer::Nginx {
            for child in &self.children {
                kill(pid(child), Signal::SIGHUP)?;
            }
        }
        Ok(at)
    }
}

impl Drop for Running {
    /// Weir and Envoy would drain first; the others have workers that a kill would leave behind.
    fn drop(&mut self) {
        let family = self.account.processes();
        let first = match self.peer {
            Peer::Weir | Peer::Envoy => Signal::SIGKILL,
            Peer::Nginx | Peer::Haproxy => Signal::SIGTERM,
        };
        for child in &self.children {
            let _ = kill(pid(child), first);
        }
        let deadline = Instant::now() + END;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            if matches!(child.try_wait(), Ok(None)) {
                for pid in &family {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
                let _ = child.wait();
            }
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn folder(peer: Peer) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("weir-loadtests-{peer}-")).tempdir()
}

/// The command line of each.
pub fn command(program: &Program, settings: &Settings, workers: usize) -> anyhow::Result<Command> {
    let workers = workers.to_string();
    let mut command = Command::new(settings.program(program));
    let file = |name: &str| -> std::path::PathBuf { settings.dir.join(name) };
    match program.peer {
        Peer::Weir => {
            command.arg("--config").arg(file("config"));
            command.arg("--mesh-config").arg(file("mesh.yaml"));
            command.args(["--workers", &workers, "--log-level", "warn"]);
            command.args(["--admin", &settings.admin.to_string()]);
            match &settings.workload {
                Some(workload) => {
                    command.arg("--identity-files").arg(&workload.identity);
                    command.args(["--namespace", "shop", "--labels", &workload.labels]);
                    command.args(["--pod-ip", &workload.ip.to_string()]);
                }
                None => {
                    command.args(["--status", "127.0.0.1:0"]);
                }
            }
        }
        Peer::Nginx => {
            command.arg("-p").arg(&settings.dir).arg("-c").arg(file("nginx.conf"));
            command.args(["-e", "stderr"]);
        }
        Peer::Haproxy => {
            command.arg("-db").arg("-f").arg(file("haproxy.cfg"));
        }
        Peer::Envoy => {
            command.arg("-c").arg(file("envoy.yaml"));
            command.args(["--concurrency", &workers]);
            command.args(["--disable-hot-restart", "-l", "error"]);
            command.args(["--file-flush-interval-msec", "1000"]);
        }
    }
    command.stdin(Stdio::null());
    command.stdout(create(&settings.dir, "stdout.log")?);
    command.stderr(create(&settings.dir, "stderr.log")?);
    Ok(command)
}

fn create(dir: &Path, name: &str) -> anyhow::Result<File> {
    File::create(dir.join(name)).with_context(|| format!("create {name}"))
}
