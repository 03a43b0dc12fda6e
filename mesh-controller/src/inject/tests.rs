//! Pods in, pods out: `testdata/inject`. What holds for every pod is asked of each of them.

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    config: Config,
    pod: Value,
}

fn cases() -> Vec<(String, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/inject");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    let read = |file: &Path| serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let name = |file: &Path| file.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|file| (name(file), read(file))).collect()
}

fn injected(pod: &Value, config: &Config) -> Injected {
    match inject(pod, "shop", config).unwrap() {
        Decision::Inject(injected) => injected,
        Decision::Skip(because) => panic!("skipped: {because}"),
    }
}

fn rejection(pod: &Value) -> Vec<String> {
    inject(pod, "shop", &Config::default()).unwrap_err().0
}

fn pod() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web"}]}})
}

fn with_annotation(name: &str, value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({ (name): value });
    pod
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let items = pod["spec"][list].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pods_are_injected_as_reviewed() {
    for (name, case) in cases() {
        let pod = injected(&case.pod, &case.config).pod;
        insta::with_settings!({ snapshot_path => "../../testdata/inject", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, serde_yaml::to_string(&pod).unwrap());
        });
    }
}

#[test]
fn a_patch_makes_of_the_pod_what_was_injected() {
    for (name, case) in cases() {
        let Injected { pod, patch, .. } = injected(&case.pod, &case.config);
        assert_eq!(apply(case.pod, &patch), pod, "{name}");
    }
}

#[test]
fn injecting_an_injected_pod_changes_nothing() {
    for (name, case) in cases() {
        let once = injected(&case.pod, &case.config).pod;
        let twice = injected(&once, &case.config);
        assert_eq!(twice.patch, json!([]), "{name}");
    }
}

#[test]
fn what_another_webhook_adds_in_between_stays_and_is_treated_as_the_rest() {
    for (name, case) in cases() {
        let mut between = injected(&case.pod, &case.config).pod;
        let probe = json!({"httpGet": {"path": "/", "port": 1234}});
        between["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "other", "image": "other", "livenessProbe": probe}));
        between["metadata"]["annotations"]["other"] = json!("1");
        let again = injected(&between, &case.config).pod;
        assert!(names(&again, "containers").contains(&"other".to_owned()), "{name}");
        assert_eq!(again["metadata"]["annotations"]["other"], "1", "{name}");
        assert_eq!(injected(&again, &case.config).patch, json!([]), "{name}");
        let other = again["spec"]["containers"].as_array().unwrap().iter();
        let other = other.clone().find(|container| container["name"] == "other").unwrap();
        let is_rewritten = other["livenessProbe"]["httpGet"]["path"] == "/app-health/other/livez";
        assert_eq!(is_rewritten, name != "keeps_out", "{name}: {other}");
    }
}

#[test]
fn a_probe_is_rewritten_once_whatever_the_api_server_adds_to_it() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 80}});
    let mut once = injected(&pod, &Config::default()).pod;
    once["spec"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] = json!("HTTP");
    assert_eq!(injected(&once, &Config::default()).patch, json!([]));
}

/// The application starts when our hook ends; without it, when the probe succeeds; never before.
#[test]
fn a_sidecar_without_our_hook_is_probed_until_it_has_started() {
    let theirs = json!({ "postStart": { "exec": { "command": ["theirs"] } } });
    let ours = json!(["weir-sidecar", "wait", "--timeout", "30s"]);
    let mut with_own = pod();
    with_own["spec"]["initContainers"] = json!([{ "name": "istio-proxy", "lifecycle": theirs }]);
    let configured = Config { lifecycle: Some(theirs), ..Config::default() };
    for (pod, config, command, is_probed) in [
        (pod(), &Config::default(), &ours, false),
        (pod(), &configured, &json!(["theirs"]), true),
        (with_own, &Config::default(), &json!(["theirs"]), true),
    ] {
        let injected = injected(&pod, config).pod;
        let sidecar = &injected["spec"]["initContainers"][1];
        assert_eq!(sidecar["lifecycle"]["postStart"]["exec"]["command"], *command);
        assert_eq!(sidecar["startupProbe"].is_object(), is_probed, "{sidecar}");
    }
}

/// Classic, whatever stays keeps the pod from ending, and nothing waits for what does not end.
#[test]
fn what_programs_the_rules_stays_beside_a_native_sidecar_only() {
    let classic = with_annotation("sidecar.istio.io/nativeSidecar", "false");
    let ends = Config { resident_init: false, ..Config::default() };
    for (pod, config, stays) in [
        (pod(), &Config::default(), true),
        (pod(), &ends, false),
        (classic.clone(), &Config::default(), false),
        (classic, &ends, false),
    ] {
        let injected = injected(&pod, config).pod;
        let init = &injected["spec"]["initContainers"][0];
        assert_eq!(init["name"], "istio-init");
        assert_eq!(init["restartPolicy"] == "Always", stays, "{init}");
        assert_eq!(init["args"][0] == "stay", stays, "{init}");
        let hook = &init["lifecycle"]["postStart"]["exec"]["command"];
        assert_eq!(*hook == json!(["weir-init", "wait"]), stays, "{init}");
    }
}

#[test]
fn a_container_that_was_not_injected_is_never_removed() {
    let mut pod = with_annotation("sidecar.istio.io/status", r#"{"containers": ["gone"]}"#);
    pod["spec"]["initContainers"] = json!([{"name": "istio-validation", "image": "theirs"}]);
    let injected = injected(&pod, &Config::default()).pod;
    let validation = &injected["spec"]["initContainers"][0];
    assert_eq!(validation["image"], "theirs");
    assert_eq!(names(&injected, "containers"), ["web"]);
}

#[test]
fn who_is_injected() {
    let selector = |label: &str| {
        serde_yaml::from_str(&format!(
            "[{{matchExpressions: [{{key: {label}, operator: Exists}}]}}]"
        ))
        .unwrap()
    };
    let on = Config {
        never_inject_selector: selector("never"),
        always_inject_selector: selector("always"),
        ..Config::default()
    };
    let off = Config { auto_inject: false, ..on.clone() };
    // Labels, annotation, injected by default, injected on request.
    type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, Option<Because>, Option<Because>);
    #[rustfmt::skip]
    let table: [Row<'_>; 10] = [
        (&[], None, None, Some(Because::NotAsked)),
        (&[("sidecar.istio.io/inject", "true")], None, None, None),
        (&[("sidecar.istio.io/inject", "false")], None, Some(Because::Unwanted), Some(Because::Unwanted)),
        (&[("sidecar.istio.io/inject", "false")], Some("true"), Some(Because::Unwanted), Some(Because::Unwanted)),
        (&[], Some("false"), Some(Because::Unwanted), Some(Because::Unwanted)),
        (&[], Some("yes"), None, Some(Because::NotAsked)),
        (&[("never", "")], None, Some(Because::NeverSelected), Some(Because::NeverSelected)),
        (&[("never", ""), ("always", "")], None, Some(Because::NeverSelected), Some(Because::NeverSelected)),
        (&[("always", "")], None, None, None),
        (&[("never", ""), ("sidecar.istio.io/inject", "true")], None, None, None),
    ];
    for (labels, annotation, by_default, on_request) in table {
        let mut pod = pod();
        for (name, value) in labels {
            pod["metadata"]["labels"][*name] = json!(value);
        }
        if let Some(word) = annotation {
            pod["metadata"]["annotations"] = json!({ "sidecar.istio.io/inject": word });
        }
        for (config, expected) in [(&on, by_default), (&off, on_request)] {
            let because = match inject(&pod, "shop", config).unwrap() {
                Decision::Skip(because) => Some(because),
                Decision::Inject(_) => None,
            };
            assert_eq!(because, expected, "{labels:?} {annotation:?} {}", config.auto_inject);
        }
    }
}

#[test]
fn pods_of_the_node_and_of_the_cluster_are_never_injected() {
    let mut asking = with_annotation("sidecar.istio.io/inject", "true");
    let skipped = |pod: &Value, namespace| inject(pod, namespace, &Config::default()).unwrap();
    assert_eq!(skipped(&asking, "kube-system"), Decision::Skip(Because::SystemNamespace));
    asking["spec"]["hostNetwork"] = json!(true);
    assert_eq!(skipped(&asking, "shop"), Decision::Skip(Because::HostNetwork));
}

#[test]
fn a_word_that_is_neither_true_nor_false_is_warned_of() {
    let pod = with_annotation("sidecar.istio.io/inject", "yes");
    assert_eq!(
        injected(&pod, &Config::default()).warnings,
        ["sidecar.istio.io/inject: \"yes\" is neither true nor false; it is ignored"]
    );
}

#[test]
fn a_pod_that_cannot_be_injected_is_rejected_with_every_reason() {
    let mut pod = with_annotation("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.1");
    pod["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeInboundPorts"] = json!("80,x");
    pod["metadata"]["annotations"]["proxy.istio.io/config"] = json!("concurrency: many");
    let problems = rejection(&pod);
    assert_eq!(
        problems,
        [
            "metadata.annotations[traffic.sidecar.istio.io/excludeOutboundIPRanges]: \"10.0.0.1\" is \
             not a range of addresses, such as 10.0.0.0/8",
            "metadata.annotations[traffic.sidecar.istio.io/excludeInboundPorts]: \"x\" is not a port \
             from 1 to 65535",
            "metadata.annotations[proxy.istio.io/config]: concurrency: expected a whole number from 0 \
             to 4294967295, found a string",
        ]
    );
    assert_eq!(
        rejection(&with_annotation("inject.istio.io/templates", "gate")),
        ["there is no template \"gate\"; there are: sidecar"]
    );
    assert_eq!(
        rejection(&with_annotation("prometheus.io/port", "15020")),
        ["metadata.annotations[prometheus.io/port]: 15020 is a port of the sidecar"]
    );
    assert_eq!(
        rejection(&with_annotation("sidecar.istio.io/proxyMemory", "128MB")),
        [
            "metadata.annotations[sidecar.istio.io/proxyMemory]: \"128MB\" is not a quantity, such as \
          100m or 128Mi"
        ]
    );
}

#[test]
fn what_is_wrong_with_a_proxys_settings_is_told_by_field() {
    for (text, expected) in [
        (
            "tracing: {sampling: [1]}\ndrainDuration: soon\nextraStatTags: [a, {b: c}]",
            &[
                "tracing.sampling: expected a number, found a list",
                "drainDuration: \"soon\" is not a duration; write for example \"1.5s\", \"100ms\" or \"1m30s\"",
                "extraStatTags[1]: expected a string, found a mapping",
            ][..],
        ),
        (
            "interceptionMode: MAGIC",
            &["interceptionMode: \"MAGIC\" is not one of its values; use \
            one of REDIRECT, TPROXY, NONE"],
        ),
        ("[concurrency]", &["expected a mapping, found a list"]),
        ("concurrency: {", &[]),
    ] {
        let problems = rejection(&with_annotation("proxy.istio.io/config", text));
        let prefix = "metadata.annotations[proxy.istio.io/config]: ";
        let told = problems.iter().map(|it| it.strip_prefix(prefix).expect("the annotation"));
        let told: Vec<&str> = told.collect();
        if expected.is_empty() {
            assert!(told[0].starts_with("no YAML: "), "{told:?}");
        } else {
            assert_eq!(told, expected, "{text}");
        }
    }
    // Istio takes an empty one for nothing said.
    let pod = with_annotation("proxy.istio.io/config", "\n");
    assert_eq!(injected(&pod, &Config::default()).warnings, [""; 0]);
}

#[test]
fn settings_without_meaning_are_refused() {
    let refused = |text: &str| Config::parse(text).unwrap_err().to_string();
    assert!(refused("autoInjct: false").contains("autoInjct"), "{}", refused("autoInjct: false"));
    assert_eq!(
        refused("templates: {agent: '{{ .Spec }}'}"),
        "the template \"agent\" has expressions in {{ }}: write YAML"
    );
    assert_eq!(Config::parse("{}").unwrap(), Config::default());
}

/// RFC 6902, as far as our patches go.
fn apply(mut pod: Value, patch: &Value) -> Value {
    for operation in patch.as_array().unwrap() {
        let path = operation["path"].as_str().unwrap();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let name = name.replace("~1", "/").replace("~0", "~");
        let parent = pod.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match operation["op"].as_str().unwrap() {
            "remove" => drop(parent.remove(&name).unwrap()),
            "add" => assert_eq!(parent.insert(name, operation["value"].clone()), None),
            "replace" => assert!(parent.insert(name, operation["value"].clone()).is_some()),
            other => panic!("{other}"),
        }
    }
    pod
}
