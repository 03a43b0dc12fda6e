//! Admission: what is wrong is said while it is written, with the same rules by which it is compiled.

mod registration;
pub mod server;
mod validate;

pub use self::registration::keep_registered;
