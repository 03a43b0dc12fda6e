//! The command line of `weirctl`. Where istioctl has a command or a flag, it is called the same here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

mod analyze;
mod kube_inject;
mod proxy_config;

pub use self::{
    analyze::{AnalyzeArguments, AnalyzeOutput, Level},
    kube_inject::InjectArguments,
    proxy_config::{
        ClusterFilter, ConfigArguments, ConfigOutput, Direction, EndpointFilter, EndpointStatus,
        ListenerFilter, ListenerType, LogChange, Proxy, RouteFilter, What,
    },
};

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
    #[command(after_help = analyze::EXAMPLES)]
    Analyze(AnalyzeArguments),
    /// Show which proxies have the configuration that the controller sent
    #[command(visible_alias = "ps", after_help = STATUS_EXAMPLES)]
    ProxyStatus(StatusArguments),
    /// Show what a proxy runs
    #[command(visible_alias = "pc", arg_required_else_help = true, after_help = proxy_config::EXAMPLES)]
    ProxyConfig(ConfigArguments),
    /// Inject sidecars into the pods of manifests
    #[command(after_help = kube_inject::EXAMPLES)]
    KubeInject(InjectArguments),
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
            "weirctl kube-inject -f a.yaml --injectConfigFile b --meshConfigFile c -r canary -o d",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
