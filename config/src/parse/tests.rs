use std::time::{Duration, Instant};

use super::*;
use crate::api::{Kind, Spec, StringMatch};

fn read(text: &str) -> Parsed {
    parse("test.yaml", text.as_bytes(), &Options::default())
}

/// The diagnostics as people see them.
fn findings(parsed: &Parsed) -> Vec<String> {
    parsed.diagnostics.iter().map(ToString::to_string).collect()
}

fn keys(parsed: &Parsed) -> Vec<String> {
    parsed.objects.iter().map(|object| object.key().to_string()).collect()
}

/// The only finding of a text that yields no object.
fn refusal(text: &[u8]) -> String {
    let parsed = parse("test.yaml", text, &Options::default());
    assert_eq!(parsed.objects, []);
    let [finding] = &findings(&parsed)[..] else { panic!("one finding: {:?}", parsed.diagnostics) };
    finding.clone()
}

fn gateway(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\nspec:\n  \
         selector: {{app: gw}}\n"
    )
}

/// A VirtualService `default/vs` with `spec` in flow style.
fn virtual_service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec: {spec}\n"
    )
}

#[test]
fn a_file_holds_many_documents() {
    let text = [gateway("a"), gateway("b"), "# nothing\n".to_owned(), gateway("c")].join("---\n");
    let parsed = read(&text);
    assert_eq!(findings(&parsed), [""; 0]);
    assert_eq!(keys(&parsed), ["Gateway default/a", "Gateway default/b", "Gateway default/c"]);
    let lines: Vec<u32> = parsed.objects.iter().map(|object| object.source.line).collect();
    assert_eq!(lines, [1, 8, 17]);
}

#[test]
fn a_byte_order_mark_and_windows_line_endings_change_nothing() {
    let text = format!("{}---\n{}", gateway("a"), gateway("b"));
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    assert_eq!(read(&windows), read(&text));
    assert_eq!(read(&windows).objects.len(), 2);
}

#[test]
fn nothing_at_all_is_no_object_and_no_finding() {
    for text in ["", "\n", "# comment\n", "---\n---\n# comment\n...\n", "null\n", "\u{feff}"] {
        assert_eq!(read(text), Parsed::default(), "{text:?}");
    }
}

#[test]
fn a_syntax_error_spoils_only_its_own_document() {
    let broken = "kind: Gateway\nspec:\n  servers: [\n   oops: {\n";
    let text = [gateway("a"), broken.to_owned(), gateway("b")].join("---\n");
    let parsed = read(&text);
    assert_eq!(keys(&parsed), ["Gateway default/a", "Gateway default/b"]);
    assert_eq!(
        findings(&parsed),
        [
            "error: test.yaml:11: cannot be read as YAML: did not find expected node content at line \
          12 column 1, while parsing a flow node"
        ]
    );
}

#[test]
fn an_unclosed_quote_does_not_swallow_the_next_document() {
    let text = format!("kind: \"oops\n---\n{}", gateway("b"));
    let parsed = read(&text);
    assert_eq!(keys(&parsed), ["Gateway default/b"]);
    assert_eq!(parsed.diagnostics.len(), 1);
    assert_eq!(parsed.diagnostics[0].source.line, 1);
}

#[test]
fn lists_hold_objects_also_without_a_kind_of_their_own() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n\
                - apiVersion: v1\n  kind: ServiceList\n  metadata: {resourceVersion: '1'}\n  items:\n  \
                - metadata: {name: one}\n  - metadata: {name: two, namespace: other}\n";
    let parsed = read(list);
    assert_eq!(findings(&parsed), [""; 0]);
    assert_eq!(keys(&parsed), ["Secret default/s", "Service default/one", "Service other/two"]);
}

#[test]
fn a_broken_item_of_a_list_does_not_spoil_the_others() {
    let parsed = read(
        "apiVersion: v1\nkind: List\nitems:\n- 5\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n",
    );
    assert_eq!(keys(&parsed), ["Secret default/s"]);
    assert_eq!(
        findings(&parsed),
        ["error: test.yaml:1: items[0]: expected a Kubernetes object, a mapping with apiVersion \
          and kind, found a number"]
    );
}

#[test]
fn json_is_read_in_files_and_in_yaml_documents() {
    let json = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "NAME"}, "stringData": {"a": "\ud83d\ude00"}}"#;
    let text = format!(
        "{}\n{}\n---\n{}",
        json.replace("NAME", "one"),
        json.replace("NAME", "two"),
        json.replace("NAME", "three")
    );
    let parsed = read(&text);
    assert_eq!(findings(&parsed), [""; 0]);
    let Spec::Secret(secret) = &parsed.objects[2].spec else { panic!("a Secret") };
    assert_eq!(secret.value("a"), Some("😀".as_bytes()));
    let lines: Vec<u32> = parsed.objects.iter().map(|object| object.source.line).collect();
    assert_eq!(lines, [1, 2, 4]);
}

#[test]
fn broken_json_names_its_line() {
    let text = b"{\"kind\": \"Gateway\"}\n{\n  \"kind\": oops\n}\n";
    let parsed = parse("test.json", text, &Options::default());
    assert_eq!(
        findings(&parsed)[1],
        "error: test.json:3: cannot be read as JSON: expected value at line 3 column 11"
    );
}

#[test]
fn every_served_version_of_a_kind_reads_the_same() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = gateway("a").replace("/v1\n", &format!("/{version}\n"));
        assert_eq!(read(&text), read(&gateway("a")), "{version}");
    }
}

#[test]
fn a_version_or_kind_that_is_not_used_is_a_warning() {
    let text = "apiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: a}\n---\n\
                apiVersion: cert-manager.io/v1\nkind: Issuer\nmetadata: {name: b}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: c}\n";
    let parsed = read(text);
    assert_eq!(parsed.objects, []);
    assert_eq!(
        findings(&parsed),
        [
            "warning: test.yaml:1: Gateway of networking.istio.io/v2 is not used by Weir; the object \
             has no effect; Gateway is read as networking.istio.io/v1, networking.istio.io/v1beta1, \
             networking.istio.io/v1alpha3",
            "warning: test.yaml:5: kind Issuer (cert-manager.io/v1) is not used by Weir; the object \
             has no effect",
        ]
    );
}

#[test]
fn a_document_that_is_no_object_is_an_error() {
    for (text, expected) in [
        (
            "just text\n",
            "expected a Kubernetes object, a mapping with apiVersion and kind, found a string",
        ),
        ("- a\n", "expected a Kubernetes object, a mapping with apiVersion and kind, found a list"),
        (
            "kind: Gateway\n",
            "apiVersion: apiVersion is missing; every object needs apiVersion and kind",
        ),
        ("apiVersion: 1\nkind: Gateway\n", "apiVersion: expected a string, found a number"),
        ("apiVersion: v1\nkind: Secret\n", "metadata.name: Secret needs a name"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: 5}\n",
            "metadata.name: Secret: expected a string, found a number; put it in quotes",
        ),
    ] {
        assert_eq!(refusal(text.as_bytes()), format!("error: test.yaml:1: {expected}"));
    }
}

#[test]
fn the_namespace_comes_from_the_object_or_the_options() {
    let options = Options { default_namespace: "edge".to_owned() };
    let text = format!(
        "{}---\n{}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: prod}}\n",
        gateway("a"),
        gateway("b, namespace: prod")
            .replace("metadata:\n  ", "metadata: {")
            .replace("prod\n", "prod}\n")
    );
    let parsed = parse("test.yaml", text.as_bytes(), &options);
    assert_eq!(keys(&parsed), ["Gateway edge/a", "Gateway prod/b", "Namespace prod"]);
}

#[test]
fn metadata_keeps_what_matters_and_ignores_the_rest() {
    let parsed = read(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: {app: x, empty: null}\n  \
         annotations: {note: y}\n  creationTimestamp: 2024-05-01T10:00:00Z\n  uid: abc\n  \
         managedFields: [{manager: kubectl}]\nstatus: {anything: 1}\n",
    );
    assert_eq!(findings(&parsed), [""; 0]);
    let metadata = &parsed.objects[0].metadata;
    assert_eq!(&metadata.labels["app"], "x");
    assert_eq!(&metadata.labels["empty"], "");
    assert_eq!(&metadata.annotations["note"], "y");
    assert_eq!(metadata.creation_timestamp.as_deref(), Some("2024-05-01T10:00:00Z"));
}

#[test]
fn an_unknown_field_is_a_warning_with_its_path_and_the_object_is_used() {
    let parsed = read(&virtual_service(
        "{hosts: [a.com], http: [{mach: [], route: [{destination: {host: a, prot: 5}}], nonsense: 1}], gateway: [g]}",
    ));
    assert_eq!(keys(&parsed), ["VirtualService default/vs"]);
    assert_eq!(
        findings(&parsed),
        [
            "warning: test.yaml:1: VirtualService default/vs: spec.http[0].mach: unknown field, it \
             has no effect; did you mean match?",
            "warning: test.yaml:1: VirtualService default/vs: \
             spec.http[0].route[0].destination.prot: unknown field, it has no effect; did you mean \
             port?",
            "warning: test.yaml:1: VirtualService default/vs: spec.http[0].nonsense: unknown field, \
             it has no effect; remove it or correct its name",
            "warning: test.yaml:1: VirtualService default/vs: spec.gateway: unknown field, it has no \
             effect; did you mean gateways?",
        ]
    );
}

#[test]
fn a_field_outside_spec_is_a_warning() {
    let parsed = read(&(gateway("a") + "servers: []\n"));
    assert_eq!(
        findings(&parsed),
        ["warning: test.yaml:1: Gateway default/a: servers: unknown field, it has no effect; did \
          you mean to put it under spec?"]
    );
}

#[test]
fn every_wrong_type_is_an_error_with_its_path() {
    let parsed = read(&virtual_service(
        "{hosts: a.com, http: [{timeout: 5, retries: {attempts: -1}, match: [{port: 70000, headers: \
         {x: {exact: 1}, y: null, z: {exact: a, prefix: b}}}], redirect: {derivePort: NOPE}}, {timeout: 5d}]}",
    ));
    assert_eq!(parsed.objects, []);
    let prefix = "error: test.yaml:1: VirtualService default/vs: ";
    let found: Vec<String> =
        findings(&parsed).iter().map(|f| f.strip_prefix(prefix).unwrap().to_owned()).collect();
    assert_eq!(
        found,
        [
            "spec.hosts: expected a list, found a string",
            "spec.http[0].timeout: expected a duration such as \"1.5s\", \"100ms\" or \"1m30s\", \
             found a number",
            "spec.http[0].retries.attempts: expected a whole number from 0 to 4294967295, found -1",
            "spec.http[0].match[0].port: expected a whole number from 0 to 65535, found 70000",
            "spec.http[0].match[0].headers[x].exact: expected a string, found a number; put it in \
             quotes",
            "spec.http[0].match[0].headers[y]: expected a mapping with one of exact, prefix, regex, \
             found nothing (null)",
            "spec.http[0].match[0].headers[z]: only one of exact, prefix, regex may be set",
            "spec.http[0].redirect.derivePort: \"NOPE\" is not one of its values; use one of \
             FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT",
            "spec.http[1].timeout: \"5d\" is not a duration; write for example \"1.5s\", \"100ms\" \
             or \"1m30s\"",
        ]
    );
}

#[test]
fn protobuf_json_is_read_leniently() {
    let parsed = read(&virtual_service(
        "{hosts: [a], gateways: null, http: [{timeout: 1m30s, retries: {attempts: '3'}, fault: \
         {abort: {percentage: {value: '2.5'}, httpStatus: 503.0}}, match: [{port: '80', \
         ignoreUriCase: yes, headers: {present: {}, e: {exact: ''}}}]}]}",
    ));
    assert_eq!(findings(&parsed), [""; 0]);
    let Spec::VirtualService(spec) = &parsed.objects[0].spec else { panic!("a VirtualService") };
    let rule = &spec.http[0];
    assert_eq!(rule.timeout.map(|timeout| timeout.0), Some(Duration::from_secs(90)));
    assert_eq!(rule.retries.as_ref().map(|retries| retries.attempts), Some(3));
    let abort = rule.fault.as_ref().and_then(|fault| fault.abort.as_ref()).unwrap();
    assert_eq!(abort.percentage.map(|share| share.value), Some(2.5));
    assert_eq!(abort.http_status, Some(503));
    assert_eq!(rule.matches[0].port, Some(80));
    assert!(rule.matches[0].ignore_uri_case);
    assert_eq!(rule.matches[0].headers["present"], StringMatch::Present);
    assert_eq!(rule.matches[0].headers["e"], StringMatch::Exact(String::new()));
}

#[test]
fn a_repeated_key_is_an_error_with_its_line() {
    assert_eq!(
        refusal(b"apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  name: b\n"),
        "error: test.yaml:4: cannot be read as YAML: the key \"name\" stands twice in the \
         same mapping; remove one at line 4 column 3"
    );
}

#[test]
fn what_is_not_text_is_one_error() {
    assert_eq!(
        refusal(b"kind: x\n\xff\xfe\x00\x01---\n---\n"),
        "error: test.yaml:2: not UTF-8 text: byte 0xff at offset 8; is this a binary file, or UTF-16?"
    );
    let finding = refusal(b"\x00\x01\x02\x03");
    assert!(finding.contains("control characters are not allowed"), "{finding}");
}

#[test]
fn a_file_beyond_the_limit_is_refused() {
    let text = vec![b'#'; MAX_FILE_SIZE + 1];
    assert_eq!(
        refusal(&text),
        "error: test.yaml:1: the file has 16.0 MiB; files up to 16.0 MiB are read, so split it"
    );
}

#[test]
fn an_object_beyond_the_limit_is_refused_and_the_rest_is_used() {
    let large = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata:\n  a: {}\n",
        "x".repeat(3_000_000)
    );
    let parsed = read(&format!("{large}---\n{}", gateway("a")));
    assert_eq!(keys(&parsed), ["Gateway default/a"]);
    assert_eq!(
        findings(&parsed),
        [
            "error: test.yaml:1: the object has 2.9 MiB; objects up to 1.5 MiB are accepted, the limit \
          of Kubernetes (etcd), so split it"
        ]
    );
}

#[test]
fn only_the_objects_of_a_list_are_limited_not_the_list() {
    let item = |name: &str, bytes| {
        format!(
            "- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{a: {}}}}}\n",
            "x".repeat(bytes)
        )
    };
    let parsed = read(&format!(
        "apiVersion: v1\nkind: List\nitems:\n{}{}{}",
        item("a", 1_000_000),
        item("large", 2_000_000),
        item("b", 1_000_000)
    ));
    assert_eq!(keys(&parsed), ["ConfigMap default/a", "ConfigMap default/b"]);
    assert_eq!(
        parsed.diagnostics[0].object.as_ref().unwrap().to_string(),
        "ConfigMap default/large"
    );
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let mut bomb = "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n".to_owned();
    for n in 1..40 {
        let alias = format!("*a{}", n - 1);
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![alias; 10].join(","));
    }
    let started = Instant::now();
    let finding = refusal(bomb.as_bytes());
    assert!(finding.contains("aliases of this document expand to more than 512 KiB"), "{finding}");
    // Milliseconds when optimised; the bound only tells it from the age of the universe.
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn deep_nesting_is_refused_in_linear_time() {
    for open in ["[", "{a: ", "- ", "? "] {
        let text = open.repeat(100_000);
        let finding = refusal(text.as_bytes());
        assert!(finding.contains("cannot be read as YAML"), "{open}: {finding}");
    }
}

#[test]
fn a_local_yaml_tag_is_an_error() {
    let finding = refusal(b"apiVersion: v1\nkind: !secret Secret\n");
    assert!(finding.contains("the YAML tag !secret has no meaning here"), "{finding}");
}

#[test]
fn a_secret_never_shows_in_a_message() {
    let parsed = read(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'hunter2!', b: 12345678}\n\
         stringData: {c: 12345678, d: [hunter2]}\n",
    );
    let text = findings(&parsed).join("\n");
    assert_eq!(parsed.diagnostics.len(), 4, "{text}");
    assert!(!text.contains("hunter2") && !text.contains("1234"), "{text}");
}

#[test]
fn secret_data_is_decoded_and_string_data_wins() {
    let parsed = read(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\ndata:\n  a: |\n    \
         aGVs\n    bG8=\n  b: b25l\nstringData: {b: two}\n",
    );
    let Spec::Secret(secret) = &parsed.objects[0].spec else { panic!("a Secret") };
    assert_eq!(secret.value("a"), Some(&b"hello"[..]));
    assert_eq!(secret.value("b"), Some(&b"two"[..]));
    assert_eq!(secret.value("c"), None);
}

#[test]
fn fields_of_kubernetes_that_are_not_about_traffic_are_no_warning() {
    let parsed = read(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  clusterIP: 10.0.0.1\n  clusterIPs: \
         [10.0.0.1]\n  ipFamilies: [IPv4]\n  ipFamilyPolicy: SingleStack\n  internalTrafficPolicy: \
         Cluster\n  sessionAffinity: None\n  type: ClusterIP\n  selector: {app: s}\n  ports:\n  - {name: \
         http, port: 80, protocol: TCP, targetPort: web}\nstatus: {loadBalancer: {}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1}\naddressType: \
         IPv4\nports: [{name: http, port: 8080}]\nendpoints:\n- addresses: [10.1.0.1]\n  conditions: \
         {ready: true, serving: true, terminating: false}\n  nodeName: n\n  zone: z\n  hints: {forZones: \
         [{name: z}]}\n  targetRef: {kind: Pod, name: p, namespace: default, uid: u}\n---\n\
         apiVersion: v1\nkind: Endpoints\nmetadata: {name: s}\nsubsets: [{addresses: [{ip: 10.1.0.1, \
         targetRef: {kind: Pod, name: p, resourceVersion: '5'}}], ports: [{port: 8080}]}]\n",
    );
    assert_eq!(findings(&parsed), [""; 0]);
    let kinds: Vec<Kind> = parsed.objects.iter().map(Object::kind).collect();
    assert_eq!(kinds, [Kind::Service, Kind::EndpointSlice, Kind::Endpoints]);
}

#[test]
fn a_mesh_config_is_read_plain_and_from_its_config_map() {
    let mesh = "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\ndefaultConfig:\n  gatewayTopology:\n    \
                numTrustedProxies: 2\n    forwardClientCertDetails: SANITIZE_SET\npathNormalization:\n  \
                normalization: MERGE_SLASHES\nextensionProviders:\n- name: authz\n  envoyExtAuthzHttp:\n    \
                service: authz.default.svc.cluster.local\n    port: 8000\n";
    let (plain, diagnostics) = parse_mesh_config("mesh.yaml", mesh.as_bytes());
    assert_eq!(diagnostics, []);
    let config = plain.clone().unwrap();
    assert_eq!(config.access_log_file, "/dev/stdout");
    let topology = config.default_config.gateway_topology.unwrap();
    assert_eq!(topology.num_trusted_proxies, 2);

    let wrapped = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio}}\ndata:\n  mesh: |\n{}",
        mesh.lines().map(|line| format!("    {line}\n")).collect::<String>()
    );
    assert_eq!(parse_mesh_config("mesh.yaml", wrapped.as_bytes()), (plain, Vec::new()));
}

#[test]
fn a_mesh_config_says_what_is_wrong_with_it() {
    let (config, diagnostics) =
        parse_mesh_config("mesh.yaml", b"acessLogFile: x\ndefaultConfig: {concurrency: -1}\n");
    assert_eq!(config, None);
    let found: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "error: mesh.yaml:1: defaultConfig.concurrency: expected a whole number from 0 to \
             4294967295, found -1",
            "warning: mesh.yaml:1: acessLogFile: unknown field, it has no effect; did you mean \
             accessLogFile?",
        ]
    );
    assert_eq!(parse_mesh_config("mesh.yaml", b""), (Some(MeshConfig::default()), Vec::new()));
    assert_eq!(parse_mesh_config("mesh.yaml", b"a: 1\n---\nb: 1\n").1[0].source.line, 3);
}
