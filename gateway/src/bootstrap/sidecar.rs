//! What a sidecar is started with: as a gateway, and who its workload is.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};
use weir_config::compile::ProxyKind;

use super::{Bootstrap, ConfigSource, Environment, GatewayArguments, duration};
use crate::{
    application::{Application, Settings},
    discovery::ads::Role,
    identity,
};

const ABOUT: &str = "The proxy beside a workload: what is redirected to it goes on as Istio's \
                     configuration says.";

const AFTER_HELP: &str = "\
Connections of the workload are redirected to port 15001 and connections to it to port 15006; \
weir-init programs that.

Signals: TERM and INT end the process. If nobody has asked it to drain before (weir-sidecar drain), \
that comes first, and goes on for as long as --drain-time allows. USR1 opens the access log file again.

Examples:
  weir-sidecar --config ./config --namespace shop --labels app=reviews --pod-ip 10.1.0.1
  weir-sidecar --discovery weir-controller.weir-system.svc:15012 --state-dir /var/lib/weir";

/// As Istio's proxies: the proxy's own.
const METRICS_PORT: u16 = 15090;
/// As Istio's proxies, where the ProxyConfig says nothing (`terminationDrainDuration`).
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// The redirect rules send queries there. Not the wildcard: answers would come from an address the
/// kernel does not take for the one that was asked.
const DNS_ADDRESSES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15053),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 15053),
];
/// In a folder that is given, one file of this name is a certificate.
const CERTIFICATE: &str = "cert-chain.pem";

/// The command line of a sidecar.
#[derive(Debug, Parser)]
#[command(
    name = "weir-sidecar",
    version,
    about = ABOUT,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    max_term_width = 100
)]
pub struct SidecarArguments {
    #[command(subcommand)]
    pub command: Option<SidecarCommand>,

    #[command(flatten)]
    proxy: GatewayArguments,

    /// Addresses of the workload [Istio: INSTANCE_IPS, INSTANCE_IP]
    #[arg(long, value_name = "IP,...", env = "WEIR_POD_IP", value_delimiter = ',')]
    pod_ip: Vec<IpAddr>,

    /// Where the kubelet's probes of the application are answered, the metrics of both are served, and
    /// the containers of the pod ask for the end.
    #[arg(long, value_name = "ADDR", env = "WEIR_AGENT", default_value = AGENT)]
    agent: SocketAddr,

    /// From the news that the workload ends until clients are told to go elsewhere: the time in which
    /// it becomes known that it is no endpoint any more.
    #[arg(
        long,
        value_name = "TIME",
        env = "WEIR_DRAIN_DELAY",
        default_value = "3s",
        value_parser = duration
    )]
    drain_delay: Duration,

    /// Where the workload's DNS queries are redirected to [default: nowhere; 127.0.0.1:15053 and
    /// [::1]:15053 where Istio's ISTIO_META_DNS_CAPTURE is true]
    #[arg(long, value_name = "ADDR,...", env = "WEIR_DNS", value_delimiter = ',')]
    dns: Vec<SocketAddr>,

    /// How connections to the workload come here, as weir-init was told. TPROXY lets the workload see
    /// its clients' addresses, and needs user 0 with group 1337 and NET_ADMIN [default: REDIRECT;
    /// Istio: ISTIO_META_INTERCEPTION_MODE, INTERCEPTION_MODE]
    #[arg(long, value_name = "MODE", env = "WEIR_INTERCEPTION_MODE", ignore_case = true)]
    interception_mode: Option<Interception>,

    /// Is not ready before connections of the workload come here, where it is not weir-init but an agent
    /// of the node who programs that.
    #[arg(long, env = "WEIR_AWAIT_REDIRECTION")]
    await_redirection: bool,

    /// Takes HBONE on 15008, and speaks it with workloads labelled networking.istio.io/tunnel: http
    /// [Istio: ISTIO_META_ENABLE_HBONE]
    #[arg(long, env = "WEIR_HBONE")]
    hbone: bool,
}

const AGENT: &str = "0.0.0.0:15020";

/// How a sidecar's inbound connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Interception {
    /// Their destination is changed to the proxy.
    #[default]
    Redirect,
    /// Both addresses stay: the proxy takes the place of either side towards the other.
    Tproxy,
    /// They are not.
    None,
}

/// What is said to a sidecar that runs, by the hooks of its container.
#[derive(Debug, Subcommand)]
pub enum SidecarCommand {
    /// Tells the sidecar of this pod that the workload ends: what comes in is to come to its end.
    Drain {
        /// Of the sidecar; asked on loopback.
        #[arg(long, value_name = "ADDR", env = "WEIR_AGENT", default_value = AGENT)]
        agent: SocketAddr,
    },
    /// Waits until the sidecar of this pod is ready. Exits with 1 if it is not in time.
    Wait {
        /// Of the sidecar; asked on loopback.
        #[arg(long, value_name = "ADDR", env = "WEIR_STATUS", default_value = "0.0.0.0:15021")]
        status: SocketAddr,
        /// How long.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
}

impl SidecarArguments {
    /// # Errors
    /// No source of configuration is named, or the environment does not make sense.
    pub fn into_bootstrap(self, environment: &Environment) -> Result<Bootstrap, clap::Error> {
        let wrong = |message: String| clap::Error::raw(ErrorKind::ValueValidation, message + "\n");
        let identity_files = self.proxy.discovery.identity_files.clone();
        let has_labels = !self.proxy.proxy.labels.is_empty();
        let addresses = match self.pod_ip.is_empty() {
            true => addresses(environment),
            false => self.pod_ip,
        };
        let drain_time = self.proxy.process.drain_time;
        let dns = match self.dns.is_empty() && is_dns_captured(environment) {
            true => DNS_ADDRESSES.into(),
            false => self.dns,
        };
        let interception = match self.interception_mode {
            Some(mode) => mode,
            None => interception(environment).map_err(wrong)?,
        };
        let speaks_hbone =
            self.hbone || environment.find("ISTIO_META_ENABLE_HBONE") == Some("true");
        let mut bootstrap = self.proxy.into_bootstrap(environment)?;
        if bootstrap.metrics.is_empty() {
            bootstrap.metrics = vec![([0, 0, 0, 0], METRICS_PORT).into()];
        }
        let settings = Settings::read(|name| environment.find(name));
        let settings = settings.map_err(|error| wrong(error.to_string()))?;
        if let ConfigSource::Discovery(discovery) = &mut bootstrap.source {
            discovery.proxy.role = Role::Sidecar;
        }
        if !has_labels && matches!(bootstrap.source, ConfigSource::Files { .. }) {
            // Those of a gateway are not a workload's.
            bootstrap.labels.clear();
        }
        let drain_time = match drain_time {
            Some(time) => time,
            None => termination_drain(environment).map_err(wrong)?,
        };
        Ok(Bootstrap {
            application: Application { address: addresses.first().copied(), settings },
            kind: ProxyKind::Sidecar { addresses },
            agent: Some(self.agent),
            drain_delay: self.drain_delay,
            drain_time,
            identity_files: Some(identity_files),
            dns,
            interception,
            awaits_redirection: self.await_redirection,
            hbone: speaks_hbone.then(|| baggage(&bootstrap, environment)),
            ..bootstrap
        })
    }
}

impl Bootstrap {
    /// Who a sidecar is in the mesh, where it is known before there is a certificate.
    #[must_use]
    pub fn principal(&self) -> Option<String> {
        match (&self.kind, &self.source) {
            (ProxyKind::Sidecar { .. }, ConfigSource::Discovery(it)) => Some(it.identity()),
            _ => None,
        }
    }

    /// The socket of an agent that gives out certificates, if one is there.
    #[must_use]
    pub fn agent_of_identities(&self) -> Option<PathBuf> {
        self.identity_socket.clone().filter(|socket| identity::is_provided(socket))
    }

    /// Where the proxy listens for itself.
    #[must_use]
    pub fn own_ports(&self) -> Vec<u16> {
        let single = [self.admin, self.status].into_iter().chain(self.agent);
        let all = single.chain(self.metrics.iter().copied()).chain(self.dns.iter().copied());
        all.map(|address| address.port()).collect()
    }

    /// Whether there is a certificate of the mesh, or will be.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        if self.agent_of_identities().is_some() {
            return true;
        }
        match (&self.source, &self.identity_files) {
            (ConfigSource::Discovery(_), _) => true,
            (ConfigSource::Files { .. }, None) => false,
            (ConfigSource::Files { .. }, Some(folder)) => has_certificate(folder),
        }
    }
}

fn has_certificate(folder: &Path) -> bool {
    folder.join(CERTIFICATE).exists()
}

/// `terminationDrainDuration` of the ProxyConfig.
fn termination_drain(environment: &Environment) -> Result<Duration, String> {
    let config = environment.proxy_config()?.unwrap_or_default();
    match config.get("terminationDrainDuration").and_then(serde_json::Value::as_str) {
        Some(text) => {
            let time = duration(text);
            time.map_err(|error| format!("PROXY_CONFIG: terminationDrainDuration: {error}"))
        }
        None => Ok(DRAIN_TIME),
    }
}

fn is_dns_captured(environment: &Environment) -> bool {
    environment.find("ISTIO_META_DNS_CAPTURE") == Some("true")
}

/// Who the workload is, as ztunnel says it.
fn baggage(bootstrap: &Bootstrap, environment: &Environment) -> String {
    let told = |name: &str| environment.find(name).filter(|value| !value.is_empty());
    let label = |names: &[&str]| {
        let found = names.iter().find_map(|name| bootstrap.labels.get(*name));
        found.map(String::as_str).unwrap_or_default()
    };
    let cluster = told("ISTIO_META_CLUSTER_ID").unwrap_or("Kubernetes");
    let name = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let workload = told("ISTIO_META_WORKLOAD_NAME").unwrap_or(name);
    let version =
        label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let version = if version.is_empty() { "latest" } else { version };
    let namespace = &bootstrap.namespace;
    format!(
        "k8s.cluster.name={cluster},k8s.namespace.name={namespace},k8s.deployment.name={workload},\
         service.name={name},service.version={version}"
    )
}

/// As Istio's injector, or its proxy configuration, says.
fn interception(environment: &Environment) -> Result<Interception, String> {
    for name in ["ISTIO_META_INTERCEPTION_MODE", "INTERCEPTION_MODE"] {
        let Some(text) = environment.find(name).filter(|text| !text.is_empty()) else { continue };
        return Interception::from_str(text, true)
            .map_err(|_unknown| format!("{name}: {text:?} is none of REDIRECT, TPROXY and NONE"));
    }
    Ok(Interception::default())
}

/// As Istio's injector tells them.
fn addresses(environment: &Environment) -> Vec<IpAddr> {
    let text = environment.find("INSTANCE_IPS").or_else(|| environment.find("INSTANCE_IP"));
    text.unwrap_or_default().split(',').filter_map(|ip| ip.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn bootstrap(arguments: &[&str], environment: &Environment) -> Bootstrap {
        let arguments = [&["weir-sidecar", "--config", "conf"], arguments].concat();
        let parsed = SidecarArguments::try_parse_from(arguments).unwrap();
        parsed.into_bootstrap(environment).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        SidecarArguments::command().debug_assert();
    }

    #[test]
    fn the_workload_is_who_it_is_said_to_be() {
        let instance = Environment::from([("INSTANCE_IPS", "10.1.0.1,fd00::1")]);
        let both = vec![[10, 1, 0, 1].into(), "fd00::1".parse().unwrap()];
        let from_environment = bootstrap(&[], &instance);
        assert_eq!(from_environment.kind, ProxyKind::Sidecar { addresses: both });
        assert!(from_environment.labels.is_empty(), "a gateway's labels are not a workload's");

        let said = bootstrap(&["--pod-ip", "10.1.0.2", "--labels", "app=a"], &instance);
        assert_eq!(said.kind, ProxyKind::Sidecar { addresses: vec![[10, 1, 0, 2].into()] });
        assert_eq!(said.labels["app"], "a");
        let ports: Vec<u16> =
            said.metrics.iter().chain(&said.agent).map(SocketAddr::port).collect();
        assert_eq!(ports, [15090, 15020]);
    }

    #[test]
    fn what_an_injector_says_of_the_application_is_understood() {
        let told = Environment::from([
            ("ISTIO_KUBE_APP_PROBERS", r#"{"/app-health/web/livez":{"tcpSocket":{"port":80}}}"#),
            ("PROXY_CONFIG", r#"{"terminationDrainDuration":"7s"}"#),
            ("INSTANCE_IP", "10.1.0.1"),
        ]);
        let told = bootstrap(&[], &told);
        assert!(told.application.settings.probers.contains_key("/app-health/web/livez"));
        assert_eq!(told.application.address, Some([10, 1, 0, 1].into()));
        assert_eq!(told.drain_time, Duration::from_secs(7));
        assert_eq!(bootstrap(&[], &Environment::default()).drain_time, DRAIN_TIME);
        assert_eq!(
            bootstrap(&["--drain-time", "1s"], &Environment::default()).drain_time.as_secs(),
            1
        );
    }

    #[test]
    fn dns_is_answered_where_it_is_redirected() {
        assert!(bootstrap(&[], &Environment::default()).dns.is_empty());
        let captured = Environment::from([("ISTIO_META_DNS_CAPTURE", "true")]);
        assert_eq!(bootstrap(&[], &captured).dns, DNS_ADDRESSES);
        let said = bootstrap(&["--dns", "127.0.0.1:53"], &captured).dns;
        assert_eq!(said, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn the_interception_mode_is_the_injectors() {
        let told = |name: &'static str, value: &'static str| {
            bootstrap(&[], &Environment::from([(name, value)])).interception
        };
        assert_eq!(bootstrap(&[], &Environment::default()).interception, Interception::Redirect);
        assert_eq!(told("ISTIO_META_INTERCEPTION_MODE", "TPROXY"), Interception::Tproxy);
        assert_eq!(told("INTERCEPTION_MODE", "NONE"), Interception::None);
        let said = bootstrap(
            &["--interception-mode", "redirect"],
            &Environment::from([("ISTIO_META_INTERCEPTION_MODE", "TPROXY")]),
        );
        assert_eq!(said.interception, Interception::Redirect);
        let wrong = Environment::from([("INTERCEPTION_MODE", "MAGIC")]);
        let parsed = SidecarArguments::try_parse_from(["weir-sidecar", "--config", "conf"]);
        let error = parsed.unwrap().into_bootstrap(&wrong).unwrap_err().to_string();
        assert!(error.contains("INTERCEPTION_MODE: \"MAGIC\" is none of"), "{error}");
    }

    #[test]
    fn hbone_is_spoken_where_it_is_asked_for_and_says_who_the_workload_is() {
        assert_eq!(bootstrap(&[], &Environment::default()).hbone, None);
        let told = Environment::from([
            ("ISTIO_META_ENABLE_HBONE", "true"),
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
        ]);
        let arguments = ["--namespace", "shop", "--labels", "app=reviews,version=v1"];
        assert_eq!(
            bootstrap(&arguments, &told).hbone.as_deref(),
            Some(
                "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,\
                 k8s.deployment.name=reviews-v1,service.name=reviews,service.version=v1"
            )
        );
        assert!(bootstrap(&["--hbone"], &Environment::default()).hbone.is_some());
    }

    #[test]
    fn a_folder_with_a_certificate_is_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap();
        let environment = Environment::default();
        assert!(!bootstrap(&["--identity-files", folder], &environment).has_identity());
        std::fs::write(dir.path().join(CERTIFICATE), "").unwrap();
        assert!(bootstrap(&["--identity-files", folder], &environment).has_identity());
    }
}
