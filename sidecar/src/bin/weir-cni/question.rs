//! What plugin and agent say to each other: one question and one answer over a socket, in JSON.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The name of the socket in the agent's folder.
pub const SOCKET: &str = "agent.sock";
/// Of a question or an answer, in bytes. Annotations of a pod end at 256 KiB.
pub const MAX: u64 = 512 << 10;
/// The agent itself waits for the API server.
const LIMIT: Duration = Duration::from_secs(10);

/// Which pod is started, as the runtime says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Nothing, because of this.
    Skip(String),
    /// The rules of these arguments of `weir-init`.
    Program(Vec<String>),
    /// Nobody knows yet.
    Unknown(String),
    /// It cannot be known, or done, however often it is asked.
    Refuse(String),
}

/// Asks the agent that listens there.
pub fn ask(socket: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&serde_json::to_vec(question)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(MAX).read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}
