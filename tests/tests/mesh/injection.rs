//! What the API server makes of pods and of the mesh's objects: who is changed how, and who is refused.

use weir_tests::binaries;

use super::*;

/// A pod of an application that is asked whether it lives.
fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "image": app::IMAGE, "imagePullPolicy": "Never",
            "livenessProbe": {"httpGet": {"path": "/alive", "port": APP_PORT}}}]}})
}

/// What would be made of a pod.
async fn admitted(namespace: &Namespace<'_>, pod: &Value) -> Result<Value, String> {
    let create = ["--namespace", namespace.name(), "create", "--dry-run=server"];
    let arguments = [&create[..], &["--output=json", "--filename=-"]].concat();
    let output = namespace.cluster().try_kubectl(&arguments, &pod.to_string()).await;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// Switches a setting of injection, as a value of the chart does, but without the chart: these tests
/// have changed what is its. Until the controller makes of a pod what is expected at that path.
pub async fn injection_is(
    test: &Namespace<'_>,
    (setting, is_on): (&str, bool),
    (path, expected): (&str, &str),
) {
    let cluster = test.cluster();
    let system = cluster.existing(SYSTEM);
    let config = system.get("configmap/weir-sidecar-injector").await;
    let config = config["data"]["config.yaml"].as_str().unwrap();
    let line = |is_on: bool| format!("{setting}: {is_on}\n");
    let config = config.replace(&line(!is_on), &line(is_on));
    let patch = json!({ "data": { "config.yaml": config } }).to_string();
    let injector = ["patch", "configmap/weir-sidecar-injector", "--type=merge", "--patch", &patch];
    system.kubectl(&injector).await;
    // The kubelet looks at the volumes of a pod that has changed.
    let touch = ["annotate", "pod", "--selector=app=weir-controller", "--overwrite"];
    system.kubectl(&[&touch[..], &[&format!("weir.test/{setting}={is_on}")]].concat()).await;
    let create = ["--namespace", test.name(), "create", "--dry-run=server", "--filename=-"];
    let shown = format!("jsonpath={{{path}}}");
    let arguments = [&create[..], &["--output", &shown]].concat();
    eventually("the controller has read it", async || {
        let output = cluster.try_kubectl(&arguments, &pod("asked").to_string()).await;
        (output.stdout == expected.as_bytes()).then_some(())
    })
    .await;
}

fn container<'p>(pod: &'p Value, name: &str) -> &'p Value {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|container| container["name"] == name).unwrap_or_else(|| panic!("no {name}: {pod}"))
}

pub async fn an_injected_pod_stays_as_it_is_and_what_others_add_is_treated_alike(
    cluster: Arc<Cluster>,
) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let test = cluster.asking_for_sidecars("twice").await;
    let mut asked = pod("web");
    // The user's own wishes about the sidecar.
    asked["spec"]["initContainers"] = json!([{"name": "istio-proxy", "image": "auto",
        "resources": {"requests": {"cpu": "7m"}}, "securityContext": {"runAsUser": 1400}}]);
    let once = admitted(&test, &asked).await.unwrap();
    let mut again = once.clone();
    for field in ["uid", "creationTimestamp", "resourceVersion", "generation"] {
        again["metadata"].as_object_mut().unwrap().remove(field);
    }
    again.as_object_mut().unwrap().remove("status");
    let twice = admitted(&test, &again).await.unwrap();
    assert_eq!(twice["spec"], once["spec"]);
    for field in ["annotations", "labels"] {
        assert_eq!(twice["metadata"][field], once["metadata"][field]);
    }

    let late = json!({"name": "late", "image": app::IMAGE,
        "livenessProbe": {"httpGet": {"path": "/late", "port": 9090}}});
    let _webhook = cluster.add_to_pods("somebody.weir.test/adds", late).await;
    test.cluster().kubectl(&["label", "namespace", "twice", "somebody.weir.test/adds="]).await;
    let pod = eventually("somebody else is asked too", async || {
        let pod = admitted(&test, &asked).await.unwrap();
        pod["spec"]["containers"].as_array().unwrap().get(1)?;
        Some(pod)
    })
    .await;
    let probe = &container(&pod, "late")["livenessProbe"]["httpGet"];
    assert_eq!((&probe["path"], &probe["port"]), (&json!("/app-health/late/livez"), &json!(15020)));
    let proxy = container(&pod, "istio-proxy");
    let probers = proxy["env"].as_array().unwrap().iter();
    let probers = probers.clone().find(|it| it["name"] == "ISTIO_KUBE_APP_PROBERS").unwrap();
    let probers: Value = serde_json::from_str(probers["value"].as_str().unwrap()).unwrap();
    assert_eq!(probers["/app-health/late/livez"]["httpGet"]["path"], "/late");
    assert_eq!(probers["/app-health/app/livez"]["httpGet"]["path"], "/alive");
    assert_eq!(proxy["resources"]["requests"]["cpu"], "7m");
    assert_eq!(proxy["securityContext"]["runAsUser"], 1400);
    // The rules know whose connections are the sidecar's.
    let rules = container(&pod, "istio-init")["args"].to_string();
    assert!(rules.contains("\"-u\",\"1400\""), "{rules}");
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration", "zz-somebody"]).await;
}

pub async fn pod_security_takes_what_programs_no_rules_and_names_what_does(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let mut own = pod("web");
    own["spec"]["securityContext"] = json!({"runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}});
    own["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000,
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    for level in ["baseline", "restricted"] {
        let test = cluster.asking_for_sidecars(level).await;
        let enforce = format!("pod-security.kubernetes.io/enforce={level}");
        cluster.kubectl(&["label", "namespace", level, &enforce]).await;
        // The rules are programmed in the pod.
        let told = admitted(&test, &own).await.unwrap_err();
        assert!(told.contains(&format!("violates PodSecurity \"{level}:latest\"")), "{told}");
        assert!(told.contains("\"istio-init\"") && told.contains("NET_ADMIN"), "{told}");
        assert!(!told.contains("istio-proxy"), "the sidecar itself is no reason: {told}");
        // Somebody else has programmed them.
        let mut without = own.clone();
        without["metadata"]["annotations"] = json!({"sidecar.istio.io/interceptionMode": "NONE"});
        let pod = admitted(&test, &without).await.unwrap();
        container(&pod, "istio-proxy");
    }
    injected_for_an_agent_on_the_node(&cluster, &own).await;
}

/// The form of pods where an agent on the node programs the rules.
async fn injected_for_an_agent_on_the_node(cluster: &Cluster, pod: &Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"}, "spec": {"template": {
            "metadata": pod["metadata"], "spec": pod["spec"]}}});
    let manifest = file("web.json", &deployment.to_string());
    let config = file("inject.yaml", "cni: true\nimage: weir.test/weir-sidecar:dev\n");
    let weirctl = binaries::built("weirctl").into_os_string().into_string().unwrap();
    let arguments = ["kube-inject", "-f", &manifest, "--injectConfigFile", &config];
    let printed = tools::stdout(&weirctl, arguments).await;
    let injected: Value = serde_yaml::from_str(printed.split("---\n").next().unwrap()).unwrap();
    let template = &injected["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
        "spec": template["spec"]});
    pod["metadata"]["name"] = json!("web");
    pod["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
    let restricted = cluster.namespace("agent").await;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", "agent", enforce]).await;
    let pod = admitted(&restricted, &pod).await.unwrap();
    let arguments = container(&pod, "istio-proxy")["args"].to_string();
    assert!(arguments.contains("--await-redirection"), "{arguments}");
}

pub async fn what_has_no_meaning_is_refused_with_its_place(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    cluster.asked_first().await;
    let test = cluster.asking_for_sidecars("meaning").await;
    let annotations = [
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "many", "\"many\" is not a port"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "70000", "\"70000\" is not a port"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/33", "not a range"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "all", "\"all\" is not a range"),
        ("sidecar.istio.io/interceptionMode", "TUNNEL", "REDIRECT, TPROXY or NONE"),
        ("sidecar.istio.io/proxyCPU", "lots", "\"lots\" is not a quantity"),
        ("status.sidecar.istio.io/port", "-1", "\"-1\" is not a port, or 0 for none"),
        ("inject.istio.io/templates", "gate", "there is no template \"gate\""),
        ("proxy.istio.io/config", "concurrency: many", "concurrency: expected a whole number"),
    ];
    for (name, value, reason) in annotations {
        let mut wrong = pod("wrong");
        wrong["metadata"]["annotations"] = json!({ (name): value });
        let told = admitted(&test, &wrong).await.unwrap_err();
        assert!(told.contains(reason), "{name}: {told}");
        assert!(name.starts_with("inject") || told.contains(name), "{name}: {told}");
    }
    let objects = [
        ("Sidecar", "{}", "spec: this Sidecar sets nothing"),
        ("Sidecar", "{ egress: [{ hosts: [pay] }] }", "spec.egress[0].hosts[0]"),
        ("Sidecar", "{ egress: [{ hosts: ['a*b/pay'] }] }", "spec.egress[0].hosts[0]"),
        (
            "Sidecar",
            "{ ingress: [{ port: { number: 80, protocol: HTTP, name: http }, \
               defaultEndpoint: 10.0.0.1:80 }] }",
            "spec.ingress[0].defaultEndpoint",
        ),
        ("Sidecar", "{ ingress: [{ defaultEndpoint: 127.0.0.1:80 }] }", "spec.ingress[0].port"),
        (
            "PeerAuthentication",
            "{ portLevelMtls: { 80: { mode: STRICT } } }",
            "spec.portLevelMtls: modes of single ports need a selector",
        ),
        (
            "AuthorizationPolicy",
            "{ rules: [{ from: [{ source: { ipBlocks: ['10.0.0.0/33'] } }] }] }",
            "spec.rules[0].from[0].source.ipBlocks[0]",
        ),
        (
            "ServiceEntry",
            "{ hosts: [a.test], addresses: ['10.0.0.0/40'], resolution: NONE, \
               ports: [{ number: 80, name: http, protocol: HTTP }] }",
            "spec.addresses[0]",
        ),
    ];
    for (kind, spec, reason) in objects {
        let group =
            if kind.ends_with('r') || kind == "ServiceEntry" { "networking" } else { "security" };
        let object = format!(
            "apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{ name: wrong }}\nspec: {spec}\n"
        );
        let output = test.try_apply(&object).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(reason), "{kind} {spec}: {told}");
    }
    let there = test.kubectl(&["get", "pods,sidecars,serviceentries", "--output", "name"]).await;
    assert_eq!(there, "");
}

pub async fn rules_that_cannot_be_programmed_keep_their_pod_back_and_it_is_said_why(
    cluster: Arc<Cluster>,
) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let test = cluster.asking_for_sidecars("powerless").await;
    let mut powerless = pod("powerless");
    // What is not said here, the API server says before we are asked.
    powerless["spec"]["initContainers"] = json!([{"name": "istio-init", "image": "auto",
        "imagePullPolicy": "Never", "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}}}]);
    test.apply(&powerless.to_string()).await;
    let reason = "needs the capability NET_ADMIN";
    eventually("the pod says why", async || {
        let pod = test.get("pod/powerless").await;
        // Until the kubelet has seen the pod there are none.
        let mut statuses = pod["status"]["initContainerStatuses"].as_array()?.iter();
        let rules = statuses.find(|status| status["name"] == "istio-init").unwrap();
        let words = ["lastState", "state"].map(|state| &rules[state]["terminated"]["message"]);
        words.into_iter().filter_map(Value::as_str).any(|it| it.contains(reason)).then_some(())
    })
    .await;
    eventually("so does its log", async || {
        let logs = ["--namespace", test.name(), "logs", "powerless", "--container=istio-init"];
        let output = cluster.try_kubectl(&logs, "").await;
        String::from_utf8_lossy(&output.stdout).contains(reason).then_some(())
    })
    .await;
    let events = test.kubectl(&["get", "events", "--output", "yaml"]).await;
    assert!(events.contains("reason: FailedPostStartHook"), "{events}");
    let pod = test.get("pod/powerless").await;
    for (list, number) in [("initContainerStatuses", 1), ("containerStatuses", 0)] {
        let waiting = &pod["status"][list][number]["state"]["waiting"]["reason"];
        assert_eq!(*waiting, "PodInitializing", "{pod}");
    }
    test.kubectl(&["delete", "pod", "powerless", "--now"]).await;
}

pub async fn a_sidecar_that_cannot_start_keeps_its_pod_back_and_says_why(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let test = cluster.asking_for_sidecars("nowhere").await;
    let mut lost = pod("lost");
    lost["metadata"]["annotations"] = json!({"proxy.istio.io/config":
        "discoveryAddress: nowhere.weir-system.svc:15012"});
    test.apply(&lost.to_string()).await;
    let reason = "nowhere.weir-system.svc";
    eventually("the pod says why", async || {
        let pod = test.get("pod/lost").await;
        let sidecar = &pod["status"]["initContainerStatuses"][1];
        // When it is started again, that is how it was; before, how it is.
        let words = ["lastState", "state"].map(|state| &sidecar[state]["terminated"]["message"]);
        let says_why =
            |words: &str| words.starts_with("the sidecar is not ready") && words.contains(reason);
        words.into_iter().filter_map(Value::as_str).any(says_why).then_some(())
    })
    .await;
    eventually("so does its log", async || {
        let logs = ["--namespace", test.name(), "logs", "lost", "--container=istio-proxy"];
        let output = cluster.try_kubectl(&logs, "").await;
        String::from_utf8_lossy(&output.stdout).contains(reason).then_some(())
    })
    .await;
    let events = test.kubectl(&["get", "events", "--output", "yaml"]).await;
    assert!(events.contains("reason: FailedPostStartHook"), "{events}");
    let pod = test.get("pod/lost").await;
    let conditions = pod["status"]["conditions"].as_array().unwrap().iter();
    let ready = conditions.clone().find(|it| it["type"] == "Ready").unwrap();
    assert_eq!(ready["status"], "False");
    let application = &pod["status"]["containerStatuses"][0];
    assert_eq!(application["state"]["waiting"]["reason"], "PodInitializing", "{application}");
    test.kubectl(&["delete", "pod", "lost", "--now"]).await;
}
