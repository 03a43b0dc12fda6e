//! TLS towards clients and upstreams: who is let in, by which certificate, and when it changes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::sync::Arc;

use rustls::{ClientConfig, SupportedProtocolVersion, pki_types::CertificateDer, version};
use weir_tests::{
    backend::echo::Echo,
    certs::{Authority, Identity},
    client::{
        connect_tls,
        http::{Connection, Reply, Request},
        raw::RawClient,
        tools,
    },
    config::Config,
    eventually::{eventually, eventually_eq},
    gateway::Gateway,
    objects::{documents, forward, respond, secret, service_entry, tls_secret},
};

/// A Gateway `gw` whose server on `${PORT_https}` has this `tls` and these hosts.
fn https_gateway(tls: &str, hosts: &str) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gw}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: ${{PORT_https}}, name: https, protocol: HTTPS}}
    tls: {tls}
    hosts: {hosts}
"
    )
}

/// One server with certificate `site` for every host, and a route that answers `ok`.
fn simple(identity: &Identity) -> Config {
    Config::new()
        .with(https_gateway("{mode: SIMPLE, credentialName: site}", r#"["*"]"#))
        .file("secret.yaml", tls_secret("site", &identity.certificate, &identity.key))
        .with(respond("ok", "*", "ok"))
}

/// The certificate a server shows for that name.
async fn certificate_for(port: u16, tls: &ClientConfig, name: &str) -> CertificateDer<'static> {
    let stream = connect_tls(port, tls, name).await.expect("a handshake");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

fn der(identity: &Identity) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()
}

/// A GET that fails unless the whole exchange, handshake and all, succeeds.
async fn get(port: u16, tls: &ClientConfig, host: &str) -> anyhow::Result<Reply> {
    let mut connection = Connection::tls(port, tls, host).await?;
    connection.send(&Request::get(host, "/").https()).await
}

#[tokio::test]
async fn a_terminated_request_is_served_and_known_to_be_https() {
    let (ca, echo) = (Authority::new("ca"), Echo::start("v1").await);
    let config = simple(&ca.server(&["shop.test"]))
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("shop", "shop.test", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let tls = ca.client_config(None, &["http/1.1"]);
    let echo = gateway.get_tls(&tls, "shop.test", "/a").await.unwrap().echo();
    assert_eq!(echo.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn alpn_chooses_the_protocol_and_http_1_1_is_the_default() {
    let ca = Authority::new("ca");
    let mut gateway = Gateway::start(simple(&ca.server(&["a.test"]))).await;
    let port = gateway.port("https");
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let tls = ca.client_config(None, offered);
        let stream = connect_tls(port, &tls, "a.test").await.unwrap();
        let protocol = stream.get_ref().1.alpn_protocol();
        assert_eq!(protocol, chosen.map(str::as_bytes), "{offered:?}");
        assert_eq!(get(port, &tls, "a.test").await.unwrap().text(), "ok", "{offered:?}");
    }
}

#[tokio::test]
async fn the_server_name_chooses_among_servers_of_one_port() {
    let ca = Authority::new("ca");
    let (a, any_b) = (ca.server(&["a.test"]), ca.server(&["*.b.test"]));
    let gateways = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: ${PORT_https}, name: https-a, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: a}
    hosts: [a.test]
  - port: {number: ${PORT_https}, name: https-b, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: b}
    hosts: ['*.b.test']
";
    let config = Config::new()
        .with(gateways)
        .with(tls_secret("a", &a.certificate, &a.key))
        .with(tls_secret("b", &any_b.certificate, &any_b.key))
        .with(respond("a", "a.test", "a"))
        .with(respond("b", "*.b.test", "b"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let tls = ca.client_config(None, &["h2", "http/1.1"]);
    assert_eq!(certificate_for(port, &tls, "a.test").await, der(&a));
    assert_eq!(certificate_for(port, &tls, "x.b.test").await, der(&any_b));
    assert_eq!(get(port, &tls, "a.test").await.unwrap().text(), "a");
    assert_eq!(get(port, &tls, "x.b.test").await.unwrap().text(), "b");
    assert!(connect_tls(port, &tls, "c.test").await.is_err(), "no server has this name");

    // A terminated server answers only for its own hosts, also on a connection used again.
    let mut connection = Connection::tls(port, &tls, "a.test").await.unwrap();
    let other = connection.send(&Request::get("x.b.test", "/").https()).await.unwrap();
    assert_eq!(other.status, 404);
}

#[tokio::test]
async fn a_thousand_certificates_are_told_apart() {
    let ca = Authority::new("ca");
    let identities: Vec<_> = (0..1000).map(|i| ca.server(&[&format!("h{i}.test")])).collect();
    let secrets: Vec<_> = identities
        .iter()
        .enumerate()
        .map(|(i, id)| tls_secret(&format!("s{i}"), &id.certificate, &id.key))
        .collect();
    let mut servers = String::new();
    for i in 0..1000 {
        servers += &format!(
            "  - {{port: {{number: ${{PORT_https}}, name: h{i}, protocol: HTTPS}}, hosts: [h{i}.test], tls: {{mode: SIMPLE, credentialName: s{i}}}}}\n"
        );
    }
    let gateways = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: gw}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n{servers}"
    );
    let config = Config::new().with(gateways).with(documents(&secrets));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let tls = ca.client_config(None, &[]);
    for i in [0, 1, 500, 999] {
        let shown = certificate_for(port, &tls, &format!("h{i}.test")).await;
        assert_eq!(shown, der(&identities[i]), "h{i}.test");
    }
}

#[tokio::test]
async fn old_protocol_versions_are_refused_as_configured() {
    let ca = Authority::new("ca");
    let identity = ca.server(&["a.test"]);
    let with_version = |version: &'static SupportedProtocolVersion| {
        let mut roots = rustls::RootCertStore::empty();
        use rustls::pki_types::pem::PemObject as _;
        roots.add(CertificateDer::from_pem_slice(ca.root().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let (tls12, tls13) = (with_version(&version::TLS12), with_version(&version::TLS13));

    let mut gateway = Gateway::start(simple(&identity)).await;
    let port = gateway.port("https");
    assert_eq!(get(port, &tls12, "a.test").await.unwrap().text(), "ok");
    assert_eq!(get(port, &tls13, "a.test").await.unwrap().text(), "ok");
    // TLS 1.1, which only OpenSSL still speaks.
    let address = format!("127.0.0.1:{port}");
    let old = ["s_client", "-connect", &address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    assert!(!tools::run("openssl", old).await.status.success());

    let config = simple(&identity).file(
        "01.yaml",
        https_gateway(
            "{mode: SIMPLE, credentialName: site, minProtocolVersion: TLSV1_3}",
            r#"["*"]"#,
        ),
    );
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    assert_eq!(get(port, &tls13, "a.test").await.unwrap().text(), "ok");
    assert!(get(port, &tls12, "a.test").await.is_err());
}

#[tokio::test]
async fn only_the_cipher_suites_configured_are_negotiated() {
    let ca = Authority::new("ca");
    let config = simple(&ca.server(&["a.test"])).file(
        "01.yaml",
        https_gateway(
            "{mode: SIMPLE, credentialName: site, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}",
            r#"["*"]"#,
        ),
    );
    let mut gateway = Gateway::start(config).await;
    let address = format!("127.0.0.1:{}", gateway.port("https"));
    let handshake = async |suite: &str| {
        let args = ["s_client", "-connect", &address, "-servername", "a.test", "-cipher", suite];
        tools::run("openssl", args).await
    };
    let output = handshake("ECDHE-ECDSA-AES256-GCM-SHA384").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"), "{text}");
    let output = handshake("ECDHE-ECDSA-AES128-GCM-SHA256").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("Cipher is (NONE)"), "{output:?}");
}

#[tokio::test]
async fn an_rsa_and_an_ecdsa_certificate_serve_the_clients_that_can_use_them() {
    let ca = Authority::new("ca");
    let (ec, rsa) = (ca.server(&["a.test"]), ca.rsa_server(&["a.test"]));
    let config = Config::new()
        .with(https_gateway("{mode: SIMPLE, credentialNames: [rsa, ec]}", r#"["*"]"#))
        .with(tls_secret("rsa", &rsa.certificate, &rsa.key))
        .with(tls_secret("ec", &ec.certificate, &ec.key))
        .with(respond("ok", "*", "ok"));
    let mut gateway = Gateway::start(config).await;
    let address = format!("127.0.0.1:{}", gateway.port("https"));
    for (algorithm, kind) in
        [("RSA-PSS+SHA256", "rsaEncryption"), ("ECDSA+SHA256", "id-ecPublicKey")]
    {
        let script = format!(
            "openssl s_client -connect {address} -servername a.test -sigalgs {algorithm} </dev/null 2>/dev/null | openssl x509 -noout -text"
        );
        let text = tools::stdout("sh", ["-c", &script]).await;
        assert!(text.contains(kind), "{algorithm}: {text}");
    }
}

#[tokio::test]
async fn mutual_tls_admits_only_clients_of_the_authority_and_tells_the_upstream_who() {
    let (ca, strangers) = (Authority::new("ca"), Authority::new("strangers"));
    let (server, echo) = (ca.server(&["a.test"]), Echo::start("v1").await);
    let data = [
        ("tls.crt", server.certificate.as_str()),
        ("tls.key", &server.key),
        ("ca.crt", &ca.root()),
    ];
    let config = Config::new()
        .with(https_gateway("{mode: MUTUAL, credentialName: site}", r#"["*"]"#))
        .with(secret("site", "kubernetes.io/tls", &data))
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");

    let me = ca.client(&["me.test", "spiffe://cluster.local/ns/a/sa/me"]);
    let tls = ca.client_config(Some(&me), &["http/1.1"]);
    let mut connection = Connection::tls(port, &tls, "a.test").await.unwrap();
    let forged = Request::get("a.test", "/").header("x-forwarded-client-cert", "URI=spiffe://x/y");
    let received = connection.send(&forged).await.unwrap().echo();
    let client_cert = received.header("x-forwarded-client-cert").unwrap();
    assert!(client_cert.contains("URI=spiffe://cluster.local/ns/a/sa/me"), "{client_cert}");
    assert!(client_cert.contains("Subject=\"CN=me.test\""), "{client_cert}");
    assert!(
        client_cert.contains("Hash=") && !client_cert.contains("spiffe://x/y"),
        "{client_cert}"
    );

    let stranger = strangers.client(&["me.test"]);
    assert!(get(port, &ca.client_config(Some(&stranger), &[]), "a.test").await.is_err());
    assert!(get(port, &ca.client_config(None, &[]), "a.test").await.is_err());
    // A server's certificate is no client's.
    assert!(get(port, &ca.client_config(Some(&server), &[]), "a.test").await.is_err());
    assert_eq!(echo.requests().len(), 1);
}

#[tokio::test]
async fn the_client_authority_may_be_a_companion_secret_or_generic_keys() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let server = ca.server(&["a.test"]);
    let companion = documents(&[
        tls_secret("site", &server.certificate, &server.key),
        secret("site-cacert", "Opaque", &[("ca.crt", &clients.root())]),
    ]);
    let generic = secret(
        "site",
        "Opaque",
        &[("cert", &server.certificate), ("key", &server.key), ("cacert", &clients.root())],
    );
    for secrets in [companion, generic] {
        let config = Config::new()
            .with(https_gateway("{mode: MUTUAL, credentialName: site}", r#"["*"]"#))
            .with(secrets)
            .with(respond("ok", "*", "ok"));
        let mut gateway = Gateway::start(config).await;
        let port = gateway.port("https");
        let client = clients.client(&["me"]);
        let reply = get(port, &ca.client_config(Some(&client), &[]), "a.test").await.unwrap();
        assert_eq!(reply.text(), "ok");
        let other = ca.client(&["me"]);
        assert!(get(port, &ca.client_config(Some(&other), &[]), "a.test").await.is_err());
    }
}

#[tokio::test]
async fn subject_alt_names_narrow_the_clients_admitted() {
    let ca = Authority::new("ca");
    let server = ca.server(&["a.test"]);
    let data =
        [("cert", server.certificate.as_str()), ("key", &server.key), ("cacert", &ca.root())];
    let config = Config::new()
        .with(https_gateway(
            "{mode: MUTUAL, credentialName: site, subjectAltNames: [good.test]}",
            r#"["*"]"#,
        ))
        .with(secret("site", "Opaque", &data))
        .with(respond("ok", "*", "ok"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let tls = |name: &str| ca.client_config(Some(&ca.client(&[name])), &[]);
    assert_eq!(get(port, &tls("good.test"), "a.test").await.unwrap().text(), "ok");
    assert!(get(port, &tls("bad.test"), "a.test").await.is_err());
}

#[tokio::test]
async fn optional_mutual_admits_clients_without_a_certificate_but_none_with_a_wrong_one() {
    let (ca, strangers) = (Authority::new("ca"), Authority::new("strangers"));
    let server = ca.server(&["a.test"]);
    let data =
        [("cert", server.certificate.as_str()), ("key", &server.key), ("cacert", &ca.root())];
    let echo = Echo::start("v1").await;
    let config = Config::new()
        .with(https_gateway("{mode: OPTIONAL_MUTUAL, credentialName: site}", r#"["*"]"#))
        .with(secret("site", "Opaque", &data))
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let reply = get(port, &ca.client_config(None, &[]), "a.test").await.unwrap();
    assert_eq!(reply.echo().header("x-forwarded-client-cert"), None);
    let known = ca.client_config(Some(&ca.client(&["me.test"])), &[]);
    let reply = get(port, &known, "a.test").await.unwrap();
    assert!(reply.echo().header("x-forwarded-client-cert").unwrap().contains("me.test"));
    let unknown = ca.client_config(Some(&strangers.client(&["me.test"])), &[]);
    assert!(get(port, &unknown, "a.test").await.is_err());
}

#[tokio::test]
async fn passthrough_and_terminated_servers_share_a_port() {
    let ca = Authority::new("ca");
    let (front, back) = (ca.server(&["front.test"]), ca.server(&["back.test"]));
    let upstream =
        Echo::start_tls("back", ca.server_config(&back, &["h2", "http/1.1"], false)).await;
    let objects = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: ${PORT_https}, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: site}
    hosts: [front.test]
  - port: {number: ${PORT_https}, name: tls, protocol: TLS}
    tls: {mode: PASSTHROUGH}
    hosts: ['*.test']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: back}
spec:
  hosts: ['*.test']
  gateways: [gw]
  tls:
  - match: [{sniHosts: [back.test]}]
    route: [{destination: {host: up.test}}]
";
    let config = Config::new()
        .with(objects)
        .with(tls_secret("site", &front.certificate, &front.key))
        .with(service_entry("up.test", "TLS", &[upstream.port()]))
        .with(respond("front", "front.test", "front"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let tls = ca.client_config(None, &["h2"]);
    assert_eq!(certificate_for(port, &tls, "front.test").await, der(&front));
    assert_eq!(certificate_for(port, &tls, "back.test").await, der(&back));
    assert_eq!(get(port, &tls, "front.test").await.unwrap().text(), "front");
    assert_eq!(get(port, &tls, "back.test").await.unwrap().backend(), "back");
    assert!(connect_tls(port, &tls, "other.test").await.is_err(), "no route has this name");
}

#[tokio::test]
async fn a_rotated_certificate_is_used_at_once_and_open_connections_stay() {
    let ca = Authority::new("ca");
    let (old, new) = (ca.server(&["a.test"]), ca.server(&["a.test"]));
    let mut gateway = Gateway::start(simple(&old)).await;
    let port = gateway.port("https");
    let tls = ca.client_config(None, &["http/1.1"]);
    assert_eq!(certificate_for(port, &tls, "a.test").await, der(&old));
    let mut open = Connection::tls(port, &tls, "a.test").await.unwrap();

    gateway.config().write("secret.yaml", tls_secret("site", &new.certificate, &new.key));
    eventually_eq(der(&new), async || certificate_for(port, &tls, "a.test").await).await;
    let reply = open.send(&Request::get("a.test", "/").https()).await.unwrap();
    assert_eq!(reply.text(), "ok");
}

#[tokio::test]
async fn a_missing_or_broken_secret_fails_only_its_server_until_it_is_there() {
    let ca = Authority::new("ca");
    let (good, late) = (ca.server(&["good.test"]), ca.server(&["late.test"]));
    let objects = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: ${PORT_https}, name: good, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: good}
    hosts: [good.test]
  - port: {number: ${PORT_https}, name: missing, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: missing}
    hosts: [late.test]
  - port: {number: ${PORT_https}, name: broken, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: broken}
    hosts: [broken.test]
";
    let config = Config::new()
        .with(objects)
        .with(tls_secret("good", &good.certificate, &good.key))
        .file("broken.yaml", tls_secret("broken", &good.certificate, &late.key))
        .with(respond("ok", "*", "ok"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let tls = ca.client_config(None, &[]);
    assert_eq!(get(port, &tls, "good.test").await.unwrap().text(), "ok");
    assert!(connect_tls(port, &tls, "late.test").await.is_err());
    assert!(connect_tls(port, &tls, "broken.test").await.is_err());
    gateway.log_line("default/missing").await;
    gateway.log_line("default/broken").await;

    gateway.config().write("late.yaml", tls_secret("missing", &late.certificate, &late.key));
    eventually("the late server is served", async || get(port, &tls, "late.test").await.ok()).await;
}

#[tokio::test]
async fn certificates_are_read_from_files_too() {
    let ca = Authority::new("ca");
    let identity = ca.server(&["a.test"]);
    let config = Config::new();
    let path = |name: &str| config.scratch().join(name).to_str().unwrap().to_owned();
    let (certificate, key, root) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    std::fs::write(&certificate, &identity.certificate).unwrap();
    std::fs::write(&key, &identity.key).unwrap();
    std::fs::write(&root, ca.root()).unwrap();
    let tls = format!(
        "{{mode: MUTUAL, serverCertificate: {certificate}, privateKey: {key}, caCertificates: {root}}}"
    );
    let config = config.with(https_gateway(&tls, r#"["*"]"#)).with(respond("ok", "*", "ok"));
    let mut gateway = Gateway::start(config).await;
    let port = gateway.port("https");
    let client = ca.client_config(Some(&ca.client(&["me"])), &[]);
    assert_eq!(get(port, &client, "a.test").await.unwrap().text(), "ok");
    assert!(get(port, &ca.client_config(None, &[]), "a.test").await.is_err());
}

#[tokio::test]
async fn clear_text_on_a_tls_port_is_closed_without_an_answer_to_it() {
    let ca = Authority::new("ca");
    let mut gateway = Gateway::start(simple(&ca.server(&["a.test"]))).await;
    let mut client = RawClient::connect(gateway.port("https")).await;
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    let answer = client.read_to_end().await;
    assert!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut() {
    let ca = Authority::new("ca");
    let mut gateway = Gateway::start(simple(&ca.server(&["a.test"]))).await;
    let silent = RawClient::connect(gateway.port("https")).await;
    let mut half = RawClient::connect(gateway.port("https")).await;
    // The start of a ClientHello.
    half.send([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await;
    for mut client in [silent, half] {
        // D02: within the raw client's deadline, which is twice the gateway's.
        client.read_to_end().await;
    }
}

/// An upstream over TLS, a DestinationRule with this `tls`, and what a request gets.
async fn through_upstream_tls(
    ca: &Authority,
    require_client: bool,
    tls: &str,
    more: &str,
) -> Reply {
    let identity = ca.server(&["up.test"]);
    let server = ca.server_config(&identity, &["http/1.1"], require_client);
    let upstream = Echo::start_tls("secure", server).await;
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: up}}\nspec:\n  host: up.test\n  trafficPolicy:\n    tls: {tls}\n"
    );
    let config = Config::new()
        .with(weir_tests::objects::HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[upstream.port()]))
        .with(rule)
        .with(more)
        .with(forward("all", "*", "up.test"));
    Gateway::start(config).await.get("a.test", "/").await
}

/// Only proxies of the mesh speak to us by these headers.
#[tokio::test]
async fn what_a_server_outside_the_mesh_says_in_headers_of_the_mesh_is_for_the_client() {
    let ca = Authority::new("ca");
    let server = ca.server_config(&ca.server(&["up.test"]), &["http/1.1"], false);
    let upstream = Echo::start_tls("secure", server).await;
    let config = Config::new()
        .with(weir_tests::objects::HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[upstream.port()]))
        .with(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: up}\n\
             spec: {host: up.test, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}\n",
        )
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let request =
        Request::get("a.test", "/").header("x-echo-header", "x-envoy-peer-metadata=theirs");
    let reply = gateway.send(&request).await;
    assert_eq!(reply.backend(), "secure");
    assert_eq!(reply.header("x-envoy-peer-metadata"), Some("theirs"));
}

#[tokio::test]
async fn an_upstream_is_verified_by_name_and_authority() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let root = secret("roots", "Opaque", &[("ca.crt", &ca.root())]);
    let wrong_root = secret("roots", "Opaque", &[("ca.crt", &other.root())]);
    let tls = "{mode: SIMPLE, credentialName: roots, sni: up.test}";
    let reply = through_upstream_tls(&ca, false, tls, &root).await;
    assert_eq!(reply.backend(), "secure");
    assert_eq!(through_upstream_tls(&ca, false, tls, &wrong_root).await.status, 503);
    let names = "{mode: SIMPLE, credentialName: roots, sni: up.test, subjectAltNames: [else.test]}";
    assert_eq!(through_upstream_tls(&ca, false, names, &root).await.status, 503);
    // Without an authority of its own the system's decide, and ours is not among them.
    let system = "{mode: SIMPLE, sni: up.test}";
    assert_eq!(through_upstream_tls(&ca, false, system, &root).await.status, 503);
    let skipping = "{mode: SIMPLE, sni: up.test, insecureSkipVerify: true}";
    assert_eq!(through_upstream_tls(&ca, false, skipping, &root).await.backend(), "secure");
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_an_upstream_that_asks() {
    let ca = Authority::new("ca");
    let client = ca.client(&["gateway.test"]);
    let data =
        [("cert", client.certificate.as_str()), ("key", &client.key), ("cacert", &ca.root())];
    let credential = secret("client", "Opaque", &data);
    let mutual = "{mode: MUTUAL, credentialName: client, sni: up.test}";
    assert_eq!(through_upstream_tls(&ca, true, mutual, &credential).await.backend(), "secure");
    let roots = secret("roots", "Opaque", &[("cacert", &ca.root())]);
    let simple = "{mode: SIMPLE, credentialName: roots, sni: up.test}";
    assert_eq!(through_upstream_tls(&ca, true, simple, &roots).await.status, 503);
}
