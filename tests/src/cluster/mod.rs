//! A real Kubernetes on this host: `tests/cluster` brings it up and takes it away, its `kubectl` is the
//! only way in, as for a user.
//!
//! [`suite!`](crate::cluster_suite) runs the tests of a file in one cluster and reports them as ignored
//! where there can be none.

pub mod app;
pub mod bed;
pub mod capture;
pub mod injected;
pub mod pods;
pub mod shop;
pub mod suite;
pub mod webhook;
pub mod weir;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, sync::OnceCell};

use crate::binaries;

/// What `kubectl wait` and rollouts may take on a machine that builds something else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running cluster. Dropped, it is taken away; so it is when the process ends in any other way.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    program: PathBuf,
    kubeconfig: PathBuf,
    app: OnceCell<()>,
    weir: OnceCell<()>,
}

impl Cluster {
    /// Brings one up. Its name has to be this process's own: a cluster that has it is taken away.
    ///
    /// # Errors
    /// With what `weir-cluster` says is wrong.
    pub fn up(name: &str, nodes: u8) -> anyhow::Result<Self> {
        Self::up_for(name, nodes, std::process::id())
    }

    /// The same with another process at whose end it ends.
    ///
    /// # Errors
    /// With what `weir-cluster` says is wrong.
    pub fn up_for(name: &str, nodes: u8, owner: u32) -> anyhow::Result<Self> {
        let program = bed::program()?.join("weir-cluster");
        let owner = owner.to_string();
        let output = std::process::Command::new(&program)
            .args(["up", "--name", name, "--nodes", &nodes.to_string(), "--owner", &owner])
            .stdin(Stdio::null())
            .output()
            .context("run weir-cluster")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir-cluster up: {}\n{told}", output.status);
        let kubeconfig = String::from_utf8_lossy(&output.stdout)
            .trim()
            .strip_prefix("KUBECONFIG=")
            .map(PathBuf::from)
            .context("weir-cluster tells no KUBECONFIG")?;
        Ok(Self {
            name: name.into(),
            program,
            kubeconfig,
            app: OnceCell::new(),
            weir: OnceCell::new(),
        })
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When something of it is left.
    pub fn down(&self) -> anyhow::Result<()> {
        let output = std::process::Command::new(&self.program)
            .args(["down", "--name", &self.name])
            .output()
            .context("run weir-cluster")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir-cluster down: {}\n{told}", output.status);
        Ok(())
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The administrator's.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Ends one of the cluster's own programs, such as `kube-apiserver` of the machine `control`, or
    /// `kubelet` of `node1`; it stays away until [`Self::resume`].
    pub async fn stop(&self, machine: &str, program: &str) {
        self.weir_cluster(&["stop", "--name", &self.name, machine, program]).await;
    }

    /// Starts a program that was stopped.
    pub async fn resume(&self, machine: &str, program: &str) {
        self.weir_cluster(&["resume", "--name", &self.name, machine, program]).await;
    }

    /// What runs of it, for a reader.
    pub async fn status(&self) -> String {
        let output = self.weir_cluster(&["status", "--name", &self.name]).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Makes an image of programs of this host and gives it to every node. The first program is the
    /// entry point; manifests name the image with `imagePullPolicy: Never`.
    pub async fn load_image(&self, image: &str, programs: &[&Path]) {
        let paths: Vec<_> = programs.iter().map(|path| path.to_str().expect("UTF-8")).collect();
        let mut args = vec!["load-image", "--name", &self.name, "--image", image];
        args.extend(paths);
        self.weir_cluster(&args).await;
    }

    /// The image [`app::IMAGE`], made once: the test application, and curl to ask others from inside.
    pub async fn load_app(&self) {
        self.app
            .get_or_init(async || {
                let app = binaries::own("weir-testapp");
                self.load_image(app::IMAGE, &[&app, Path::new("/usr/bin/curl")]).await;
            })
            .await;
    }

    async fn weir_cluster(&self, args: &[&str]) -> Output {
        let output = Command::new(&self.program).args(args).output().await.expect("weir-cluster");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "weir-cluster {args:?}: {}\n{told}", output.status);
        output
    }

    /// A namespace for one test, empty.
    pub async fn namespace(&self, name: &str) -> Namespace<'_> {
        self.kubectl(&["create", "namespace", name]).await;
        Namespace { cluster: self, name: name.into() }
    }

    /// Runs `kubectl`, which has to succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub async fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args, "").await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {}\n{told}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `kubectl` with that standard input, whatever comes of it.
    pub async fn try_kubectl(&self, args: &[&str], input: &str) -> Output {
        self.run("kubectl", args, input).await
    }

    /// Runs `helm`, whatever comes of it.
    pub async fn try_helm(&self, args: &[&str]) -> Output {
        self.run("helm", args, "").await
    }

    async fn run(&self, program: &str, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(&self.program)
            .arg(program)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run weir-cluster");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        // A program that does not read its input is free to end before it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await.expect("wait for weir-cluster")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whoever wants to know whether it succeeded calls `down`; a second time does nothing.
        let _ = self.down();
    }
}

/// A namespace of a cluster.
#[derive(Debug)]
pub struct Namespace<'c> {
    cluster: &'c Cluster,
    name: String,
}

impl Namespace<'_> {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// Runs `kubectl` in it.
    pub async fn kubectl(&self, args: &[&str]) -> String {
        let args = [&["--namespace", &self.name], args].concat();
        self.cluster.kubectl(&args).await
    }

    /// `kubectl apply`, which has to be accepted.
    pub async fn apply(&self, yaml: &str) {
        let output = self.try_apply(yaml).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl apply: {}\n{told}\n{yaml}", output.status);
    }

    /// `kubectl apply`, whatever comes of it.
    pub async fn try_apply(&self, yaml: &str) -> Output {
        let args = ["--namespace", &self.name, "apply", "--filename", "-"];
        self.cluster.try_kubectl(&args, yaml).await
    }

    /// An object, such as `service/echo`.
    pub async fn get(&self, object: &str) -> Value {
        let json = self.kubectl(&["get", object, "--output", "json"]).await;
        serde_json::from_str(&json).expect("kubectl prints JSON")
    }

    /// Waits until an object is as wanted, such as `condition=Ready` or `jsonpath={...}`.
    pub async fn wait(&self, object: &str, until: &str) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["wait", object, &format!("--for={until}"), &timeout]).await;
    }

    /// Waits until a Deployment runs what was asked for last, and nothing else.
    pub async fn rolled_out(&self, deployment: &str) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let deployment = format!("deployment/{deployment}");
        self.kubectl(&["rollout", "status", &deployment, &timeout]).await;
    }

    /// Names of the pods of an application that are not being deleted.
    pub async fn pods(&self, app: &str) -> Vec<String> {
        let template = "{{range .items}}{{if not .metadata.deletionTimestamp}}\
                        {{.metadata.name}} {{end}}{{end}}";
        let output = format!("go-template={template}");
        let selector = format!("app={app}");
        let names =
            self.kubectl(&["get", "pods", "--selector", &selector, "--output", &output]).await;
        names.split_whitespace().map(Into::into).collect()
    }

    /// What a pod or Deployment wrote so far.
    pub async fn logs(&self, of: &str) -> String {
        self.kubectl(&["logs", of]).await
    }

    /// Runs a program of a pod's image in the pod; it has to succeed.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> String {
        self.kubectl(&[&["exec", pod, "--"], command].concat()).await
    }

    /// Where a Service is reached inside the cluster.
    pub async fn cluster_ip(&self, service: &str, port: u16) -> SocketAddr {
        let service = self.get(&format!("service/{service}")).await;
        address(&service["spec"]["clusterIP"], port)
    }

    /// Where a Service of type LoadBalancer is reached from outside, once it has an address.
    pub async fn balanced(&self, service: &str, port: u16) -> SocketAddr {
        let object = format!("service/{service}");
        self.wait(&object, "jsonpath={.status.loadBalancer.ingress[0].ip}").await;
        let service = self.get(&object).await;
        address(&service["status"]["loadBalancer"]["ingress"][0]["ip"], port)
    }
}

fn address(ip: &Value, port: u16) -> SocketAddr {
    let ip: IpAddr = ip.as_str().and_then(|ip| ip.parse().ok()).expect("a Service has an address");
    (ip, port).into()
}
