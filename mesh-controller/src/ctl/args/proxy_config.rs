//! Of `weirctl proxy-config`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub(super) const EXAMPLES: &str = "\
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
