//! `istio-peer-exchange`: both ends of a mutual TLS connection say who they are before their first byte.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    io::{Exchanged, Frame, Io},
    telemetry::peer_metadata::{Described, MAGIC, MAX_BYTES, OwnMetadata},
};

/// A client that has said nothing by then is served as one that does not.
const SILENCE: Duration = Duration::from_millis(200);
const FRAME: Frame = Frame { magic: MAGIC, max_bytes: MAX_BYTES };

/// As the client: says who we are. What the server answers is known from the configuration, and left out
/// of what is read.
///
/// # Errors
/// The connection broke.
pub(super) async fn ask(mut io: Io, own: &OwnMetadata) -> io::Result<Io> {
    io.write_all(&own.exchange).await?;
    io.flush().await?;
    Ok(Io::Exchanged(Box::new(Exchanged::new(io, FRAME))))
}

/// As the server: says who we are, at which clients that wait with it for their first byte say who they
/// are, too.
///
/// # Errors
/// The connection broke, or what the client says makes no sense.
pub async fn answer(mut io: Io, own: &OwnMetadata) -> io::Result<(Io, Option<Described>)> {
    io.write_all(&own.exchange).await?;
    io.flush().await?;
    let mut exchanged = Exchanged::new(io, FRAME);
    let message = timeout(SILENCE, exchanged.message()).await.unwrap_or(Ok(None))?;
    let described = message.as_deref().and_then(Described::from_exchange);
    Ok((Io::Exchanged(Box::new(exchanged)), described))
}
