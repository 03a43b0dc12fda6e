//! README's way into Kubernetes, followed literally, and what the documentation says how pages of its parts
//! are reached.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{process::Command, sync::OnceCell};
use weir_tests::{
    cluster::{Cluster, app, bed, weir::SYSTEM},
    eventually::eventually,
};

weir_tests::cluster_suite! {
    nodes: 1;
    the_readmes_commands_lead_to_an_answer_of_the_application,
    the_pages_of_a_gateway_are_reached_as_the_documentation_says,
    the_debug_pages_of_the_controller_are_forwarded_and_no_pod_reaches_them,
}

/// The section with the commands.
const SECTION: &str = "## In Kubernetes\n";

/// What a reader has to put in the place of what the first block says.
const OWN: [(&str, &str); 3] = [("HUB", "weir.test"), ("TAG", "dev"), ("APP", app::IMAGE)];

async fn the_readmes_commands_lead_to_an_answer_of_the_application(cluster: Arc<Cluster>) {
    let told = installed(&cluster).await;
    let answer = told.lines().last().unwrap();
    let answer: serde_json::Value = serde_json::from_str(answer).expect(answer);
    assert_eq!(answer["target"], "/", "the application answers: {answer}");
}

/// What the commands of README said, which run once for all tests.
async fn installed(cluster: &Cluster) -> &'static str {
    static TOLD: OnceCell<String> = OnceCell::const_new();
    TOLD.get_or_init(async || follow_readme(cluster).await).await
}

async fn follow_readme(cluster: &Cluster) -> String {
    cluster.load_app().await;
    cluster.load_weir().await;
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = blocks(&readme);
    let (variables, commands) = blocks.split_first().expect("the section has commands");
    assert_eq!(exported(variables), OWN.map(|(name, _)| name));

    let tools = tools();
    let output = shell(cluster, &tools, &commands.concat()).output().await.unwrap();
    let (told, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{errors}");
    told.into_owned()
}

async fn the_pages_of_a_gateway_are_reached_as_the_documentation_says(cluster: Arc<Cluster>) {
    installed(&cluster).await;
    let guide = fs::read_to_string(repository().join("docs/kubernetes.md")).unwrap();
    let (_, section) = guide.split_once("\n## Metrics\n").expect("the guide has the section");
    let commands: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let [forward, ask] = commands[..] else { panic!("two commands: {commands:?}") };
    let metrics = forwarded(&cluster, forward, ask).await;
    assert!(metrics.contains("weir_discovery_connected 1"), "{metrics}");
}

/// Hardening C05.
async fn the_debug_pages_of_the_controller_are_forwarded_and_no_pod_reaches_them(
    cluster: Arc<Cluster>,
) {
    installed(&cluster).await;
    let forward = "kubectl port-forward --namespace weir-system deployment/weir-controller 15014";
    let pages = forwarded(&cluster, forward, "curl localhost:15014/debug/configz").await;
    assert!(pages.contains("networking.istio.io/VirtualService/default/hello"), "{pages}");

    let pods = cluster.existing(SYSTEM).all_pods().await;
    let address = pods[0]["status"]["podIP"].as_str().expect("the controller has an address");
    let hello = cluster.existing("default");
    let pod = hello.pods("hello").await.remove(0);
    for path in ["/debug/configz", "/debug/syncz", "/metrics"] {
        let url = format!("http://{address}:15014{path}");
        let curl = ["curl", "--silent", "--write-out", "%{http_code}", "--output", "/dev/null"];
        let asked = [&curl[..], &["--header", "Host: localhost", &url]].concat();
        let expected = if path == "/metrics" { "200" } else { "403" };
        assert_eq!(hello.exec(&pod, &asked).await, expected, "{path}");
    }
}

/// What the second command says while the first one runs.
async fn forwarded(cluster: &Cluster, forward: &str, ask: &str) -> String {
    let tools = tools();
    let _forwarding =
        shell(cluster, &tools, &format!("exec {forward}")).stdout(Stdio::null()).spawn().unwrap();
    eventually("an answer through the forwarded port", async || {
        let asked = shell(cluster, &tools, &format!("{ask} --fail --silent")).output().await;
        let asked = asked.unwrap();
        asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).into_owned())
    })
    .await
}

/// A shell as the reader has it.
fn shell(cluster: &Cluster, tools: &TempDir, commands: &str) -> Command {
    let path = format!("{}:{}", tools.path().display(), env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", commands])
        .current_dir(repository())
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig())
        .envs(OWN)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
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
fn tools() -> TempDir {
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
