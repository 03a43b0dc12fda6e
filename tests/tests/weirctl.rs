//! `weirctl` without a cluster: files, a gateway on this machine, and a scripted API server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{fs, path::Path};

use serde_json::{Value, json};
use weir_tests::{
    certs::Authority,
    config::Config,
    gateway::Gateway,
    kube::ApiServer,
    objects::{HTTP_GATEWAY, forward, service_entry},
    weirctl::{Outcome, weirctl},
};

/// Exit codes of istioctl.
const USAGE: i32 = 64;
const DATA: i32 = 65;
const FINDINGS: i32 = 79;

/// `weirctl analyze` of files in `testdata/analyze`, without a cluster.
async fn analyze(args: &[&str]) -> Outcome {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/analyze");
    weirctl(&folder, &[&["analyze", "--use-kube=false"], args].concat(), "").await
}

#[tokio::test]
async fn what_is_not_there_is_found_with_istioctls_codes() {
    insta::assert_snapshot!("references", analyze(&["references.yaml"]).await.transcript());
}

#[tokio::test]
async fn what_is_wrong_with_an_object_alone_is_found() {
    insta::assert_snapshot!("schema", analyze(&["schema.yaml"]).await.transcript());
}

#[tokio::test]
async fn servers_that_exclude_each_other_are_found() {
    insta::assert_snapshot!("gateways", analyze(&["gateways.yaml"]).await.transcript());
}

#[tokio::test]
async fn objects_for_hosts_of_other_namespaces_are_found() {
    let about = async |args: &[&str]| -> Vec<(String, bool)> {
        let all = analyze(&[args, &["takeovers.yaml", "--output", "json"]].concat()).await.json();
        let all = all.as_array().unwrap().iter();
        let hosts = all.filter(|it| it["field"] == "spec.hosts" && it["code"] == "IST0133");
        let is_tolerated = |it: &Value| it["message"].as_str().unwrap().contains("ALLOW");
        hosts.map(|it| (it["origin"].as_str().unwrap().to_owned(), is_tolerated(it))).collect()
    };
    let named = |is_tolerated: bool| {
        [
            "VirtualService thief/of-a-service",
            "VirtualService thief/of-an-entry",
            "ServiceEntry thief/definition",
        ]
        .map(|name| (name.to_owned(), is_tolerated))
    };
    assert_eq!(about(&[]).await, named(false));
    let folder = tempfile::tempdir().unwrap();
    let mesh = folder.path().join("mesh.yaml");
    fs::write(&mesh, "hostTakeover: ALLOW\n").unwrap();
    assert_eq!(about(&["--meshConfigFile", mesh.to_str().unwrap()]).await, named(true));
}

#[tokio::test]
async fn findings_for_programs_have_a_code_a_place_and_a_page() {
    let outcome = analyze(&["references.yaml", "--output", "json"]).await;
    let all = outcome.json();
    let codes = all.as_array().unwrap().iter().filter(|it| it["code"] == "IST0174");
    assert_eq!(
        codes.collect::<Vec<_>>(),
        [&json!({
            "code": "IST0174",
            "level": "Warning",
            "origin": "DestinationRule shop/ratings",
            "reference": "references.yaml:18",
            "field": "spec.host",
            "message": "The host ratings defined in the DestinationRule does not match any services \
                        in the mesh.",
            "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0174/",
        })]
    );
    let yaml = analyze(&["references.yaml", "--output", "yaml"]).await.stdout;
    assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap(), all);
}

#[tokio::test]
async fn the_exit_status_says_what_kind_of_failure_it_is() {
    for (args, expected) in [
        (&["more/good.yaml"][..], 0),
        (&["references.yaml"], FINDINGS),
        (&["gateways.yaml"], 0),
        (&["gateways.yaml", "--failure-threshold", "Warning"], FINDINGS),
        (&["more/broken.yaml"], DATA),
        (&["more/broken.yaml", "--ignore-unknown"], 0),
        (&["more/absent.yaml"], DATA),
        (&["--failure-threshold", "Fatal", "more/good.yaml"], USAGE),
        (&["--suppress", "IST0101", "more/good.yaml"], USAGE),
        (&[], USAGE),
    ] {
        let outcome = analyze(args).await;
        assert_eq!(outcome.code, expected, "{args:?}: {}", outcome.transcript());
    }
}

#[tokio::test]
async fn without_a_cluster_the_next_step_is_told() {
    let outcome = weirctl(Path::new("/"), &["analyze"], "").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("--use-kube=false"), "{}", outcome.stderr);
    let outcome = weirctl(Path::new("/"), &["proxy-status"], "").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("--kubeconfig"), "{}", outcome.stderr);
}

#[tokio::test]
async fn findings_below_the_output_threshold_are_not_printed_and_still_count() {
    let arguments = ["gateways.yaml", "--output-threshold=Error", "--failure-threshold=Warning"];
    let outcome = analyze(&arguments).await;
    assert!(!outcome.stdout.contains("Warning"), "{}", outcome.stdout);
    assert_eq!(outcome.code, FINDINGS);
}

#[tokio::test]
async fn a_finding_that_is_known_is_not_reported() {
    let all = analyze(&["gateways.yaml"]).await;
    assert!(all.stdout.contains("IST0145"), "{}", all.stdout);
    let suppressed = analyze(&["gateways.yaml", "-S", "IST0145=Gateway sec*.edge"]).await;
    assert_eq!(suppressed.stdout, "✔ No validation issues found when analyzing gateways.yaml.\n");
    let another = analyze(&["gateways.yaml", "-S", "IST0145=Gateway first.edge"]).await;
    assert_eq!(another.stdout, all.stdout);
}

#[tokio::test]
async fn an_object_says_itself_which_findings_about_it_are_known() {
    let object = |annotation: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\n  \
             annotations: {{galley.istio.io/analyze-suppress: '{annotation}'}}\nspec:\n  \
             hosts: [a.test]\n  gateways: [nowhere]\n  http: [{{redirect: {{uri: /}}}}]\n"
        )
    };
    for (annotation, expected) in
        [("IST0101", 0), ("IST0133, IST0101", 0), ("*", 0), ("IST0133", FINDINGS)]
    {
        let args = ["analyze", "--use-kube=false", "-"];
        let outcome = weirctl(Path::new("/"), &args, &object(annotation)).await;
        assert_eq!(outcome.code, expected, "{annotation}: {}", outcome.transcript());
    }
}

#[tokio::test]
async fn a_folder_is_read_with_what_is_below_it_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("below")).unwrap();
    fs::write(folder.path().join("below/a.yaml"), "kind: [unclosed").unwrap();
    fs::write(folder.path().join("notes.txt"), "kind: [unclosed").unwrap();
    let args = ["analyze", "--use-kube=false", "."];
    assert_eq!(weirctl(folder.path(), &args, "").await.code, 0);
    let args = ["analyze", "--use-kube=false", "--recursive", "."];
    let outcome = weirctl(folder.path(), &args, "").await;
    assert_eq!(outcome.code, DATA);
    assert!(outcome.stdout.starts_with("Error reading ./below/a.yaml:1: "), "{}", outcome.stdout);
}

#[tokio::test]
async fn colours_are_for_who_asks_for_them() {
    assert!(!analyze(&["gateways.yaml"]).await.stdout.contains('\x1b'));
    let coloured = analyze(&["gateways.yaml", "--color"]).await.stdout;
    assert!(coloured.contains("\x1b[33mWarning\x1b[0m [IST0145]"), "{coloured:?}");
}

#[tokio::test]
async fn there_is_nothing_to_say_about_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples");
    for example in fs::read_dir(&examples).unwrap() {
        let example = example.unwrap().path();
        let args = ["analyze", "--use-kube=false", "."];
        let outcome = weirctl(&example, &args, "").await;
        let expected = "✔ No validation issues found when analyzing ..\n";
        assert_eq!(outcome.transcript(), Outcome::silent(expected), "{}", example.display());
    }
}

/// A cluster with a gateway's pod, a Gateway for it and one for nobody, and a route to nowhere.
fn cluster() -> Vec<Value> {
    let gateway = |name: &str, selected: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": "edge"},
            "spec": {"selector": {"istio": selected}, "servers": [
                {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"],
                 "tls": {"mode": "SIMPLE", "credentialName": "web-tls"}}]}})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "gateway-0", "namespace": "edge",
                "labels": {"istio": "ingressgateway", "pod-template-hash": "1"}}}),
        gateway("public", "ingressgateway"),
        gateway("orphan", "nobody"),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {"hosts": ["shop.test"], "gateways": ["edge/public"],
                "http": [{"route": [{"destination": {"host": "web"}}]}]}}),
    ]
}

/// `weirctl` with that API server.
async fn with_cluster(server: &ApiServer, args: &[&str], input: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let cluster = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    weirctl(folder.path(), &[args, &cluster].concat(), input).await
}

/// Code and origin of each finding.
fn findings(outcome: &Outcome) -> Vec<(String, String)> {
    let text = |it: &Value, field: &str| it[field].as_str().unwrap_or_default().to_owned();
    let all = outcome.json();
    let all = all.as_array().unwrap().iter();
    all.map(|it| (text(it, "code"), text(it, "origin"))).collect()
}

fn found(code: &str, origin: &str) -> (String, String) {
    (code.to_owned(), origin.to_owned())
}

#[tokio::test]
async fn the_cluster_is_analyzed_in_the_namespace_that_is_meant() {
    let server = ApiServer::start().await;
    server.apply(cluster());
    let route = found("IST0101", "VirtualService shop/shop");
    let orphan = found("IST0101", "Gateway edge/orphan");
    let secret = found("IST0101", "Gateway edge/public");
    let of = async |args: &[&str]| {
        let args = [&["analyze", "-o", "json"], args].concat();
        findings(&with_cluster(&server, &args, "").await)
    };
    assert_eq!(of(&["-n", "shop"]).await, std::slice::from_ref(&route));
    assert_eq!(of(&["-n", "edge"]).await, [orphan.clone(), secret.clone()]);
    assert_eq!(of(&["-A"]).await, [orphan, secret, route]);
    assert_eq!(of(&["-n", "elsewhere"]).await, []);
}

#[tokio::test]
async fn a_file_takes_the_place_of_the_object_it_names() {
    let server = ApiServer::start().await;
    server.apply(cluster());
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {ports: [{name: http, port: 80}]}\n";
    let args = ["analyze", "-n", "shop", "-"];
    let with_service = with_cluster(&server, &args, service).await;
    assert_eq!(with_service.code, 0, "{}", with_service.transcript());
    let without = with_cluster(&server, &args, "").await;
    assert_eq!(without.code, FINDINGS, "{}", without.transcript());
}

#[tokio::test]
async fn a_cluster_that_fails_is_not_an_empty_one() {
    let server = ApiServer::start().await;
    server.apply(cluster());
    for status in [http::StatusCode::FORBIDDEN, http::StatusCode::INTERNAL_SERVER_ERROR] {
        server.fail(Some(status));
        let outcome = with_cluster(&server, &["analyze", "-A"], "").await;
        assert_eq!(outcome.code, 1, "{status}: {}", outcome.transcript());
    }
    server.fail(None);
    server.uninstall("EnvoyFilter");
    let outcome = with_cluster(&server, &["analyze", "-A"], "").await;
    assert_eq!(outcome.code, FINDINGS, "a kind that is not installed has no objects");
}

#[tokio::test]
async fn who_may_not_list_secrets_hears_nothing_about_them() {
    let server = ApiServer::start().await;
    server.apply(cluster());
    server.forbid("Secret");
    let args = ["analyze", "-A", "-o", "json"];
    let outcome = with_cluster(&server, &args, "").await;
    let expected =
        [found("IST0101", "Gateway edge/orphan"), found("IST0101", "VirtualService shop/shop")];
    assert_eq!(findings(&outcome), expected);
}

#[tokio::test]
async fn who_may_not_list_services_is_told_rather_than_that_they_are_missing() {
    let server = ApiServer::start().await;
    server.apply(cluster());
    server.forbid("Service");
    let outcome = with_cluster(&server, &["analyze", "-A"], "").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("services of all namespaces"), "{}", outcome.stderr);
}

/// A gateway with HTTP, a route and a service, and its admin URL.
async fn gateway() -> (Gateway, String) {
    let authority = Authority::new("shop");
    let server = authority.server(&["shop.test"]);
    let indent = |pem: &str| pem.trim_end().replace('\n', "\n    ");
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop}}\nstringData:\n  \
         tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indent(&server.certificate),
        indent(&server.key)
    );
    let secure = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: secure}\n\
                  spec:\n  selector: {istio: ingressgateway}\n  servers:\n  \
                  - port: {number: ${PORT_https}, name: https, protocol: HTTPS}\n    \
                  hosts: [shop.test]\n    tls: {mode: SIMPLE, credentialName: shop}\n";
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(secret)
        .with(secure)
        .with(service_entry("web.test", "HTTP", &[7]))
        .with(forward("shop", "shop.test", "web.test"));
    let gateway = Gateway::start(config).await;
    let url = format!("http://127.0.0.1:{}", gateway.admin_port());
    (gateway, url)
}

async fn proxy_config(args: &[&str]) -> Outcome {
    let outcome = weirctl(Path::new("/"), &[&["proxy-config"], args].concat(), "").await;
    assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.transcript());
    outcome
}

#[tokio::test]
async fn what_a_gateway_on_this_machine_runs_is_shown_as_tables() {
    let (mut gateway, url) = gateway().await;
    let http = gateway.port("http").to_string();
    let https = gateway.port("https").to_string();
    let table = format!("http.{http}");

    let listeners = proxy_config(&["listener", "--address", &url]).await;
    let mut rows = listeners.rows();
    rows.sort_by_key(|row| row[2] != "ALL");
    assert_eq!(rows[0], ["0.0.0.0", &http, "ALL", &format!("Route: {table}")]);
    assert_eq!(rows[1][..3], ["0.0.0.0", &https, "SNI: shop.test"]);
    let one = proxy_config(&["listener", "--address", &url, "--port", &https]).await;
    assert_eq!(one.rows().len(), 1);

    let routes = proxy_config(&["route", "--address", &url, "--name", &table]).await;
    let cluster = "outbound|80||web.test";
    let expected =
        [&table, &format!("{table}|shop.test"), "shop.test", "/*", "shop.default", cluster];
    assert_eq!(routes.rows(), [expected]);

    let clusters = proxy_config(&["cluster", "--address", &url, "--fqdn", "web.test"]).await;
    let expected = ["web.test", "80", "-", "outbound", "STATIC", "HTTP/1.1", "-"];
    assert_eq!(clusters.rows(), [expected]);
    let none = proxy_config(&["cluster", "--address", &url, "--port", "81"]).await;
    assert_eq!(none.rows(), Vec::<Vec<&str>>::new());

    let endpoints = proxy_config(&["endpoint", "--address", &url]).await;
    assert_eq!(endpoints.rows(), [["127.0.0.1:7", "HEALTHY", "OK", cluster]]);

    let secrets = proxy_config(&["secret", "--address", &url]).await;
    let expected = ["kubernetes://default/shop", "Cert Chain", "ACTIVE", "true"];
    assert_eq!(secrets.rows()[0][..4], expected);

    let bootstrap = proxy_config(&["bootstrap", "--address", &url]).await.json();
    assert_eq!(bootstrap["commandLineOptions"]["labels"]["istio"], "ingressgateway");
}

#[tokio::test]
async fn what_all_prints_is_a_proxy_to_every_command() {
    let (_gateway, url) = gateway().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.json");
    let file = file.to_str().unwrap();
    let all = proxy_config(&["all", "--address", &url, "--output", "json"]).await;
    fs::write(file, &all.stdout).unwrap();
    for what in ["listener", "route", "cluster", "endpoint", "secret", "all"] {
        for output in ["short", "json", "yaml"] {
            let live = proxy_config(&[what, "--address", &url, "--output", output]).await;
            let saved = proxy_config(&[what, "--file", file, "--output", output]).await;
            let is_clock = |line: &&str| !line.contains("uptimeSeconds");
            let lines = |text: &str| -> Vec<String> {
                text.lines().filter(is_clock).map(ToOwned::to_owned).collect()
            };
            assert_eq!(lines(&saved.stdout), lines(&live.stdout), "{what} {output}");
            assert!(live.stdout.lines().count() > 1, "{what} {output}");
        }
    }
}

#[tokio::test]
async fn the_log_level_is_shown_and_changed() {
    let (gateway, url) = gateway().await;
    let level = async |args: &[&str]| {
        proxy_config(&[&["log", "--address", &url], args].concat()).await.stdout
    };
    let first = level(&[]).await;
    assert_eq!(first, gateway.admin("/logging").await.text());
    assert_eq!(level(&["--level", "error"]).await, "error\n");
    assert_eq!(gateway.admin("/logging").await.text(), "error\n");
    let finer = level(&["--level", "warn,weir_gateway::http=debug"]).await;
    assert!(finer.contains("weir_gateway::http=debug"), "{finer}");
    assert_eq!(level(&["--reset"]).await, first);
}

#[tokio::test]
async fn which_proxy_is_meant_has_to_be_said_once() {
    for args in [
        &["pc", "route"][..],
        &["pc", "route", "pod", "--file", "x.json"],
        &["pc", "route", "--address", "10.0.0.1"],
        &["pc", "route", "--address", "http://127.0.0.1:1", "--file", "x.json"],
    ] {
        let outcome = weirctl(Path::new("/"), args, "").await;
        assert_eq!(outcome.code, USAGE, "{args:?}: {}", outcome.transcript());
    }
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: web}]}}}
---
apiVersion: v1
kind: Service # as it is
metadata: {name: web}
";

/// The sidecar of the first pod that `kube-inject` printed.
fn sidecar(manifests: &str) -> Value {
    let deployment: Value = serde_yaml::from_str(manifests.split("---\n").next().unwrap()).unwrap();
    let pod = deployment["spec"]["template"]["spec"].clone();
    let containers = pod["initContainers"].as_array().unwrap();
    containers.iter().find(|it| it["name"] == "istio-proxy").unwrap().clone()
}

#[tokio::test]
async fn manifests_are_injected_with_the_settings_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("web.yaml", DEPLOYMENT);
    write("inject.yaml", "image: registry.test/sidecar:7\nrevision: old\n");
    write("mesh.yaml", "defaultConfig: {proxyMetadata: {TELLTALE: mesh}}\n");
    let args = ["kube-inject", "-f", "web.yaml", "--injectConfigFile", "inject.yaml"];
    let printed = weirctl(folder.path(), &args, "").await;
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""), "{}", printed.transcript());
    assert_eq!(sidecar(&printed.stdout)["image"], "registry.test/sidecar:7");
    assert!(printed.stdout.contains("kind: Service # as it is"), "{}", printed.stdout);
    assert!(printed.stdout.contains("\"istio.io/rev\": \"old\""), "{}", printed.stdout);

    let more = ["--meshConfigFile", "mesh.yaml", "-r", "new", "-o", "out.yaml"];
    let args = [&args[..2], &["-"][..], &args[3..], &more].concat();
    let written = weirctl(folder.path(), &args, DEPLOYMENT).await;
    assert_eq!(written.transcript(), Outcome::silent(""));
    let out = fs::read_to_string(folder.path().join("out.yaml")).unwrap();
    let environment = sidecar(&out)["env"].to_string();
    assert!(environment.contains("TELLTALE"), "{environment}");
    assert!(out.contains("\"istio.io/rev\": \"new\""), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_injected_with_the_settings_of_the_cluster() {
    let server = ApiServer::start().await;
    let without = with_cluster(&server, &["kube-inject", "-f", "-"], DEPLOYMENT).await;
    assert_eq!(without.code, 1);
    let told = "ConfigMap weir-system/weir-sidecar-injector";
    assert!(without.stderr.contains(told), "{}", without.stderr);
    server.apply([json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "weir-sidecar-injector", "namespace": "weir-system"},
        "data": {"config.yaml": "image: registry.test/sidecar:8\n"}})]);
    let injected = with_cluster(&server, &["kube-inject", "-f", "-"], DEPLOYMENT).await;
    assert_eq!(injected.code, 0, "{}", injected.transcript());
    assert_eq!(sidecar(&injected.stdout)["image"], "registry.test/sidecar:8");
}

#[tokio::test]
async fn what_cannot_be_injected_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("inject.yaml"), "revision: r\n").unwrap();
    let args = ["kube-inject", "--injectConfigFile", "inject.yaml", "-f"];
    let run = async |file: &str, input: &str| {
        let outcome = weirctl(folder.path(), &[&args[..], &[file]].concat(), input).await;
        (outcome.code, outcome.stdout, outcome.stderr)
    };
    let (code, stdout, stderr) = run("-", &format!("{DEPLOYMENT}---\na: [\n")).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("document 3"), "{stderr}");
    let (code, _, stderr) = run("missing.yaml", "").await;
    assert_eq!(code, 1);
    assert!(stderr.contains("missing.yaml"), "{stderr}");
    let unknown = weirctl(folder.path(), &["kube-inject"], "").await;
    assert_eq!(unknown.code, 64, "{}", unknown.transcript());
}

#[tokio::test]
async fn each_shell_is_told_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = weirctl(Path::new("/"), &["completion", shell], "").await;
        assert_eq!(script.code, 0);
        assert!(script.stdout.contains("proxy-config"), "{shell}");
    }
    assert_eq!(weirctl(Path::new("/"), &["completion", "cmd"], "").await.code, USAGE);
}

#[tokio::test]
async fn the_version_is_told_without_a_cluster() {
    let outcome = weirctl(Path::new("/"), &["version", "--remote=false"], "").await;
    assert_eq!(outcome.transcript(), Outcome::silent("client version: 0.0.0\n"));
    let outcome = weirctl(Path::new("/"), &["version", "-o", "json"], "").await;
    assert_eq!(outcome.json()["clientVersion"]["version"], "0.0.0");
    assert!(outcome.json()["error"].as_str().unwrap().contains("--kubeconfig"));
}
