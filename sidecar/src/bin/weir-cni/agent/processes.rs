//! The network of a pod that runs, by its processes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Network namespaces of pods, by uid, as files below `proc`. Pods that do not run have none.
pub fn namespaces<'p>(
    proc: &Path,
    uids: impl Iterator<Item = &'p String>,
) -> io::Result<BTreeMap<String, PathBuf>> {
    // The driver of systemd writes them in its own way.
    let uids: Vec<_> = uids.map(|uid| (uid, uid.replace('-', "_"))).collect();
    let mut found: BTreeMap<String, ((usize, u32), PathBuf)> = BTreeMap::new();
    for entry in fs::read_dir(proc)? {
        let path = entry?.path();
        let process = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        let Some(process) = process else { continue };
        // It may be gone by now.
        let Ok(groups) = fs::read_to_string(path.join("cgroup")) else { continue };
        let is_of = |(uid, other): &&(&String, String)| {
            groups.contains(uid.as_str()) || groups.contains(other.as_str())
        };
        let Some((uid, _)) = uids.iter().find(is_of) else { continue };
        // Containers within containers may have networks of their own: nearest to the pod is what
        // holds its namespace.
        let place = (depth(&groups), process);
        let namespace = (place, path.join("ns/net"));
        match found.get(*uid) {
            Some((nearer, _)) if *nearer <= place => {}
            _ => drop(found.insert((*uid).clone(), namespace)),
        }
    }
    Ok(found.into_iter().map(|(uid, (_, path))| (uid, path)).collect())
}

/// How far below the root a process is, in its deepest hierarchy.
fn depth(groups: &str) -> usize {
    groups.lines().map(|line| line.matches('/').count()).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_network_is_that_of_the_process_nearest_to_it() {
        let proc = tempfile::tempdir().unwrap();
        let process = |id: &str, cgroup: &str| {
            fs::create_dir(proc.path().join(id)).unwrap();
            fs::write(proc.path().join(id).join("cgroup"), cgroup).unwrap();
        };
        process("1", "0::/init.scope\n");
        process("30", "0::/kubepods/besteffort/podaaaa-1/c2/nested/c3\n");
        process("40", "0::/kubepods/besteffort/podaaaa-1/c1\n");
        process("50", "0::/kubepods/besteffort/podaaaa-1/c2\n");
        process("60", "0::/../kubepods-podbbbb_2.slice/cri-containerd-d.scope\n");
        fs::create_dir(proc.path().join("self")).unwrap();
        let uids = ["aaaa-1", "bbbb-2", "cccc-3"].map(str::to_owned);
        let found = namespaces(proc.path(), uids.iter()).unwrap();
        let expected = [("aaaa-1", "40/ns/net"), ("bbbb-2", "60/ns/net")];
        let expected = expected.map(|(uid, path)| (uid.to_owned(), proc.path().join(path)));
        assert_eq!(found, BTreeMap::from(expected));
    }
}
