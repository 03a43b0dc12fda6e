//! Golden cases: `testdata/compile/<case>.yaml` in, resources and diagnostics out. Reviewing a
//! change of behaviour means reading the difference of a `.snap`.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use serde_json::{Map, Value, json};

use super::{MeshConfig, Options, Proxy, Resources, compile, mesh, parse, proxy, texts};

macro_rules! golden {
    ($($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                check(stringify!($case));
            }
        )*

        const CASES: &[&str] = &[$(stringify!($case)),*];
    };
}

golden! {
    authorization
    bookinfo
    canary
    conflicts
    delegates
    destination_rules
    headers
    hosts
    jwt
    merge_order
    mesh_config
    passthrough
    redirect_and_rewrite
    references
    service_entries
    tcp
    tls
    workload_selectors
}

#[test]
fn every_file_is_a_case() {
    let files: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(files, CASES.iter().map(ToString::to_string).collect());
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/compile")
}

fn check(case: &str) {
    let yaml = fs::read_to_string(directory().join(case).with_extension("yaml")).unwrap();
    let parsed = parse(&format!("{case}.yaml"), yaml.as_bytes(), &Options::default());
    let objects = parsed.objects.into_iter().map(Arc::new);
    let (resources, mut diagnostics) = compile(proxy_of(&yaml), mesh_of(&yaml), objects);
    diagnostics.splice(0..0, parsed.diagnostics);

    let document = json!({
        "diagnostics": texts(&diagnostics),
        "resources": concise(&resources),
    });
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(directory());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::assert_snapshot!(case, serde_yaml::to_string(&document).unwrap());
    });
}

/// The proxy, in the namespace that a line `# namespace: NAME` names.
fn proxy_of(yaml: &str) -> Proxy {
    let namespace = yaml.lines().find_map(|line| line.strip_prefix("# namespace: "));
    let proxy = proxy();
    Proxy { namespace: namespace.map_or(proxy.namespace, Into::into), ..proxy }
}

/// The mesh configuration in JSON after `# mesh: `.
fn mesh_of(yaml: &str) -> Option<MeshConfig> {
    let json = yaml.lines().find_map(|line| line.strip_prefix("# mesh: "));
    Some(mesh(json.unwrap_or("{}")))
}

/// The resources without what is absent or as it is when nothing is said about it.
fn concise(resources: &Resources) -> Value {
    let mut value = serde_json::to_value(resources).unwrap();
    let defaults = serde_json::to_value(defaults()).unwrap();
    let map = value.as_object_mut().unwrap();
    if map["settings"] == defaults["settings"] {
        map.remove("settings");
    }
    let plain = &defaults["clusters"]["outbound|80||plain.default.svc.cluster.local"];
    for cluster in map["clusters"].as_object_mut().unwrap().values_mut() {
        without(cluster.as_object_mut().unwrap(), plain.as_object().unwrap());
    }
    let routes = &defaults["virtualHosts"]["http.80|*"]["routes"][0];
    let retry = &routes["action"]["forward"]["retry"];
    prune(&mut value, retry);
    value
}

fn defaults() -> Resources {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs}
spec:
  hosts: ['*']
  gateways: [gw]
  http: [{route: [{destination: {host: plain}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  ports: [{name: http, port: 80}]
";
    compile(proxy(), Some(MeshConfig::default()), super::objects(yaml)).0
}

/// Removes what is as in `defaults`.
fn without(map: &mut Map<String, Value>, defaults: &Map<String, Value>) {
    map.retain(|key, value| defaults.get(key) != Some(value));
}

/// Removes nulls, empty lists and maps, `false`, and the default retry policy.
fn prune(value: &mut Value, retry: &Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !(key == "retry" && value == retry));
            map.values_mut().for_each(|value| prune(value, retry));
            map.retain(|_, value| !is_nothing(value));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| prune(value, retry)),
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}
