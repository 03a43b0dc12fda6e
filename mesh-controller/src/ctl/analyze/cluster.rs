//! Objects of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use serde_json::Value;
use weir_config::{
    api::Kind,
    parse::{Options, parse, parse_mesh_config},
};

use super::config::{Config, Workload};
use crate::{
    ctl::{
        args::Target,
        cluster::{Cluster, Listed},
    },
    watch::{WATCHED, Watched, WatchedKind},
};

/// Where a mesh configuration is, the first that exists counts; as the controller looks for it.
const MESH_CONFIG: [&str; 2] = ["weir", "istio"];
/// Labels that differ between pods which are otherwise the same.
const OF_ONE_POD: [&str; 3] =
    ["pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name"];

/// Reads everything configuration depends on, and returns the namespace that is meant.
pub async fn read(target: &Target, config: &mut Config) -> anyhow::Result<String> {
    let cluster = Cluster::connect(target).await?;
    for watched in &WATCHED {
        // Where endpoints run is nothing configuration can be wrong about, nor are labels of namespaces.
        if matches!(watched.kind, WatchedKind::Node | WatchedKind::Namespace) {
            continue;
        }
        match cluster.list(watched).await? {
            Listed::Objects(objects) => add(watched, objects, &cluster.system, config),
            Listed::Forbidden => forbidden(watched, config)?,
        }
    }
    Ok(cluster.namespace)
}

fn add(watched: &Watched, objects: Vec<Value>, system: &str, config: &mut Config) {
    match watched.kind {
        WatchedKind::Pod => {
            let workloads: BTreeSet<Workload> = objects.iter().map(workload).collect();
            config.workloads = Some(workloads.into_iter().collect());
        }
        WatchedKind::Node | WatchedKind::Namespace => {}
        WatchedKind::Object(kind) => {
            if kind == Kind::ConfigMap {
                mesh_config(&objects, system, config);
            }
            for object in objects {
                // An object of the cluster is always in a namespace, and in no file.
                config.add(parse("", object.to_string().as_bytes(), &Options::default()));
            }
        }
    }
}

/// Without Secrets the rest can be looked at. Without anything else, things would be missed that are
/// there.
fn forbidden(watched: &Watched, config: &mut Config) -> anyhow::Result<()> {
    if watched.kind != WatchedKind::Object(Kind::Secret) {
        let plural = watched.plural;
        bail!(
            "{plural} of all namespaces may not be listed; `kubectl auth can-i list {plural} -A` \
             tells who may"
        );
    }
    config.hides_secrets = true;
    Ok(())
}

fn mesh_config(config_maps: &[Value], system: &str, config: &mut Config) {
    let text = |name: &str| {
        let mut found = config_maps
            .iter()
            .filter(|it| it["metadata"]["namespace"] == system && it["metadata"]["name"] == name);
        found.find_map(|it| it["data"]["mesh"].as_str())
    };
    let found = MESH_CONFIG.iter().find_map(|name| Some((name, text(name)?)));
    let Some((name, text)) = found else { return };
    let (mesh, diagnostics) = parse_mesh_config(name, text.as_bytes());
    config.found.extend(diagnostics.iter().map(super::Message::schema));
    config.mesh = mesh.map(|mut mesh| {
        if mesh.root_namespace.is_empty() {
            mesh.root_namespace = system.to_owned();
        }
        mesh
    });
}

fn workload(pod: &Value) -> Workload {
    let metadata = &pod["metadata"];
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let labels: BTreeMap<String, String> = labels
        .filter(|(name, _)| !OF_ONE_POD.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    Workload { namespace: metadata["namespace"].as_str().unwrap_or_default().to_owned(), labels }
}
