//! The bed of the tests that need Kubernetes: that a cluster is one, and that nothing of it is left.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use http::Version;
use weir_tests::{
    client::http::{Connection, Reply, Request},
    cluster::{Cluster, Namespace, app},
    eventually::{eventually, eventually_eq},
};

weir_tests::cluster_suite! {
    nodes: 1;
    every_node_is_ready,
    a_deployment_answers_behind_its_service,
    a_load_balancer_has_an_address_outside,
    a_load_balancer_that_keeps_client_addresses_is_routed_to_a_node_that_answers,
    a_service_that_is_no_load_balancer_any_more_gives_its_address_back,
    names_resolve_in_a_pod,
    a_service_and_its_pods_answer_over_ipv6,
    a_network_policy_holds_for_both_families,
    a_pod_that_breaks_the_rules_of_its_namespace_is_refused,
    the_application_echoes_grpc,
    a_rollout_replaces_pods,
    the_control_plane_can_be_stopped_and_resumed,
    down_leaves_no_process_mount_or_namespace,
    a_cluster_ends_with_its_owner,
}

async fn every_node_is_ready(cluster: Arc<Cluster>) {
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).await;
    let words: Vec<_> = nodes.split_whitespace().collect();
    let [name, status, _, _, version] = words[..] else { panic!("one node: {nodes}") };
    assert_eq!(name, format!("{}-node1", cluster.name()));
    assert_eq!((status, version), ("Ready", "v1.36.3"));
}

async fn a_deployment_answers_behind_its_service(cluster: Arc<Cluster>) {
    let test = deployed(&cluster, "behind-service", "").await;
    let address = test.cluster_ip("echo", app::PORT).await;
    let pods = BTreeSet::from_iter(test.pods("echo").await);
    assert_eq!(pods.len(), 2);
    assert_eq!(answering(address, 2).await, pods);
    assert_eq!(ask(address, Version::HTTP_2).await.version, Version::HTTP_2);
}

async fn a_load_balancer_has_an_address_outside(cluster: Arc<Cluster>) {
    let test = deployed(&cluster, "balanced", "type: LoadBalancer").await;
    let address = test.balanced("echo", app::PORT).await;
    assert_ne!(address, test.cluster_ip("echo", app::PORT).await);
    assert_eq!(answering(address, 2).await, BTreeSet::from_iter(test.pods("echo").await));
    // The address of one Service is not another's.
    let other = deployed(&cluster, "balanced-too", "type: LoadBalancer").await;
    assert_ne!(other.balanced("echo", app::PORT).await, address);
}

async fn a_load_balancer_that_keeps_client_addresses_is_routed_to_a_node_that_answers(
    cluster: Arc<Cluster>,
) {
    let local = "type: LoadBalancer\n  externalTrafficPolicy: Local";
    let test = deployed(&cluster, "local-policy", local).await;
    let address = test.balanced("echo", app::PORT).await;
    assert_eq!(answering(address, 2).await, BTreeSet::from_iter(test.pods("echo").await));
}

async fn a_service_that_is_no_load_balancer_any_more_gives_its_address_back(cluster: Arc<Cluster>) {
    let test = cluster.namespace("given-back").await;
    test.apply(&service("type: LoadBalancer")).await;
    test.balanced("echo", app::PORT).await;
    test.apply(&service("type: ClusterIP")).await;
    eventually("the Service has no address outside", async || {
        let service = test.get("service/echo").await;
        service["status"]["loadBalancer"]["ingress"].is_null().then_some(())
    })
    .await;
}

async fn names_resolve_in_a_pod(cluster: Arc<Cluster>) {
    let test = deployed(&cluster, "names", "").await;
    let pod = &test.pods("echo").await[0];
    for name in ["echo", "echo.names", "echo.names.svc.cluster.local"] {
        let answer = test.exec(pod, &["curl", "-sS", &format!("http://{name}/asked")]).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["host"], name);
        assert_eq!(answer["target"], "/asked");
    }
}

/// A Service `echo` of both families whose pods listen on both, and their addresses of the second one.
async fn of_both_families<'c>(
    cluster: &'c Cluster,
    name: &str,
) -> (Namespace<'c>, Vec<SocketAddr>) {
    cluster.load_app().await;
    let test = cluster.namespace(name).await;
    let everywhere = "          env:\n            - { name: LISTEN, value: \"::\" }";
    test.apply(&app::manifest("echo", "v1", 2).replace("          env:", everywhere)).await;
    test.apply(&service("ipFamilyPolicy: RequireDualStack")).await;
    test.rolled_out("echo-v1").await;
    let service = test.get("service/echo").await;
    let mut addresses = vec![(service["spec"]["clusterIPs"][1].clone(), app::PORT)];
    for pod in test.pods("echo").await {
        let pod = test.get(&format!("pod/{pod}")).await;
        addresses.push((pod["status"]["podIPs"][1]["ip"].clone(), 8080));
    }
    let address = |(ip, port): (serde_json::Value, u16)| -> SocketAddr {
        (ip.as_str().unwrap().parse::<std::net::Ipv6Addr>().unwrap(), port).into()
    };
    (test, addresses.into_iter().map(address).collect())
}

async fn a_service_and_its_pods_answer_over_ipv6(cluster: Arc<Cluster>) {
    let (test, addresses) = of_both_families(&cluster, "six").await;
    let pods = test.pods("echo").await;
    assert_eq!(answering(addresses[0], 2).await, BTreeSet::from_iter(pods.clone()));
    for (pod, address) in pods.iter().zip(&addresses[1..]) {
        assert_eq!(ask(*address, Version::HTTP_11).await.header("x-pod"), Some(&**pod));
    }
    // From a pod to itself and to the other, by the name they share.
    for _ in 0..4 {
        test.exec(&pods[0], &["curl", "-sS", "--fail", "--ipv6", "http://echo/asked"]).await;
    }
}

async fn a_network_policy_holds_for_both_families(cluster: Arc<Cluster>) {
    let (test, addresses) = of_both_families(&cluster, "policy").await;
    let own_only = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: own }\n\
                    spec: { podSelector: {}, policyTypes: [Ingress], \
                    ingress: [{ from: [{ podSelector: {} }], ports: [{ port: http }] }] }\n";
    let v4 = test.cluster_ip("echo", app::PORT).await;
    let all = [v4, addresses[0], addresses[1]];
    for address in all {
        ask(address, Version::HTTP_11).await;
    }
    test.apply(own_only).await;
    for address in all {
        eventually(&format!("{address} is closed"), async || {
            Connection::http1_to(address).await.is_err().then_some(())
        })
        .await;
    }
    // What is allowed is so in both.
    let pods = test.pods("echo").await;
    for family in ["--ipv4", "--ipv6"] {
        let ask = ["curl", "-sS", "--fail", family, "http://echo/asked"];
        let answer = test.exec(&pods[0], &ask).await;
        assert!(answer.contains("\"backend\":\"v1\""), "{answer}");
    }
}

async fn a_pod_that_breaks_the_rules_of_its_namespace_is_refused(cluster: Arc<Cluster>) {
    let test = cluster.namespace("restricted").await;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", test.name(), label]).await;
    cluster.load_app().await;
    test.apply(&app::manifest("echo", "v1", 1)).await;
    test.rolled_out("echo-v1").await;
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: root }}\n\
         spec: {{ containers: [{{ name: a, image: '{}' }}] }}\n",
        app::IMAGE
    );
    let refused = test.try_apply(&pod).await;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("violates PodSecurity \"restricted:latest\""), "{told}");
}

async fn the_application_echoes_grpc(cluster: Arc<Cluster>) {
    let test = deployed(&cluster, "grpc", "").await;
    let address = test.cluster_ip("echo", app::PORT).await;
    let message = b"\0\0\0\0\x05hello".to_vec();
    let request = Request::post("echo", "/any.Service/Method", message.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut connection = Connection::http2_to(address).await.unwrap();
    let reply = connection.send(&request).await.unwrap();
    assert_eq!(reply.body, message);
    assert_eq!(reply.header("content-type"), Some("application/grpc"));
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
}

async fn a_rollout_replaces_pods(cluster: Arc<Cluster>) {
    let test = deployed(&cluster, "rollout", "").await;
    let address = test.cluster_ip("echo", app::PORT).await;
    let before = BTreeSet::from_iter(test.pods("echo").await);
    test.kubectl(&["rollout", "restart", "deployment/echo-v1"]).await;
    test.rolled_out("echo-v1").await;
    let after = BTreeSet::from_iter(test.pods("echo").await);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    eventually_eq(after, async || answering(address, 2).await).await;
}

async fn the_control_plane_can_be_stopped_and_resumed(_: Arc<Cluster>) {
    let cluster = own_cluster("stopped").await;
    let version = ["version", "--request-timeout", "2s"];
    cluster.stop("control", "kube-apiserver").await;
    assert_eq!(cluster.try_kubectl(&version, "").await.status.code(), Some(1));
    cluster.resume("control", "kube-apiserver").await;
    eventually("the API server answers again", async || {
        cluster.try_kubectl(&version, "").await.status.success().then_some(())
    })
    .await;
    cluster.down().unwrap();
}

async fn down_leaves_no_process_mount_or_namespace(_: Arc<Cluster>) {
    let cluster = own_cluster("down").await;
    let test = deployed(&cluster, "left", "").await;
    test.rolled_out("echo-v1").await;
    let machines = machines(&cluster).await;
    assert_eq!(machines.len(), 2, "a control plane and a node");
    let namespaces: BTreeSet<_> = machines.iter().flat_map(|pid| namespaces(*pid)).collect();
    let programs = in_namespaces(&namespaces);
    assert!(programs.len() > 10, "the programs of a cluster and the pods");
    assert_eq!(traces(cluster.name()), ["control group", "folder", "lock", "process"]);
    let cable = cable(cluster.name());
    assert!(link_indices().contains(&cable));

    cluster.down().unwrap();
    // Another cluster may have got the number of a namespace that is gone.
    let now = in_namespaces(&namespaces);
    assert_eq!(programs.intersection(&now).next(), None);
    assert_eq!(traces(cluster.name()), [""; 0]);
    assert!(!link_indices().contains(&cable));
}

async fn a_cluster_ends_with_its_owner(_: Arc<Cluster>) {
    let name = format!("owned-{}", std::process::id());
    let mut owner = tokio::process::Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = owner.id().unwrap();
    let up_name = name.clone();
    let up = tokio::task::spawn_blocking(move || Cluster::up_for(&up_name, 1, pid));
    let cluster = up.await.unwrap().unwrap();
    assert_eq!(traces(&name), ["control group", "folder", "lock", "process"]);
    owner.kill().await.unwrap();
    eventually("the cluster is gone", async || traces(&name).is_empty().then_some(())).await;
    cluster.down().unwrap();
}

/// Two replicas of the application behind a Service with these lines in its spec.
async fn deployed<'c>(cluster: &'c Cluster, name: &str, spec: &str) -> Namespace<'c> {
    cluster.load_app().await;
    let namespace = cluster.namespace(name).await;
    namespace.apply(&app::manifest("echo", "v1", 2)).await;
    if !spec.is_empty() {
        namespace.apply(&service(spec)).await;
    }
    namespace.rolled_out("echo-v1").await;
    namespace
}

fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: echo }}\nspec:\n  {spec}\n  \
         selector: {{ app: echo }}\n  ports: [{{ name: http, port: {}, targetPort: http }}]\n",
        app::PORT
    )
}

async fn own_cluster(purpose: &str) -> Cluster {
    let name = format!("{purpose}-{}", std::process::id());
    tokio::task::spawn_blocking(move || Cluster::up(&name, 1)).await.unwrap().unwrap()
}

async fn ask(address: SocketAddr, version: Version) -> Reply {
    let mut connection = match version {
        Version::HTTP_2 => Connection::http2_to(address).await.unwrap(),
        _ => Connection::http1_to(address).await.unwrap(),
    };
    let reply = connection.send(&Request::get("echo.test", "/")).await.unwrap();
    assert_eq!((reply.status, reply.backend()), (200, "v1"));
    reply
}

/// The pods that answer at an address, asked over new connections until there are as many as expected.
async fn answering(address: SocketAddr, expected: usize) -> BTreeSet<String> {
    let mut pods = BTreeSet::new();
    eventually("every pod has answered", async || {
        // kube-proxy's rules follow the endpoints a moment later.
        let reply = ask(address, Version::HTTP_11).await;
        pods.insert(reply.header("x-pod").unwrap().to_owned());
        (pods.len() == expected).then_some(())
    })
    .await;
    pods
}

/// The first processes of a cluster's machines.
async fn machines(cluster: &Cluster) -> Vec<u32> {
    let status = cluster.status().await;
    let processes = status.lines().filter_map(|line| line.split_once(", process "));
    processes.map(|(_, pid)| pid.parse().unwrap()).collect()
}

/// The namespaces of a process that are not the host's.
fn namespaces(pid: u32) -> BTreeSet<String> {
    let of = |pid: &str, kind| {
        let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
        Some(link.to_string_lossy().into_owned())
    };
    let kinds = ["pid", "net", "mnt", "uts", "ipc"];
    let own: BTreeSet<_> = kinds.into_iter().filter_map(|it| of(&pid.to_string(), it)).collect();
    assert_eq!(own.len(), kinds.len(), "process {pid} is there");
    assert!(kinds.iter().all(|kind| !own.contains(&of("self", kind).unwrap())));
    own
}

/// The processes in one of the namespaces, with the time each was started.
fn in_namespaces(namespaces: &BTreeSet<String>) -> BTreeSet<(u32, String)> {
    let is_inside = |process: &fs::DirEntry| {
        ["pid", "net", "mnt", "uts", "ipc"].into_iter().any(|kind| {
            fs::read_link(process.path().join("ns").join(kind))
                .is_ok_and(|link| namespaces.contains(&*link.to_string_lossy()))
        })
    };
    let alive = |process: fs::DirEntry| {
        let pid = process.file_name().to_string_lossy().parse().ok()?;
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        // After the name, which may have anything in it: the state, and 19 on the start time.
        let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
        // What has ended and is only not reaped yet has no memory any more, but still names of
        // namespaces.
        (fields[0] != "Z").then(|| (pid, fields[19].to_owned()))
    };
    fs::read_dir("/proc").unwrap().flatten().filter(is_inside).filter_map(alive).collect()
}

/// What there is on the host with a cluster's name in it.
fn traces(name: &str) -> Vec<&'static str> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .any(|place| Path::new(place).join("weir-cluster").join(name).exists());
    // Our own command line does not have it.
    let processes = fs::read_dir("/proc").unwrap().flatten().any(|process| {
        fs::read(process.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(name))
    });
    let parent = Path::new("/var/lib/weir-cluster");
    [
        ("control group", cgroups),
        ("folder", parent.join(name).exists()),
        ("lock", parent.join(format!("{name}.lock")).exists()),
        ("mount", mounts.contains(&format!("/{name}/"))),
        ("process", processes),
    ]
    .into_iter()
    .filter_map(|(what, there)| there.then_some(what))
    .collect()
}

/// The index of the host's end of the cable to a cluster. Another cluster can get its name at once.
fn cable(name: &str) -> String {
    let record = Path::new("/var/lib/weir-cluster").join(name).join("cluster.json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    fs::read_to_string(format!("/sys/class/net/weir-c{}/ifindex", record["Slot"])).unwrap()
}

fn link_indices() -> BTreeSet<String> {
    let links = fs::read_dir("/sys/class/net").unwrap().flatten();
    links.filter_map(|link| fs::read_to_string(link.path().join("ifindex")).ok()).collect()
}
