//! The command line of `weirctl`. Where istioctl has a command or a flag, it is called the same here.

use std::{fmt, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const ABOUT: &str = "Looks at Weir: its configuration, its controller and its proxies.";

const EXAMPLES: &str = "\
Examples:
  # What is wrong with the files of a folder, without a cluster
  weirctl analyze --use-kube=false --recursive manifests/

  # What would be wrong with the cluster if a file were applied
  weirctl analyze --all-namespaces routes.yaml

  # Whether every proxy has the configuration
  weirctl proxy-status

  # The routes of a gateway's pod, and of a gateway that runs on this machine
  weirctl proxy-config route deployment/istio-ingressgateway.istio-ingress
  weirctl proxy-config route --address http://127.0.0.1:15000";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "weirctl",
    about = ABOUT,
    after_help = EXAMPLES,
    max_term_width = 100,
    disable_version_flag = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, and where in it.
#[derive(Debug, Args)]
pub struct Target {
    /// The kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the pod's own account]
    #[arg(short = 'c', long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig file [default: the current one]
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,

    /// The namespace the command is about [default: the context's]
    #[arg(short, long, value_name = "NS", global = true)]
    pub namespace: Option<String>,

    /// The namespace the controller runs in
    #[arg(
        short = 'i',
        long = "istioNamespace",
        visible_aliases = ["istio-namespace", "weir-namespace"],
        value_name = "NS",
        env = "WEIR_NAMESPACE",
        default_value = "weir-system",
        global = true
    )]
    pub system: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the versions of this program, the controller and the proxies
    Version(VersionArguments),
    /// Find what is wrong with configuration, in files and in the cluster
    #[command(after_help = ANALYZE_EXAMPLES)]
    Analyze(AnalyzeArguments),
    /// Show which proxies have the configuration that the controller sent
    #[command(visible_alias = "ps", after_help = STATUS_EXAMPLES)]
    ProxyStatus(StatusArguments),
    /// Show what a proxy runs
    #[command(visible_alias = "pc", arg_required_else_help = true, after_help = CONFIG_EXAMPLES)]
    ProxyConfig(ConfigArguments),
    /// Print the completion script of a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        #[arg(value_parser = shells())]
        shell: Shell,
    },
}

fn shells() -> impl clap::builder::TypedValueParser<Value = Shell> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    PossibleValuesParser::new(["bash", "zsh", "fish"])
        .map(|name| name.parse().expect("the three shells are known"))
}

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(weirctl completion bash)
  weirctl completion zsh > \"${fpath[1]}/_weirctl\"
  weirctl completion fish > ~/.config/fish/completions/weirctl.fish";

/// Forms for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
    Yaml,
}

/// Of `version`.
#[derive(Debug, Args)]
pub struct VersionArguments {
    /// Also ask the controller
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub remote: bool,

    /// A form for programs
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

const ANALYZE_EXAMPLES: &str = "\
Exit status: 0 when nothing was found at or above --failure-threshold, 79 when something was, 65 when \
a file cannot be read, 64 when the command line is wrong, 1 when the cluster cannot be asked.

Examples:
  # The current namespace of the cluster
  weirctl analyze
  # Files alone, as in CI
  weirctl analyze --use-kube=false -R manifests/
  # What a change would do to the cluster
  kustomize build | weirctl analyze -A -
  # Without one finding
  weirctl analyze -S \"IST0133=VirtualService reviews.default\"

An object says which findings about it are known with the annotation
galley.istio.io/analyze-suppress: IST0101,IST0133 (or *).";

/// Of `analyze`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of istioctl's")]
pub struct AnalyzeArguments {
    /// Files and folders to analyze; `-` is standard input
    pub paths: Vec<PathBuf>,

    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Analyze the cluster, with the files in the place of the objects they name
    #[arg(
        short = 'k',
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub use_kube: bool,

    /// Folders with everything below them
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// The mesh configuration, instead of the cluster's
    #[arg(long = "meshConfigFile", visible_alias = "mesh-config-file", value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,

    /// Findings not to report, CODE=KIND NAME.NAMESPACE; `*` stands for anything
    #[arg(short = 'S', long, value_name = "FINDING")]
    pub suppress: Vec<String>,

    /// The level from which on the command fails
    #[arg(long, value_name = "LEVEL", default_value = "Error", ignore_case = true)]
    pub failure_threshold: Level,

    /// The level from which on findings are printed
    #[arg(long, value_name = "LEVEL", default_value = "Info", ignore_case = true)]
    pub output_threshold: Level,

    /// How findings are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "log")]
    pub output: AnalyzeOutput,

    /// With colours [default: on a terminal, unless NO_COLOR is set]
    #[arg(
        long,
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub color: Option<bool>,

    /// Do not fail on files that cannot be read as configuration
    #[arg(long)]
    pub ignore_unknown: bool,

    /// List what is looked for, and do nothing else
    #[arg(short = 'L', long)]
    pub list_analyzers: bool,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AnalyzeOutput {
    Log,
    Json,
    Yaml,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        })
    }
}

const STATUS_EXAMPLES: &str = "\
SYNCED: it has what was sent last. STALE: it has not answered yet. NOT SENT: nothing was sent to it. \
NACKED: it did not apply everything; name the proxy to see why.

Examples:
  weirctl proxy-status
  weirctl proxy-status istio-ingressgateway-59585c5b9c-nzgmk.istio-ingress";

/// Of `proxy-status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Only this proxy and why it refuses what it refuses: pod[.namespace]
    pub proxy: Option<String>,

    /// A form for programs
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

const CONFIG_EXAMPLES: &str = "\
A proxy is [pod/]name[.namespace] or deployment/name[.namespace].

Examples:
  weirctl proxy-config all deployment/istio-ingressgateway.istio-ingress -o json > gateway.json
  weirctl proxy-config route --file gateway.json --name http.8080
  weirctl proxy-config cluster POD --fqdn reviews.default.svc.cluster.local --port 9080
  weirctl proxy-config log POD --level debug
  weirctl proxy-config listener --address http://127.0.0.1:15000";

/// Of `proxy-config`.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    #[command(subcommand)]
    pub what: What,
}

/// Which part of it.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Everything
    #[command(visible_alias = "a")]
    All(Proxy),
    /// How the proxy was started; JSON unless said otherwise
    #[command(visible_alias = "b")]
    Bootstrap(Proxy),
    /// Upstreams
    #[command(visible_aliases = ["clusters", "c"])]
    Cluster(ClusterFilter),
    /// Addresses of upstreams, and how they are
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint(EndpointFilter),
    /// Where connections are accepted, and what becomes of them
    #[command(visible_aliases = ["listeners", "l"])]
    Listener(ListenerFilter),
    /// The level of the log; changes it with --level
    #[command(visible_alias = "o")]
    Log(LogChange),
    /// Where requests go
    #[command(visible_aliases = ["routes", "r"])]
    Route(RouteFilter),
    /// Certificates
    #[command(visible_aliases = ["secrets", "s"])]
    Secret(Proxy),
}

/// Which proxy, and how it is shown.
#[derive(Debug, Args)]
pub struct Proxy {
    /// [pod/]name[.namespace] or deployment/name[.namespace]
    pub proxy: Option<String>,

    /// What `proxy-config all -o json` or the proxy's /config_dump said, instead of a proxy
    #[arg(short, long, value_name = "FILE", conflicts_with = "proxy")]
    pub file: Option<PathBuf>,

    /// http://HOST:PORT: the admin address of a proxy that is not in a cluster. Anything else, of
    /// listeners and endpoints: only those with this IP address
    #[arg(long, value_name = "URL or IP")]
    pub address: Option<String>,

    /// The port of a pod's admin pages
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    pub proxy_admin_port: u16,

    #[arg(short, long, value_name = "FORMAT", default_value = "short")]
    pub output: ConfigOutput,
}

/// How configuration is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConfigOutput {
    /// A table.
    Short,
    Json,
    Yaml,
}

/// Of `proxy-config cluster`.
#[derive(Debug, Args)]
pub struct ClusterFilter {
    #[command(flatten)]
    pub proxy: Proxy,
    /// Only of this service
    #[arg(long, value_name = "HOST")]
    pub fqdn: Option<String>,
    /// Only of this port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only of this subset
    #[arg(long)]
    pub subset: Option<String>,
    /// Only of this direction
    #[arg(long)]
    pub direction: Option<Direction>,
}

/// Of whose traffic it is, seen from the proxy's workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// Of `proxy-config endpoint`.
#[derive(Debug, Args)]
pub struct EndpointFilter {
    #[command(flatten)]
    pub proxy: Proxy,
    /// Only with this port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only of this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Only those that are healthy, or are not
    #[arg(long)]
    pub status: Option<EndpointStatus>,
}

/// Whether an endpoint is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EndpointStatus {
    Healthy,
    Unhealthy,
}

/// Of `proxy-config listener`.
#[derive(Debug, Args)]
pub struct ListenerFilter {
    #[command(flatten)]
    pub proxy: Proxy,
    /// Only with this port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only of this type
    #[arg(long = "type", ignore_case = true)]
    pub kind: Option<ListenerType>,
}

/// What a listener reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListenerType {
    Http,
    Tls,
    Tcp,
}

/// Of `proxy-config route`.
#[derive(Debug, Args)]
pub struct RouteFilter {
    #[command(flatten)]
    pub proxy: Proxy,
    /// Only of this route table
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Of `proxy-config log`.
#[derive(Debug, Args)]
pub struct LogChange {
    #[command(flatten)]
    pub proxy: Proxy,
    /// error, warn, info, debug, trace, or directives like info,weir_gateway::upstream=debug
    #[arg(long)]
    pub level: Option<String>,
    /// Back to info
    #[arg(short, long, conflicts_with = "level")]
    pub reset: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn istioctls_spellings_are_understood() {
        for line in [
            "weirctl pc listeners gw.edge --port 80 -o json",
            "weirctl ps -i istio-system -n edge",
            "weirctl analyze -A -k=false --failure-threshold warning -S IST0101=* a.yaml -",
            "weirctl proxy-config route gw --name http.8080",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
