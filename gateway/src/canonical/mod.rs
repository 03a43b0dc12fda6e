//! The one spelling each part of a request has. A leaf: everything that looks at requests may use it.

pub mod authority;
pub mod ip;
pub mod path;
