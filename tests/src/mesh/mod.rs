//! Pods without Kubernetes: network namespaces of one bridge, each with servers of its own and, where a
//! test wants it, redirect rules and a sidecar. Nothing touches the network of the host.
//!
//! Sockets belong to the namespace they are made in, so that what runs in a pod is a thread that was
//! there when it made them. That needs root.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

mod agent;
mod outside;

pub use agent::{Agent, Program};
pub use outside::Zone;

use crate::{
    binaries,
    certs::{Authority, Identity},
    eventually::{DEADLINE, eventually},
};

/// Whom the redirect rules leave alone.
const PROXY_UID: u32 = 1337;
const BRIDGE: &str = "10.77.0.1";
/// Networks of the internet, as far as there is one: pods may have addresses of them.
const INTERNET: [&str; 2] = ["93.184.0.0/16", "2606:2800:220::/48"];

/// A network that pods are connected to.
#[derive(Debug)]
pub struct Lan {
    namespace: Namespace,
    pods: AtomicU32,
}

/// One namespace with an address in the network.
#[derive(Debug)]
pub struct Pod {
    namespace: Namespace,
    pub ip: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    _folder: TempDir,
    folder: PathBuf,
    proxy: Option<Child>,
}

/// A network namespace; it goes when this does.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self(name);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.0], arguments].concat());
    }

    /// Runs `work` on a thread in the namespace.
    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.0);
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let file = File::open(path).expect("open the namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            inside.join().expect("what runs in a pod does not panic")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("start a program");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}

impl Lan {
    #[must_use]
    pub fn new() -> Self {
        let namespace = Namespace::new("lan");
        namespace.ip(&["link", "add", "br0", "type", "bridge"]);
        namespace.ip(&["addr", "add", &format!("{BRIDGE}/16"), "dev", "br0"]);
        namespace.ip(&["link", "set", "br0", "up"]);
        Self { namespace, pods: AtomicU32::new(2) }
    }

    /// A pod without a sidecar.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let ip = Ipv4Addr::new(10, 77, 0, u8::try_from(number).expect("few pods"));
        let namespace = Namespace::new(name);
        let port = format!("pod{number}");
        let own = namespace.0.as_str();
        self.namespace
            .ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", own]);
        self.namespace.ip(&["link", "set", &port, "master", "br0"]);
        self.namespace.ip(&["link", "set", &port, "up"]);
        namespace.ip(&["addr", "add", &format!("{ip}/16"), "dev", "eth0"]);
        namespace.ip(&["link", "set", "eth0", "up"]);
        namespace.ip(&["route", "add", "default", "via", BRIDGE]);
        let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.try_into().expect("few pods"));
        // Asking whether a neighbour has the address takes a second, in which it is not usable.
        namespace.ip(&["addr", "add", &format!("{ipv6}/64"), "dev", "eth0", "nodad"]);
        namespace.ip(&["-6", "route", "add", "default", "dev", "eth0"]);
        for network in INTERNET {
            namespace.ip(&["route", "add", network, "dev", "eth0"]);
        }
        let temporary = tempfile::tempdir().expect("make a folder");
        let folder = temporary.path().to_owned();
        // The sidecar is another user.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("open the folder");
        Pod { namespace, ip, ipv6, _folder: temporary, folder, proxy: None }
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

/// What a sidecar, or a gateway, is started with.
#[derive(Default)]
pub struct SidecarOptions<'a> {
    pub labels: &'a str,
    pub config: &'a str,
    /// Folders that are read beside that.
    pub folders: &'a [&'a Path],
    /// MeshConfig; the access log is on in any case.
    pub mesh: &'a str,
    /// A certificate of the mesh, and who signed it.
    pub identity: Option<(&'a Identity, &'a Authority)>,
    /// Whom the pod's operating system trusts.
    pub roots: Option<&'a Authority>,
    /// Who is asked for names.
    pub name_server: Option<Ipv4Addr>,
    /// Of weir-init.
    pub init: &'a [&'a str],
    /// The rules are those of TPROXY: the sidecar runs as user 0, known by its group.
    pub is_transparent: bool,
    /// Further arguments of the proxy.
    pub arguments: &'a [&'a str],
    /// What an injector would tell it.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Pod {
    /// Redirects the pod's connections to a sidecar of namespace `shop` and starts that.
    pub async fn start_sidecar(&mut self, options: SidecarOptions<'_>) {
        let init = binaries::built("weir-init");
        let mode: &[&str] = if options.is_transparent { &["-m", "TPROXY"] } else { &[] };
        let rules = self.enter(|| Command::new(init).args(mode).args(options.init).output());
        let rules = rules.expect("start weir-init");
        assert!(rules.status.success(), "{}", String::from_utf8_lossy(&rules.stderr));
        let ips = format!("{},{}", self.ip, self.ipv6);
        self.start("weir-sidecar", &["--namespace", "shop", "--pod-ip", &ips], options).await;
    }

    /// Starts a gateway of namespace `istio-egress`.
    pub async fn start_gateway(&mut self, options: SidecarOptions<'_>) {
        self.start("weir-gateway", &["--namespace", "istio-egress"], options).await;
    }

    async fn start(&mut self, program: &str, who: &[&str], options: SidecarOptions<'_>) {
        let SidecarOptions { labels, config, folders, mesh, identity, roots, .. } = options;
        fs::create_dir(self.folder.join("config")).expect("make a folder");
        self.write("config/config.yaml", config);
        let mesh = self.write("mesh.yaml", &format!("accessLogFile: /dev/stdout\n{mesh}"));
        if let Some((identity, authority)) = identity {
            self.write_identity(identity, authority);
        }
        let mut command = Command::new(binaries::built(program));
        for folder in [&*self.folder.join("config")].iter().chain(folders) {
            command.arg("--config").arg(folder);
        }
        command.arg("--mesh-config").arg(mesh);
        command.arg("--identity-files").arg(&self.folder);
        command.args(who).args(["--labels", labels]);
        command.args(["--workers", "1", "--drain-time", "1s"]).args(options.arguments);
        if let Some(roots) = roots {
            command.env("SSL_CERT_FILE", self.write("public-roots.pem", &roots.root()));
        }
        if let Some(server) = options.name_server {
            command.args(["--name-server", &format!("{server}:53")]);
        }
        let log = |name: &str| File::create(self.folder.join(name)).expect("make a log");
        command.stdin(Stdio::null()).stdout(log("stdout")).stderr(log("stderr"));
        command.envs(options.environment.iter().copied());
        if options.is_transparent {
            command.args(["--interception-mode", "TPROXY"]).uid(0).gid(PROXY_UID);
        } else {
            command.uid(PROXY_UID).gid(PROXY_UID);
        }
        let child = self.enter(move || command.spawn().expect("start the proxy"));
        self.proxy = Some(child);
        eventually("the proxy is ready", async || {
            let reply = self.try_http((Ipv4Addr::LOCALHOST, 15021), "GET /healthz/ready", "a")?;
            reply.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }

    /// Starts somebody else's proxy, with a configuration in which `${FOLDER}` is where the pod's files are.
    pub fn start_other(&mut self, program: &str, arguments: &[&str], config: &str) {
        let folder = self.folder.to_str().expect("UTF-8").to_owned();
        let config = self.write("other.yaml", &config.replace("${FOLDER}", &folder));
        let log = |name: &str| File::create(self.folder.join(name)).expect("make a log");
        let mut command = Command::new(program);
        command.arg("--config-path").arg(config).args(arguments);
        command.stdin(Stdio::null()).stdout(log("stdout")).stderr(log("stderr"));
        let child = self.enter(move || command.spawn().expect("start the other proxy"));
        self.proxy = Some(child);
    }

    /// Says something to the sidecar, as a hook of its container does.
    #[must_use]
    pub fn hook(&self, arguments: &[&str]) -> Output {
        let program = binaries::built("weir-sidecar");
        self.namespace.enter(move || {
            let output = Command::new(program).args(arguments).output();
            output.expect("start weir-sidecar")
        })
    }

    /// What a sidecar says that runs as its usual user, without any capability, and ends by itself.
    ///
    /// # Panics
    /// It cannot be started at all.
    #[must_use]
    pub fn run_sidecar(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binaries::built("weir-sidecar"));
        command.args(arguments).arg("--config").arg(&self.folder);
        command.uid(PROXY_UID).gid(PROXY_UID);
        self.enter(move || command.output().expect("start weir-sidecar"))
    }

    /// Puts a certificate of the mesh where the proxy looks for it.
    pub fn write_identity(&self, identity: &Identity, authority: &Authority) {
        self.write("cert-chain.pem", &identity.certificate);
        self.write("key.pem", &identity.key);
        self.write("root-cert.pem", &authority.root());
    }

    /// Replaces the proxy's configuration.
    pub fn configure(&self, config: &str) {
        self.write("config/config.yaml", config);
    }

    /// A folder of the pod that its proxy may write to.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn shared_folder(&self) -> PathBuf {
        let folder = self.folder.join("shared");
        fs::create_dir(&folder).expect("make a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("open the folder");
        folder
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        // Renamed, so that nobody reads half of it.
        let new = self.folder.join(".new");
        fs::write(&new, text).expect("write a file of the pod");
        fs::rename(&new, &path).expect("put it in its place");
        path
    }

    /// Gives the pod another address, of the internet.
    pub fn add_address(&self, address: impl Into<IpAddr>) {
        let address: IpAddr = address.into();
        let length = if address.is_ipv4() { 32 } else { 128 };
        let nodad: &[&str] = if address.is_ipv6() { &["nodad"] } else { &[] };
        let address = format!("{address}/{length}");
        self.namespace.ip(&[&["addr", "add", &address, "dev", "eth0"], nodad].concat());
    }

    /// Runs `work` on a thread in the pod.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(work)
    }

    /// The resident memory of the proxy in KiB.
    ///
    /// # Panics
    /// There is no proxy.
    #[must_use]
    pub fn proxy_memory(&self) -> u64 {
        let pid = self.proxy.as_ref().expect("a proxy was started").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the proxy runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).expect("memory is in the status")
    }

    /// Connects from the pod.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn connect(&self, to: (impl Into<IpAddr>, u16)) -> std::io::Result<TcpStream> {
        let address = SocketAddr::new(to.0.into(), to.1);
        let stream =
            self.namespace.enter(move || TcpStream::connect_timeout(&address, DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// As many connections from the pod.
    pub fn connect_many(&self, to: (Ipv4Addr, u16), count: usize) -> Vec<TcpStream> {
        let address = SocketAddr::new(to.0.into(), to.1);
        let connect = |_| TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
        self.enter(|| (0..count).map(connect).collect())
    }

    /// All that comes back for `bytes`; `None` if there is no connection, or it is broken off.
    pub fn exchange(&self, to: (impl Into<IpAddr>, u16), bytes: &[u8]) -> Option<String> {
        let mut stream = self.connect(to).ok()?;
        stream.write_all(bytes).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A whole response to `GET /path` with headers `head`.
    pub fn try_http(
        &self,
        to: (impl Into<IpAddr>, u16),
        request: &str,
        host: &str,
    ) -> Option<String> {
        let head = format!("{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        self.exchange(to, head.as_bytes()).filter(|answer| !answer.is_empty())
    }

    /// # Panics
    /// There is no response.
    pub fn http(&self, to: (impl Into<IpAddr>, u16), request: &str, host: &str) -> String {
        let answer = self.try_http(to, request, host);
        answer.unwrap_or_else(|| panic!("no response; the sidecar says {}", self.log()))
    }

    /// Serves every connection to `port` of all addresses, each on a thread, until the test ends.
    pub fn serve(&self, port: u16, serve: impl Fn(TcpStream) + Send + Clone + 'static) {
        self.serve_at((Ipv6Addr::UNSPECIFIED, port), serve);
    }

    /// The same on one address.
    pub fn serve_at(
        &self,
        address: (impl Into<IpAddr>, u16),
        serve: impl Fn(TcpStream) + Send + Clone + 'static,
    ) {
        self.accept_at(address, move |stream| {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        });
    }

    /// Takes connections without a thread for each.
    pub fn serve_inline(&self, port: u16, serve: impl Fn(TcpStream) + Send + 'static) {
        self.accept_at((Ipv6Addr::UNSPECIFIED, port), serve);
    }

    fn accept_at(
        &self,
        address: (impl Into<IpAddr>, u16),
        serve: impl Fn(TcpStream) + Send + 'static,
    ) {
        let address = SocketAddr::new(address.0.into(), address.1);
        let listener = self.enter(move || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            if address.ip().is_unspecified() && address.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            std::io::Result::Ok(std::net::TcpListener::from(socket))
        });
        let listener = listener.expect("bind a port of the pod");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream);
            }
        });
    }

    /// Answers requests with `name` and what was received.
    pub fn serve_http(&self, port: u16, name: &'static str) {
        self.serve_http_at((Ipv6Addr::UNSPECIFIED, port), name);
    }

    /// The same on one address.
    pub fn serve_http_at(&self, address: (impl Into<IpAddr>, u16), name: &'static str) {
        self.serve_at(address, move |mut stream| {
            let Some(request) = outside::read_head(&mut stream) else { return };
            let peer = stream.peer_addr().expect("a connected socket has a peer").ip();
            let body = format!("name={name}\npeer={}\n{request}", peer.to_canonical());
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            // A client that is gone has its own view of it.
            let _ = stream.write_all((head + &body).as_bytes());
        });
    }

    /// Sends back what comes, with `prefix` before it.
    pub fn serve_echo(&self, port: u16, prefix: &'static str) {
        self.serve(port, move |mut stream| {
            let mut buffer = [0; 4096];
            let mut begun = stream.write_all(prefix.as_bytes()).is_ok();
            while begun {
                begun = match stream.read(&mut buffer) {
                    Ok(length @ 1..) => stream.write_all(&buffer[..length]).is_ok(),
                    _ => false,
                };
            }
        });
    }

    /// What the sidecar wrote: its access log and what it says.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        read("stdout") + &read("stderr")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(mut sidecar) = self.proxy.take() {
            // It may have ended by itself.
            let _ = sidecar.kill();
            let _ = sidecar.wait();
        }
    }
}
