//! A WebSocket client.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, handshake::client::Response},
};

use super::connect;

#[derive(Debug)]
pub struct WebSocket {
    stream: WebSocketStream<TcpStream>,
    pub response: Response,
}

impl WebSocket {
    /// Upgrades a connection to `ws://HOST/PATH`.
    ///
    /// # Errors
    /// When the answer is not a valid 101.
    pub async fn connect(port: u16, host: &str, path: &str) -> anyhow::Result<Self> {
        let stream = connect(port).await?;
        let (stream, response) = client_async(format!("ws://{host}{path}"), stream).await?;
        Ok(Self { stream, response })
    }

    /// Sends a text message and returns the next one that comes.
    pub async fn exchange(&mut self, text: &str) -> anyhow::Result<String> {
        self.stream.send(Message::text(text)).await?;
        let message = self.stream.next().await.ok_or_else(|| anyhow::anyhow!("closed"))??;
        Ok(message.into_text()?.to_string())
    }

    /// Sends a binary message and returns the next one that comes.
    pub async fn exchange_bytes(&mut self, bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        self.stream.send(Message::binary(bytes)).await?;
        let message = self.stream.next().await.ok_or_else(|| anyhow::anyhow!("closed"))??;
        Ok(message.into_data().to_vec())
    }

    /// Says goodbye and waits for the answer to it.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.stream.close(None).await?;
        while self.stream.next().await.is_some() {}
        Ok(())
    }
}
