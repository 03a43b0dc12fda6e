//! A workload's proxy: what captures its traffic, and what is done with it.

pub mod arguments;
pub mod redirect;
