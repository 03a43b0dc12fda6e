//! What the hooks of a sidecar's container say to the sidecar that runs in it.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// For one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two questions. The pod's next container starts when the hook ends: every pod waits for what is
/// waited here too long.
const INTERVAL: Duration = Duration::from_millis(10);
/// More than any answer here takes, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;
/// What Kubernetes shows of a container after its end; on a host there is none.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Tells it that the workload ends.
pub fn drain(agent: SocketAddr) -> ExitCode {
    match ask("POST", agent, "/drain") {
        Ok(Answer { status: 200, .. }) => ExitCode::SUCCESS,
        Ok(answer) => failed(&format!("the sidecar at {agent} answers {}", answer.status)),
        Err(error) => failed(&format!("ask the sidecar at {agent}: {error}")),
    }
}

/// Waits until it is ready. If it is not in time, the container is ended, and what it said of itself is
/// kept: while a hook runs Kubernetes shows neither state nor log of the container.
#[allow(clippy::disallowed_methods, reason = "a hook has nothing else to do in between")]
pub fn wait(status: SocketAddr, limit: Duration) -> ExitCode {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask("GET", status, "/healthz/ready");
        if matches!(answer, Ok(Answer { status: 200, .. })) {
            return ExitCode::SUCCESS;
        }
        if Instant::now() >= deadline {
            let message = match answer {
                Ok(answer) => format!("the sidecar is not ready: {}", answer.body.trim_end()),
                Err(error) => format!("the sidecar is not ready: {status}: {error}"),
            };
            leave(&message);
            return failed(&message);
        }
        thread::sleep(INTERVAL);
    }
}

/// The container's last words.
fn leave(message: &str) {
    // It is told on standard error too.
    let _ = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(TERMINATION_LOG)
        .and_then(|mut log| log.write_all(message.as_bytes()));
}

/// Kubernetes shows what a hook writes on standard error.
fn failed(message: &str) -> ExitCode {
    // Nobody is left to be told that it could not be written.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::FAILURE
}

/// What the sidecar answers.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
}

/// One request on loopback.
fn ask(method: &str, address: SocketAddr, path: &str) -> io::Result<Answer> {
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
    parse(&answer).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// Of `HTTP/1.1 200 OK`, headers and a body that is as it is: the sidecar's pages are not chunked.
fn parse(answer: &[u8]) -> Option<Answer> {
    let answer = String::from_utf8_lossy(answer);
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read() {
        let read = |answer: &[u8]| parse(answer).map(|it| (it.status, it.body));
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nwhy\n";
        assert_eq!(read(answer), Some((503, "why\n".into())));
        assert_eq!(read(b"HTTP/1.1 200\r\n\r\nOK"), Some((200, "OK".into())));
        assert_eq!(read(b"SSH-2.0\r\n"), None);
        assert_eq!(read(b""), None);
    }
}
