//! Pods from their start to their end.

use std::time::{Duration, Instant};

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
    // Killed it would end with another code, when the kubelet's two seconds are over. What has
    // programmed the rules ends after it.
    let ended = |number: usize| {
        format!("jsonpath={{.status.initContainerStatuses[{number}].state.terminated.exitCode}}=0")
    };
    let (proxy, init) = (ended(1), ended(0));
    let delete = test.kubectl(&["delete", "pod", "slow"]);
    tokio::join!(test.wait("pod/slow", &proxy), test.wait("pod/slow", &init), delete);
}

pub async fn what_has_programmed_the_rules_is_started_again_without_harm(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    let shop = shop(&cluster).await;
    let pod = format!("pod/{}", shop.pod("pay").await);
    let init = async || {
        let status = &shop.get(&pod).await["status"]["initContainerStatuses"][0];
        assert_eq!(status["name"], "istio-init");
        (status["restartCount"].as_u64().unwrap(), status["state"]["running"].is_object())
    };
    let (before, _) = init().await;
    let address = SocketAddr::new(shop.pod_ip("pay").await, APP_PORT);
    kill_program_of_pods("weir-init", &[shop.get(&pod).await]).await;
    eventually_eq((before + 1, true), async || {
        let reply = ask(address, &Request::get("pay", "/")).await.unwrap();
        assert!(String::from_utf8_lossy(&reply.body).contains("x-forwarded"), "it is captured");
        init().await
    })
    .await;
    shop.served_to("web", &["http://pay/"]).await;
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

/// Prints what injection adds until a pod is ready, and until it is gone: with what programs the rules
/// staying, and ending. A machine that runs everything, and programs that are built for debugging, are no
/// place for a limit in milliseconds; that it is not seconds is held.
#[expect(clippy::print_stdout, reason = "the figures are for who reads them")]
pub async fn a_pod_with_a_sidecar_is_ready_soon_after_one_without(cluster: Arc<Cluster>) {
    let _alone = CONTROLLER.write().await;
    mesh(&cluster).await;
    let test = cluster.asking_for_sidecars("soon").await;
    let without = ready_and_gone(&test, "without", false).await;
    let with = ready_and_gone(&test, "with", true).await;
    let policy = ".spec.initContainers[*].restartPolicy";
    injection_is(&test, ("residentInit", false), (policy, "Always")).await;
    let ordinary = ready_and_gone(&test, "ordinary", true).await;
    injection_is(&test, ("residentInit", true), (policy, "Always Always")).await;
    println!(
        "medians of {PODS} pods, ready after creation and gone after deletion: {without:?} without a \
         sidecar, {with:?} with one, {ordinary:?} with one and rules by a container that ends"
    );
    assert!(with.0 < without.0 + Duration::from_secs(10), "{without:?} {with:?}");
}

const PODS: usize = 3;

/// How long after its creation a pod is ready, and how long after its deletion it is gone: medians.
async fn ready_and_gone(
    test: &Namespace<'_>,
    kind: &str,
    is_injected: bool,
) -> (Duration, Duration) {
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let name = format!("{kind}-{number}");
        let inject = is_injected.to_string();
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"sidecar.istio.io/inject": inject}},
            "spec": {"containers": [
                {"name": "app", "image": app::IMAGE, "imagePullPolicy": "Never"}]}});
        ready.push(test.ready_after(&pod).await);
        let created = test.get(&format!("pod/{name}")).await;
        assert_eq!(created["spec"]["initContainers"].is_array(), is_injected);
        let begin = Instant::now();
        test.kubectl(&["delete", "pod", &name]).await;
        gone.push(begin.elapsed());
    }
    ready.sort_unstable();
    gone.sort_unstable();
    (ready[PODS / 2], gone[PODS / 2])
}
