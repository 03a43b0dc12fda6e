//! The YAML most tests start from. Anything a test is about is written in the test.

use std::fmt::Write as _;

/// Labels the harness starts gateways with; the Gateways here select them.
pub const LABELS: &str = "istio=ingressgateway,app=istio-ingressgateway";

/// Gateway `gw` with one HTTP server for every host, on `${PORT_http}`.
pub const HTTP_GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: ${PORT_http}, name: http, protocol: HTTP}
    hosts: ["*"]
"#;

/// A STATIC ServiceEntry for `host`, port 80, with an endpoint on loopback for each port.
#[must_use]
pub fn service_entry(host: &str, protocol: &str, ports: &[u16]) -> String {
    let name = host.replace('.', "-");
    let mut yaml = format!(
        r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{host}]
  location: MESH_EXTERNAL
  ports:
  - {{number: 80, name: main, protocol: {protocol}}}
  resolution: STATIC
"#
    );
    if !ports.is_empty() {
        yaml.push_str("  endpoints:\n");
    }
    for port in ports {
        let _ = writeln!(yaml, "  - {{address: 127.0.0.1, ports: {{main: {port}}}}}");
    }
    yaml
}

/// A VirtualService on Gateway `gw`. `http` is the list of rules, starting at column 0.
#[must_use]
pub fn virtual_service(name: &str, host: &str, http: &str) -> String {
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: ["{host}"]
  gateways: [gw]
  http:
{}"#,
        indent(http, 2)
    )
}

/// A Gateway and its VirtualService: TCP on `${PORT_tcp}` to `destination`.
#[must_use]
pub fn tcp_forward(destination: &str) -> String {
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: tcp}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: ${{PORT_tcp}}, name: tcp, protocol: TCP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: tcp}}
spec:
  hosts: ["*"]
  gateways: [tcp]
  tcp: [{{route: [{{destination: {{host: {destination}}}}}]}}]
"#
    )
}

/// A VirtualService that sends everything for `host` to `destination`.
#[must_use]
pub fn forward(name: &str, host: &str, destination: &str) -> String {
    virtual_service(name, host, &format!("- route:\n  - destination: {{host: {destination}}}\n"))
}

/// A VirtualService that answers everything for `host` with `body`.
#[must_use]
pub fn respond(name: &str, host: &str, body: &str) -> String {
    let rule = format!("- directResponse: {{status: 200, body: {{string: \"{body}\"}}}}\n");
    virtual_service(name, host, &rule)
}

/// A `kubernetes.io/tls` Secret.
#[must_use]
pub fn tls_secret(name: &str, certificate: &str, key: &str) -> String {
    secret(name, "kubernetes.io/tls", &[("tls.crt", certificate), ("tls.key", key)])
}

/// A generic Secret.
#[must_use]
pub fn secret(name: &str, kind: &str, data: &[(&str, &str)]) -> String {
    let mut yaml = format!(
        "\napiVersion: v1\nkind: Secret\ntype: {kind}\nmetadata: {{name: {name}, namespace: default}}\nstringData:\n"
    );
    for (key, value) in data {
        let _ = writeln!(yaml, "  {key}: |\n{}", indent(value, 4));
    }
    yaml
}

/// Several documents as one file.
#[must_use]
pub fn documents<S: AsRef<str>>(all: &[S]) -> String {
    all.iter().map(|one| format!("---\n{}\n", one.as_ref())).collect()
}

/// Every line moved right by `columns`.
#[must_use]
pub fn indent(text: &str, columns: usize) -> String {
    text.trim_matches('\n').lines().map(|line| format!("{:columns$}{line}\n", "")).collect()
}
