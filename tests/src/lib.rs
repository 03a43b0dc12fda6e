//! The harness of the end-to-end tests: the real `weir-gateway` binary between real servers and real
//! clients, all on loopback.
//!
//! ```text
//! client::{http, raw, curl, load}  -->  gateway::Gateway  -->  backend::{echo, raw, grpc}
//! ```
//!
//! Where a test is about the other source of configuration, [`control::Control`] is the controller.
//!
//! A test writes the YAML a user would write, starts a [`gateway::Gateway`] on it and looks only at
//! what comes out: responses, what upstreams received, log lines, metrics and exit codes.
//!
//! Tests of what needs Kubernetes run in a [`cluster::Cluster`] of their own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a harness that fails fails its test")]

pub mod backend;
pub mod binaries;
pub mod certs;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod control;
pub mod controller;
pub mod eventually;
pub mod gateway;
pub mod jwt;
pub mod kube;
pub mod mesh;
pub mod metrics;
pub mod net;
pub mod objects;
mod output;
pub mod pattern;
pub mod ports;
pub mod weirctl;
pub mod wire;

#[cfg(test)]
mod selftest;
