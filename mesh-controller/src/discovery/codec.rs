//! Responses on the wire. Resources are encoded once, when they change; a response only strings them
//! together.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::{
    Status,
    codec::{EncodeBuf, Encoder},
};

/// A `DeltaDiscoveryResponse` whose resources are encoded already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    /// `system_version_info`: the push it is part of.
    pub(super) push: Arc<str>,
    pub(super) type_url: &'static str,
    pub(super) nonce: String,
    pub(super) resources: Vec<Bytes>,
    pub(super) removed: Vec<Arc<str>>,
}

impl Response {
    fn encode(&self, buffer: &mut impl BufMut) {
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

/// Writes responses.
#[derive(Debug)]
pub(super) struct ResponseEncoder;

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        response.encode(buffer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
            nonce: "nonce".to_owned(),
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
        let mut buffer = Vec::new();
        response.encode(&mut buffer);
        assert_eq!(buffer, message.encode_to_vec());
    }
}
