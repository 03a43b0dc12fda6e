//! The workload's DNS queries: names of the mesh are answered, with the addresses their connections are
//! told by; all others go to the name server, and its answers come back, as they are.
//!
//! ```text
//! query --message--> name, type --table--> addresses --message--> response
//!                                   | unknown
//!                                   `--upstream--> the name server's response
//! ```

mod message;
mod server;
mod table;
mod upstream;

pub use self::{
    server::{DnsServer, Options},
    table::DnsTable,
};
