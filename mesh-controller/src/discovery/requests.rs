//! Requests off the wire: gRPC's framing, and no more memory than what is being read.
//!
//! Not tonic's `Streaming`, which keeps a buffer of the size of the largest message as long as the
//! stream lives: what a proxy says first names everything it has, and would stay for all of them.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::Message;
use tonic::Status;
use weir_config::wire::discovery::{DeltaDiscoveryRequest, MAX_MESSAGE_SIZE};

/// A request names what the proxy has, of as many objects as there may be.
const MAX_REQUEST: usize = 4 * MAX_MESSAGE_SIZE;
/// Whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Capacity that is kept between requests.
const KEPT: usize = 16 * 1024;

/// The requests of a stream.
#[derive(Debug)]
pub(super) struct Requests<B> {
    body: B,
    buffer: BytesMut,
}

impl<B> Requests<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(super) fn new(body: B) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next one; `None` when the proxy has nothing more to say. May be cancelled.
    ///
    /// # Errors
    /// What comes is none, or the connection broke.
    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        loop {
            if let Some(request) = self.buffered()? {
                return Ok(Some(request));
            }
            let Some(frame) = self.body.frame().await else {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Status::internal("the stream ends within a message"))
                };
            };
            let frame = frame.map_err(|error| Status::unavailable(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// A request that is here as a whole.
    fn buffered(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let Some((prefix, rest)) = self.buffer.split_at_checked(PREFIX) else { return Ok(None) };
        let length = (&prefix[1..]).get_u32() as usize;
        if prefix[0] != 0 {
            return Err(Status::unimplemented("compressed messages are not read"));
        }
        if length > MAX_REQUEST {
            return Err(Status::resource_exhausted("the message is too large"));
        }
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let request = DeltaDiscoveryRequest::decode(message).map_err(|error| {
            Status::invalid_argument(format!("not a discovery request: {error}"))
        })?;
        self.buffer.advance(PREFIX + length);
        if length > KEPT {
            self.buffer = BytesMut::from(&*self.buffer);
        }
        Ok(Some(request))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn framed(type_url: &str) -> Vec<u8> {
        let request = DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() };
        let message = request.encode_to_vec();
        let mut framed = vec![0];
        framed.put_u32(message.len() as u32);
        framed.extend(message);
        framed
    }

    async fn read(chunks: Vec<Vec<u8>>) -> Result<Vec<String>, Status> {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, Status>(Frame::data(chunk.into())));
        let mut requests = Requests::new(StreamBody::new(stream::iter(frames)));
        let mut types = Vec::new();
        while let Some(request) = requests.message().await? {
            types.push(request.type_url);
        }
        Ok(types)
    }

    #[tokio::test]
    async fn requests_are_found_however_they_are_cut() {
        let large = "x".repeat(3 * KEPT);
        let all = [framed("a"), framed(&large), framed("b")].concat();
        for size in [1, 4, 5, 7, KEPT, all.len()] {
            let chunks = all.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(read(chunks).await.unwrap(), ["a", &large, "b"], "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_stream() {
        let code = async |bytes: Vec<u8>| read(vec![bytes]).await.map_err(|status| status.code());
        assert_eq!(code(framed("a")[..4].to_vec()).await, Err(tonic::Code::Internal));
        assert_eq!(code(vec![1, 0, 0, 0, 0]).await, Err(tonic::Code::Unimplemented));
        assert_eq!(code(vec![0, 255, 0, 0, 0]).await, Err(tonic::Code::ResourceExhausted));
        assert_eq!(code(vec![0, 0, 0, 0, 1, 0]).await, Err(tonic::Code::InvalidArgument));
    }
}
