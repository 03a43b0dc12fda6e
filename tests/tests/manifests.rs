//! What the charts, the injector and the Dockerfile say about how the programs run, read as text: no
//! cluster is needed for it. That the charts still render as what is read here is tested in `charts.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde::Deserialize as _;
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The objects of a reviewed snapshot, below the header that insta puts before it.
fn objects(snapshot: &str) -> Vec<Value> {
    let text = read(snapshot);
    let body = text.splitn(3, "---\n").nth(2).unwrap();
    let documents = serde_yaml::Deserializer::from_str(body);
    documents.map(|document| Value::deserialize(document).unwrap()).collect()
}

const RENDERED: [&str; 4] = [
    "tests/tests/snapshots/charts__controller.snap",
    "tests/tests/snapshots/charts__controller-everything.snap",
    "tests/tests/snapshots/charts__gateway.snap",
    "tests/tests/snapshots/charts__gateway-everything.snap",
];

/// The pods of the Deployments and DaemonSets of all charts, with where they stand.
fn pods() -> Vec<(&'static str, Value)> {
    let mut pods = Vec::new();
    for snapshot in RENDERED {
        let objects = objects(snapshot);
        let running =
            objects.iter().filter(|it| it["kind"] == "Deployment" || it["kind"] == "DaemonSet");
        pods.extend(running.map(|it| (snapshot, it["spec"]["template"]["spec"].clone())));
    }
    assert_eq!(pods.len(), RENDERED.len());
    pods
}

fn containers(pod: &Value) -> Vec<&Value> {
    let of = |list: &str| pod[list].as_array().into_iter().flatten();
    // The first is ours; values may add others, which are theirs who add them.
    of("containers").take(1).collect()
}

#[test]
fn no_program_runs_as_root_or_writes_or_has_a_capability() {
    for (place, pod) in pods() {
        let of_pod = &pod["securityContext"];
        assert_eq!(of_pod["runAsNonRoot"], true, "{place}");
        assert_ne!(of_pod["runAsUser"], 0, "{place}");
        assert_eq!(of_pod["seccompProfile"], json!({"type": "RuntimeDefault"}), "{place}");
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert_ne!(pod[field], true, "{place}: {field}");
        }
        let of_hosts = pod["volumes"].as_array().into_iter().flatten();
        assert_eq!(of_hosts.filter(|it| !it["hostPath"].is_null()).count(), 0, "{place}");
        for container in containers(&pod) {
            let own = &container["securityContext"];
            assert_eq!(own["allowPrivilegeEscalation"], false, "{place}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{place}");
            assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{place}");
            assert_ne!(own["privileged"], true, "{place}");
        }
    }
}

#[test]
fn images_have_versions_and_programs_have_bounds() {
    for (place, pod) in pods() {
        for container in containers(&pod) {
            let image = container["image"].as_str().unwrap();
            let version = image.rsplit_once(':').map(|(_, version)| version);
            assert!(version.is_some_and(|it| !it.is_empty() && it != "latest"), "{place}: {image}");
            assert!(!container["resources"]["requests"]["memory"].is_null(), "{place}");
        }
    }
}

#[test]
fn an_injected_sidecar_has_no_more_rights_than_its_rules_need() {
    let text = read("mesh-controller/testdata/inject/plain.snap");
    let body = text.splitn(3, "---\n").nth(2).unwrap();
    let pod: Value = serde_yaml::from_str(body).unwrap();
    let mut contexts = Vec::new();
    collect(&pod, &mut contexts);
    assert_eq!(contexts.len(), 2, "the proxy, and what writes the rules");
    for context in contexts {
        assert_eq!(context["allowPrivilegeEscalation"], false, "{context}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{context}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{context}");
        assert_ne!(context["privileged"], true, "{context}");
        // Only who writes rules, and is gone before the application starts, may change the network.
        let is_proxy = context["runAsUser"] != 0;
        assert_eq!(context["capabilities"]["add"].is_null(), is_proxy, "{context}");
    }
}

/// Every securityContext of a container, wherever it stands.
fn collect<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if name == "securityContext" && !value["capabilities"].is_null() {
                    found.push(value);
                }
                collect(value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// The Dockerfile's images hold the programs that those of the test cluster do, laid out by the same
/// script.
#[test]
fn the_dockerfile_makes_the_images_that_the_tests_run() {
    let dockerfile = read("Dockerfile");
    let tested = read("tests/src/cluster/weir.rs");
    let (_, rest) = tested.split_once("let images: [&'static [&'static str]; 3] =").unwrap();
    let (list, _) = rest.split_once(';').unwrap();
    let programs: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    let build = dockerfile.split("RUN ").find(|it| it.contains("cargo build")).unwrap();
    let built: Vec<&str> = build.split("--bin ").skip(1).collect();
    let built = built.iter().map(|it| it.split_whitespace().next().unwrap());
    assert_eq!(built.collect::<BTreeSet<_>>(), programs);
    let script = "tests/cluster/internal/image/layout.sh";
    assert!(root().join(script).exists());
    assert_eq!(build.matches(&format!("sh {script} /images/")).count(), 2);
    assert!(read("tests/cluster/internal/image/image.go").contains("layout.sh"));
    let stages: Vec<&str> =
        dockerfile.lines().filter(|it| it.starts_with("FROM scratch")).collect();
    assert_eq!(stages.len(), 4);
    let users: Vec<&str> =
        dockerfile.lines().filter_map(|line| line.strip_prefix("USER ")).collect();
    assert_eq!(users, ["65532:65532", "65532:65532", "1337:1337", "0:0"]);
    // The agent's program, which the node runs as well, is linked in another way.
    assert!(tested.contains("self.load_programs(&[\"weir-cni\"])"));
    let agent = dockerfile.split("RUN ").find(|it| it.contains("--bin weir-cni")).unwrap();
    assert!(agent.contains("+crt-static"), "{agent}");
    assert!(agent.contains(&format!("sh {script} /images/cni target/release/weir-cni")), "{agent}");
    // The toolchain is the one that is pinned for everybody.
    let toolchain = read("rust-toolchain.toml");
    let base = dockerfile.lines().find_map(|line| line.strip_prefix("FROM rust:")).unwrap();
    let version = base.split('-').next().unwrap();
    assert!(toolchain.contains(&format!("\"{version}")), "{base}");
}
