//! HTTP/2 (RFC 9113): connections, and streams on them, of both ends.
//!
//! A connection is a task that reads and writes frames ([`Connection`]); each stream is held by whoever
//! serves or makes its request ([`Stream`]). What they share is behind one lock (`state/`): a stream encodes
//! its frames into the connection's queue, the connection's task writes what it finds there, and leaves
//! what it has read with the stream it is for. Nothing is written unless the task is polled, so a task
//! that runs after the streams that are ready writes the frames of all at once.
//!
//! | file | what |
//! |---|---|
//! | `connection.rs` | the socket: reading, writing, the end |
//! | `input/`, `frame.rs`, `head.rs`, `settings.rs` | what the peer says, and whether it may |
//! | `state/`, `stream.rs`, `window.rs` | streams, flow control, frames out |
//! | `outgoing.rs` | bytes that wait for the socket |
//! | `hpack/` | compression |
//! | `flood.rs` | frames that carry nothing |
//!
//! What a peer can make this side keep is bounded: streams by their number, bodies by their windows,
//! heads by their size, frames that want an answer by what waits to be written, above which nothing is
//! read. What a message has to be beyond RFC 9113's "malformed" is for `codec` to say.

mod connection;
mod error;
mod flood;
mod frame;
mod head;
mod hpack;
mod input;
mod outgoing;
mod settings;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod window;

pub use connection::{Accepted, Connection, Opener, Request};
pub use error::{Error, Reason};
pub use frame::PREFACE;
pub use head::{RequestHead, ResponseHead};
pub use hpack::HeadBlock;
pub use settings::{ASSUMED_STREAMS, Config};
pub use stream::{Received, Stream};
