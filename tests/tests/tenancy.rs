//! Several tenants and gateways in a real cluster: who is served what.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::sync::Arc;

use serde_json::json;
use weir_tests::{
    certs::Authority,
    client::http::{Connection, Request},
    cluster::{
        Cluster, Namespace,
        shop::{PUBLIC, TO_WEB, ask, gateway, served, status, tls_gateway, virtual_service},
        weir::INGRESS,
    },
    eventually::eventually_eq,
    jwt::Issuer,
};

weir_tests::cluster_suite! {
    nodes: 1;
    requests_are_routed_by_header,
    the_port_of_a_service_says_that_it_speaks_grpc,
    a_secret_of_another_namespace_is_not_served,
    a_token_is_required_where_the_policy_says_so,
    a_gateway_serves_what_selects_it_and_no_other,
    a_virtual_service_of_another_namespace_needs_permission,
    a_tenant_leads_the_gateway_to_its_own_pods_and_nobody_elses,
}

async fn requests_are_routed_by_header(cluster: Arc<Cluster>) {
    let shop = cluster.divided_shop("header").await;
    let http = "[{ match: [{ headers: { x-group: { exact: beta } } }], \
                route: [{ destination: { host: web, subset: v2 } }] }, \
                { route: [{ destination: { host: web, subset: v1 } }] }]";
    shop.apply(&virtual_service("header.test", PUBLIC, http)).await;
    let address = cluster.ingress(80).await;
    served(address, "header.test").await;
    for _ in 0..10 {
        let plain = ask(address, &Request::get("header.test", "/")).await.unwrap();
        assert_eq!(plain.backend(), "v1");
        let beta = Request::get("header.test", "/").header("x-group", "beta");
        assert_eq!(ask(address, &beta).await.unwrap().backend(), "v2");
    }
}

async fn the_port_of_a_service_says_that_it_speaks_grpc(cluster: Arc<Cluster>) {
    let shop = cluster.shop("grpc", &["v1"]).await;
    shop.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: calls }\nspec:\n  selector: { app: web }\n  \
         ports: [{ name: grpc, port: 80, targetPort: http }]\n",
    )
    .await;
    let calls = TO_WEB.replace("web", "calls");
    shop.apply(&virtual_service("grpc.test", PUBLIC, &calls)).await;
    let address = cluster.ingress(80).await;
    served(address, "grpc.test").await;
    let message = b"\0\0\0\0\x05hello".to_vec();
    let call = Request::post("grpc.test", "/any.Service/Method", message.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut connection = Connection::http2_to(address).await.unwrap();
    let reply = connection.send(&call).await.unwrap();
    assert_eq!(reply.body, message);
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
}

fn secret(name: &str, authority: &Authority, host: &str) -> String {
    let identity = authority.server(&[host]);
    let data = json!({"tls.crt": identity.certificate, "tls.key": identity.key});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name}, "stringData": data});
    secret.to_string()
}

async fn a_secret_of_another_namespace_is_not_served(cluster: Arc<Cluster>) {
    let tenant = cluster.shop("tenant", &["v1"]).await;
    let ingress = cluster.existing(INGRESS);
    let (own, others) = (Authority::new("own"), Authority::new("others"));
    // The tenant asks the shared gateway for a certificate by a name that the ingress namespace has not.
    tenant.apply(&secret("stolen", &others, "stolen.test")).await;
    tenant.apply(&tls_gateway("stolen", "stolen.test", "stolen")).await;
    ingress.apply(&secret("own", &own, "own.test")).await;
    ingress.apply(&tls_gateway("own", "own.test", "own")).await;
    tenant.apply(&virtual_service("own.test", &format!("{INGRESS}/own"), TO_WEB)).await;
    let address = cluster.ingress(443).await;
    let connect = async |authority: &Authority, name: &str| {
        let tls = authority.client_config(None, &["http/1.1"]);
        Connection::tls_to(address, &tls, name).await.is_ok()
    };
    eventually_eq(true, async || connect(&own, "own.test").await).await;
    assert!(!connect(&others, "stolen.test").await);
}

async fn a_token_is_required_where_the_policy_says_so(cluster: Arc<Cluster>) {
    let shop = cluster.shop("token", &["v1"]).await;
    let issuer = Issuer::new("https://issuer.test", "k1");
    let selector = json!({"matchLabels": {"istio": "ingressgateway"}});
    let authentication = json!({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "token"}, "spec": {"selector": selector,
            "jwtRules": [{"issuer": "https://issuer.test", "jwks": issuer.jwks()}]}});
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "token"}, "spec": {"selector": selector, "action": "DENY",
            "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}],
                "to": [{"operation": {"hosts": ["token.test"]}}]}]}});
    let ingress = cluster.existing(INGRESS);
    ingress.apply(&authentication.to_string()).await;
    ingress.apply(&policy.to_string()).await;
    shop.apply(&virtual_service("token.test", PUBLIC, TO_WEB)).await;
    let address = cluster.ingress(80).await;
    eventually_eq(Some(403), async || status(address, "token.test").await).await;
    let with = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let request = Request::get("token.test", "/").header("authorization", &bearer);
        ask(address, &request).await.unwrap().status
    };
    assert_eq!(with(&issuer.token("alice", json!({}))).await, 200);
    assert_eq!(with(&issuer.token("alice", json!({"exp": 1}))).await, 401);
    let other = Issuer::new("https://issuer.test", "k1");
    assert_eq!(with(&other.token("alice", json!({}))).await, 401);
}

async fn a_gateway_serves_what_selects_it_and_no_other(cluster: Arc<Cluster>) {
    let shop = cluster.shop("second", &["v1"]).await;
    cluster.install_gateway("istio-second", "second-ingress", &[]).await;
    let second = cluster.existing("second-ingress");
    second.apply(&gateway("second", "second", "*")).await;
    shop.apply(&virtual_service("second.test", "second-ingress/second", TO_WEB)).await;
    let address = second.balanced("istio-second", 80).await;
    served(address, "second.test").await;
    let first = cluster.ingress(80).await;
    assert_eq!(status(first, "second.test").await, Some(404));
}

async fn a_virtual_service_of_another_namespace_needs_permission(cluster: Arc<Cluster>) {
    let (allowed, denied) =
        tokio::join!(cluster.shop("allowed", &["v1"]), cluster.shop("denied", &["v1"]));
    let ingress = cluster.existing(INGRESS);
    let only = gateway("only", "ingressgateway", "allowed/*.only.test");
    ingress.apply(&only.replace("number: 80, name: http", "number: 80, name: http-only")).await;
    let only = format!("{INGRESS}/only");
    denied.apply(&virtual_service("denied.only.test", &only, TO_WEB)).await;
    allowed.apply(&virtual_service("allowed.only.test", &only, TO_WEB)).await;
    let address = cluster.ingress(80).await;
    served(address, "allowed.only.test").await;
    assert_eq!(status(address, "denied.only.test").await, Some(404));
    // Nor may it be sent to what is exported to its own namespace alone.
    let borrowed = "[{ route: [{ destination: { host: web.denied.svc.cluster.local } }] }]";
    denied.kubectl(&["annotate", "service", "web", "networking.istio.io/exportTo=."]).await;
    allowed.apply(&virtual_service("allowed.only.test", &only, borrowed)).await;
    eventually_eq(Some(503), async || status(address, "allowed.only.test").await).await;
}

/// Hardening N07.
async fn a_tenant_leads_the_gateway_to_its_own_pods_and_nobody_elses(cluster: Arc<Cluster>) {
    let (thief, bank) = tokio::join!(cluster.shop("thief", &["v1"]), cluster.shop("bank", &["v1"]));
    let pod = async |of: &Namespace<'_>| {
        let pods = of.all_pods().await;
        pods[0]["status"]["podIP"].as_str().unwrap().to_owned()
    };
    let (own, others) = (pod(&thief).await, pod(&bank).await);
    let entry = |name: &str, resolution: &str, address: &str, port: u16| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": name},
            "spec": {"hosts": [format!("{name}.thief.internal")], "resolution": resolution,
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": port}],
                "endpoints": [{"address": address}]}})
    };
    let by_hand = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand"},
            "spec": {"ports": [{"name": "http", "port": 80}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "by-hand"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [others]}]}),
    ];
    for object in [
        entry("own", "STATIC", &own, 8080),
        entry("others", "STATIC", &others, 8080),
        // The gateway's admin port answers to this name.
        entry("admin", "DNS", "localhost", 15000),
    ]
    .iter()
    .chain(&by_hand)
    {
        thief.apply(&object.to_string()).await;
    }
    let address = cluster.ingress(80).await;
    for (name, host, expected) in [
        ("own", "own.thief.internal", 200),
        ("others", "others.thief.internal", 503),
        ("admin", "admin.thief.internal", 503),
        ("by-hand", "by-hand", 503),
    ] {
        let http = format!(
            "[{{ rewrite: {{ uri: /ready, authority: localhost }}, \
             route: [{{ destination: {{ host: {host}, port: {{ number: 80 }} }} }}] }}]"
        );
        let public = format!("{name}.thief.test");
        let route = virtual_service(&public, PUBLIC, &http);
        thief.apply(&route.replace("name: web", &format!("name: {name}"))).await;
        eventually_eq(Some(expected), async || status(address, &public).await).await;
    }
}
