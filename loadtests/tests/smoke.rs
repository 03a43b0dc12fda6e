//! The command as a user runs it, against the real gateway. Nothing is said about time.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use weir_tests::binaries;

#[test]
fn a_run_measures_the_gateway_and_writes_what_it_found() {
    let out = tempfile::tempdir().unwrap();
    let output = run(
        &["h1-keepalive/60B", "--set", "smoke", "--peers", "weir", "--seconds", "0.3"],
        &gateway(),
        out.path(),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result = result(out.path());
    let case = &result["cases"][0];
    assert_eq!(case["name"], "h1-keepalive/60B");
    assert_eq!(case["failed"], Value::Null);
    assert_eq!(case["unit"], "request");
    let figures = &case["figures"]["weir"];
    for figure in ["cpu", "cpu_at_saturation", "throughput", "latency_p99", "resident"] {
        let value = figures[figure]["value"].as_f64();
        assert!(value.is_some_and(|value| value > 0.0), "{figure}: {}", figures[figure]);
        let samples = figures[figure]["samples"].as_array().unwrap();
        assert!(samples.len() >= 2, "a quad measures twice: {samples:?}");
    }
    assert_eq!(result["environment"]["programs"][0]["peer"], "weir");
    let page = fs::read_to_string(out.path().join("report.html")).unwrap();
    assert!(
        page.contains("id='h1-keepalive/60B'") && page.contains("<svg"),
        "the page has the case"
    );
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing is loaded");
}

#[test]
fn a_call_through_two_sidecars_is_measured_as_one() {
    let out = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(["run", "sidecar/h1", "--set", "smoke", "--peers", "weir", "--seconds", "0.3"]);
    command.arg("--gateway").arg(binaries::built("weir-gateway")).arg("--out").arg(out.path());
    let output = command.env("WEIR_INIT_BIN", binaries::built("weir-init")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result = result(out.path());
    let case = &result["cases"][0];
    assert_eq!(case["failed"], Value::Null);
    assert_eq!(case["left_out"]["weir"], Value::Null, "root and namespaces are there");
    for figure in ["cpu", "cpu_at_saturation", "latency_p99", "resident"] {
        let value = case["figures"]["weir"][figure]["value"].as_f64();
        assert!(value.is_some_and(|value| value > 0.0), "{figure}: {case}");
    }
}

#[test]
fn the_memory_of_a_sidecar_at_rest_is_looked_at() {
    let out = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(["run", "memory/sidecar-100", "--set", "smoke", "--peers", "weir"]);
    command.arg("--gateway").arg(binaries::built("weir-gateway")).arg("--out").arg(out.path());
    let output = command.env("WEIR_INIT_BIN", binaries::built("weir-init")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let resident = &result(out.path())["cases"][0]["figures"]["weir"]["resident_at_rest"];
    assert!(resident["value"].as_f64().is_some_and(|mib| mib > 1.0), "{resident}");
}

#[test]
fn a_case_that_cannot_run_here_is_left_out_with_the_reason() {
    let out = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(["run", "sidecar/h1", "--set", "smoke", "--peers", "weir"]);
    command.arg("--gateway").arg("/bin/uname").arg("--out").arg(out.path());
    let output = command.env("WEIR_INIT_BIN", "/nowhere").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reason = result(out.path())["cases"][0]["left_out"]["weir"].to_string();
    assert!(reason.contains("weir-init is missing"), "{reason}");
}

#[test]
fn a_gateway_that_does_not_run_fails_the_run() {
    let out = tempfile::tempdir().unwrap();
    let args = ["h1-keepalive/60B", "--set", "smoke", "--peers", "weir", "--seconds", "0.3"];
    // Says a version and ends.
    let output = run(&args, &PathBuf::from("/bin/uname"), out.path());
    assert_eq!(output.status.code(), Some(1));
    let failed = result(out.path())["cases"][0]["failed"].to_string();
    assert!(failed.contains("weir ended with"), "{failed}");
}

#[test]
fn a_missing_peer_is_named_with_the_command_that_installs_it() {
    let out = tempfile::tempdir().unwrap();
    let output = run(
        &["h1-keepalive", "--peers", "nginx", "--nginx", "/nowhere/nginx"],
        &PathBuf::from("/nowhere/weir"),
        out.path(),
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("nginx is missing"), "{stderr}");
    assert!(stderr.contains("apt-get install nginx-light"), "{stderr}");
}

#[test]
fn two_equal_results_do_not_differ() {
    let out = tempfile::tempdir().unwrap();
    let result = out.path().join("result.json");
    fs::write(&result, include_str!("result.json")).unwrap();
    let output = command().arg("compare").args([&result, &result]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("0 of 1 ratios moved"), "{stdout}");
    let slower = include_str!("result.json").replace(
        "\"ratio\": 0.80, \"low\": 0.78, \"high\": 0.82",
        "\"ratio\": 1.2, \"low\": 1.1, \"high\": 1.3",
    );
    let after = out.path().join("after.json");
    fs::write(&after, slower).unwrap();
    let output = command().arg("compare").args([&result, &after]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("1 of 1 ratios moved"), "{stdout}");
    assert!(stdout.contains("WORSE  h1-keepalive/60B"), "{stdout}");
}

#[test]
fn a_run_that_is_ended_ends_its_proxies() {
    let out = tempfile::tempdir().unwrap();
    let gateway = gateway();
    let mut run = command()
        .args(["run", "h1-keepalive/60B", "--peers", "weir", "--seconds", "60"])
        .arg("--gateway")
        .arg(&gateway)
        .arg("--out")
        .arg(out.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(run.stderr.take().unwrap()).lines();
    assert!(stderr.any(|line| line.unwrap().contains("quad 1 weir")), "it started");
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    // The gateway is started by a thread that is gone since: it belongs to the process.
    let gateway = fs::read_to_string(children).unwrap();
    let status = Command::new("kill").arg(run.id().to_string()).status().unwrap();
    assert!(status.success());
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let gateway = gateway.split_whitespace().next().unwrap();
    assert!(!Path::new("/proc").join(gateway).exists(), "the gateway {gateway} is still there");
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weir-loadtests"))
}

fn run(args: &[&str], gateway: &Path, out: &Path) -> Output {
    let mut command = command();
    command.arg("run").args(args).arg("--gateway").arg(gateway).arg("--out").arg(out);
    command.output().unwrap()
}

fn result(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap()
}

/// The gateway of the same profile, brought up to date first: cargo builds only the binaries of the
/// package whose tests it runs.
fn gateway() -> PathBuf {
    if let Some(path) = env::var_os("WEIR_GATEWAY_BIN") {
        return path.into();
    }
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_weir-loadtests"));
    let profile = match beside.parent().and_then(|dir| dir.file_name()?.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "weir-gateway", "--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR").to_owned() + "/..")
        .status()
        .unwrap();
    assert!(status.success(), "build the gateway");
    beside.with_file_name("weir-gateway")
}
