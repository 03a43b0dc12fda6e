//! What the process is started with: the command line and its environment. Nothing else reads either.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

const ABOUT: &str = "The controller of Weir: feeds gateways from Kubernetes.";

const LONG_ABOUT: &str = "\
The controller of Weir: feeds gateways from Kubernetes.

Watches Istio's configuration and the Kubernetes objects it refers to, and sends each gateway what \
concerns it, over Envoy's delta discovery service. While the API server cannot be reached, gateways \
keep what they have and what is known is still served.";

/// The command line.
#[derive(Debug, Clone, Parser)]
#[command(name = "weir-controller", version, about = ABOUT, long_about = LONG_ABOUT, max_term_width = 100)]
pub struct Arguments {
    /// How the API server is reached from outside of the cluster [default: the pod's service account]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace the controller runs in: where its mesh configuration and its Lease are, and the root
    /// namespace of a mesh configuration that names none.
    #[arg(long, value_name = "NS", env = "POD_NAMESPACE", default_value = "weir-system")]
    pub namespace: String,

    /// This replica among others [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// Where gateways connect to for configuration and certificates.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15012")]
    pub discovery_addr: SocketAddr,

    /// Where metrics, readiness and the debug pages are served.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15014")]
    pub monitoring_addr: SocketAddr,

    /// Where the API server connects to for admission.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15017")]
    pub webhook_addr: SocketAddr,

    /// Settings of injection (YAML), which may change; without, nothing is injected.
    #[arg(long, value_name = "FILE", env = "WEIR_INJECTION_CONFIG")]
    pub injection_config: Option<PathBuf>,

    /// The ValidatingWebhookConfiguration and MutatingWebhookConfiguration that are kept up to date
    /// [default: weir-controller-NAMESPACE]
    #[arg(long, value_name = "NAME", env = "VALIDATION_WEBHOOK_CONFIG_NAME")]
    pub validation_webhook_config_name: Option<String>,

    /// Writes what became of objects into their status.
    #[arg(
        long,
        env = "PILOT_ENABLE_STATUS",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub status: bool,

    /// What Kubernetes host names end with.
    #[arg(long, value_name = "DOMAIN", env = "DOMAIN_SUFFIX", default_value = "cluster.local")]
    pub domain: String,

    /// Certificate chain (PEM) for the discovery and webhook ports, from elsewhere than our own CA.
    #[arg(long, value_name = "FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,

    /// The key of --tls-cert-file (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,

    /// Trust domain of our own certificate, and the organisation of a root made here.
    #[arg(long, value_name = "DOMAIN", env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,

    /// More host names that gateways reach this controller by.
    #[arg(long, value_name = "NAME,...", env = "ISTIOD_CUSTOM_HOST", value_delimiter = ',')]
    pub hosts: Vec<String>,

    /// How long certificates live that nobody asked another lifetime for.
    #[arg(
        long,
        value_name = "TIME",
        env = "DEFAULT_WORKLOAD_CERT_TTL",
        default_value = "24h",
        value_parser = duration
    )]
    pub workload_cert_ttl: Duration,

    /// How long certificates live at most.
    #[arg(
        long,
        value_name = "TIME",
        env = "MAX_WORKLOAD_CERT_TTL",
        default_value = "24h",
        value_parser = duration
    )]
    pub max_workload_cert_ttl: Duration,

    /// How long a root made here lives. Its successor is introduced after two thirds.
    #[arg(
        long,
        value_name = "TIME",
        env = "CITADEL_SELF_SIGNED_CA_CERT_TTL",
        default_value = "8760h",
        value_parser = duration
    )]
    pub root_cert_ttl: Duration,

    /// Authorities (PEM) that certificates of gateways are verified with.
    #[arg(long, value_name = "FILE")]
    pub ca_cert_file: Option<PathBuf>,

    /// Audiences of which a service-account token needs one.
    #[arg(
        long,
        value_name = "NAME,...",
        env = "TOKEN_AUDIENCES",
        value_delimiter = ',',
        default_value = "istio-ca"
    )]
    pub token_audiences: Vec<String>,

    /// A Gateway only selects gateways of its own namespace, not of all.
    #[arg(long, env = "PILOT_SCOPE_GATEWAY_TO_NAMESPACE")]
    pub scope_gateway_to_namespace: bool,

    /// How long a gateway may take to read and apply what it is sent, before it is cut off.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub push_timeout: Duration,

    /// How long streams are ended one after another when the process is told to end.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain_time: Duration,

    /// `error`, `warn`, `info`, `debug`, `trace`, or directives like `info,weir_controller::watch=debug`.
    #[arg(long, value_name = "LEVEL", env = "WEIR_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    #[arg(long, value_name = "FORMAT", env = "WEIR_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = weir_config::api::Duration::parse(text).map(|duration| duration.0);
    let duration = duration.filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "a time is a number and a unit, `24h` or `90m`".to_owned())
}

impl Arguments {
    /// The webhook configurations of this controller.
    #[must_use]
    pub fn webhook_configuration(&self) -> String {
        let name = self.validation_webhook_config_name.clone();
        name.unwrap_or_else(|| format!("weir-controller-{}", self.namespace))
    }
}
