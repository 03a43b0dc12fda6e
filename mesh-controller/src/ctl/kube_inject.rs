//! `weirctl kube-inject`: what the webhook would make of the pods in a file, for clusters and tools
//! that are to apply it themselves.

use std::{fs, io::Read as _, path::Path};

use anyhow::Context as _;

use super::{
    args::{InjectArguments, Target},
    cluster::Cluster,
};
use crate::inject::{Config, inject_manifests};

const STDIN: &str = "-";
const DEFAULT_NAMESPACE: &str = "default";
/// The key that the chart keeps the settings under.
const SETTINGS: &str = "config.yaml";

pub async fn run(target: &Target, arguments: &InjectArguments) -> anyhow::Result<String> {
    let InjectArguments { filename, output, config_file, mesh_config_file, revision, .. } =
        arguments;
    let manifests = content(filename)?;
    let (mut config, namespace) = match config_file {
        Some(path) => (offline(path)?, target.namespace.clone()),
        None => of_the_cluster(target, &arguments.config_map).await?,
    };
    if let Some(path) = mesh_config_file {
        let name = path.display();
        let mesh = serde_yaml::from_str(&content(path)?).with_context(|| format!("read {name}"))?;
        config.set_mesh_config(mesh).with_context(|| format!("use {name}"))?;
    }
    if let Some(revision) = revision {
        config.revision.clone_from(revision);
    }
    let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let injected = inject_manifests(&manifests, namespace, &config);
    let injected = injected.with_context(|| format!("inject {}", filename.display()))?;
    let Some(output) = output else { return Ok(injected) };
    fs::write(output, injected).with_context(|| format!("write {}", output.display()))?;
    Ok(String::new())
}

fn offline(path: &Path) -> anyhow::Result<Config> {
    Config::parse(&content(path)?).with_context(|| format!("use {}", path.display()))
}

/// The settings that the chart made, and the namespace that is meant.
async fn of_the_cluster(target: &Target, name: &str) -> anyhow::Result<(Config, Option<String>)> {
    let cluster = Cluster::connect(target).await?;
    let what = format!("ConfigMap {}/{name}", cluster.system);
    let data = cluster.config_map(name).await.with_context(|| {
        format!("read {what}; name its namespace with --istioNamespace, or a file with --injectConfigFile")
    })?;
    let settings = data.get(SETTINGS);
    let settings = settings.with_context(|| format!("{what} has no key {SETTINGS}"))?;
    let config = Config::parse(settings).with_context(|| format!("use {what}"))?;
    Ok((config, Some(cluster.namespace)))
}

fn content(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == STDIN {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}
