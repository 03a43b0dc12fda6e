//! `weir-init` as a container that stays, and as its hook.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Four empty sets of capabilities.
const NONE: [&str; 4] = ["0000000000000000"; 4];

/// Lines of a process's status that start so.
fn status(child: &Child, start: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let lines = status.lines().filter(|line| line.starts_with(start));
    lines.map(|line| line.split_whitespace().last().unwrap().to_owned()).collect()
}

/// Its sets of capabilities, once it has given them up; what it has at the deadline otherwise.
fn capabilities_in_the_end(child: &Child) -> Vec<String> {
    let until = Instant::now() + DEADLINE;
    loop {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|set| status(child, set)).concat();
        if sets == NONE || Instant::now() >= until {
            return sets;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
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

    assert_eq!(capabilities_in_the_end(&child), NONE);
    assert_eq!(status(&child, "NoNewPrivs"), ["1"]);
    assert_eq!(status(&child, "Threads"), ["1"], "privileges are a thread's");

    // As another container of the pod would be, or this one started again.
    let again = started(&namespace, "stay");
    assert_eq!(capabilities_in_the_end(&again), NONE);
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

    let refused = init_with(&namespace, "-all", &["wait"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needs the capability NET_ADMIN"), "{refused:?}");
}

pub fn who_cannot_program_rules_does_not_stay() {
    let namespace = Namespace::new("pod");
    let refused = init_with(&namespace, "-all", &["stay"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needs the capability NET_ADMIN"), "{refused:?}");
    let refused = init(&namespace, &["stay", "-x", "10.0.0.1"]);
    assert_eq!(refused.status.code(), Some(1));
}
