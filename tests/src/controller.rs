//! The controller under test: the real binary, on a scripted API server.

use std::{
    fs,
    process::{ExitStatus, Stdio},
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    binaries::built,
    certs::{Authority, Identity},
    client::{
        http::{Connection, Reply, Request},
        tools,
    },
    clock::Clock,
    eventually::{DEADLINE, eventually},
    kube::ApiServer,
    metrics::Metrics,
    output::Lines,
    ports,
};

/// The name in the controller's certificate.
pub const NAME: &str = "weir-controller.weir-system.svc";

/// The file with the settings of injection.
const INJECTION: &str = "injection.yaml";

/// A running controller. It is killed when dropped.
pub struct Controller {
    child: Child,
    discovery: u16,
    monitoring: u16,
    webhook: u16,
    log: Lines,
    authority: Authority,
    folder: TempDir,
}

/// How a controller is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Its certificate is of its own authority and not of the harness's.
    pub is_own_authority: bool,
    /// Settings of injection.
    pub injection: Option<&'a str>,
    /// It panics over objects that contain that text, as if it had such a bug.
    pub panic_over: Option<&'a str>,
    /// Its time of day; default: the machine's.
    pub clock: Option<&'a Clock>,
    /// More of the command line; of an option that is there twice the last counts.
    pub arguments: &'a [&'a str],
}

impl Controller {
    /// Starts the binary and waits until it is ready.
    pub async fn start(server: &ApiServer) -> Self {
        let mut controller = Self::spawn(server);
        controller.ready().await;
        controller
    }

    /// Starts the binary without waiting for anything.
    #[must_use]
    pub fn spawn(server: &ApiServer) -> Self {
        Self::launch(server, &Options::default())
    }

    /// Starts the binary with these options, and waits until it is ready.
    pub async fn start_with(server: &ApiServer, options: &Options<'_>) -> Self {
        let mut controller = Self::launch(server, options);
        controller.ready().await;
        controller
    }

    /// Starts the binary as its own certificate authority, and waits until it is ready.
    pub async fn start_with_own_authority(server: &ApiServer) -> Self {
        Self::start_with(server, &Options { is_own_authority: true, ..Options::default() }).await
    }

    /// Starts the binary with settings of injection, and waits until it is ready.
    pub async fn start_injecting(server: &ApiServer, settings: &str) -> Self {
        Self::start_with(server, &Options { injection: Some(settings), ..Options::default() }).await
    }

    /// Changes the settings of injection.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_injection(&self, settings: &str) {
        fs::write(self.folder.path().join(INJECTION), settings).expect("write a file");
    }

    /// Starts the binary, which panics over objects that contain that text, as if it had such a bug.
    pub async fn start_panicking_over(server: &ApiServer, text: &str) -> Self {
        Self::start_with(server, &Options { panic_over: Some(text), ..Options::default() }).await
    }

    fn launch(server: &ApiServer, options: &Options<'_>) -> Self {
        let Options { is_own_authority, injection, panic_over, clock, arguments } = *options;
        let folder = tempfile::tempdir().expect("make a folder");
        let authority = Authority::new("mesh");
        let Identity { certificate, key } = authority.server(&[NAME]);
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("write a file");
            path
        };
        let [discovery, monitoring, webhook] = [(); 3].map(|()| ports::free());
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(built("weir-controller"));
        if !is_own_authority {
            command
                .arg("--tls-cert-file")
                .arg(write("tls.crt", &certificate))
                .arg("--tls-key-file")
                .arg(write("tls.key", &key))
                .arg("--ca-cert-file")
                .arg(write("ca.crt", &authority.root()));
        }
        if let Some(settings) = injection {
            command.arg("--injection-config").arg(write(INJECTION, settings));
        }
        let mut child = command
            .arg("--kubeconfig")
            .arg(write("kubeconfig", &server.kubeconfig()))
            .args(["--namespace", "weir-system", "--pod-name", "controller-0"])
            .args(["--discovery-addr", &address(discovery)])
            .args(["--monitoring-addr", &address(monitoring)])
            .args(["--webhook-addr", &address(webhook)])
            .args(["--drain-time", "1"])
            .args(arguments)
            .env_remove("KUBECONFIG")
            .envs(panic_over.map(|text| ("WEIR_PANIC_OVER", text)))
            .envs(clock.map(Clock::environment).into_iter().flatten())
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the controller");
        let log = Lines::capture(child.stderr.take().expect("standard error is piped"));
        Self { child, discovery, monitoring, webhook, log, authority, folder }
    }

    /// Waits until `/ready` says so.
    pub async fn ready(&mut self) {
        let monitoring = self.monitoring;
        eventually("the controller is ready", async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the controller exited with {status}: {}", self.log());
            }
            let reply = get(monitoring, "/ready").await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
    }

    #[must_use]
    pub fn discovery_port(&self) -> u16 {
        self.discovery
    }

    #[must_use]
    pub fn monitoring_port(&self) -> u16 {
        self.monitoring
    }

    /// A line of `/proc/PID/status`, in bytes: `VmRSS`, `VmHWM`.
    ///
    /// # Panics
    /// There is no such line, or no process.
    #[must_use]
    pub fn memory(&self, field: &str) -> u64 {
        let pid = self.child.id().expect("the controller is running");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a known field");
        let kibibytes = line.split_whitespace().nth(1).expect("a value");
        kibibytes.parse::<u64>().expect("a number") * 1024
    }

    /// The connections to its discovery port that it has not closed.
    ///
    /// # Panics
    /// The kernel does not say.
    #[must_use]
    pub fn discovery_connections(&self) -> usize {
        const LISTEN: &str = "0A";
        // Of a socket that its process has closed there is no inode.
        const CLOSED: &str = "0";
        let sockets = fs::read_to_string("/proc/net/tcp").expect("the sockets of this host");
        let own = format!(":{:04X}", self.discovery);
        let is_own = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(&own) && fields[3] != LISTEN && fields[9] != CLOSED
        };
        sockets.lines().skip(1).filter(is_own).count()
    }

    #[must_use]
    pub fn webhook_port(&self) -> u16 {
        self.webhook
    }

    /// What a gateway with that token has to be told to follow this controller.
    #[must_use]
    pub fn gateway_arguments(&self, token: &str) -> Vec<String> {
        let write = |name: &str, text: &str| {
            let path = self.folder.path().join(name);
            fs::write(&path, text).expect("write a file");
            path.to_str().expect("paths are text").to_owned()
        };
        let pairs = [
            ("--discovery", format!("127.0.0.1:{}", self.discovery)),
            ("--discovery-name", NAME.to_owned()),
            ("--discovery-root", write("root.pem", &self.authority.root())),
            ("--discovery-token", write("token", token)),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    /// Signs for everybody in the mesh.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A page of the monitoring port.
    pub async fn page(&self, path: &str) -> Reply {
        get(self.monitoring, path).await.expect("the monitoring port answers")
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(self.page("/metrics").await.text())
    }

    /// Everything logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.all().join("\n")
    }

    /// Waits for a log line that contains `text`.
    pub async fn log_line(&self, text: &str) -> String {
        eventually(&format!("a log line with {text:?}"), async || {
            self.log.all().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// Asks the process to end, without waiting.
    pub async fn ask_to_end(&self) {
        self.signal("-TERM").await;
    }

    /// Lets the process stand still, as a machine that is suspended does.
    pub async fn pause(&self) {
        self.signal("-STOP").await;
    }

    /// Lets it go on.
    pub async fn go_on(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("the controller is running");
        tools::stdout("kill", [signal, &pid.to_string()]).await;
    }

    /// Waits for the end of the process.
    pub async fn exited(&mut self) -> ExitStatus {
        let end = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        end.expect("the controller ends in time").expect("wait for the controller")
    }
}

impl Drop for Controller {
    /// A failing test shows what the controller said.
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- controller log\n{}", self.log());
        }
    }
}

async fn get(port: u16, path: &str) -> anyhow::Result<Reply> {
    Connection::http1(port).await?.send(&Request::get("localhost", path)).await
}
