//! Weir's controller: cluster state in, configuration and certificates out.
//!
//! ```text
//! Kubernetes --watch--> store --scope--> what each gateway may see --push--> sessions --> gateways
//!                                                                              \<-- nacks --> status
//! ```
//!
//! What users wrote is sent as they wrote it, less what a gateway may not see or has no use for; the
//! gateway compiles it with the same code that reads a folder.

pub mod app;
pub mod args;
pub mod log;
