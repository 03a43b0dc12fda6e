//! The gateway under test: the real binary, started as a user starts it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::OnceLock,
};

use rustls::ClientConfig;
use tokio::process::{Child, Command};

use crate::{
    binaries,
    client::{
        http::{Connection, Reply, Request},
        tools,
    },
    clock::Clock,
    config::Config,
    control::Control,
    controller::Controller,
    eventually::eventually,
    metrics::Metrics,
    objects::LABELS,
    output::Lines,
    ports,
};

/// Switches the access log on; Istio's default is off.
const MESH_CONFIG: &str = "accessLogFile: /dev/stdout\n";

/// A running gateway. It is killed when dropped; [`Gateway::terminate`] ends it politely.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    config: Config,
    admin: u16,
    status: u16,
    stdout: Lines,
    stderr: Lines,
}

/// How to start a gateway.
#[derive(Debug)]
pub struct Launch {
    config: Config,
    /// Where it gets its configuration from.
    source: Vec<OsString>,
    labels: String,
    args: Vec<OsString>,
    open_files: Option<u32>,
    environment: Vec<(&'static str, OsString)>,
}

impl Launch {
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mesh_config = mesh_file(&config);
        fs::write(&mesh_config, MESH_CONFIG).expect("write the MeshConfig");
        let source = vec![
            "--config".into(),
            config.path().into(),
            "--mesh-config".into(),
            mesh_config.into(),
        ];
        Self::from_source(config, source)
    }

    /// Configured by a controller. The configuration is only asked for ports.
    #[must_use]
    pub fn controlled(config: Config, control: &Control) -> Self {
        Self::from_source(config, control.arguments().into_iter().map(Into::into).collect())
    }

    /// Configured by the real controller, as a service account with that token.
    #[must_use]
    pub fn follows(config: Config, controller: &Controller, token: &str) -> Self {
        let arguments = controller.gateway_arguments(token);
        Self::from_source(config, arguments.into_iter().map(Into::into).collect())
    }

    /// With these arguments in the place of a folder.
    #[must_use]
    pub fn from_source(config: Config, source: Vec<OsString>) -> Self {
        Self {
            config,
            source,
            labels: LABELS.into(),
            args: Vec::new(),
            open_files: None,
            environment: Vec::new(),
        }
    }

    /// The limit of open files, soft and hard.
    #[must_use]
    pub fn open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Panics over objects that contain that text, as if it had such a bug. Release builds do not.
    #[must_use]
    pub fn panic_over(mut self, text: &str) -> Self {
        self.environment.push(("WEIR_PANIC_OVER", text.into()));
        self
    }

    /// Goes by this clock.
    #[must_use]
    pub fn clock(mut self, clock: &Clock) -> Self {
        self.environment.extend(clock.environment());
        self
    }

    /// Another folder or file to read than the configuration's own.
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.source[1] = path.into().into();
        self
    }

    /// The workload labels that Gateways select; default [`LABELS`].
    #[must_use]
    pub fn labels(mut self, labels: &str) -> Self {
        self.labels = labels.into();
        self
    }

    /// The MeshConfig file; default: the access log on standard output.
    #[must_use]
    pub fn mesh_config(self, yaml: &str) -> Self {
        fs::write(mesh_file(&self.config), yaml).expect("write the MeshConfig");
        self
    }

    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts the binary without waiting for anything.
    pub async fn spawn(self) -> Gateway {
        let (admin, status) = (ports::free(), ports::free());
        let mut child = command_with(self.open_files)
            .envs(self.environment)
            .args(self.source)
            .args(["--labels", &self.labels])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .args(["--status", &format!("127.0.0.1:{status}")])
            .args(["--workers", "2"])
            .args(self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the gateway");
        let stdout = Lines::capture(child.stdout.take().expect("standard output is piped"));
        let stderr = Lines::capture(child.stderr.take().expect("standard error is piped"));
        Gateway { child, config: self.config, admin, status, stdout, stderr }
    }

    /// Starts the binary and waits until it is ready.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.spawn().await;
        gateway.ready().await;
        gateway
    }
}

impl Gateway {
    /// Starts a gateway on the folder and waits until it is ready.
    pub async fn start(config: Config) -> Self {
        Launch::new(config).start().await
    }

    /// Waits until `/ready` says so.
    pub async fn ready(&mut self) {
        let admin = self.admin;
        eventually("the gateway is ready", async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the gateway exited with {status}: {}", self.log());
            }
            let reply = get(admin, "/ready").await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
    }

    /// The port `${PORT_name}` stands for.
    #[must_use]
    pub fn port(&mut self, name: &str) -> u16 {
        self.config.port(name)
    }

    #[must_use]
    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    #[must_use]
    pub fn status_port(&self) -> u16 {
        self.status
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the gateway is running")
    }

    #[must_use]
    pub fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// One request on a connection of its own to `${PORT_http}`.
    pub async fn send(&mut self, request: &Request) -> Reply {
        self.try_send(request).await.expect("a whole response")
    }

    /// Like [`Self::send`], for requests that may fail.
    pub async fn try_send(&mut self, request: &Request) -> anyhow::Result<Reply> {
        Connection::http1(self.port("http")).await?.send(request).await
    }

    /// One GET on a connection of its own to `${PORT_http}`.
    pub async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.send(&Request::get(host, path)).await
    }

    /// One GET over TLS to `${PORT_https}`.
    pub async fn get_tls(
        &mut self,
        tls: &ClientConfig,
        host: &str,
        path: &str,
    ) -> anyhow::Result<Reply> {
        let mut connection = Connection::tls(self.port("https"), tls, host).await?;
        connection.send(&Request::get(host, path).https()).await
    }

    /// A page of the admin port.
    pub async fn admin(&self, path: &str) -> Reply {
        get(self.admin, path).await.expect("the admin port answers")
    }

    /// Sends any request to the admin port.
    pub async fn admin_send(&self, request: &Request) -> Reply {
        let mut connection = Connection::http1(self.admin).await.expect("connect");
        connection.send(request).await.expect("the admin port answers")
    }

    /// A scrape of the admin port.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(self.admin("/stats/prometheus").await.text())
    }

    /// Everything logged so far: standard error.
    #[must_use]
    pub fn log(&self) -> String {
        self.stderr.all().join("\n")
    }

    /// The access log so far: standard output.
    #[must_use]
    pub fn access_log(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// Waits for an access log line that contains `text`.
    pub async fn access_log_line(&self, text: &str) -> String {
        eventually(&format!("an access log line with {text:?}"), async || {
            self.access_log().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// Waits for a log line that contains `text`.
    pub async fn log_line(&self, text: &str) -> String {
        eventually(&format!("a log line with {text:?}"), async || {
            self.stderr.all().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// A line of `/proc/PID/status`, in bytes: `VmRSS`, `VmHWM`.
    #[must_use]
    pub fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a known field");
        let kibibytes = line.split_whitespace().nth(1).expect("a value");
        kibibytes.parse::<u64>().expect("a number") * 1024
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) {
        tools::stdout("kill", [&format!("-{name}"), &self.pid().to_string()]).await;
    }

    /// Waits for the end of the process.
    pub async fn exited(&mut self) -> ExitStatus {
        let end = tokio::time::timeout(crate::eventually::DEADLINE, self.child.wait());
        end.await.expect("the gateway ends in time").expect("wait for the gateway")
    }

    /// Asks the process to end, and waits until it has.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("TERM").await;
        self.exited().await
    }
}

impl Drop for Gateway {
    /// A failing test shows what the gateway said.
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- gateway log\n{}\n--- access log", self.log());
            eprintln!("{}", self.access_log().join("\n"));
        }
    }
}

/// `weir-gateway` without arguments. It ends with its handle.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(binary());
    command.kill_on_drop(true);
    command
}

/// The same, started by `prlimit` with a limit of open files.
fn command_with(open_files: Option<u32>) -> Command {
    let Some(limit) = open_files else { return command() };
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={limit}:{limit}")).arg(binary()).kill_on_drop(true);
    command
}

/// Runs `weir-gateway ARGS` to its end.
pub async fn run(args: impl IntoIterator<Item = impl Into<OsString>>) -> Output {
    command().args(args.into_iter().map(Into::into)).output().await.expect("run")
}

/// Runs `weir-gateway check DIR`.
pub async fn check(dir: &Path) -> Output {
    run([OsString::from("check"), dir.into()]).await
}

fn mesh_file(config: &Config) -> PathBuf {
    config.scratch().join("mesh.yaml")
}

async fn get(port: u16, path: &str) -> anyhow::Result<Reply> {
    Connection::http1(port).await?.send(&Request::get("localhost", path)).await
}

/// The gateway to test: [`binaries::built`]'s, or the one `WEIR_GATEWAY_BIN` names.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        env::var_os("WEIR_GATEWAY_BIN")
            .map_or_else(|| binaries::built("weir-gateway"), PathBuf::from)
    })
}
