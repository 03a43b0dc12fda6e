//! What the controller and its proxies say to each other.
//!
//! Two gRPC services: Envoy's aggregated **delta** discovery ([`discovery`]), and Istio's certificate
//! service ([`certificate`]). The messages are written by hand after the published protocols, with
//! their field numbers; what we do not use is left out, and skipped when it comes.
//!
//! What travels is the user's own objects ([`resource`]), those a proxy may see; it compiles them as
//! it compiles a folder of files.
//!
//! Beside them, [`secret`] is how programs of one pod give certificates to each other.
//!
//! # The conversation
//!
//! ```text
//! proxy       Request{node, type: Mesh, initial versions}      one for each type, Sync last
//!             Request{type: Secret, ..} Request{type: Object, ..} Request{type: Sync}
//! controller  Response{type: Mesh, ..} Response{type: Secret, ..}* Response{type: Object, ..}*
//!             Response{type: Sync, resources: [sync]}           ends the push
//! proxy       applies all of it at once, then answers each response of the push:
//!             Request{type, nonce}  or  Request{type, nonce, error_detail: Status{[Rejections]}}
//! ```
//!
//! - A request that subscribes to no name subscribes to everything in scope.
//! - The controller answers once it has seen the first request for Sync. With the versions the proxy
//!   has, it sends what differs, what is no more (`removed_resources`), and the Sync.
//! - Every later change is a push of the same shape; a type nothing happened to is left out.
//! - To a proxy that says it knows them ([`discovery::WHOLE_PUSHES`]), a push that fits into one response
//!   is one: of type Sync, with all that changed of every type, the sync behind it, and one answer. The
//!   types of what is removed are those of the names ([`resource::type_of_name`]).
//! - A [`resource::Sync`] says up to where in the history of Kubernetes the push is. The proxy gives that
//!   back when it subscribes to Sync, as the version of the sync it has. A controller that has not seen
//!   as much sends nothing until it has, and ends the stream (`FAILED_PRECONDITION`) if that takes too
//!   long. What the text means only controllers know.
//! - A resource named in a [`resource::Rejections`] keeps its last good version in that proxy;
//!   everything else of the push is in force.
//! - Versions are made of content ([`resource::version`]), so they are the same on every replica of
//!   the controller and across restarts. The proxy only compares them.

pub mod certificate;
pub mod discovery;
pub mod google;
pub mod resource;
pub mod secret;

#[cfg(test)]
mod tests;
