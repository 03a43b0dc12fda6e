//! Servers that know only bytes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, split};

use super::Server;

/// Sends back every byte, and the end of the stream after the last.
pub async fn echo() -> Server {
    Server::start(|stream| async move {
        let (mut reader, mut writer) = split(stream);
        // An error is the client going away, which ends the connection just the same.
        let _ = copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

/// Says `greeting` and closes after the client did.
pub async fn greeter(greeting: &'static str) -> Server {
    Server::start(move |mut stream| async move {
        let _ = stream.write_all(greeting.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}
