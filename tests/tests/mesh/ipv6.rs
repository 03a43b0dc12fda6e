//! The same over IPv6, in a cluster of both families.

use std::net::{IpAddr, SocketAddr};

use super::*;

/// Sidecar cases 8, 9, 13 and 17: a Service by its address, a headless one by its pod's, and a caller
/// without a sidecar.
pub async fn pods_with_sidecars_call_each_other_over_ipv6(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.asking_for_sidecars("six").await;
    let everywhere = "          env:\n            - { name: LISTEN, value: \"::\" }";
    let pay = manifest("pay", "v1", 1).replace("          env:", everywhere);
    shop.apply(&pay).await;
    shop.apply(&manifest("web", "v1", 1)).await;
    for (name, address, port) in [("one", "", 80), ("each", "clusterIP: None", APP_PORT)] {
        shop.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec:\n  {address}\n  \
             ipFamilies: [IPv6]\n  ipFamilyPolicy: SingleStack\n  selector: {{ app: pay }}\n  \
             ports: [{{ name: http, port: {port}, targetPort: http }}]\n"
        ))
        .await;
    }
    for app in ["pay-v1", "web-v1"] {
        shop.rolled_out(app).await;
    }
    let virtual_one: IpAddr = shop.cluster_ip("one", 80).await.ip();
    let pod = shop.get(&format!("pod/{}", shop.pod("pay").await)).await;
    let addresses = pod["status"]["podIPs"].as_array().unwrap().iter();
    let addresses = addresses.map(|it| it["ip"].as_str().unwrap().parse().unwrap());
    let own = addresses.into_iter().find(IpAddr::is_ipv6).unwrap();

    let web = format!("URI={}", identity("six", "web"));
    let vouched = |body: &str| {
        let received: Value = serde_json::from_str(body).unwrap();
        received["headers"]["x-forwarded-client-cert"][0].as_str().map(str::to_owned)
    };
    for (url, dialled) in [
        ("http://one/".to_owned(), SocketAddr::new(virtual_one, 80)),
        (format!("http://each:{APP_PORT}/"), SocketAddr::new(own, APP_PORT)),
    ] {
        let answer = shop.served_to("web", &["--ipv6", &url]).await;
        assert!(vouched(&answer.body).is_some_and(|it| it.ends_with(&web)), "{answer:?}");
        // The sidecar saw where the caller wanted to go.
        let dialled = format!(" {dialled}\n");
        eventually(&format!("the caller's log has {dialled:?}"), async || {
            let caller = shop.pod("web").await;
            let log = shop.kubectl(&["logs", &caller, "--container=istio-proxy"]).await;
            log.contains(&dialled).then_some(())
        })
        .await;
    }

    let plain = ask(SocketAddr::new(own, APP_PORT), &Request::get("pay", "/")).await.unwrap();
    assert_eq!(plain.status, 200);
    assert_eq!(plain.header("x-peer"), Some("::6"), "the sidecar took it in");
    assert_eq!(vouched(plain.text()), None);
}
