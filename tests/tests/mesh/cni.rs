//! Rules from the node: the agent of `charts/cni` is installed for one test, and is gone after it.

use std::{path::PathBuf, time::Duration};

use weir_tests::cluster::pods::{processes_of_pods, signal_program_of_pods};

use super::*;

const AGENT: &str = "weir-cni";
const RESTRICTED: &str = "unprivileged";
const PODS: usize = 3;

/// What concerns the plugins of the cluster's node.
struct Node<'c> {
    cluster: &'c Cluster,
    folder: PathBuf,
}

impl<'c> Node<'c> {
    fn of(cluster: &'c Cluster) -> Self {
        let folder = cluster.kubeconfig().parent().unwrap().join("machines/node1");
        Self { cluster, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("cni/pods.conflist")
    }

    fn list(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.file()).unwrap()).unwrap()
    }

    fn write(&self, list: &Value) {
        fs::write(self.file(), list.to_string()).unwrap();
    }

    fn is_chained(&self) -> bool {
        self.list()["plugins"].as_array().unwrap().last().unwrap()["type"] == AGENT
    }

    fn plugin(&self) -> PathBuf {
        self.folder.join("cni-bin").join(AGENT)
    }

    async fn install(&self) {
        let folder = self.folder.display();
        let values = [
            format!("cniBinDir={folder}/cni-bin"),
            format!("cniConfDir={folder}/cni"),
            "resources.requests.cpu=1m".to_owned(),
        ];
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        self.cluster.install_cni(&values).await;
    }

    /// The pods of the agent.
    async fn agent(&self) -> Vec<Value> {
        let pods = self.cluster.existing("kube-system").all_pods().await.into_iter();
        pods.filter(|pod| pod["metadata"]["labels"]["app"] == AGENT).collect()
    }

    /// What a container wrote, also while nobody can be asked for it.
    fn log(&self, pod: &str, container: &str) -> String {
        let pods = fs::read_dir(self.folder.join("var-log/pods")).unwrap().flatten();
        let is_it = |entry: &fs::DirEntry| entry.file_name().to_str().unwrap().starts_with(pod);
        let files = pods.filter(is_it).map(|entry| entry.path().join(container).join("0.log"));
        files.filter_map(|file| fs::read_to_string(file).ok()).collect()
    }
}

/// Whether the controller leaves the rules of pods to the agent.
async fn leave_to_the_agent(test: &Namespace<'_>, is_left: bool) {
    let expected = if is_left { "istio-proxy" } else { "istio-init istio-proxy" };
    injection_is(test, ("cni", is_left), (".spec.initContainers[*].name", expected)).await;
}

pub async fn rules_of_pods_are_programmed_from_the_node(cluster: Arc<Cluster>) {
    let _alone = CONTROLLER.write().await;
    mesh(&cluster).await;
    let node = Node::of(&cluster);
    let before = node.list();
    let test = cluster.asking_for_sidecars(RESTRICTED).await;
    node.install().await;
    assert!(node.is_chained(), "{}", node.list());
    leave_to_the_agent(&test, true).await;
    let enforce = "pod-security.kubernetes.io/enforce";
    cluster.kubectl(&["label", "namespace", RESTRICTED, &format!("{enforce}=restricted")]).await;

    a_pod_without_capabilities_is_captured_before_its_init_containers(&test).await;
    how_soon_pods_are_ready(&test).await;
    a_pod_waits_while_nobody_knows_about_it(&node, &test).await;
    a_pod_that_runs_without_rules_says_so_and_is_repaired(&node, &before, &test).await;
    uninstalled_nothing_is_left(&node, &before, &test).await;
    cluster.kubectl(&["label", "namespace", RESTRICTED, &format!("{enforce}-")]).await;
    leave_to_the_agent(&test, false).await;
}

/// A pod of an application as Pod Security's `restricted` wants it.
fn unprivileged(name: &str) -> Value {
    // The node has given most of its processors to the pods of other tests.
    let little = json!({"sidecar.istio.io/proxyCPU": "1m"});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": little},
        "spec": {"terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container_of("app")]}})
}

fn container_of(name: &str) -> Value {
    json!({"name": name, "image": app::IMAGE, "imagePullPolicy": "Never",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
}

/// Whether who asks a pod asks its sidecar.
async fn passes_a_sidecar(test: &Namespace<'_>, app: &str) -> bool {
    let reply = test.ask_plainly(app, APP_PORT, &Request::get("any", "/")).await.unwrap();
    assert_eq!(reply.status, 200);
    String::from_utf8_lossy(&reply.body).contains("x-forwarded")
}

async fn a_pod_without_capabilities_is_captured_before_its_init_containers(test: &Namespace<'_>) {
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: pay }}\nspec:\n  \
         selector: {{ app: pay }}\n  ports: [{{ name: http, port: 80, targetPort: {APP_PORT} }}]\n"
    );
    test.apply(&service).await;
    test.apply(&unprivileged("pay").to_string()).await;
    test.wait("pod/pay", "condition=Ready").await;
    let mut web = unprivileged("web");
    let excluded = "traffic.sidecar.istio.io/excludeInboundPorts";
    web["metadata"]["annotations"][excluded] = json!(APP_PORT.to_string());
    let mut first = container_of("first");
    first["command"] = json!([
        "curl",
        "--fail",
        "--silent",
        "--retry",
        "9",
        "--retry-delay",
        "1",
        "--retry-all-errors",
        "http://pay/first"
    ]);
    web["spec"]["initContainers"] = json!([first]);
    test.apply(&web.to_string()).await;
    test.wait("pod/web", "condition=Ready").await;
    let pod = test.get("pod/web").await;
    assert!(!pod["spec"].to_string().contains("NET_ADMIN"), "{pod}");
    // Who was called has seen a certificate.
    let answer = test.kubectl(&["logs", "web", "--container=first"]).await;
    assert!(answer.contains(&identity(RESTRICTED, "default")), "{answer}");
    assert!(passes_a_sidecar(test, "pay").await);
    assert!(!passes_a_sidecar(test, "web").await, "an annotation leaves its port out");
}

/// For who reads it, beside the same of pods that program their rules themselves.
#[expect(clippy::print_stdout, reason = "the figures are for who reads them")]
async fn how_soon_pods_are_ready(test: &Namespace<'_>) {
    let mut times: [Vec<Duration>; 2] = Default::default();
    for number in 0..PODS {
        for (is_injected, times) in [false, true].into_iter().zip(&mut times) {
            let mut pod = unprivileged(&format!("soon-{is_injected}-{number}"));
            let inject = is_injected.to_string();
            pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!(inject);
            times.push(test.ready_after(&pod).await);
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let [without, with] = times.map(|times| times[PODS / 2]);
    println!(
        "ready after {without:?} without a sidecar, {with:?} with one and rules from the node \
         (medians of {PODS})"
    );
}

/// First the agent says nothing, then the API server that it asks is away.
async fn a_pod_waits_while_nobody_knows_about_it(node: &Node<'_>, test: &Namespace<'_>) {
    let agent = node.agent().await;
    signal_program_of_pods("STOP", AGENT, &agent).await;
    test.apply(&unprivileged("late").to_string()).await;
    test.wait("pod/late", "condition=PodScheduled").await;
    node.cluster.stop("control", "kube-apiserver").await;
    signal_program_of_pods("CONT", AGENT, &agent).await;
    eventually("the agent says that the pod has to wait", async || {
        let log = node.log("kube-system_weir-cni-", "install-cni");
        let is_it = |line: &str| line.contains("a pod has to wait") && line.contains("late");
        log.lines().any(is_it).then_some(())
    })
    .await;
    assert_eq!(node.log(&format!("{RESTRICTED}_late_"), "istio-proxy"), "", "it was not started");
    node.cluster.resume("control", "kube-apiserver").await;
    eventually("the API server is back", async || {
        let output = node.cluster.try_kubectl(&["get", "--raw", "/readyz"], "").await;
        output.status.success().then_some(())
    })
    .await;
    test.wait("pod/late", "condition=Ready").await;
}

/// As it is while another program has just written the list anew.
async fn a_pod_that_runs_without_rules_says_so_and_is_repaired(
    node: &Node<'_>,
    before: &Value,
    test: &Namespace<'_>,
) {
    const REASON: &str = "the redirect rules are not programmed in this pod";
    let agent = node.agent().await;
    signal_program_of_pods("STOP", AGENT, &agent).await;
    node.write(before);
    test.apply(&unprivileged("bare").to_string()).await;
    let pod = test.get("pod/bare").await;
    // While nothing is ready, the API server is not told the pod's address.
    let page = async || {
        let pods = std::slice::from_ref(&pod);
        let network =
            format!("--net=/proc/{}/ns/net", processes_of_pods("weir-sidecar", pods).pop()?);
        let url = "http://127.0.0.1:15021/healthz/ready";
        let asked = [&network, "curl", "--silent", "--write-out", "%{http_code}", url];
        let output = tools::run("nsenter", asked).await;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let told = eventually("the sidecar says why it is not ready", async || {
        page().await.filter(|page| page.contains(REASON))
    })
    .await;
    assert!(told.ends_with("503"), "{told}");
    let log = node.log(&format!("{RESTRICTED}_bare_"), "istio-proxy");
    assert!(log.contains(REASON), "{log}");
    let pod = test.get("pod/bare").await;
    let application = &pod["status"]["containerStatuses"][0];
    assert_eq!(application["state"]["waiting"]["reason"], "PodInitializing", "{application}");

    signal_program_of_pods("CONT", AGENT, &agent).await;
    test.wait("pod/bare", "condition=Ready").await;
    let told = page().await;
    assert_eq!(told.as_deref(), Some("LIVE\n200"));
    let pod = test.get("pod/bare").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["restartCount"], 0, "{pod}");
    assert!(passes_a_sidecar(test, "bare").await);
    eventually("the entry is back", async || node.is_chained().then_some(())).await;
}

async fn uninstalled_nothing_is_left(node: &Node<'_>, before: &Value, test: &Namespace<'_>) {
    let uninstall = ["uninstall", AGENT, "--namespace", "kube-system", "--wait"];
    let output = node.cluster.try_helm(&uninstall).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the plugin is gone", async || (!node.plugin().exists()).then_some(())).await;
    assert_eq!(&node.list(), before);
    // Who runs goes on, and who has no sidecar starts.
    assert!(passes_a_sidecar(test, "bare").await);
    let mut pod = unprivileged("after");
    pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false");
    test.apply(&pod.to_string()).await;
    test.wait("pod/after", "condition=Ready").await;
}
