//! What the hooks of a sidecar's container say to the sidecar that runs in it.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// For one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(200);
/// More than any answer here takes, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;

/// Tells it that the workload ends.
pub fn drain(agent: SocketAddr) -> ExitCode {
    match ask("POST", agent, "/drain") {
        Ok(200) => ExitCode::SUCCESS,
        Ok(status) => failed(&format!("the sidecar at {agent} answers {status}")),
        Err(error) => failed(&format!("ask the sidecar at {agent}: {error}")),
    }
}

/// Waits until it is ready.
#[allow(clippy::disallowed_methods, reason = "a hook has nothing else to do in between")]
pub fn wait(status: SocketAddr, limit: Duration) -> ExitCode {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask("GET", status, "/healthz/ready");
        if matches!(answer, Ok(200)) {
            return ExitCode::SUCCESS;
        }
        if Instant::now() >= deadline {
            return failed(&match answer {
                Ok(answer) => format!("the sidecar is not ready: {status} answers {answer}"),
                Err(error) => format!("the sidecar is not ready: {status}: {error}"),
            });
        }
        thread::sleep(INTERVAL);
    }
}

/// Kubernetes shows what a hook writes on standard error.
fn failed(message: &str) -> ExitCode {
    // Nobody is left to be told that it could not be written.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::FAILURE
}

/// One request on loopback; returns the status of the answer.
fn ask(method: &str, address: SocketAddr, path: &str) -> io::Result<u16> {
    let address = match address.ip().is_unspecified() {
        true => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        false => address,
    };
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    status(&answer).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// Of `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some(503));
        assert_eq!(status(b"HTTP/1.1 200\r\n\r\nOK"), Some(200));
        assert_eq!(status(b"SSH-2.0\r\n"), None);
        assert_eq!(status(b""), None);
    }
}
