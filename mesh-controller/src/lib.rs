//! Weir's controller: cluster state in, configuration and certificates out.
//!
//! ```text
//! Kubernetes --watch--> store --scope--> what each gateway may see --push--> sessions --> gateways
//!                                                                              \<-- nacks --> status
//! ```
//!
//! What users wrote is sent as they wrote it, less what a gateway may not see or has no use for; the
//! gateway compiles it with the same code that reads a folder.

pub mod admin;
mod api_server;
pub mod app;
pub mod args;
pub mod ca;
pub mod ctl;
pub mod discovery;
pub mod inject;
pub mod leader;
pub mod log;
pub mod metrics;
mod on_purpose;
pub mod review;
pub mod status;
pub mod store;
pub mod tls;
pub mod translate;
pub mod watch;
pub mod webhook;
