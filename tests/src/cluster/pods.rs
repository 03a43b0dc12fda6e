//! What is done to programs in pods, from the host.

use std::fs;

use serde_json::Value;

use crate::client::tools;

/// Kills a program that runs in containers of these pods.
///
/// # Panics
/// It does not run.
pub async fn kill_program_of_pods(program: &str, pods: &[Value]) {
    let is_it = |process: &fs::DirEntry| {
        let read = |file| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        let cgroup = read("cgroup");
        let mut uids = pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str());
        read("comm").trim() == program && uids.any(|uid| cgroup.contains(uid))
    };
    let processes: Vec<_> = fs::read_dir("/proc").unwrap().flatten().filter(is_it).collect();
    assert!(!processes.is_empty(), "{program} runs");
    for process in processes {
        let pid = process.file_name().into_string().unwrap();
        tools::stdout("kill", ["-KILL", &pid]).await;
    }
}
