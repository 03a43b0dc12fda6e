//! `weirctl` under test: the real binary, as a user runs it.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::binaries::built;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What the process exited with.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The transcript of a run that succeeds and has nothing to complain about.
    #[must_use]
    pub fn silent(stdout: &str) -> String {
        let stdout = stdout.to_owned();
        Self { code: 0, stdout, stderr: String::new() }.transcript()
    }

    /// Standard output, which has to be JSON and all there is.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The rows of a table under its heading, cell by cell; cells are never empty in between.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().skip(1).map(cells).collect()
    }

    /// All of it, for a reader.
    #[must_use]
    pub fn transcript(&self) -> String {
        let Self { code, stdout, stderr } = self;
        format!("{stdout}--- standard error\n{stderr}--- exit status {code}\n")
    }
}

fn cells(line: &str) -> Vec<&str> {
    line.split("     ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// Runs `weirctl` in a folder, with no cluster but what the arguments name.
pub async fn weirctl(folder: &Path, args: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(built("weirctl"))
        .args(args)
        .current_dir(folder)
        .env_remove("KUBECONFIG")
        .env_remove("WEIR_NAMESPACE")
        .env("HOME", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("run weirctl");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A program that does not read its input is free to end before it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("wait for weirctl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome {
        code: output.status.code().expect("weirctl is not killed"),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}
