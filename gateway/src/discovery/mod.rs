//! Where the configuration comes from, and how it is put in force.

pub mod ads;
pub mod apply;
pub mod file;
