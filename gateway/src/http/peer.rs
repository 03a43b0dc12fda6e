//! What sidecars say of their workloads to each other in headers, and to nobody else.

use crate::{
    connection::Direction,
    head::{Headers, RequestHeader, ResponseHeader},
    telemetry::{
        StreamInfo, Telemetry,
        peer_metadata::{Described, OwnMetadata, X_ENVOY_PEER_METADATA, X_ENVOY_PEER_METADATA_ID},
    },
};

/// Takes what the client says of itself out of its request. Only a client with a certificate of the mesh
/// is heard, once per connection.
pub fn learn(telemetry: &Telemetry, request: &mut RequestHeader, info: &StreamInfo) {
    let connection = &*info.connection;
    if connection.direction == Direction::Gateway {
        return;
    }
    let Some(said) = take(&mut request.headers) else { return };
    let peer = &connection.peer;
    if connection.direction == Direction::Inbound
        && peer.identified.is_some()
        && peer.described.get().is_none()
        && let Some(said) = Described::from_header(&said)
    {
        telemetry.peers.describe(peer, &said);
    }
}

/// Says who we are to an endpoint that is of the mesh, and nothing to one that is not.
pub fn introduce(own: &OwnMetadata, request: &mut RequestHeader, is_of_mesh: bool, attempt: u32) {
    if is_of_mesh {
        request.headers.insert(X_ENVOY_PEER_METADATA, own.header.clone());
        request.headers.insert(X_ENVOY_PEER_METADATA_ID, own.id.clone());
    } else if attempt > 1 {
        // An endpoint that was tried before may have been.
        take(&mut request.headers);
    }
}

/// Leaves in a response only what is for the client: who we are, where it asks for that. What a server
/// outside the mesh calls by these names is its own business.
pub fn answer(own: &OwnMetadata, response: &mut ResponseHeader, info: &StreamInfo) {
    let connection = &*info.connection;
    if connection.direction == Direction::Inbound || info.upstream.is_mesh {
        take(&mut response.headers);
    }
    let described = connection.peer.described.get();
    if described.is_some_and(|described| described.wants_answer) {
        response.headers.insert(X_ENVOY_PEER_METADATA, own.header.clone());
        response.headers.insert(X_ENVOY_PEER_METADATA_ID, own.id.clone());
    }
}

fn take(headers: &mut Headers) -> Option<http::HeaderValue> {
    let said = headers.remove(X_ENVOY_PEER_METADATA);
    headers.remove(X_ENVOY_PEER_METADATA_ID);
    said
}
