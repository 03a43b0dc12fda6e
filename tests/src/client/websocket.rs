//! A WebSocket client.

use std::io;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use h2::{RecvStream, SendStream, ext::Protocol};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, protocol::Role},
};

use super::connect;

/// Any bytes a WebSocket can be on.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Io for T {}

#[derive(Debug)]
pub struct WebSocket {
    stream: WebSocketStream<Box<dyn Io>>,
    /// Of the response that accepted it.
    pub headers: http::HeaderMap,
    /// What moves the bytes of an HTTP/2 stream.
    _tasks: JoinSet<()>,
}

impl WebSocket {
    /// Upgrades an HTTP/1.1 connection to `ws://HOST/PATH`.
    ///
    /// # Errors
    /// When the answer is not a valid 101.
    pub async fn connect(port: u16, host: &str, path: &str) -> anyhow::Result<Self> {
        Self::over_http1(connect(port).await?, host, path).await
    }

    /// The same on a stream that is connected already.
    ///
    /// # Errors
    /// When the answer is not a valid 101.
    pub async fn over_http1(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug + 'static,
        host: &str,
        path: &str,
    ) -> anyhow::Result<Self> {
        let stream: Box<dyn Io> = Box::new(stream);
        let (stream, response) = client_async(format!("ws://{host}{path}"), stream).await?;
        let headers = response.headers().clone();
        Ok(Self { stream, headers, _tasks: JoinSet::new() })
    }

    /// A WebSocket as a stream of an HTTP/2 connection (RFC 8441).
    ///
    /// # Errors
    /// When the server does not offer that, or the answer is not 200.
    pub async fn over_http2(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        path: &str,
    ) -> anyhow::Result<Self> {
        let (sender, mut connection) = h2::client::handshake(stream).await?;
        let mut ping = connection.ping_pong().context("the first to ask")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            // Its end is seen by the stream.
            let _ = connection.await;
        });
        // Whoever answers a PING has sent its SETTINGS.
        ping.ping(h2::Ping::opaque()).await?;
        if !sender.is_extended_connect_protocol_enabled() {
            bail!("SETTINGS_ENABLE_CONNECT_PROTOCOL is not set");
        }
        let mut request = http::Request::connect(format!("http://{host}{path}"))
            .header("sec-websocket-version", "13")
            .body(())?;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, sending) = sender.ready().await?.send_request(request, false)?;
        let (head, receiving) = response.await?.into_parts();
        if head.status != 200 {
            bail!("the answer is {}", head.status);
        }
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(far);
        tasks.spawn(upload(reader, sending));
        tasks.spawn(download(receiving, writer));
        let near: Box<dyn Io> = Box::new(near);
        let stream = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        Ok(Self { stream, headers: head.headers, _tasks: tasks })
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

async fn upload(mut reader: tokio::io::ReadHalf<DuplexStream>, mut stream: SendStream<Bytes>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = reader.read(&mut bytes).await {
        let mut rest = Bytes::copy_from_slice(&bytes[..length]);
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return;
            };
            let piece = rest.split_to(room.min(rest.len()));
            if stream.send_data(piece, false).is_err() {
                return;
            }
        }
    }
    // Nobody is left to hear of a failure.
    let _ = stream.send_data(Bytes::new(), true);
}

async fn download(mut stream: RecvStream, mut writer: tokio::io::WriteHalf<DuplexStream>) {
    let write = async {
        while let Some(data) = stream.data().await {
            let data = data.map_err(io::Error::other)?;
            writer.write_all(&data).await?;
            stream.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
        }
        io::Result::Ok(())
    };
    // Either way the other end of the pipe sees the end.
    let _ = write.await;
    let _ = writer.shutdown().await;
}
