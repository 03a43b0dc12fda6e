//! Admission: what is wrong is said while it is written, with the same rules by which it is compiled;
//! and pods are injected while they are created.

mod injector;
mod nodes;
mod registration;
pub mod server;
mod validate;

pub use self::{injector::Injector, nodes::watch_nodes, registration::keep_registered};
