//! What is done to programs in pods, from the host, and how pods begin.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use super::Namespace;
use crate::{client::tools, eventually::DEADLINE};

impl Namespace<'_> {
    /// How long a pod takes from being created to being ready, as who watches sees it.
    ///
    /// # Panics
    /// It does not become ready.
    pub async fn ready_after(&self, pod: &Value) -> Duration {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let shown =
            "jsonpath={.metadata.name} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
        let mut watching = Command::new(&self.cluster.program)
            .args(["kubectl", "--namespace", &self.name, "get", "pods", "--watch", "--output"])
            .arg(shown)
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run kubectl");
        let output = watching.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(output).lines();
        self.apply(&pod.to_string()).await;
        let mut created = None;
        let ready = async {
            while let Some(line) = lines.next_line().await.expect("a line") {
                let Some(state) = line.strip_prefix(name) else { continue };
                let since: &mut Instant = created.get_or_insert_with(Instant::now);
                if state.trim() == "True" {
                    return since.elapsed();
                }
            }
            panic!("the watch ended before {name} was ready");
        };
        timeout(DEADLINE, ready).await.unwrap_or_else(|_| panic!("{name} is not ready"))
    }
}

/// Kills a program that runs in containers of these pods.
///
/// # Panics
/// It does not run.
pub async fn kill_program_of_pods(program: &str, pods: &[Value]) {
    signal_program_of_pods("KILL", program, pods).await;
}

/// Sends such a program another signal, as `kill` calls it.
///
/// # Panics
/// It does not run.
pub async fn signal_program_of_pods(signal: &str, program: &str, pods: &[Value]) {
    let processes = processes_of_pods(program, pods);
    assert!(!processes.is_empty(), "{program} runs");
    for process in processes {
        tools::stdout("kill", [&format!("-{signal}"), &process]).await;
    }
}

/// The processes of a program that run in containers of these pods, as the host numbers them.
///
/// # Panics
/// There is no `/proc`.
#[must_use]
pub fn processes_of_pods(program: &str, pods: &[Value]) -> Vec<String> {
    let is_it = |process: &fs::DirEntry| {
        let read = |file| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        let cgroup = read("cgroup");
        let mut uids = pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str());
        read("comm").trim() == program && uids.any(|uid| cgroup.contains(uid))
    };
    let processes = fs::read_dir("/proc").expect("read /proc").flatten().filter(is_it);
    processes.map(|process| process.file_name().into_string().expect("a number")).collect()
}
