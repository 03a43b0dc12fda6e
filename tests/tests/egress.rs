//! The mesh's way out, between real sockets in namespaces of their own: every flow of `examples/egress`
//! as a user applies it, and what must not get out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use weir_tests::{
    certs::Authority,
    eventually::eventually,
    mesh::{Lan, Pod, SidecarOptions, Zone},
};

/// An address of the egress gateway's Service.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 9);
/// Where the internet is, and where nobody answers.
const SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const DEAD: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 35);
const MOVED: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 36);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x2800, 0x220, 1, 0, 0, 0, 1);
/// A name server nobody runs here: whom the application asks does not matter.
const PUBLIC_DNS: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 53);
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";
const EGRESS: &str = "spiffe://cluster.local/ns/istio-egress/sa/istio-egressgateway";

/// Who, what, where, and the verdict.
const MESH: &str = "
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
accessLogFormat: \"<%DOWNSTREAM_PEER_URI_SAN% %REQ(:AUTHORITY)% %REQUESTED_SERVER_NAME% \
%UPSTREAM_CLUSTER% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_HOST%>\\n\"
";

fn example(flow: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/egress").join(flow)
}

/// Two workloads of the mesh, an egress gateway, and an internet.
struct Scene {
    client: Pod,
    other: Pod,
    gateway: Pod,
    internet: Pod,
    zone: Zone,
    authority: Authority,
    /// Whom the internet's certificates are of.
    public: Authority,
    _lan: Lan,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new();
        let [client, other, gateway, internet] =
            ["client", "other", "gateway", "internet"].map(|name| lan.pod(name));
        internet.add_address(SERVER);
        let zone = Zone::default();
        internet.serve_dns(&zone);
        let (authority, public) = (Authority::new("mesh"), Authority::new("public"));
        Self { client, other, gateway, internet, zone, authority, public, _lan: lan }
    }

    /// The gateway's Service, as the cluster has it.
    fn cluster(&self) -> String {
        let gateway = self.gateway.ip;
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: istio-egressgateway, namespace: istio-egress}}
spec:
  clusterIP: {GATEWAY}
  selector: {{istio: egressgateway}}
  ports:
  - {{name: https, port: 443, targetPort: 8443}}
  - {{name: tls-db, port: 5432, targetPort: 15432}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: istio-egressgateway-1
  namespace: istio-egress
  labels: {{kubernetes.io/service-name: istio-egressgateway}}
addressType: IPv4
ports: [{{name: https, port: 8443}}, {{name: tls-db, port: 15432}}]
endpoints:
- addresses: [{gateway}]
  serviceAccount: istio-egressgateway
  labels: {{istio: egressgateway}}
---
"
        )
    }

    /// Starts everybody with the flow's folder, and more YAML beside it.
    async fn start(&mut self, flow: &str, more: &str) {
        let folder = example(flow);
        let folders = [folder.as_path()];
        let config = self.cluster() + more;
        let name_server = Some(self.internet.ip);
        let options = || SidecarOptions {
            config: &config,
            folders: &folders,
            mesh: MESH,
            roots: Some(&self.public),
            name_server,
            ..SidecarOptions::default()
        };
        let egress = self.authority.workload(EGRESS);
        let identity = Some((&egress, &self.authority));
        let labels = "istio=egressgateway";
        self.gateway.start_gateway(SidecarOptions { labels, identity, ..options() }).await;
        for (pod, uri, labels) in
            [(&mut self.client, CLIENT, "app=client"), (&mut self.other, OTHER, "app=other")]
        {
            let own = self.authority.workload(uri);
            let identity = Some((&own, &self.authority));
            let (init, arguments) = (&["--redirect-dns", "--capture-all-dns"], DNS);
            pod.start_sidecar(SidecarOptions { labels, identity, init, arguments, ..options() })
                .await;
        }
    }

    /// Nobody had anything to say about the configuration.
    fn is_quiet(&self) {
        for pod in [&self.gateway, &self.client, &self.other] {
            let log = pod.log();
            let said: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
            assert!(said.is_empty(), "{said:?}");
        }
    }
}

const DNS: &[&str] = &["--dns", "127.0.0.1:15053,[::1]:15053"];

/// The line of the access log that has all of these parts.
async fn logged(pod: &Pod, parts: &[&str]) {
    eventually(&format!("the log has a line with {parts:?}"), async || {
        let log = pod.log();
        let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
        log.lines().any(has_all).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_leave_by_the_gateway_which_knows_who_sends_them() {
    let mut scene = Scene::new();
    scene.zone.set("api.example.com", &[SERVER.into()]);
    scene.internet.serve_http(80, "internet");
    scene.start("http", "").await;
    let Scene { client, other, gateway, internet, .. } = &scene;

    // The address that was dialled is nobody's: the gateway finds the server.
    let answer = client.http((DEAD, 80), "GET /v1/a", "api.example.com");
    assert!(answer.contains("name=internet\n"), "{answer}");
    assert!(answer.contains(&format!("peer={}\n", gateway.ip)), "{answer}");
    logged(gateway, &[CLIENT, "api.example.com", "outbound|80||api.example.com", " 200 -"]).await;

    // The name moves, by way of a place where nobody is.
    internet.add_address(MOVED);
    scene.zone.set("api.example.com", &[DEAD.into(), MOVED.into()]);
    eventually("requests follow the name", async || {
        let answer = client.http((DEAD, 80), "GET /v1/a", "api.example.com");
        assert!(answer.contains("name=internet\n"), "{answer}");
        let log = gateway.log();
        log.contains(&format!(" {MOVED}:80>")).then_some(())
    })
    .await;

    let answer = client.http((DEAD, 80), "GET /v2/a", "api.example.com");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let answer = other.http((DEAD, 80), "GET /v1/a", "api.example.com");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    logged(gateway, &[OTHER, "api.example.com", "outbound|80||api.example.com", " 403 -"]).await;

    // Who is not of the mesh gets no further than the handshake.
    let config = scene.authority.client_config(None, &["http/1.1"]);
    assert_eq!(internet.try_https((gateway.ip, 8443), config, "api.example.com"), None);
    scene.is_quiet();
}

#[tokio::test]
async fn what_nobody_has_registered_is_refused_and_named() {
    let mut scene = Scene::new();
    scene.zone.set("api.example.com", &[SERVER.into()]);
    scene.internet.serve_http(80, "internet");
    scene.internet.serve_http(9999, "internet");
    scene.start("http", "").await;
    let Scene { client, zone, .. } = &scene;

    let refused = ["evil.example.com", "api.example.com.evil", "93.184.216.34", "0x5db8d822"];
    for host in refused {
        let answer = client.http((SERVER, 80), "GET /v1/a", host);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{host}: {answer}");
        logged(client, &[host, "BlackHoleCluster", " 502 "]).await;
    }
    assert_eq!(client.try_http((SERVER, 9999), "GET /v1/a", "api.example.com"), None);
    for metric in ["istio_requests_total{", "istio_tcp_connections_closed_total{"] {
        eventually(&format!("{metric} names the cluster"), async || {
            let metrics =
                client.try_http((Ipv4Addr::LOCALHOST, 15090), "GET /stats/prometheus", "a")?;
            let label = "destination_service_name=\"BlackHoleCluster\"";
            let mut lines = metrics.lines().filter(|line| line.starts_with(metric));
            lines.any(|line| line.contains(label)).then_some(())
        })
        .await;
    }
    let asked = zone.asked();
    assert!(refused.iter().all(|host| !asked.iter().any(|name| name == host)), "{asked:?}");
}

#[tokio::test]
async fn tls_of_the_application_leaves_by_its_server_name() {
    let mut scene = Scene::new();
    scene.zone.set("www.example.com", &[SERVER.into()]);
    let certificate = scene.public.server(&["www.example.com"]);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls);
    scene.start("passthrough", "").await;
    let Scene { client, gateway, public, .. } = &scene;

    let config = public.client_config(None, &[]);
    let answer = client.try_https((DEAD, 443), config.clone(), "www.example.com").unwrap();
    assert!(answer.contains("name=internet\nsni=www.example.com\n"), "{answer}");
    logged(gateway, &["www.example.com outbound|443||www.example.com"]).await;
    assert_eq!(client.try_https((SERVER, 443), config, "evil.example.com"), None);
    logged(client, &["evil.example.com BlackHoleCluster"]).await;
    scene.is_quiet();
}

#[tokio::test]
async fn within_mutual_tls_of_the_mesh_the_gateway_decides_by_who_and_server_name() {
    let mut scene = Scene::new();
    scene.zone.set("www.example.com", &[SERVER.into()]);
    let certificate = scene.public.server(&["www.example.com"]);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls);
    scene.start("passthrough-mtls", "").await;
    let Scene { client, other, gateway, public, .. } = &scene;

    let config = public.client_config(None, &[]);
    let answer = client.try_https((DEAD, 443), config.clone(), "www.example.com").unwrap();
    assert!(answer.contains("name=internet\nsni=www.example.com\n"), "{answer}");
    logged(gateway, &[CLIENT, "www.example.com outbound|443||www.example.com"]).await;
    assert_eq!(other.try_https((DEAD, 443), config, "www.example.com"), None);
    logged(gateway, &[OTHER, "www.example.com outbound|443||www.example.com"]).await;
    scene.is_quiet();
}

#[tokio::test]
async fn the_gateway_makes_tls_of_http_and_verifies_the_server() {
    let mut scene = Scene::new();
    scene.zone.set("api.example.com", &[SERVER.into()]);
    let certificate = scene.public.server(&["api.example.com"]);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls);
    scene.start("tls-origination", "").await;
    let Scene { client, gateway, .. } = &scene;

    let answer = client.http((DEAD, 80), "GET /v1/a", "api.example.com");
    let expected = "name=internet\nsni=api.example.com\ncertificate=false\n";
    assert!(answer.contains(expected), "{answer}");
    logged(gateway, &[CLIENT, "outbound|443||api.example.com", " 200 -"]).await;
    scene.is_quiet();
}

#[tokio::test]
async fn a_server_with_a_certificate_of_somebody_else_gets_nothing() {
    let mut scene = Scene::new();
    scene.zone.set("api.example.com", &[SERVER.into()]);
    let certificate = scene.public.server(&["www.example.com"]);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls);
    scene.start("tls-origination", "").await;
    let answer = scene.client.http((DEAD, 80), "GET /v1/a", "api.example.com");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    logged(&scene.gateway, &[CLIENT, "outbound|443||api.example.com", " 503 "]).await;
}

#[tokio::test]
async fn the_gateway_shows_a_certificate_of_its_own() {
    let mut scene = Scene::new();
    scene.zone.set("api.example.com", &[SERVER.into()]);
    let certificate = scene.public.server(&["api.example.com"]);
    let tls = scene.public.server_config(&certificate, &[], true);
    scene.internet.serve_https(443, "internet", tls);
    let own = scene.public.client(&["egress.shop.test"]);
    let indented = |text: &str| text.replace('\n', "\n    ");
    let secret = format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: client-credential, namespace: istio-egress}}
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
  ca.crt: |
    {}
",
        indented(&own.certificate),
        indented(&own.key),
        indented(&scene.public.root()),
    );
    scene.start("mutual-tls-origination", &secret).await;
    let answer = scene.client.http((DEAD, 80), "GET /v1/a", "api.example.com");
    let expected = "name=internet\nsni=api.example.com\ncertificate=true\n";
    assert!(answer.contains(expected), "{answer}");
    scene.is_quiet();
}

#[tokio::test]
async fn the_sidecar_makes_tls_of_http() {
    let mut scene = Scene::new();
    scene.zone.set("api.example.com", &[SERVER.into()]);
    let certificate = scene.public.server(&["api.example.com"]);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls);
    scene.start("sidecar-tls-origination", "").await;
    let answer = scene.client.http((DEAD, 80), "GET /v1/a", "api.example.com");
    let expected = "name=internet\nsni=api.example.com\ncertificate=false\n";
    assert!(answer.contains(expected), "{answer}");
    scene.is_quiet();
}

#[tokio::test]
async fn names_below_a_wildcard_are_looked_up_by_the_gateway() {
    let mut scene = Scene::new();
    for name in ["a.example.org", "b.c.example.org"] {
        scene.zone.set(name, &[SERVER.into()]);
    }
    // Whoever answers for a name may say anything.
    let own: [(&str, IpAddr); 4] = [
        ("loopback.example.org", Ipv4Addr::LOCALHOST.into()),
        ("metadata.example.org", Ipv4Addr::new(169, 254, 169, 254).into()),
        ("pod.example.org", scene.other.ip.into()),
        ("six.example.org", scene.other.ipv6.into()),
    ];
    for (name, address) in own {
        scene.zone.set(name, &[address]);
    }
    let names = ["*.example.org", "*.c.example.org", "a.example.org.evil"];
    let certificate = scene.public.server(&names);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls.clone());
    scene.other.serve_https(443, "other", tls);
    scene.start("wildcard", "").await;
    let Scene { client, gateway, public, zone, .. } = &scene;
    scene.internet.add_address(SERVER_V6);
    zone.set("v6.example.org", &[SERVER_V6.into()]);

    let config = public.client_config(None, &[]);
    for name in ["a.example.org", "b.c.example.org", "v6.example.org"] {
        // Dialled is a place of the client's choice.
        let answer = client.try_https((DEAD, 443), config.clone(), name).unwrap();
        assert!(answer.contains(&format!("name=internet\nsni={name}\n")), "{answer}");
        logged(gateway, &[&format!("{name} outbound|443||*.example.org")]).await;
    }
    for (name, _) in own {
        assert_eq!(client.try_https((DEAD, 443), config.clone(), name), None, "{name}");
        logged(gateway, &[&format!("{name} outbound|443||*.example.org 0 DF")]).await;
    }
    for name in ["example.org", "a.example.org.evil", "aexample.org"] {
        assert_eq!(client.try_https((SERVER, 443), config.clone(), name), None, "{name}");
        logged(client, &[&format!("{name} BlackHoleCluster")]).await;
        assert!(!zone.asked().iter().any(|asked| asked == name), "{name}");
    }
}

#[tokio::test]
async fn who_asks_for_a_name_below_a_wildcard_is_known_to_the_gateway() {
    let mut scene = Scene::new();
    for name in ["a.example.org", "b.example.org"] {
        scene.zone.set(name, &[SERVER.into()]);
    }
    let certificate = scene.public.server(&["*.example.org"]);
    let tls = scene.public.server_config(&certificate, &[], false);
    scene.internet.serve_https(443, "internet", tls);
    scene.start("wildcard-mtls", "").await;
    let Scene { client, other, gateway, public, .. } = &scene;

    let config = public.client_config(None, &[]);
    let answer = client.try_https((DEAD, 443), config.clone(), "a.example.org").unwrap();
    assert!(answer.contains("name=internet\nsni=a.example.org\n"), "{answer}");
    logged(gateway, &[CLIENT, "a.example.org outbound|443||*.example.org"]).await;
    assert_eq!(client.try_https((DEAD, 443), config.clone(), "b.example.org"), None);
    logged(gateway, &[CLIENT, "b.example.org outbound|443||*.example.org"]).await;
    assert_eq!(other.try_https((DEAD, 443), config, "a.example.org"), None);
    logged(gateway, &[OTHER, "a.example.org outbound|443||*.example.org"]).await;
    scene.is_quiet();
}

#[tokio::test]
async fn requests_to_names_below_a_wildcard_go_where_they_resolve_to_on_the_port_of_the_service() {
    let mut scene = Scene::new();
    scene.internet.serve_http(8080, "internet");
    scene.other.serve_http(8080, "other");
    scene.zone.set("a.example.org", &[DEAD.into(), SERVER.into()]);
    scene.zone.set("inside.example.org", &[scene.other.ip.into()]);
    scene.zone.set("private.example.org", &[Ipv4Addr::new(10, 99, 0, 1).into()]);
    let entry = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: web
  namespace: shop
  annotations: {{weir.dev/allowedIPRanges: \"{}/32\"}}
spec:
  hosts: [\"*.example.org\"]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]
  resolution: DYNAMIC_DNS
",
        scene.other.ip
    );
    scene.start("passthrough", &entry).await;
    let Scene { client, .. } = &scene;
    // The first address may be one where nobody answers: then the other one is tried.
    for _ in 0..4 {
        let answer = client.http((DEAD, 80), "GET /", "a.example.org:9999");
        assert!(answer.contains("name=internet\n"), "{answer}");
    }
    let answer = client.http((DEAD, 80), "GET /", "inside.example.org");
    assert!(answer.contains("name=other\n"), "{answer}");
    for (host, status) in [("private.example.org", "502"), ("nowhere.example.org", "502")] {
        let answer = client.http((DEAD, 80), "GET /", host);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
        logged(client, &[host, "outbound|80||*.example.org 502 DF"]).await;
    }
}

#[tokio::test]
async fn connections_to_a_name_leave_by_their_port() {
    let mut scene = Scene::new();
    scene.zone.set("db.example.com", &[SERVER.into()]);
    scene.internet.serve_echo(5432, "welcome\n");
    scene.start("tcp", "").await;
    let Scene { client, other, gateway, .. } = &scene;

    let (_, addresses) = client.ask(PUBLIC_DNS, "db.example.com", "A").unwrap();
    let address = addresses[0];
    assert!(address.to_string().starts_with("240.240."), "{address}");
    let mut stream = client.connect((address, 5432)).unwrap();
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"welcome\n");
    stream.write_all(b"select 1").unwrap();
    let mut echoed = [0; 8];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"select 1");
    drop(stream);
    logged(gateway, &[CLIENT, "db.example.com outbound|5432||db.example.com"]).await;

    let mut stream = other.connect((address, 5432)).unwrap();
    let mut bytes = Vec::new();
    // Broken off or ended, but not served.
    let _ = stream.read_to_end(&mut bytes);
    assert_eq!(bytes, b"");
    logged(gateway, &[OTHER, "db.example.com outbound|5432||db.example.com"]).await;
    scene.is_quiet();
}
