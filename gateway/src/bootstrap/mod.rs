//! What the process is started with: the command line and its environment. Nothing else reads either.

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, error::ErrorKind};
use weir_config::compile::ProxyKind;

mod check;
mod discovery;
mod sidecar;

use self::discovery::{DiscoveryArguments, pod_labels};
pub use self::{
    discovery::{Discovery, Environment},
    sidecar::{Interception, SidecarArguments, SidecarCommand},
};
use crate::application::Application;

const ABOUT: &str = "An edge gateway that runs Istio's configuration, with or without Kubernetes.";

const LONG_ABOUT: &str = "\
An edge gateway that runs Istio's configuration, with or without Kubernetes.

Reads a folder of YAML or JSON: Gateway, VirtualService, DestinationRule, ServiceEntry, security \
policies, Services and Secrets; or is sent the same objects by a controller (--discovery). What \
changes is live within milliseconds. What cannot be read or is wrong keeps its last good version, and \
is said in the log, on /config_dump and in metrics.";

const AFTER_HELP: &str = "\
Signals: TERM and INT end the process after its connections have (see --drain-time); USR1 opens the \
access log file again.

Examples:
  weir-gateway demo
  weir-gateway check ./config
  weir-gateway --config ./config --mesh-config mesh.yaml
  weir-gateway --config ./config --labels istio=ingressgateway --namespace istio-ingress
  weir-gateway --discovery weir-controller.weir-system.svc:15012 --state-dir /var/lib/weir";

const NO_SOURCE: &str = "\
say where the configuration comes from: --config DIR for a folder, --discovery HOST:PORT for a controller
";

/// Those of Istio's ingress gateway.
const DEFAULT_LABELS: [(&str, &str); 2] =
    [("app", "istio-ingressgateway"), ("istio", "ingressgateway")];

/// As Envoy's.
const DRAIN_TIME: Duration = Duration::from_secs(45);

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "weir-gateway",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    max_term_width = 100
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    gateway: GatewayArguments,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says what is wrong with a configuration and serves nothing.
    ///
    /// Exits with 0 if there is no error (warnings are none), with 65 if there is.
    Check(CheckArguments),
    /// Runs the quickstart example with servers to route to, and prints what to try.
    Demo(DemoArguments),
}

#[derive(Debug, Args)]
struct GatewayArguments {
    /// Folder (with its subfolders) or file of the configuration; may be given more than once.
    #[arg(long, value_name = "DIR", env = "WEIR_CONFIG", value_delimiter = ',')]
    config: Vec<PathBuf>,

    #[command(flatten)]
    discovery: DiscoveryArguments,

    #[command(flatten)]
    proxy: ProxyArguments,

    #[command(flatten)]
    process: ProcessArguments,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Folders or files of the configuration.
    #[arg(value_name = "DIR", required = true)]
    pub config: Vec<PathBuf>,

    #[command(flatten)]
    pub proxy: ProxyArguments,
}

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Folder of the example.
    #[arg(long, value_name = "DIR", default_value = "examples/quickstart")]
    pub dir: PathBuf,

    #[command(flatten)]
    proxy: ProxyArguments,

    #[command(flatten)]
    process: ProcessArguments,
}

/// Who this proxy is to the configuration.
#[derive(Debug, Args)]
pub struct ProxyArguments {
    /// Labels of this gateway, which the `selector` of Gateways and policies is compared with
    /// [default: app=istio-ingressgateway,istio=ingressgateway; with --discovery the pod's, of
    /// /etc/istio/pod/labels]
    #[arg(
        long,
        value_name = "K=V,...",
        env = "WEIR_LABELS",
        value_delimiter = ',',
        value_parser = label
    )]
    labels: Vec<(String, String)>,

    /// Namespace of this gateway, and of objects that name none [default: default; with --discovery
    /// POD_NAMESPACE]
    #[arg(long, value_name = "NS", env = "WEIR_NAMESPACE", value_parser = namespace)]
    namespace: Option<String>,

    /// File with the MeshConfig: the mesh's own YAML, or the `istio` ConfigMap that holds it.
    #[arg(long, value_name = "FILE", env = "WEIR_MESH_CONFIG")]
    pub mesh_config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ProcessArguments {
    /// Where the admin pages are served. They change things too: keep it on loopback.
    #[arg(long, value_name = "ADDR", env = "WEIR_ADMIN", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,

    /// Where /healthz/ready is served, for load balancers.
    #[arg(long, value_name = "ADDR", env = "WEIR_STATUS", default_value = "0.0.0.0:15021")]
    status: SocketAddr,

    /// Where /stats/prometheus is served beside the admin pages, for whoever scrapes it from elsewhere
    /// [default: nowhere; by sidecars on port 15090]
    #[arg(long, value_name = "ADDR,...", env = "WEIR_METRICS", value_delimiter = ',')]
    metrics: Vec<SocketAddr>,

    /// Threads that serve traffic [default: one per processor]
    #[arg(long, value_name = "N", env = "WEIR_WORKERS")]
    workers: Option<NonZeroUsize>,

    /// `error`, `warn`, `info`, `debug`, or directives like `info,weir_gateway::http=debug`; `trace` in debug builds.
    #[arg(long, value_name = "L", env = "WEIR_LOG_LEVEL", default_value = "info")]
    log_level: String,

    /// How log lines on standard error look.
    #[arg(long, value_name = "FORMAT", env = "WEIR_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// At the end, how long connections may go on with what they are doing: `45s`, `500ms`, `2m`
    /// [default: 45s; sidecars: terminationDrainDuration of PROXY_CONFIG, or 5s]
    #[arg(long, value_name = "TIME", env = "WEIR_DRAIN_TIME", value_parser = duration)]
    drain_time: Option<Duration>,

    /// DNS server to ask instead of the system's.
    #[arg(long, value_name = "ADDR", env = "WEIR_NAME_SERVER")]
    name_server: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    Files {
        /// Folders or files.
        paths: Vec<PathBuf>,
        mesh_config: Option<PathBuf>,
    },
    /// Boxed: it is large, and there is one.
    Discovery(Box<Discovery>),
}

/// What a gateway is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    pub source: ConfigSource,
    pub labels: BTreeMap<String, String>,
    pub namespace: String,
    /// What metrics call it; `None`: as its labels say.
    pub workload: Option<String>,
    /// The pod.
    pub instance: String,
    pub admin: SocketAddr,
    pub status: SocketAddr,
    /// At least 1.
    pub workers: usize,
    pub log_level: String,
    pub log_format: LogFormat,
    pub drain_time: Duration,
    /// `None`: the system's.
    pub name_server: Option<SocketAddr>,
    pub kind: ProxyKind,
    /// Where metrics are served beside the admin port.
    pub metrics: Vec<SocketAddr>,
    /// With a folder as source: where somebody puts a certificate of the mesh.
    pub identity_files: Option<PathBuf>,
    /// Where an agent gives out certificates, or where we do.
    pub identity_socket: Option<PathBuf>,
    /// Of a sidecar: where the kubelet and Prometheus ask for the pod.
    pub agent: Option<SocketAddr>,
    pub application: Application,
    /// Of a sidecar: from the news that it ends to telling clients.
    pub drain_delay: Duration,
    /// Where the workload's DNS queries come to; empty: they are not captured.
    pub dns: Vec<SocketAddr>,
    /// How a sidecar's inbound connections are taken.
    pub interception: Interception,
    /// Nobody is served before connections are redirected, which somebody else sees to.
    pub awaits_redirection: bool,
    /// A sidecar speaks HBONE, and tells this of its workload (`baggage`).
    pub hbone: Option<String>,
}

impl Arguments {
    /// To serve what `--config` or `--discovery` names. Only where there is no subcommand.
    ///
    /// # Errors
    /// Neither is named, or the environment does not make sense.
    pub fn into_bootstrap(self, environment: &Environment) -> Result<Bootstrap, clap::Error> {
        self.gateway.into_bootstrap(environment)
    }
}

impl GatewayArguments {
    fn into_bootstrap(self, environment: &Environment) -> Result<Bootstrap, clap::Error> {
        let text = |name: &str| environment.find(name).map(str::to_owned);
        let (workload, pod) = (text("ISTIO_META_WORKLOAD_NAME"), text("POD_NAME"));
        let instance = pod.or_else(|| text("HOSTNAME")).unwrap_or_default();
        let identity_socket = Some(self.discovery.identity_socket.clone());
        let bootstrap = self.follow(environment)?;
        Ok(Bootstrap { workload, instance, identity_socket, ..bootstrap })
    }

    fn follow(self, environment: &Environment) -> Result<Bootstrap, clap::Error> {
        let Self { config, discovery, proxy, process } = self;
        let wrong = |message: String| clap::Error::raw(ErrorKind::ValueValidation, message + "\n");
        if !config.is_empty() {
            let files = Some(discovery.identity_files);
            let bootstrap = Bootstrap::of_files(config, proxy, process);
            return Ok(Bootstrap { identity_files: files, ..bootstrap });
        }
        let Some(address) = discovery.address(environment).map_err(wrong)? else {
            return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, NO_SOURCE));
        };
        if proxy.mesh_config.is_some() {
            let message = "--mesh-config goes with --config; a controller has its own";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, format!("{message}\n")));
        }
        let labels = match proxy.labels.is_empty() {
            true => pod_labels().unwrap_or_else(|| proxy.labels()),
            false => proxy.labels(),
        };
        let namespace = match (&proxy.namespace, environment.find("POD_NAMESPACE")) {
            (None, Some(name)) => namespace(name).map_err(wrong)?,
            (Some(_), _) | (None, None) => proxy.namespace(),
        };
        let discovery = discovery.into_discovery(address, &namespace, &labels, environment);
        let source = ConfigSource::Discovery(Box::new(discovery.map_err(wrong)?));
        Ok(Bootstrap::new(source, labels, namespace, process))
    }
}

impl CheckArguments {
    /// Prints what there is to say; the exit code says whether it is an error.
    #[must_use]
    pub fn run(&self) -> std::process::ExitCode {
        check::run(self)
    }
}

impl DemoArguments {
    /// To serve the example.
    #[must_use]
    pub fn into_bootstrap(self) -> Bootstrap {
        Bootstrap::of_files(vec![self.dir], self.proxy, self.process)
    }
}

impl ProxyArguments {
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        if self.labels.is_empty() {
            return DEFAULT_LABELS.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        }
        self.labels.iter().cloned().collect()
    }

    #[must_use]
    pub fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }
}

impl Bootstrap {
    fn of_files(paths: Vec<PathBuf>, proxy: ProxyArguments, process: ProcessArguments) -> Self {
        let (labels, namespace) = (proxy.labels(), proxy.namespace());
        let source = ConfigSource::Files { paths, mesh_config: proxy.mesh_config };
        Self::new(source, labels, namespace, process)
    }

    fn new(
        source: ConfigSource,
        labels: BTreeMap<String, String>,
        namespace: String,
        process: ProcessArguments,
    ) -> Self {
        let ProcessArguments {
            admin,
            status,
            metrics,
            workers,
            log_level,
            log_format,
            drain_time,
            name_server,
        } = process;
        // Respects the limits of a container, as far as they are whole processors.
        let workers = workers.or_else(|| thread::available_parallelism().ok());
        Self {
            source,
            labels,
            namespace,
            workload: None,
            instance: String::new(),
            admin,
            status,
            metrics,
            workers: workers.map_or(1, NonZeroUsize::get),
            log_level,
            log_format,
            drain_time: drain_time.unwrap_or(DRAIN_TIME),
            name_server,
            kind: ProxyKind::Gateway,
            identity_files: None,
            identity_socket: None,
            agent: None,
            application: Application::default(),
            drain_delay: Duration::ZERO,
            dns: Vec::new(),
            interception: Interception::default(),
            awaits_redirection: false,
            hbone: None,
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written key=value".to_owned()),
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let is_label = bytes.len() <= 63
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge);
    match is_label {
        true => Ok(text.to_owned()),
        false => {
            Err("a namespace is lower-case letters, digits and inner hyphens, at most 63"
                .to_owned())
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = digits
        .parse()
        .ok()
        .zip(unit)
        .and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| "a time is a whole number and a unit: ms, s, m or h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from([&["weir-gateway"], arguments].concat())
    }

    fn bootstrap(arguments: &[&str]) -> Bootstrap {
        bootstrap_in(arguments, &Environment::default()).unwrap()
    }

    fn bootstrap_in(
        arguments: &[&str],
        environment: &Environment,
    ) -> Result<Bootstrap, clap::Error> {
        parse(arguments)?.into_bootstrap(environment)
    }

    fn discovery(bootstrap: &Bootstrap) -> &Discovery {
        match &bootstrap.source {
            ConfigSource::Discovery(discovery) => discovery,
            ConfigSource::Files { .. } => panic!("{bootstrap:?}"),
        }
    }

    fn files<const N: usize>(paths: [&str; N]) -> ConfigSource {
        ConfigSource::Files { paths: paths.map(PathBuf::from).into(), mesh_config: None }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_environment_name() {
        let command = Arguments::command();
        let options = command.get_arguments().filter(|it| it.get_long().is_some());
        for option in options.filter(|it| !["help", "version"].contains(&it.get_id().as_str())) {
            let name = option.get_long().unwrap();
            let expected = format!("WEIR_{}", name.to_uppercase().replace('-', "_"));
            let environment = option.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(environment, Some(expected), "--{name}");
        }
    }

    #[test]
    fn only_the_folder_has_to_be_said() {
        let bootstrap = bootstrap(&["--config", "conf"]);
        let istio = [("app", "istio-ingressgateway"), ("istio", "ingressgateway")];
        let expected = Bootstrap {
            source: files(["conf"]),
            labels: istio.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            namespace: "default".to_owned(),
            admin: ([127, 0, 0, 1], 15000).into(),
            status: ([0, 0, 0, 0], 15021).into(),
            metrics: Vec::new(),
            workers: bootstrap.workers,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            drain_time: Duration::from_secs(45),
            name_server: None,
            kind: ProxyKind::Gateway,
            workload: None,
            instance: String::new(),
            identity_files: Some("/var/run/secrets/workload-spiffe-credentials".into()),
            identity_socket: Some("/var/run/secrets/workload-spiffe-uds/socket".into()),
            agent: None,
            application: Application::default(),
            drain_delay: Duration::ZERO,
            dns: Vec::new(),
            interception: Interception::default(),
            awaits_redirection: false,
            hbone: None,
        };
        assert_eq!(bootstrap, expected);
        assert!(bootstrap.workers >= 1);
        let missing = bootstrap_in(&[], &Environment::default()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn a_controller_stands_in_for_the_folder() {
        let bootstrap = bootstrap(&["--discovery", "weir.infra.svc:15012", "--state-dir", "state"]);
        let discovery = discovery(&bootstrap);
        assert_eq!(discovery.address.to_string(), "weir.infra.svc:15012");
        assert_eq!(discovery.ca, discovery.address);
        assert_eq!(discovery.server_name.to_str(), "weir.infra.svc");
        assert_eq!(discovery.root, PathBuf::from("/var/run/secrets/istio/root-cert.pem"));
        assert_eq!(discovery.token, PathBuf::from("/var/run/secrets/tokens/istio-token"));
        assert_eq!(discovery.state_dir, Some("state".into()));
        assert_eq!(discovery.trust_domain, "cluster.local");
        assert_eq!(discovery.proxy.labels, bootstrap.labels);

        for [more, value] in [["--config", "conf"], ["--mesh-config", "mesh.yaml"]] {
            let both = ["--discovery", "weir:15012", more, value];
            let error = bootstrap_in(&both, &Environment::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{more}");
        }
    }

    #[test]
    fn the_environment_of_istios_charts_says_it_too() {
        let environment = [
            ("PROXY_CONFIG", r#"{"discoveryAddress":"istiod.istio-system.svc:15012"}"#),
            ("CA_ADDR", "istiod-ca.istio-system.svc:15012"),
            ("POD_NAME", "edge-7d"),
            ("POD_NAMESPACE", "edge"),
            ("SERVICE_ACCOUNT", "edge-account"),
            ("INSTANCE_IP", "10.0.0.7"),
            ("TRUST_DOMAIN", "example.org"),
            ("ISTIO_META_CLUSTER_ID", "east"),
        ]
        .into();
        let bootstrap = bootstrap_in(&["--labels", "istio=edge"], &environment).unwrap();
        let discovery = discovery(&bootstrap);
        assert_eq!(bootstrap.namespace, "edge");
        assert_eq!(discovery.address.to_string(), "istiod.istio-system.svc:15012");
        assert_eq!(discovery.ca.to_string(), "istiod-ca.istio-system.svc:15012");
        assert_eq!(discovery.trust_domain, "example.org");
        let expected = crate::discovery::ads::Proxy {
            role: crate::discovery::ads::Role::Router,
            name: "edge-7d".to_owned(),
            namespace: "edge".to_owned(),
            service_account: "edge-account".to_owned(),
            address: "10.0.0.7".to_owned(),
            labels: [("istio".to_owned(), "edge".to_owned())].into(),
            cluster_id: "east".to_owned(),
        };
        assert_eq!(discovery.proxy, expected);

        let folder = bootstrap_in(&["--config", "conf"], &environment).unwrap();
        assert_eq!(folder.source, files(["conf"]), "a folder that is named is meant");
        assert_eq!(folder.namespace, "default");
        let wrong = [("PROXY_CONFIG", r#"{"discoveryAddress":"istiod"}"#)].into();
        let error = bootstrap_in(&[], &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn options_say_what_they_are_named_after() {
        let bootstrap = bootstrap(&[
            "--config",
            "a",
            "--config",
            "b,c",
            "--labels",
            "istio=edge,zone=",
            "--namespace",
            "infra",
            "--workers",
            "3",
            "--drain-time",
            "500ms",
            "--log-format",
            "json",
        ]);
        assert_eq!(bootstrap.source, files(["a", "b", "c"]));
        let labels = [("istio", "edge"), ("zone", "")];
        assert_eq!(bootstrap.labels, labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(bootstrap.namespace, "infra");
        assert_eq!(bootstrap.workers, 3);
        assert_eq!(bootstrap.drain_time, Duration::from_millis(500));
        assert_eq!(bootstrap.log_format, LogFormat::Json);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            ["--workers", "0"],
            ["--labels", "istio"],
            ["--namespace", "Shop_1"],
            ["--namespace", ""],
            ["--admin", "15000"],
            ["--drain-time", "45"],
            ["--drain-time", "s"],
            ["--log-format", "xml"],
            ["--ca", "weir"],
            ["--discovery-name", "a b"],
        ] {
            assert!(parse(&[&["--config", "conf"], &wrong[..]].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn subcommands_need_no_folder_to_serve() {
        let Some(Command::Check(check)) = parse(&["check", "conf"]).unwrap().command else {
            panic!("not a check")
        };
        assert_eq!(check.config, [PathBuf::from("conf")]);
        let Some(Command::Demo(demo)) = parse(&["demo", "--workers", "1"]).unwrap().command else {
            panic!("not a demo")
        };
        assert_eq!(demo.into_bootstrap().source, files(["examples/quickstart"]));
    }
}
