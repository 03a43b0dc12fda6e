//! `curl`, as a user types it.

use std::process::ExitStatus;

use super::tools;

/// What curl printed with `--include`.
#[derive(Debug)]
pub struct CurlOutput {
    pub exit: ExitStatus,
    /// Of the last response; 0 without one.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// Field lines of the last response.
    pub head: String,
    pub body: String,
    pub stderr: String,
}

impl CurlOutput {
    /// The value of the first field of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Runs `curl -sS --include ARGS`.
pub async fn curl(args: &[&str]) -> CurlOutput {
    let fixed = ["-sS", "--include", "--noproxy", "*", "--max-time", "30"];
    let output = tools::run("curl", fixed.iter().chain(args)).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parsed = CurlOutput {
        exit: output.status,
        status: 0,
        version: String::new(),
        head: String::new(),
        body: printed,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    // Interim responses come first, each with its own head.
    while let Some((head, rest)) =
        parsed.body.strip_prefix("HTTP/").and_then(|text| text.split_once("\r\n\r\n"))
    {
        let (status_line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut words = status_line.split(' ');
        parsed.version = words.next().unwrap_or_default().to_owned();
        parsed.status = words.next().and_then(|code| code.parse().ok()).unwrap_or_default();
        parsed.head = fields.to_owned();
        parsed.body = rest.to_owned();
    }
    parsed
}
