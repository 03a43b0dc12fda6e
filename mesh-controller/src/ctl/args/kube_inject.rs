//! Of `weirctl kube-inject`.

use std::path::PathBuf;

use clap::Args;

pub(super) const EXAMPLES: &str = "\
Injected are pods and the templates of pods in workloads; everything else is printed as it is. What was \
injected already is injected to the same.

Examples:
  # With the settings of the cluster
  weirctl kube-inject -f deployment.yaml | kubectl apply -f -
  # Without a cluster
  kubectl -n weir-system get configmap weir-sidecar-injector -o jsonpath='{.data.config\\.yaml}' > inject.yaml
  weirctl kube-inject -f deployment.yaml --injectConfigFile inject.yaml -o injected.yaml";

/// Of `kube-inject`.
#[derive(Debug, Args)]
pub struct InjectArguments {
    /// The manifests; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: PathBuf,

    /// Where the result goes [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// The settings of injection, instead of the cluster's
    #[arg(
        long = "injectConfigFile",
        visible_alias = "inject-config-file",
        value_name = "FILE",
        conflicts_with = "config_map"
    )]
    pub config_file: Option<PathBuf>,

    /// The ConfigMap in the controller's namespace that the cluster's settings are in
    #[arg(
        long = "injectConfigMapName",
        visible_alias = "inject-config-map-name",
        value_name = "NAME",
        default_value = "weir-sidecar-injector"
    )]
    pub config_map: String,

    /// The mesh configuration, instead of that in the settings
    #[arg(long = "meshConfigFile", visible_alias = "mesh-config-file", value_name = "FILE")]
    pub mesh_config_file: Option<PathBuf>,

    /// Inject as the controller of that revision would
    #[arg(short, long, value_name = "NAME")]
    pub revision: Option<String>,
}
