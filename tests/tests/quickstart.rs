//! README's way into Kubernetes, followed literally.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tokio::process::Command;
use weir_tests::cluster::{Cluster, app, bed};

weir_tests::cluster_suite! {
    nodes: 1;
    the_readmes_commands_lead_to_an_answer_of_the_application,
}

/// The section with the commands.
const SECTION: &str = "## In Kubernetes\n";

/// What a reader has to put in the place of what the first block says.
const OWN: [(&str, &str); 3] = [("HUB", "weir.test"), ("TAG", "dev"), ("APP", app::IMAGE)];

async fn the_readmes_commands_lead_to_an_answer_of_the_application(cluster: Arc<Cluster>) {
    cluster.load_app().await;
    cluster.load_weir().await;
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = blocks(&readme);
    let (variables, commands) = blocks.split_first().expect("the section has commands");
    assert_eq!(exported(variables), OWN.map(|(name, _)| name));

    let tools = tools();
    let path = format!("{}:{}", tools.path().display(), env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands.concat()])
        .current_dir(repository())
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig())
        .envs(OWN)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (told, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{errors}");
    let answer = told.lines().last().unwrap();
    let answer: serde_json::Value = serde_json::from_str(answer).expect(answer);
    assert_eq!(answer["target"], "/", "the application answers: {answer}");
}

/// The fenced blocks of the section.
fn blocks(readme: &str) -> Vec<String> {
    let (_, section) = readme.split_once(SECTION).expect("README has the section");
    let section = section.split("\n## ").next().unwrap();
    let fenced = section.split("```sh\n").skip(1);
    fenced.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The variables of a block that does nothing but set them.
fn exported(block: &str) -> Vec<&str> {
    let lines = block.lines().map(|line| line.split('#').next().unwrap());
    let names = lines.flat_map(|line| {
        line.strip_prefix("export ").expect(line).split_whitespace().map(|set| set.split_once('='))
    });
    names.map(|set| set.expect("a variable is set").0).collect()
}

/// `kubectl` and `helm` of the cluster under their names.
fn tools() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = bed::program().unwrap().join("weir-cluster");
    for tool in ["kubectl", "helm"] {
        let path = folder.path().join(tool);
        let script = format!("#!/bin/sh\nexec {} {tool} \"$@\"\n", program.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
