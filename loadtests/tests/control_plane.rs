//! The cases of the control plane as a user runs them, small. Nothing is said about time.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{fs, sync::Arc};

use serde_json::Value;
use tokio::process::Command;
use weir_tests::{binaries, cluster::Cluster};

weir_tests::cluster_suite! {
    nodes: 1;
    every_case_finds_what_it_is_about,
}

async fn every_case_finds_what_it_is_about(cluster: Arc<Cluster>) {
    let built =
        tokio::task::spawn_blocking(|| ["weir-controller", "weir-gateway"].map(binaries::built));
    let [controller, gateway] = built.await.unwrap();
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_weir-loadtests"))
        .args(["run", "control-plane", "--scale", "0.01"])
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .arg("--controller")
        .arg(controller)
        .arg("--gateway")
        .arg(gateway)
        .arg("--out")
        .arg(out.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let result = fs::read(out.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_slice(&result).unwrap();
    for (case, figures) in [
        ("acceptance", &["acceptance_mean", "acceptance_p99", "acceptance_last"][..]),
        ("swarm", &["ack_p99", "all_ack_p99", "controller_resident"]),
        ("start", &["first_snapshot", "controller_resident"]),
        ("restart", &["restart_p50", "restart_max"]),
    ] {
        let name = format!("control-plane/{case}");
        let cases = result["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == *name).expect(&name);
        assert_eq!(case["failed"], Value::Null, "{name}");
        for figure in figures {
            let value = case["figures"]["weir"][*figure]["value"].as_f64();
            assert!(value.is_some_and(|value| value > 0.0), "{name} {figure}: {value:?}");
        }
    }
    let namespaces = cluster.kubectl(&["get", "namespaces", "--output", "name"]).await;
    assert!(!namespaces.contains("loadtests"), "nothing is left: {namespaces}");
}
