//! What a runtime is told, without a pod's network: that is for tests in a cluster.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixListener,
    path::PathBuf,
    thread,
};

use super::*;

const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;\
                         K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u-1";

fn environment(command: &str) -> Environment {
    Environment {
        command: command.into(),
        namespace: "/proc/self/ns/net".into(),
        arguments: ARGUMENTS.into(),
    }
}

fn config(agent: &Path, more: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "weir-cni",
        "agent": agent, "excludeNamespaces": ["kube-system"], "patienceSeconds": 0,
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24"}]}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn told(environment: &Environment, config: &Value) -> (bool, Value) {
    let mut output = Vec::new();
    let code = run(environment, config.to_string().as_bytes(), &mut output);
    let value = serde_json::from_slice(&output).unwrap_or(Value::Null);
    (code == ExitCode::SUCCESS, value)
}

/// Answers once, and hands over what it was asked.
fn agent(answer: &Answer) -> (tempfile::TempDir, PathBuf, thread::JoinHandle<Question>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = serde_json::to_vec(answer).unwrap();
    let asked = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&answer).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        serde_json::from_slice(&question).unwrap()
    });
    (folder, path, asked)
}

#[test]
fn versions_are_told() {
    let (is_good, told) = told(&environment("VERSION"), &json!({}));
    assert!(is_good);
    assert_eq!(told["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn a_pod_without_a_sidecar_gets_what_the_plugins_before_have_made() {
    let (_folder, path, asked) = agent(&Answer::Skip("it has no sidecar".into()));
    let config = config(&path, &json!({}));
    assert_eq!(told(&environment("ADD"), &config), (true, config["prevResult"].clone()));
    let question = asked.join().unwrap();
    assert_eq!((&*question.namespace, &*question.name, &*question.uid), ("shop", "web", "u-1"));
}

#[test]
fn who_is_not_known_does_not_start() {
    let nobody = Path::new("/nowhere/agent.sock");
    let (is_good, error) = told(&environment("ADD"), &config(nobody, &json!({})));
    assert!(!is_good);
    assert_eq!(error["code"], 11);
    assert!(error["msg"].as_str().unwrap().contains("/nowhere/agent.sock"), "{error}");

    let (_folder, path, _asked) = agent(&Answer::Unknown("the API server is away".into()));
    let (is_good, error) = told(&environment("ADD"), &config(&path, &json!({})));
    assert!(!is_good);
    assert!(error["details"].as_str().unwrap().contains("the API server is away"), "{error}");
}

#[test]
fn rules_are_for_a_pods_network_only() {
    let (_folder, path, _asked) = agent(&Answer::Program(Vec::new()));
    let (is_good, error) = told(&environment("ADD"), &config(&path, &json!({})));
    assert!(!is_good);
    assert_eq!(error["code"], 100);
    assert!(error["details"].as_str().unwrap().contains("the node's network"), "{error}");
}

#[test]
fn nobody_is_asked_about_who_is_excluded_or_no_pod_at_all() {
    let nobody = Path::new("/nowhere/agent.sock");
    let mut excluded = environment("ADD");
    excluded.arguments = excluded.arguments.replace("=shop", "=kube-system");
    assert!(told(&excluded, &config(nobody, &json!({}))).0);
    let mut other = environment("ADD");
    other.arguments = "IgnoreUnknown=1".into();
    assert!(told(&other, &config(nobody, &json!({}))).0);
}

#[test]
fn nothing_keeps_a_pod_from_going() {
    for command in ["DEL", "GC", "STATUS"] {
        assert_eq!(told(&environment(command), &json!({"no": "config"})), (true, Value::Null));
    }
}

#[test]
fn what_cannot_be_done_has_the_specifications_numbers() {
    let nobody = Path::new("/nowhere/agent.sock");
    let code = |command: &str, config: &Value| {
        let (is_good, error) = told(&environment(command), config);
        assert!(!is_good);
        error["code"].as_u64().unwrap()
    };
    assert_eq!(code("ADD", &config(nobody, &json!({"cniVersion": "0.2.0"}))), 1);
    assert_eq!(code("PUT", &config(nobody, &json!({}))), 4);
    assert_eq!(code("ADD", &json!({"cniVersion": "1.0.0"})), 6);
    assert_eq!(code("ADD", &config(nobody, &json!({"prevResult": null}))), 7);
}
