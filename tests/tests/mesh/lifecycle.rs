//! Pods from their start to their end.

use std::time::Duration;

use weir_tests::cluster::pods::kill_program_of_pods;

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

pub async fn a_sidecar_ends_in_time_when_the_application_does_not(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let test = cluster.asking_for_sidecars("grace").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "slow", "labels": {"app": "slow"}},
        "spec": {"terminationGracePeriodSeconds": 3, "containers": [
            {"name": "app", "image": app::IMAGE, "imagePullPolicy": "Never",
             "env": [{"name": "GRACE_SECONDS", "value": "600"}]}]}});
    test.apply(&pod.to_string()).await;
    test.wait("pod/slow", "condition=Ready").await;
    assert_eq!(test.get("pod/slow").await["spec"]["initContainers"][1]["name"], "istio-proxy");
    // Killed it would end with another code, when the kubelet's two seconds are over.
    let ended = "jsonpath={.status.initContainerStatuses[1].state.terminated.exitCode}=0";
    let delete = test.kubectl(&["delete", "pod", "slow"]);
    tokio::join!(test.wait("pod/slow", ended), delete);
}

pub async fn a_sidecar_restarts_and_another_starts_without_a_controller(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.write().await;
    mesh(&cluster).await;
    let shop = cluster.injected("alone", &["web", "pay"]).await;
    shop.apply(&strict("alone")).await;
    shop.served_to("web", &["http://pay/"]).await;
    let plain = Request::get("pay", "/");
    eventually("the policy is in force", async || {
        shop.ask_plainly("pay", APP_PORT, &plain).await.is_none().then_some(())
    })
    .await;
    waiting(&shop).await;
    cluster.scale_controller(0).await;
    let pod = format!("pod/{}", shop.pod("pay").await);
    let restarts = async || {
        let pod = shop.get(&pod).await;
        let sidecar = &pod["status"]["initContainerStatuses"][1];
        assert_eq!(sidecar["name"], "istio-proxy");
        (sidecar["restartCount"].as_u64().unwrap(), sidecar["ready"] == true)
    };
    assert_eq!(restarts().await, (0, true));
    let address = SocketAddr::new(shop.pod_ip("pay").await, APP_PORT);
    kill_program_of_pods("weir-sidecar", &[shop.get(&pod).await]).await;
    eventually_eq((1, true), async || {
        assert!(ask(address, &plain).await.is_err(), "nobody gets in while there is no sidecar");
        restarts().await
    })
    .await;

    let answer = shop.served_to("web", &["http://pay/"]).await;
    let web = identity("alone", "web");
    assert!(answer.body.contains(&web), "it is mutual TLS: {}", answer.body);
    assert!(ask(address, &plain).await.is_err(), "the policy is in force as before");
    starts_once_the_controller_is_back(&cluster, &shop).await;
}

/// A pod that is injected now, and started when that is wished.
async fn waiting(shop: &Namespace<'_>) {
    let gate = json!([{ "name": "weir.test/later" }]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "later", "labels": {"app": "later"}},
        "spec": {"schedulingGates": gate, "containers": [
            {"name": "app", "image": app::IMAGE, "imagePullPolicy": "Never"}]}});
    shop.apply(&pod.to_string()).await;
}

async fn starts_once_the_controller_is_back(cluster: &Cluster, shop: &Namespace<'_>) {
    let go = json!([{ "op": "remove", "path": "/spec/schedulingGates" }]).to_string();
    shop.kubectl(&["patch", "pod/later", "--type=json", "--patch", &go]).await;
    eventually("the sidecar waits for its controller", async || {
        let pod = shop.get("pod/later").await;
        let ip = pod["status"]["podIP"].as_str()?.parse().unwrap();
        let status = SocketAddr::new(ip, 15021);
        let reply = ask(status, &Request::get("later", "/healthz/ready")).await.ok()?;
        (reply.status == 503).then_some(())
    })
    .await;
    let pod = shop.get("pod/later").await;
    let application = &pod["status"]["containerStatuses"][0];
    assert_eq!(application["state"]["waiting"]["reason"], "PodInitializing", "{application}");
    let conditions = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    let ready = shop.kubectl(&["get", "pod/later", "--output", conditions]).await;
    assert_eq!(ready, "False");
    cluster.scale_controller(1).await;
    shop.wait("pod/later", "condition=Ready").await;
    shop.served_to("later", &["http://pay/"]).await;
}

/// Prints what injection adds until a pod is ready. A machine that runs everything, and programs that are
/// built for debugging, are no place for a limit in milliseconds; that it is not seconds is held.
#[expect(clippy::print_stdout, reason = "the figures are for who reads them")]
pub async fn a_pod_with_a_sidecar_is_ready_soon_after_one_without(cluster: Arc<Cluster>) {
    const PODS: usize = 5;
    let _alone = CONTROLLER.write().await;
    mesh(&cluster).await;
    let namespace = cluster.asking_for_sidecars("soon").await;
    let mut times: [Vec<Duration>; 2] = Default::default();
    for number in 0..PODS {
        for (is_injected, times) in [false, true].into_iter().zip(&mut times) {
            let name = format!("{}-{number}", if is_injected { "with" } else { "without" });
            let inject = is_injected.to_string();
            let pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "labels": {"sidecar.istio.io/inject": inject}},
                "spec": {"containers": [
                    {"name": "app", "image": app::IMAGE, "imagePullPolicy": "Never"}]}});
            times.push(namespace.ready_after(&pod).await);
            let created = namespace.get(&format!("pod/{name}")).await;
            assert_eq!(created["spec"]["initContainers"].is_array(), is_injected);
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let [without, with] = times.map(|times| times[PODS / 2]);
    println!("ready after {without:?} without a sidecar, {with:?} with one (medians of {PODS})");
    assert!(with < without + Duration::from_secs(10), "{without:?} {with:?}");
}
