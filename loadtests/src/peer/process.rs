//! A proxy that runs.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
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

use super::{Peer, Program, Settings, probe};
use crate::{
    account::Account,
    affinity,
    certs::Credentials,
    load::{Client, Work},
    origin::Origin,
    scenario::Case,
};

/// Reading 100,000 routes takes some of them a while.
const START: Duration = Duration::from_secs(180);

const ASK_AGAIN: Duration = Duration::from_millis(20);

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
    /// Bytes resident before the first request.
    pub resident_at_start: u64,
    child: Child,
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
        cpu: usize,
    ) -> anyhow::Result<Self> {
        let peer = program.peer;
        let dir = tempfile::Builder::new().prefix(&format!("weir-loadtests-{peer}-")).tempdir()?;
        let settings = Settings::new(program, case, origin, credentials, dir.path())?;
        settings.write()?;
        let work = Work::new(case, credentials, settings.listen)?;
        let child = affinity::spawn(cpu, &mut command(program, &settings)?)
            .with_context(|| format!("start {}", program.path.display()))?;
        let account = Account::of(child.id());
        let case = case.clone();
        let mut running =
            Self { peer, case, account, settings, work, resident_at_start: 0, child, _dir: dir };
        running.listening().await?;
        running.resident_at_start = running.account.resident_bytes()?;
        running.ready().await?;
        probe::features(&running, credentials).await.with_context(|| peer.to_string())?;
        Ok(running)
    }

    /// Waits until the port is open.
    async fn listening(&mut self) -> anyhow::Result<()> {
        self.until("no port", async |addr, _| {
            tokio::net::TcpStream::connect(addr).await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// Waits until an exchange of the load succeeds.
    async fn ready(&mut self) -> anyhow::Result<()> {
        self.until("no right answer", async |_, work| {
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
        ask: impl AsyncFn(SocketAddr, Rc<Work>) -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let answer = ask(self.settings.listen, Rc::clone(&self.work)).await;
            let Err(reason) = answer else { return Ok(()) };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.peer, self.errors());
            }
            if Instant::now() > deadline {
                bail!("{}: {what} within {START:?}: {reason}\n{}", self.peer, self.errors());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// What it wrote to standard error, the last of it.
    pub fn errors(&self) -> String {
        let text = fs::read(self.settings.dir.join("stderr.log")).unwrap_or_default();
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
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGHUP)?;
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
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), first);
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            for pid in family {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// The command line of each; one worker each.
fn command(program: &Program, settings: &Settings) -> anyhow::Result<Command> {
    let mut command = Command::new(&program.path);
    let file = |name: &str| -> std::path::PathBuf { settings.dir.join(name) };
    match program.peer {
        Peer::Weir => {
            command.arg("--config").arg(file("config"));
            command.arg("--mesh-config").arg(file("mesh.yaml"));
            command.args(["--workers", "1", "--log-level", "warn"]);
            command.args(["--admin", &settings.admin.to_string()]);
            command.args(["--status", "127.0.0.1:0"]);
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
            command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
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
