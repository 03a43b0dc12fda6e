//! Weir's configuration: the words users write, what they mean, and their runtime form.
//!
//! ```text
//! YAML --parse--> api --validate--> diagnostics
//!                  \----compile---> model (plain data the proxy runs)
//! ```
//!
//! No I/O happens here: no sockets, no files, no runtime, no Kubernetes client. The controller, the
//! gateway's folder mode, the webhook and the tests call the same functions.

pub mod api;
pub mod compile;
pub mod diagnostic;
pub mod model;
pub mod parse;
pub mod validate;
pub mod wire;
pub mod xxh64;
