//! Of `weirctl analyze`.

use std::{fmt, path::PathBuf};

use clap::{Args, ValueEnum};

pub(super) const EXAMPLES: &str = "\
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
