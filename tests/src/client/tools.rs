//! The programs users have: run them, and say what to install when one is missing.

use std::{ffi::OsStr, process::Output};

use tokio::process::Command;

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started.
pub async fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let output = Command::new(program).args(args).kill_on_drop(true).output().await;
    output.unwrap_or_else(|error| panic!("run {program}: {error}; `.ci/setup` installs it"))
}

/// Runs a program that has to succeed, and returns what it printed.
///
/// # Panics
/// When it exits with anything but 0.
pub async fn stdout(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let output = run(program, args).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}
