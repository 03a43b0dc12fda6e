//! Connections that echo: TCP and WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    http1,
    tally::{Done, Failure},
    target::Stream,
    work::{Request, Work},
};
use crate::pattern;

/// Sends the bytes of the work and reads them back.
pub async fn tcp(stream: &mut Stream, work: &Work, buffer: &mut Vec<u8>) -> Result<Done, Failure> {
    let total = work.load.request_bytes;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        let mut offset = 0;
        while offset < total {
            let piece = pattern::at(offset, total - offset);
            writer.write_all(piece).await?;
            offset += piece.len() as u64;
        }
        writer.flush().await
    };
    let receive = async {
        let mut offset = 0;
        buffer.resize(pattern::PERIOD, 0);
        while offset < total {
            let read = reader.read(buffer).await.map_err(|e| Failure::broken("read", e))?;
            if read == 0 {
                return Err(Failure::Broken("closed before the echo was complete".into()));
            }
            if !pattern::matches(offset, &buffer[..read]) {
                return Err(Failure::Wrong(format!("other bytes than sent, from {offset} on")));
            }
            offset += read as u64;
        }
        Ok(())
    };
    let (sent, received) = tokio::join!(send, receive);
    sent.map_err(|error| Failure::broken("write", error))?;
    received?;
    Ok(Done { units: 1, bytes: total })
}

/// Upgrades a new connection.
pub async fn upgrade(
    stream: Stream,
    request: &Request,
) -> Result<Box<WebSocketStream<Stream>>, Failure> {
    let stream = http1::Connection::new(stream).upgrade(request).await?;
    Ok(Box::new(WebSocketStream::from_raw_socket(stream, Role::Client, None).await))
}

/// Sends a message and waits for its echo.
pub async fn websocket(socket: &mut WebSocketStream<Stream>, work: &Work) -> Result<Done, Failure> {
    let message = Message::Binary(work.body.clone());
    socket.send(message).await.map_err(|error| Failure::broken("send", error))?;
    match socket.next().await {
        Some(Ok(Message::Binary(echo))) if echo == work.body => {
            Ok(Done { units: 1, bytes: echo.len() as u64 })
        }
        Some(Ok(other)) => Err(Failure::Wrong(format!("{} other bytes", other.len()))),
        Some(Err(error)) => Err(Failure::broken("receive", error)),
        None => Err(Failure::Broken("closed before the echo came".into())),
    }
}
