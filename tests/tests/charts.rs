//! The charts: what they render, and that a real API server takes it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
};

use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use weir_config::{
    diagnostic::Severity,
    parse::{Options, parse},
    validate::validate,
};
use weir_tests::cluster::{Cluster, Namespace};

weir_tests::cluster_suite! {
    nodes: 1;
    every_chart_passes_lint,
    the_default_controller_renders_as_reviewed,
    a_controller_with_everything_set_renders_as_reviewed,
    the_default_gateway_renders_as_reviewed,
    a_gateway_with_everything_set_renders_as_reviewed,
    the_default_agent_of_nodes_renders_as_reviewed,
    an_agent_of_nodes_with_everything_set_renders_as_reviewed,
    a_gateway_on_every_node_is_a_daemon_set_without_an_autoscaler,
    the_kinds_can_be_left_out,
    no_right_is_a_wildcard_and_nothing_of_workloads_is_written,
    a_value_of_no_meaning_is_refused_by_name,
    the_api_server_takes_what_the_charts_render,
    the_base_chart_installs_kinds_that_every_served_version_of_can_be_written,
    the_schemas_take_every_object_that_is_valid,
    the_schemas_refuse_what_cannot_be_meant_and_keep_what_they_do_not_know,
    the_schemas_explain_what_fields_do,
}

const CHARTS: [&str; 4] = ["base", "cni", "controller", "gateway"];

async fn every_chart_passes_lint(cluster: Arc<Cluster>) {
    for chart in CHARTS {
        let lint = cluster.try_helm(&["lint", "--strict", &path(chart)]).await;
        assert!(lint.status.success(), "{chart}: {}", text(&lint.stdout));
    }
}

async fn the_default_controller_renders_as_reviewed(cluster: Arc<Cluster>) {
    insta::assert_snapshot!("controller", render(&cluster, "controller", &[]).await);
}

async fn a_controller_with_everything_set_renders_as_reviewed(cluster: Arc<Cluster>) {
    let values = values("controller-everything.yaml");
    insta::assert_snapshot!(
        "controller-everything",
        render(&cluster, "controller", &["--values", &values]).await
    );
}

async fn the_default_gateway_renders_as_reviewed(cluster: Arc<Cluster>) {
    insta::assert_snapshot!("gateway", render(&cluster, "gateway", &[]).await);
}

async fn a_gateway_with_everything_set_renders_as_reviewed(cluster: Arc<Cluster>) {
    let values = values("gateway-everything.yaml");
    insta::assert_snapshot!(
        "gateway-everything",
        render(&cluster, "gateway", &["--values", &values]).await
    );
}

async fn the_default_agent_of_nodes_renders_as_reviewed(cluster: Arc<Cluster>) {
    insta::assert_snapshot!("cni", render(&cluster, "cni", &[]).await);
}

async fn an_agent_of_nodes_with_everything_set_renders_as_reviewed(cluster: Arc<Cluster>) {
    let values = values("cni-everything.yaml");
    insta::assert_snapshot!(
        "cni-everything",
        render(&cluster, "cni", &["--values", &values]).await
    );
}

async fn a_gateway_on_every_node_is_a_daemon_set_without_an_autoscaler(cluster: Arc<Cluster>) {
    let rendered = render(&cluster, "gateway", &["--set", "kind=DaemonSet"]).await;
    let kinds: Vec<_> = rendered.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert!(kinds.contains(&"DaemonSet"), "{kinds:?}");
    assert!(!kinds.contains(&"Deployment"), "{kinds:?}");
    assert!(!kinds.contains(&"HorizontalPodAutoscaler"), "{kinds:?}");
}

async fn the_kinds_can_be_left_out(cluster: Arc<Cluster>) {
    let count = |rendered: &str| rendered.matches("kind: CustomResourceDefinition").count();
    let all = render(&cluster, "base", &[]).await;
    let excluded = "base.excludedCRDs={envoyfilters.networking.istio.io}";
    let without_one = render(&cluster, "base", &["--set", excluded]).await;
    assert!(all.contains("name: envoyfilters.networking.istio.io"));
    assert!(!without_one.contains("name: envoyfilters.networking.istio.io"));
    assert_eq!(count(&without_one), count(&all) - 1);
    let none = render(&cluster, "base", &["--set", "base.enableIstioConfigCRDs=false"]).await;
    assert_eq!(count(&none), 0);
}

async fn no_right_is_a_wildcard_and_nothing_of_workloads_is_written(cluster: Arc<Cluster>) {
    const READS: [&str; 3] = ["get", "list", "watch"];
    const WORKLOADS: [&str; 7] =
        ["pods", "nodes", "namespaces", "services", "deployments", "daemonsets", "pods/exec"];
    let mut rules = 0;
    for chart in ["cni", "controller", "gateway"] {
        let rendered = render(&cluster, chart, &[]).await;
        let documents = serde_yaml::Deserializer::from_str(&rendered);
        for document in documents.map(|document| Value::deserialize(document).unwrap()) {
            for rule in document["rules"].as_array().into_iter().flatten() {
                let texts = |field: &str| -> Vec<String> {
                    let list = rule[field].as_array().into_iter().flatten();
                    list.filter_map(|it| it.as_str().map(str::to_owned)).collect()
                };
                // That of the webhook is no right: it says what is to be judged.
                if document["kind"].as_str().is_none_or(|kind| !kind.ends_with("Role")) {
                    continue;
                }
                rules += 1;
                let (verbs, resources) = (texts("verbs"), texts("resources"));
                let all = [&verbs[..], &resources, &texts("apiGroups")].concat();
                assert!(!all.contains(&"*".to_owned()), "{chart}: {rule}");
                let writes = verbs.iter().any(|verb| !READS.contains(&verb.as_str()));
                let of_workloads = resources.iter().any(|it| WORKLOADS.contains(&it.as_str()));
                assert!(!(writes && of_workloads), "{chart}: {rule}");
            }
        }
    }
    assert!(rules > 5, "{rules} rules were looked at");
}

async fn a_value_of_no_meaning_is_refused_by_name(cluster: Arc<Cluster>) {
    for (chart, value, told) in [
        ("gateway", "kind=Pod", "'/kind'"),
        ("gateway", "replicas=3", "'replicas'"),
        ("gateway", "service.type=Ingress", "'/service/type'"),
        ("controller", "replicaCount=two", "'/replicaCount'"),
        ("controller", "global.imagePullPolicy=Maybe", "'/global/imagePullPolicy'"),
        ("cni", "cniBinDir=bin", "'/cniBinDir'"),
        ("base", "base.crds=true", "'crds'"),
    ] {
        let output = cluster.try_helm(&["template", "x", &path(chart), "--set", value]).await;
        assert!(!output.status.success(), "{chart} --set {value}");
        assert!(text(&output.stderr).contains(told), "{value}: {}", text(&output.stderr));
    }
}

async fn the_api_server_takes_what_the_charts_render(cluster: Arc<Cluster>) {
    let test = cluster.namespace("charts").await;
    // A Deployment of pods that break the rules is taken, with a warning.
    let label = "pod-security.kubernetes.io/warn=restricted";
    cluster.kubectl(&["label", "namespace", test.name(), label]).await;
    for chart in ["controller", "gateway"] {
        let everything = values(&format!("{chart}-everything.yaml"));
        for arguments in [&[][..], &["--values", &everything]] {
            let rendered = render(&cluster, chart, arguments).await;
            let output = dry_run(&cluster, &test, &rendered).await;
            assert!(output.status.success(), "{chart}: {}", text(&output.stderr));
            assert_eq!(text(&output.stderr), "", "{chart} {arguments:?}");
        }
    }
    // What enters other pods' networks is not for such a namespace.
    for arguments in [&[][..], &["--values", &values("cni-everything.yaml")]] {
        let rendered = render(&cluster, "cni", arguments).await;
        let output = dry_run(&cluster, &test, &rendered).await;
        assert!(output.status.success(), "cni: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("would violate PodSecurity"), "{arguments:?}");
    }
}

async fn the_base_chart_installs_kinds_that_every_served_version_of_can_be_written(
    cluster: Arc<Cluster>,
) {
    kinds(&cluster).await;
    let test = cluster.namespace("kinds").await;
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let host = format!("{version}.test");
        test.apply(&format!(
            "apiVersion: networking.istio.io/{version}\nkind: VirtualService\n\
             metadata: {{ name: {version} }}\n\
             spec: {{ hosts: [{host}], gateways: [edge], http: [{{ directResponse: {{ status: 204 }} }}] }}\n"
        ))
        .await;
        // The short name is the preferred version's, whatever was written.
        let stored = test.get(&format!("vs/{version}")).await;
        assert_eq!(stored["apiVersion"], "networking.istio.io/v1");
        assert_eq!(stored["spec"]["hosts"][0], *host);
        assert_eq!(stored["spec"]["http"][0]["directResponse"]["status"], 204);
    }
    let table = test.kubectl(&["get", "virtualservices", "v1"]).await;
    let columns: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "GATEWAYS", "HOSTS", "AGE"]);
    assert!(table.contains(r#"["edge"]"#) && table.contains(r#"["v1.test"]"#), "{table}");

    let status = r#"{"status":{"observedGeneration":1}}"#;
    let patch = ["patch", "vs", "v1", "--subresource=status", "--type=merge", "--patch", status];
    test.kubectl(&patch).await;
    let written = test.get("vs/v1").await;
    assert_eq!(written["status"]["observedGeneration"], 1);
    assert_eq!(written["metadata"]["generation"], 1, "a status is no change of the object");
    let uninstalled = cluster.try_helm(&["uninstall", "base"]).await;
    assert!(uninstalled.status.success(), "{}", text(&uninstalled.stderr));
    assert_eq!(test.get("vs/v1").await["spec"]["gateways"][0], "edge", "kinds outlive the chart");
}

async fn the_schemas_take_every_object_that_is_valid(cluster: Arc<Cluster>) {
    kinds(&cluster).await;
    let test = cluster.namespace("valid").await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for example in fs::read_dir(root.join("examples")).unwrap() {
        files.extend(yaml_files(&example.unwrap().path()));
    }
    files.extend(yaml_files(&root.join("config/testdata/compile")));
    let objects: Vec<Value> = files.iter().flat_map(|file| valid_objects(file)).collect();
    assert!(objects.len() > 100, "{} objects are not all there are", objects.len());
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let arguments = ["--namespace", test.name(), "create", "--dry-run=server", "--filename", "-"];
    let output = cluster.try_kubectl(&arguments, &list.to_string()).await;
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect()
}

/// The objects of a file that are of our kinds and that admission has nothing to say against.
fn valid_objects(file: &Path) -> Vec<Value> {
    let yaml = fs::read_to_string(file).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&yaml).map(Value::deserialize);
    let is_ours = |object: &Value| object["apiVersion"].as_str().unwrap().contains(".istio.io/");
    let is_valid = |object: &Value| {
        let parsed = parse("object", object.to_string().as_bytes(), &Options::default());
        let found = parsed.objects.iter().flat_map(validate);
        let mut found = parsed.diagnostics.iter().cloned().chain(found);
        !parsed.objects.is_empty() && found.all(|it| it.severity != Severity::Error)
    };
    let mut objects: Vec<Value> = documents
        .map(|document| document.unwrap())
        .filter(|document| document.is_object() && is_ours(document) && is_valid(document))
        .collect();
    for object in &mut objects {
        // All in the test's.
        object["metadata"].as_object_mut().unwrap().remove("namespace");
    }
    objects
}

async fn the_schemas_refuse_what_cannot_be_meant_and_keep_what_they_do_not_know(
    cluster: Arc<Cluster>,
) {
    kinds(&cluster).await;
    let test = cluster.namespace("schemas").await;
    let rule = |spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\n\
             spec: {spec}\n"
        )
    };
    for (spec, told) in [
        ("{subsets: []}", "spec.host: Required value"),
        ("{host: [a]}", "spec.host: Invalid value: \"array\""),
        (
            "{host: a, trafficPolicy: {tls: {mode: MUTAL}}}",
            "spec.trafficPolicy.tls.mode: Unsupported value: \"MUTAL\"",
        ),
    ] {
        let output = test.try_apply(&rule(spec)).await;
        assert!(!output.status.success(), "{spec}");
        assert!(text(&output.stderr).contains(told), "{spec}: {}", text(&output.stderr));
    }
    let newer =
        "{host: a, ofNextYear: 1, trafficPolicy: {tls: {mode: SIMPLE, ofNextYear: {b: c}}}}";
    test.apply(&rule(newer)).await;
    let kept = test.get("destinationrule/a").await;
    assert_eq!(kept["spec"]["ofNextYear"], 1);
    assert_eq!(kept["spec"]["trafficPolicy"]["tls"]["ofNextYear"]["b"], "c");
}

async fn the_schemas_explain_what_fields_do(cluster: Arc<Cluster>) {
    kinds(&cluster).await;
    let explained = cluster.kubectl(&["explain", "gateways.networking.istio.io.spec.servers.tls"]);
    let explained = explained.await;
    assert!(explained.contains("How a server handles TLS."), "{explained}");
    assert!(
        explained.contains("enum: PASSTHROUGH, SIMPLE, MUTUAL, AUTO_PASSTHROUGH"),
        "{explained}"
    );
}

/// The base chart, installed once for all tests that need the kinds.
async fn kinds(cluster: &Cluster) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(async || {
            let installed = cluster.try_helm(&["install", "base", &path("base"), "--wait"]).await;
            assert!(installed.status.success(), "{}", text(&installed.stderr));
        })
        .await;
}

async fn render(cluster: &Cluster, chart: &str, arguments: &[&str]) -> String {
    let path = path(chart);
    let fixed = ["template", "istio-edge", &path, "--namespace", "charts"];
    let output = cluster.try_helm(&[&fixed, arguments].concat()).await;
    assert!(output.status.success(), "{chart} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

async fn dry_run(cluster: &Cluster, test: &Namespace<'_>, rendered: &str) -> Output {
    let args = ["--namespace", test.name(), "apply", "--dry-run=server", "--filename", "-"];
    cluster.try_kubectl(&args, rendered).await
}

fn path(chart: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("charts").join(chart).to_str().unwrap().to_owned()
}

/// A file with values of the charts' tests.
fn values(name: &str) -> String {
    path(&format!("testdata/{name}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
