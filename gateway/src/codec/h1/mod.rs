//! HTTP/1.1 and 1.0 (RFC 9112), strict on both sides.
//!
//! | file | what |
//! |---|---|
//! | `request.rs`, `response.rs`, `head.rs`, `fields.rs`, `name.rs` | bytes to heads; refuses what two servers could read differently |
//! | `body.rs`, `chunked.rs` | where a body ends |
//! | `encode.rs`, `message.rs` | messages to bytes |
//! | `buffer.rs` | what was read and what is to be written |
//! | `server.rs`, `client.rs` | the two ends of a connection |

mod body;
mod buffer;
mod chunked;
mod client;
mod encode;
mod fields;
mod head;
mod message;
mod name;
mod request;
mod response;
mod server;
#[cfg(test)]
pub(crate) mod tests;

pub use client::ClientSession;
pub use server::{AfterExchange, Arrival, ServerSession};
