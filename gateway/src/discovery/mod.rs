//! Where the configuration comes from, and how it is put in force.

pub mod ads;
pub mod apply;
mod contain;
pub mod file;
