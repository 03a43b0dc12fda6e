//! A change costs what depends on it, and leads to the same as starting anew.

use std::{collections::BTreeMap, sync::Arc};

use super::{Change, Compiler, Proxy, compile, mesh, objects, proxy, texts};
use crate::{
    api::{Object, ObjectKey},
    diagnostic::Severity,
    model::{Delta, Resources},
    validate::validate,
};

fn started(yaml: &str) -> Compiler {
    let mut compiler = Compiler::new(proxy(), None);
    upsert(&mut compiler, yaml);
    compiler
}

fn upsert(compiler: &mut Compiler, yaml: &str) -> Delta {
    compiler.apply(objects(yaml).into_iter().map(Change::Upsert))
}

fn names<K: ToString, V>(map: &BTreeMap<K, V>) -> Vec<String> {
    map.keys().map(ToString::to_string).collect()
}

const SHOP: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, credentialName: cert}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example.com]
  gateways: [gw]
  http: [{route: [{destination: {host: web}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b}
spec:
  hosts: [b.example.com]
  gateways: [gw]
  http: [{route: [{destination: {host: web, port: {number: 80}}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}], selector: {app: web}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Secret
metadata: {name: cert}
stringData: {cert: C, key: K}
";

/// The documents of [`SHOP`] that contain `text`, edited.
fn edited(text: &str, from: &str, to: &str) -> String {
    let documents = SHOP.split("\n---\n").filter(|document| document.contains(text));
    let edited = documents.collect::<Vec<_>>().join("\n---\n").replace(from, to);
    assert!(edited.contains(to));
    edited
}

#[test]
fn the_first_delta_is_the_difference_from_nothing() {
    let mut compiler = Compiler::new(proxy(), None);
    let mut followed = Resources::default();
    followed.apply(&upsert(&mut compiler, SHOP));
    assert_eq!(&followed, compiler.resources());
    assert!(followed.settings.access_log.is_some());
}

#[test]
fn an_unchanged_object_changes_nothing() {
    let mut compiler = started(SHOP);
    assert!(upsert(&mut compiler, SHOP).is_empty());
}

#[test]
fn an_object_that_only_moved_in_its_file_changes_nothing_but_where_it_is_found() {
    let yaml = edited("name: a}", "host: web", "host: nobody");
    let mut compiler = started(&join(&[SHOP, &yaml]));
    let lines = |compiler: &Compiler| -> Vec<u32> {
        compiler.diagnostics().iter().map(|diagnostic| diagnostic.source.line).collect()
    };
    let before = lines(&compiler);
    assert!(upsert(&mut compiler, &format!("# one more line\n{yaml}")).is_empty());
    assert_eq!(before.len(), 1);
    assert_ne!(lines(&compiler), before);
}

fn join(documents: &[&str]) -> String {
    documents.join("\n---\n")
}

#[test]
fn a_virtual_service_changes_only_its_virtual_hosts() {
    let mut compiler = started(SHOP);
    let delta = upsert(&mut compiler, &edited("name: a}", "host: web", "host: web2"));
    let hosts = ["http.80|a.example.com", "https.443.https.gw.default|a.example.com"];
    assert_eq!(names(&delta.virtual_hosts), hosts);
    assert_eq!(Delta { virtual_hosts: BTreeMap::new(), ..delta }, Delta::default());
}

#[test]
fn an_endpoint_slice_changes_only_the_endpoints() {
    let mut compiler = started(SHOP);
    let delta = upsert(&mut compiler, &edited("EndpointSlice", "10.0.0.1", "10.0.0.2"));
    assert_eq!(names(&delta.endpoints), ["outbound|80||web.default.svc.cluster.local"]);
    assert_eq!(Delta { endpoints: BTreeMap::new(), ..delta }, Delta::default());
}

#[test]
fn a_workload_entry_changes_only_the_endpoints_that_select_it() {
    let mut compiler = started(SHOP);
    let workload = |app: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: vm}}\n\
             spec: {{address: 10.0.0.9, labels: {{app: {app}}}}}\n"
        )
    };
    assert!(upsert(&mut compiler, &workload("other")).is_empty());
    let delta = upsert(&mut compiler, &workload("web"));
    assert_eq!(delta.endpoints.len(), 1);
    assert_eq!(Delta { endpoints: BTreeMap::new(), ..delta }, Delta::default());
}

#[test]
fn a_secret_changes_only_itself_and_only_if_it_is_used() {
    let mut compiler = started(SHOP);
    let delta = upsert(&mut compiler, &edited("kind: Secret", "cert: C", "cert: D"));
    assert_eq!(names(&delta.secrets), ["kubernetes://default/cert"]);
    assert_eq!(Delta { secrets: BTreeMap::new(), ..delta }, Delta::default());
    let unused = edited("kind: Secret", "name: cert", "name: other");
    assert!(upsert(&mut compiler, &unused).is_empty());
}

#[test]
fn a_destination_rule_brings_its_secret_and_takes_it_away() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}
";
    let client = edited("kind: Secret", "name: cert", "name: client");
    let mut compiler = started(&join(&[SHOP, &client]));
    let delta = upsert(&mut compiler, rule);
    let secrets = ["kubernetes://default/client", "kubernetes://default/client-cacert"];
    assert_eq!(names(&delta.secrets), secrets);
    assert_eq!(delta.clusters.len(), 1);
    assert_eq!(delta.virtual_hosts, BTreeMap::new());
    let delta = compiler.apply([Change::Remove(objects(rule)[0].key())]);
    assert_eq!(names(&delta.secrets), secrets);
    assert!(delta.secrets.values().all(Option::is_none));
}

#[test]
fn a_second_port_moves_only_the_routes_that_left_the_choice() {
    let mut compiler = started(SHOP);
    let service = edited("kind: Service\n", "port: 80}", "port: 80}, {name: http2, port: 443}");
    let delta = upsert(&mut compiler, &service);
    assert_eq!(
        names(&delta.virtual_hosts),
        ["https.443.https.gw.default|a.example.com"],
        "on port 443 the other port is meant now"
    );
}

#[test]
fn routes_that_did_not_change_keep_their_arc() {
    let rules = |middle: &str| {
        let rule = |path: &str| {
            format!("{{match: [{{uri: {{exact: {path}}}}}], directResponse: {{status: 200}}}}")
        };
        let http = [rule("/1"), rule(middle), rule("/3")].join(", ");
        edited("name: a}", "[{route: [{destination: {host: web}}]}]", &format!("[{http}]"))
    };
    let mut compiler = started(SHOP);
    upsert(&mut compiler, &rules("/2"));
    let routes = |compiler: &Compiler| {
        compiler.resources().virtual_hosts["http.80|a.example.com"].routes.clone()
    };
    let before = routes(&compiler);
    upsert(&mut compiler, &rules("/changed"));
    let after = routes(&compiler);
    let same: Vec<bool> = before.iter().zip(&*after).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
    assert_eq!(same, [true, false, true]);
}

#[test]
fn a_removed_gateway_takes_everything_with_it_that_was_only_for_it() {
    let mut compiler = started(SHOP);
    let gateway = objects(SHOP)[0].key();
    compiler.apply([Change::Remove(gateway)]);
    let resources = compiler.resources();
    assert_eq!(resources.listeners, BTreeMap::new());
    assert_eq!(resources.filter_chains, BTreeMap::new());
    assert_eq!(resources.virtual_hosts, BTreeMap::new());
    assert_eq!(resources.secrets, BTreeMap::new());
    assert_eq!(resources.clusters.len(), 1);
}

#[test]
fn turning_https_redirect_on_reaches_every_virtual_host_of_the_server() {
    let mut compiler = started(SHOP);
    let redirecting =
        edited("kind: Gateway", "hosts: ['*']}", "hosts: ['*'], tls: {httpsRedirect: true}}");
    let delta = upsert(&mut compiler, &redirecting);
    let mut hosts = names(&delta.virtual_hosts);
    hosts.sort();
    assert_eq!(hosts, ["http.80|*", "http.80|a.example.com", "http.80|b.example.com"]);
    assert!(delta.virtual_hosts.values().flatten().all(|host| host.require_tls));
}

#[test]
fn a_changed_gateway_leaves_the_virtual_hosts_of_others_alone() {
    let other = edited("kind: Gateway", "name: gw}", "name: other}").replace("'*'", "other.test");
    let mut compiler = started(&join(&[SHOP, &other]));
    let before = compiler.resources().virtual_hosts.clone();
    let delta = upsert(&mut compiler, &other.replace("other.test", "c.test"));
    assert_eq!(delta.virtual_hosts, BTreeMap::new());
    assert_eq!(names(&delta.filter_chains), ["https.443.https.other.default"]);
    assert!(
        before
            .iter()
            .all(|(name, host)| { Arc::ptr_eq(host, &compiler.resources().virtual_hosts[name]) })
    );
}

#[test]
fn a_gateway_of_another_proxy_is_still_a_gateway() {
    let egress = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";
    let bound = edited("name: a}", "gateways: [gw]", "gateways: [gw, egress]");
    let mut compiler = started(&join(&[SHOP, &bound]));
    let alone = texts(&compiler.diagnostics());
    assert!(alone[0].contains("Gateway default/egress does not exist"), "{alone:?}");
    assert!(upsert(&mut compiler, egress).is_empty());
    assert_eq!(compiler.diagnostics(), []);
    compiler.apply([Change::Remove(objects(egress)[0].key())]);
    assert_eq!(texts(&compiler.diagnostics()), alone);
}

#[test]
fn the_target_port_of_the_proxys_own_service_moves_its_listeners() {
    let service = |target: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: ingress}}\nspec:\n  selector: \
             {{istio: ingressgateway}}\n  ports: [{{name: http2, port: 80, targetPort: {target}}}]\n"
        )
    };
    let mut compiler = started(SHOP);
    upsert(&mut compiler, &service(8080));
    assert_eq!(names(&compiler.resources().listeners), ["0.0.0.0_443", "0.0.0.0_8080"]);
    let delta = upsert(&mut compiler, &service(8081));
    assert_eq!(names(&delta.listeners), ["0.0.0.0_8080", "0.0.0.0_8081"]);
    assert_eq!(names(&compiler.resources().listeners), ["0.0.0.0_443", "0.0.0.0_8081"]);
}

#[test]
fn the_mesh_configuration_can_change_too() {
    let mut compiler = started(SHOP);
    let delta = compiler.set_mesh_config(Some(mesh("connectTimeout: 1s")));
    assert_eq!(delta.clusters.len(), 1);
    assert!(delta.settings.is_some(), "there is no access log unless the configuration says so");
    assert_eq!(delta.virtual_hosts, BTreeMap::new());
    assert!(compiler.set_mesh_config(Some(mesh("connectTimeout: 1s"))).is_empty());
}

#[test]
fn an_object_with_an_error_keeps_its_last_good_version_in_force() {
    let bad = edited("name: a}", "[{route: [", "[{redirect: {uri: /}, route: [");
    let mut compiler = started(SHOP);
    let good = compiler.resources().clone();

    assert!(upsert(&mut compiler, &format!("# elsewhere\n{bad}")).is_empty());
    assert_eq!(*compiler.resources(), good);
    let diagnostics = compiler.diagnostics();
    assert!(diagnostics.iter().any(|found| found.severity == Severity::Error));
    assert_eq!(diagnostics[0].source.line, 2, "it is the refused version that is spoken of");

    assert!(upsert(&mut compiler, SHOP).is_empty());
    assert_eq!(compiler.diagnostics(), [], "the good version is back");

    upsert(&mut compiler, &bad);
    compiler.apply([Change::Remove(objects(&bad)[0].key())]);
    assert_eq!(compiler.diagnostics(), []);
    assert_eq!(compiler.resources().virtual_hosts.len(), good.virtual_hosts.len() / 2);
}

#[test]
fn an_object_that_never_was_good_is_not_there() {
    let bad = edited("name: a}", "[{route: [", "[{redirect: {uri: /}, route: [");
    let mut compiler = started(&bad);
    assert_eq!(compiler.resources().virtual_hosts, BTreeMap::new());
    assert!(!compiler.diagnostics().is_empty());
    let delta = upsert(&mut compiler, SHOP);
    assert_eq!(delta.virtual_hosts.len(), 4);
    assert_eq!(compiler.diagnostics(), []);
}

/// Objects that refer to each other in every way there is, in two versions each.
fn pool() -> Vec<[Arc<Object>; 2]> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/compile");
    let mut cases: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    cases.sort();
    let mut pool = BTreeMap::new();
    for path in cases {
        let text = std::fs::read_to_string(path).unwrap();
        let edited = text
            .replace("example.com", "example.net")
            .replace("{prefix: /", "{prefix: /x")
            .replace("resolution: STATIC", "resolution: DNS")
            .replace("weight: ", "weight: 1")
            .replace("10.0.0", "10.0.1")
            .replace("mode: SIMPLE", "mode: MUTUAL")
            .replace("version: v1", "version: v2")
            .replace("port: {number: 8080", "port: {number: 8081")
            .replace("exportTo: [\".\"]", "exportTo: [\"*\"]");
        for (a, b) in objects(&text).into_iter().zip(objects(&edited)) {
            // What is refused leaves the version before it in force: there the past does matter.
            let is_valid = |object: &Object| {
                !validate(object).iter().any(|found| found.severity == Severity::Error)
            };
            if is_valid(&a) && is_valid(&b) {
                pool.insert(a.key(), [a, b]);
            }
        }
    }
    pool.into_values().collect()
}

/// A small generator, so that a printed seed is all there is to repeat a run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

#[test]
fn any_sequence_of_changes_leads_to_the_same_as_starting_anew() {
    let pool = pool();
    for seed in 1..=6_u64 {
        let mut random = Random::new(seed);
        let proxy = Proxy {
            namespace: if seed % 2 == 0 { "infra".into() } else { "default".into() },
            stands_alone: seed % 3 == 0,
            ..proxy()
        };
        let mut compiler = Compiler::new(proxy.clone(), None);
        let mut followed = Resources::default();
        let mut current: BTreeMap<ObjectKey, Arc<Object>> = BTreeMap::new();
        for step in 0..60 {
            let changes: Vec<Change> = (0..=random.below(8))
                .map(|_| {
                    let versions = &pool[random.below(pool.len())];
                    match random.below(3) {
                        2 => Change::Remove(versions[0].key()),
                        version => Change::Upsert(versions[version].clone()),
                    }
                })
                .collect();
            for change in &changes {
                match change {
                    Change::Upsert(object) => current.insert(object.key(), object.clone()),
                    Change::Remove(key) => current.remove(key),
                };
            }
            followed.apply(&compiler.apply(changes));
            assert_eq!(&followed, compiler.resources(), "the delta is complete; seed {seed}");
            if step % 10 != 9 {
                continue;
            }
            // In the other order, to see that it does not matter.
            let anew = current.values().rev().cloned();
            let (resources, diagnostics) = compile(proxy.clone(), None, anew);
            assert_eq!(compiler.resources(), &resources, "seed {seed}, step {step}");
            assert_eq!(
                texts(&compiler.diagnostics()),
                texts(&diagnostics),
                "seed {seed}, step {step}"
            );
        }
    }
}

#[test]
fn a_restarted_compiler_is_as_the_one_before_was() {
    let mut compiler = started(SHOP);
    // Refused: its last good version stays, also over a restart.
    upsert(&mut compiler, &edited("name: b}", "b.example.com", "'*bad*'"));
    let (resources, findings) = (compiler.resources().clone(), texts(&compiler.diagnostics()));
    assert!(!findings.is_empty());

    let mut changes: Vec<_> = objects(&edited("name: a}", "host: web", "host: other"))
        .into_iter()
        .chain(objects(&edited("name: b}", "host: web", "host: other")))
        .map(Change::Upsert)
        .collect();
    changes.extend(
        objects(&edited("kind: Service", "name: web}", "name: web }"))
            .into_iter()
            .map(|it| Change::Remove(it.key())),
    );
    let before = compiler.before(&changes);
    compiler.apply(changes);
    compiler.set_mesh_config(Some(mesh("trustDomain: other.test")));
    assert_ne!(*compiler.resources(), resources);

    let restarted = compiler.restarted(&before);
    assert_eq!(*restarted.resources(), resources);
    assert_eq!(texts(&restarted.diagnostics()), findings);
    let b = objects(&edited("name: b}", "host: web", "host: web "))[0].key();
    assert!(!restarted.refusal(&b).is_empty());
}

#[test]
fn an_object_that_is_refused_from_outside_keeps_its_last_good_version() {
    let mut compiler = started(SHOP);
    let resources = compiler.resources().clone();
    let change =
        Change::Upsert(objects(&edited("name: a}", "host: web", "host: other"))[0].clone());
    let failure = compiler.failure(&change, "not applied");
    compiler.refuse(change.key(), [failure]);
    assert_eq!(*compiler.resources(), resources);
    let [refusal] = compiler.refusal(&change.key())[..] else { panic!("one refusal") };
    assert_eq!((&*refusal.message, refusal.severity), ("not applied", Severity::Error));

    compiler.apply([change.clone()]);
    assert!(compiler.refusal(&change.key()).is_empty());
    assert_ne!(*compiler.resources(), resources);
}
