//! From a case to the files of a proxy.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Peer, Program, sidecar::Side};
use crate::{
    certs::{Credentials, ISSUER, SERVER_NAME},
    lan,
    load::route_value,
    origin::Origin,
    scenario::{Case, Feature, Jwt, Listener, Measure, Protocol, Upstream},
    template::{self, Values},
};

/// Routes in one object, and objects in one file, of Istio's YAML.
const CHUNK: usize = 500;

/// Every so many-th service speaks TCP only, as databases and queues do.
const TCP_EVERY: usize = 10;

/// Of a sidecar, in its namespace.
const ADMIN_PORT: u16 = 15000;

/// What a proxy is started with: kept, so that a change can be written later.
#[derive(Debug, Clone)]
pub struct Settings {
    pub peer: Peer,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// The proxy's own folder.
    pub dir: PathBuf,
    templates: PathBuf,
    values: Values,
    /// By place in the list of routes: how often it was changed.
    generations: Vec<u64>,
    /// The template of the main file.
    kind: &'static str,
    /// Of a sidecar: whose it is.
    pub workload: Option<Workload>,
    by_path: bool,
    /// Objects of Istio's YAML in one file.
    chunk: usize,
}

/// Whose sidecar it is.
#[derive(Debug, Clone)]
pub struct Workload {
    pub ip: Ipv4Addr,
    pub labels: String,
    /// The folder of its certificate.
    pub identity: PathBuf,
}

impl Settings {
    /// For one proxy of one case.
    pub fn new(
        program: &Program,
        case: &Case,
        origin: &Origin,
        credentials: &Credentials,
        dir: &Path,
        workers: usize,
    ) -> anyhow::Result<Self> {
        let peer = program.peer;
        let kind = match case.proxy.listener {
            Listener::Tcp | Listener::Passthrough => "tcp",
            Listener::Nothing => "nothing",
            Listener::Http | Listener::Https | Listener::Sidecar => "http",
        };
        let [listen, admin, status] = free_ports()?;
        let routes = case.proxy.routes.max(case.proxy.hosts);
        let mut values = values(case, credentials)?;
        origin_values(origin, &mut values);
        values.text("WORKERS", workers);
        values.text("LISTEN", listen.port());
        values.text("ADMIN", admin.port());
        values.text("STATUS", status.port());
        folder_values(dir, &mut values);
        if kind == "tcp" && peer == Peer::Nginx {
            stream_module(program, &mut values)?;
        }
        // A change is of one object in a file of its own, as tools write them.
        let changes = matches!(case.measure, Measure::Change | Measure::Churn);
        Ok(Self {
            peer,
            listen,
            admin,
            dir: dir.to_owned(),
            templates: templates().join(peer.name()),
            values,
            generations: vec![0; routes],
            kind,
            workload: None,
            by_path: case.proxy.routes > 0,
            chunk: if changes && case.proxy.hosts > 0 { 1 } else { CHUNK },
        })
    }

    /// For one sidecar of one case, in a folder below `dir`.
    pub fn of_sidecar(
        program: &Program,
        case: &Case,
        credentials: &Credentials,
        dir: &Path,
        side: Side,
    ) -> anyhow::Result<Self> {
        let dir = dir.join(side.name());
        fs::create_dir(&dir)?;
        let identity = credentials.workload(side.account());
        let mut values = values(case, credentials)?;
        folder_values(&dir, &mut values);
        sidecar_values(case, &mut values);
        values.text("IDENTITY", identity.display());
        values.flag(side.name(), true);
        let ip = if side == Side::Client { lan::CLIENT } else { lan::SERVER };
        let labels = format!("app={}", side.account());
        Ok(Self {
            peer: program.peer,
            listen: lan::SERVICE_ADDRESS,
            admin: (Ipv4Addr::LOCALHOST, ADMIN_PORT).into(),
            dir,
            templates: templates().join(program.peer.name()),
            values,
            generations: Vec::new(),
            kind: match (program.peer, side) {
                (Peer::Envoy, Side::Client) => "sidecar-client",
                (Peer::Envoy, Side::Server) => "sidecar-server",
                (Peer::Weir | Peer::Nginx | Peer::Haproxy, _) => "sidecar",
            },
            workload: Some(Workload { ip, labels, identity }),
            by_path: false,
            chunk: CHUNK,
        })
    }

    /// What is started.
    pub fn program(&self, program: &Program) -> PathBuf {
        match (self.peer, &self.workload) {
            // Built together.
            (Peer::Weir, Some(_)) => program.path.with_file_name("weir-sidecar"),
            _ => program.path.clone(),
        }
    }

    /// Where the proxy logs requests.
    pub fn access_log(&self) -> PathBuf {
        // HAProxy does not write files, but to a descriptor.
        self.dir.join(if self.peer == Peer::Haproxy { "stdout.log" } else { "access.log" })
    }

    /// Writes all files.
    pub fn write(&self) -> anyhow::Result<()> {
        let kind = self.kind;
        match self.peer {
            Peer::Weir => {
                fs::create_dir_all(self.dir.join("config"))?;
                self.file(&format!("{kind}.yaml"), "config/site.yaml", 0..0)?;
                self.file("mesh.yaml", "mesh.yaml", 0..0)?;
                self.write_objects()?;
            }
            Peer::Nginx => self.file(&format!("{kind}.conf"), "nginx.conf", 0..0)?,
            Peer::Haproxy => self.file(&format!("{kind}.cfg"), "haproxy.cfg", 0..0)?,
            Peer::Envoy => self.file(&format!("{kind}.yaml"), "envoy.yaml", 0..0)?,
        }
        self.write_routes()
    }

    /// Notes a change of one route; returns what its value is from now on.
    pub fn change(&mut self, route: usize) -> String {
        self.generations[route] += 1;
        route_value(route, self.generations[route])
    }

    /// How often a route was changed.
    pub fn generation(&self, route: usize) -> u64 {
        self.generations[route]
    }

    /// Writes the files a change of a route is in: written aside, then renamed into place. Returns
    /// the renames still to be done, so that the moment of them is the caller's to choose.
    pub fn write_change(&self, route: usize) -> anyhow::Result<(PathBuf, PathBuf)> {
        let (template, out, rows) = match self.peer {
            Peer::Weir => {
                let chunk = route / self.chunk;
                let rows =
                    chunk * self.chunk..((chunk + 1) * self.chunk).min(self.generations.len());
                let name = if self.by_path { "routes" } else { "hosts" };
                (format!("{name}.yaml"), format!("config/{name}-{chunk}.yaml"), rows)
            }
            Peer::Envoy => ("routes.yaml".into(), "routes.yaml".into(), 0..self.generations.len()),
            Peer::Nginx | Peer::Haproxy => {
                ("routes.map".into(), "routes.map".into(), 0..self.generations.len())
            }
        };
        let aside = self.dir.join("changed");
        fs::write(&aside, self.render(&template, rows)?)?;
        Ok((aside, self.dir.join(out)))
    }

    fn write_routes(&self) -> anyhow::Result<()> {
        let all = 0..self.generations.len();
        match self.peer {
            Peer::Envoy if self.kind == "http" => self.file("routes.yaml", "routes.yaml", all),
            Peer::Nginx | Peer::Haproxy if !all.is_empty() => {
                self.file("routes.map", "routes.map", all)
            }
            Peer::Weir | Peer::Nginx | Peer::Haproxy | Peer::Envoy => Ok(()),
        }
    }

    fn write_objects(&self) -> anyhow::Result<()> {
        let name = if self.by_path { "routes" } else { "hosts" };
        for (number, first) in (0..self.generations.len()).step_by(self.chunk).enumerate() {
            let rows = first..(first + self.chunk).min(self.generations.len());
            self.file(&format!("{name}.yaml"), &format!("config/{name}-{number}.yaml"), rows)?;
        }
        Ok(())
    }

    fn file(&self, template: &str, out: &str, rows: std::ops::Range<usize>) -> anyhow::Result<()> {
        fs::write(self.dir.join(out), self.render(template, rows)?)?;
        Ok(())
    }

    fn render(&self, template: &str, rows: std::ops::Range<usize>) -> anyhow::Result<String> {
        let path = self.templates.join(template);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut values = self.values.clone();
        values.text("CHUNK", rows.start / self.chunk);
        values.text("VERSION", self.generations.iter().sum::<u64>());
        let rows = rows.map(|n| row(n, self.generations[n], self.by_path)).collect();
        values.lists.insert("route".into(), rows);
        template::render(&text, &values).with_context(|| path.display().to_string())
    }
}

/// The templates stand beside the source: they are part of the measurement, not of the program.
fn templates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn row(n: usize, generation: u64, by_path: bool) -> BTreeMap<String, String> {
    let (host, path) = (format!("h{n}.example.test"), format!("/r/{n}"));
    let key = if by_path { path.clone() } else { host.clone() };
    texts([
        ("n", n.to_string()),
        ("value", route_value(n, generation)),
        ("host", host),
        ("path", path),
        ("key", key),
    ])
}

fn values(case: &Case, credentials: &Credentials) -> anyhow::Result<Values> {
    let mut values = Values::default();
    let identity = credentials.server(case.proxy.certificate);
    // Each takes two files in HAProxy, which does not start if there cannot be as many.
    values.text("CONNECTIONS", crate::limit::connections());
    values.text("SERVER_NAME", SERVER_NAME);
    values.text("CERTIFICATE", identity.certificate.display());
    values.text("KEY", identity.key.display());
    values.text("COMBINED", identity.combined.display());
    values.text("CA", credentials.ca().display());
    if let Some(jwt) = case.proxy.jwt {
        values.text("ISSUER", ISSUER);
        values.text("JWKS", credentials.jwks(jwt)?);
        values.text("TOKEN_KEY", credentials.token_key(jwt).display());
        values.text("ALGORITHM", if jwt == Jwt::Rs256 { "RS256" } else { "ES256" });
    }
    for (name, on) in [
        ("https", case.proxy.listener == Listener::Https),
        ("passthrough", case.proxy.listener == Listener::Passthrough),
        ("mtls", case.proxy.client_certificate),
        ("h2c", case.proxy.upstream == Upstream::H2c),
        ("routes", case.proxy.routes > 0),
        ("hosts", case.proxy.hosts > 0),
        ("catch-all", case.proxy.routes == 0 && case.proxy.hosts == 0),
        ("jwt", case.proxy.jwt.is_some()),
        ("websocket", case.load.protocol == Protocol::Websocket),
        ("log", case.has(Feature::Log)),
        ("headers", case.has(Feature::Headers)),
        ("metrics", case.has(Feature::Metrics)),
        ("root", nix::unistd::geteuid().is_root()),
    ] {
        values.flag(name, on);
    }
    Ok(values)
}

fn origin_values(origin: &Origin, values: &mut Values) {
    values.text("ORIGIN", origin.port());
    let endpoint = |(n, addr): (usize, &SocketAddr)| {
        texts([("n", n.to_string()), ("address", addr.ip().to_string())])
    };
    let endpoints = origin.addresses.iter().enumerate().map(endpoint).collect();
    values.lists.insert("endpoint".into(), endpoints);
}

fn folder_values(dir: &Path, values: &mut Values) {
    values.text("DIR", dir.display());
    values.text("ACCESS_LOG", dir.join("access.log").display());
}

/// The service that is called, and others that nobody calls.
fn sidecar_values(case: &Case, values: &mut Values) {
    values.text("ADMIN", ADMIN_PORT);
    values.text("SERVICE", lan::SERVICE);
    values.text("SERVICE_IP", lan::SERVICE_ADDRESS.ip());
    values.text("SERVER", lan::SERVER);
    values.text("SERVER_PORT", lan::SERVER_PORT);
    values.text("SERVER_IDENTITY", lan::SERVER_IDENTITY);
    values.text("TLS_MODE", if case.has(Feature::MeshTls) { "istio" } else { "disabled" });
    let tcp = case.load.protocol == Protocol::Tcp;
    let grpc = case.proxy.upstream == Upstream::H2c;
    let (protocol, alpn) = match (tcp, grpc) {
        (true, _) => ("tcp", "[istio-peer-exchange, istio]"),
        (false, true) => ("grpc", "[istio-h2, istio, h2]"),
        (false, false) => ("http", "[istio-http/1.1, istio, http/1.1]"),
    };
    values.text("PROTOCOL", protocol);
    // What Envoy's own proxies of the mesh offer; Weir knows that by itself.
    values.text("ALPN", alpn);
    values.flag("tcp", tcp);
    values.flag("services", case.proxy.services > 0);
    let services: Vec<_> = (0..case.proxy.services).map(service).collect();
    let (tcp, http): (Vec<_>, Vec<_>) =
        services.iter().cloned().partition(|service| service["protocol"] == "tcp");
    for (name, services) in [("service", services), ("http-service", http), ("tcp-service", tcp)] {
        values.lists.insert(name.into(), services);
    }
}

/// One of many services: its name, its address, its endpoints.
fn service(number: usize) -> BTreeMap<String, String> {
    let is_tcp = number % TCP_EVERY == TCP_EVERY - 1;
    let (protocol, port) = if is_tcp { ("tcp", "9000") } else { ("http", "80") };
    let octets = |net: u8| format!("10.{}.{}.{}", net, number / 250, number % 250 + 1);
    texts([
        ("n", number.to_string()),
        ("protocol", protocol.to_owned()),
        ("port", port.to_owned()),
        ("ip", octets(100)),
        ("a", octets(111)),
        ("b", octets(112)),
        ("c", octets(113)),
        ("d", octets(114)),
        ("e", octets(115)),
    ])
}

fn texts<const N: usize>(texts: [(&str, String); N]) -> BTreeMap<String, String> {
    texts.map(|(name, text)| (name.to_owned(), text)).into()
}

/// nginx passes TCP on with a module that some distributions pack on its own.
fn stream_module(program: &Program, values: &mut Values) -> anyhow::Result<()> {
    let output = std::process::Command::new(&program.path).arg("-V").output()?;
    let built = String::from_utf8_lossy(&output.stderr).into_owned();
    let options: Vec<&str> = built.split_whitespace().collect();
    if options.contains(&"--with-stream") {
        return Ok(());
    }
    let modules = options.iter().find_map(|option| option.strip_prefix("--modules-path="));
    let module = Path::new(modules.unwrap_or_default()).join("ngx_stream_module.so");
    anyhow::ensure!(
        module.is_file(),
        "nginx has no stream module here; to install it: apt-get install libnginx-mod-stream"
    );
    values.text("STREAM_MODULE", module.display());
    values.flag("stream-module", true);
    Ok(())
}

/// Ports nobody listens on right now, from below those the system gives to connections and to
/// whoever asks for any: one that is found free there stays free until the proxy takes it.
fn free_ports() -> anyhow::Result<[SocketAddr; 3]> {
    let listeners = [free_port()?, free_port()?, free_port()?];
    let [a, b, c] = listeners.map(|listener| listener.local_addr());
    Ok([a?, b?, c?])
}

fn free_port() -> std::io::Result<TcpListener> {
    let mut tries = 0;
    loop {
        tries += 1;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(16_000..32_000))) {
            Err(_) if tries < 100 => {}
            listener => return listener,
        }
    }
}
