//! `weir-init` as a container that stays, and as its hook.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Lines of a process's status that start so.
fn status(child: &Child, start: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let lines = status.lines().filter(|line| line.starts_with(start));
    lines.map(|line| line.split_whitespace().last().unwrap().to_owned()).collect()
}

fn started(namespace: &Namespace, action: &str) -> Child {
    let mut command = namespace.command(binaries::init());
    let piped = command.arg(action).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

pub fn who_stays_has_no_privileges_left_and_ends_when_it_is_told() {
    let namespace = Namespace::new("pod");
    let child = started(&namespace, "stay");
    let waited = init(&namespace, &["wait"]);
    assert!(waited.status.success(), "{}", text(&waited.stderr));
    assert!(rules(&namespace).contains("chain outbound"));

    let until = Instant::now() + DEADLINE;
    let capabilities = || ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|set| status(&child, set));
    let none = [(); 4].map(|()| vec!["0".repeat(16)]);
    while capabilities() != none && Instant::now() < until {
        thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(capabilities(), none);
    assert_eq!(status(&child, "NoNewPrivs"), ["1"]);
    assert_eq!(status(&child, "Threads"), ["1"], "privileges are a thread's");

    // As another container of the pod would be, or this one started again.
    let again = started(&namespace, "stay");
    for child in [again, child] {
        namespace.run("kill", &["-TERM", &child.id().to_string()]);
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert!(text(&ended.stdout).contains("chain outbound"), "the log tells the rules");
    }
    assert!(rules(&namespace).contains("chain outbound"), "they stay");
}

pub fn waiting_ends_when_there_are_rules_and_at_once_where_nobody_can_know() {
    let namespace = Namespace::new("pod");
    let mut waiting = started(&namespace, "wait");
    assert_eq!(waiting.try_wait().unwrap(), None);
    assert!(init(&namespace, &[]).status.success());
    assert!(waiting.wait().unwrap().success());

    let program = binaries::init();
    let without = ["--bounding-set=-all", "--inh-caps=-all", program.to_str().unwrap(), "wait"];
    let refused = namespace.run("setpriv", &without);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needs the capability NET_ADMIN"), "{refused:?}");
}

pub fn who_cannot_program_rules_does_not_stay() {
    let namespace = Namespace::new("pod");
    let program = binaries::init();
    let without = ["--bounding-set=-all", "--inh-caps=-all", program.to_str().unwrap(), "stay"];
    let refused = namespace.run("setpriv", &without);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needs the capability NET_ADMIN"), "{refused:?}");
    let refused = init(&namespace, &["stay", "-x", "10.0.0.1"]);
    assert_eq!(refused.status.code(), Some(1));
}
