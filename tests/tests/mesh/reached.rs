//! Where an application is reached: on its loopback interface, and after it was replaced.

use super::*;

pub async fn an_application_on_loopback_is_reached_where_a_sidecar_resource_says_so(
    cluster: Arc<Cluster>,
) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.injected("loopback", &["web"]).await;
    let version = "            - { name: VERSION";
    let listen = format!("            - {{ name: LISTEN, value: 127.0.0.1 }}\n{version}");
    let pay = manifest("pay", "v1", 1).replace(version, &listen);
    // Nobody could ask it whether it is ready.
    let probe = pay.lines().filter(|line| !line.contains("readinessProbe"));
    shop.apply(&probe.collect::<Vec<_>>().join("\n")).await;
    shop.rolled_out("pay-v1").await;
    // As without a mesh: there is nobody at the pod's address.
    eventually("the service is known", async || {
        let answer = shop.ask_from("web", &["http://pay/"]).await;
        assert_ne!(answer.status, 200, "{}", answer.body);
        (answer.status == 503).then_some(())
    })
    .await;
    shop.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: pay }}\nspec:\n  \
         workloadSelector: {{ labels: {{ app: pay }} }}\n  ingress:\n  \
         - port: {{ number: {APP_PORT}, protocol: HTTP, name: http }}\n    \
         defaultEndpoint: 127.0.0.1:{APP_PORT}\n"
    ))
    .await;
    shop.served_to("web", &["http://pay/"]).await;
}

pub async fn a_pod_of_a_headless_service_that_is_replaced_is_found_again(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.injected("headless", &["web", "pay"]).await;
    shop.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: each }}\nspec:\n  clusterIP: None\n  \
         selector: {{ app: pay }}\n  ports: [{{ name: http, port: {APP_PORT} }}]\n"
    ))
    .await;
    let url = format!("http://each:{APP_PORT}/");
    shop.served_to("web", &[&url]).await;
    let (pod, old) = (shop.pod("pay").await, shop.pod_ip("pay").await);
    shop.kubectl(&["delete", "pod", "--now", &pod]).await;
    shop.rolled_out("pay-v1").await;
    // Who still goes where it was is told at once, and finds it by its name.
    let stale = format!("each:{APP_PORT}:{old}");
    eventually_eq(503, async || shop.ask_from("web", &["--resolve", &stale, &url]).await.status)
        .await;
    let answer = shop.served_to("web", &["--include", &url]).await;
    let new = shop.pod("pay").await;
    assert!(answer.body.contains(&format!("x-pod: {new}")), "{}", answer.body);
}
