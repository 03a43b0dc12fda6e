//! Responses on the wire. Resources are encoded once, when they change; a response only strings them
//! together.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::mpsc;
use tonic::Status;

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A `DeltaDiscoveryResponse` whose resources are encoded already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    /// `system_version_info`: the push it is part of.
    pub(super) push: Arc<str>,
    pub(super) type_url: &'static str,
    pub(super) nonce: Arc<str>,
    pub(super) resources: Vec<Bytes>,
    pub(super) removed: Vec<Arc<str>>,
}

impl Response {
    /// The message as gRPC sends it.
    pub(super) fn encode(&self) -> Bytes {
        let size: usize = self.resources.iter().map(Bytes::len).sum();
        let mut buffer = BytesMut::with_capacity(size + 512);
        buffer.put_bytes(0, PREFIX);
        self.encode_message(&mut buffer);
        // A response is ended long before it has so many bytes.
        let length = (buffer.len() - PREFIX) as u32;
        buffer[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        buffer.freeze()
    }

    fn encode_message(&self, buffer: &mut impl BufMut) {
        text(1, &self.push, buffer);
        for resource in &self.resources {
            length_delimited(2, resource, buffer);
        }
        text(4, self.type_url, buffer);
        text(5, &self.nonce, buffer);
        for name in &self.removed {
            length_delimited(6, name.as_bytes(), buffer);
        }
    }
}

/// An empty text is the default, and not written.
fn text(field: u32, text: &str, buffer: &mut impl BufMut) {
    if !text.is_empty() {
        length_delimited(field, text.as_bytes(), buffer);
    }
}

fn length_delimited(field: u32, bytes: &[u8], buffer: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(bytes.len() as u64, buffer);
    buffer.put_slice(bytes);
}

/// The messages of a stream as they come, and how it ends.
///
/// Not tonic's encoder, which copies each message into a buffer of the stream: what many proxies get is
/// here the same bytes.
#[derive(Debug)]
pub(super) struct Messages {
    received: mpsc::Receiver<Result<Bytes, Status>>,
    has_ended: bool,
}

impl Messages {
    pub(super) fn new(received: mpsc::Receiver<Result<Bytes, Status>>) -> Self {
        Self { received, has_ended: false }
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let end = match ready!(self.received.poll_recv(context)) {
            Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.has_ended = true;
        let mut trailers = HeaderMap::new();
        end.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use prost::Message;
    use weir_config::wire::{
        discovery::{DeltaDiscoveryResponse, Resource},
        resource::OBJECT_TYPE,
    };

    use super::*;

    #[test]
    fn a_response_is_what_the_message_would_be() {
        let resources = vec![Resource::sync("a".to_owned()), Resource::sync("b".to_owned())];
        let response = Response {
            push: "push".into(),
            type_url: OBJECT_TYPE,
            nonce: "nonce".into(),
            resources: resources.iter().map(|resource| resource.encode_to_vec().into()).collect(),
            removed: vec!["x".into(), "y".into()],
        };
        let message = DeltaDiscoveryResponse {
            system_version_info: "push".to_owned(),
            resources,
            type_url: OBJECT_TYPE.to_owned(),
            nonce: "nonce".to_owned(),
            removed_resources: vec!["x".to_owned(), "y".to_owned()],
        };
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        assert_eq!(response.encode(), [&[0][..], &length, &message].concat());
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_status() {
        let (sender, received) = mpsc::channel(2);
        sender.send(Ok(Bytes::from_static(b"message"))).await.unwrap();
        sender.send(Err(Status::unavailable("ending"))).await.unwrap();
        let body = Messages::new(received).collect().await.unwrap();
        let trailers = body.trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "ending");
        assert_eq!(body.to_bytes(), "message");
    }
}
