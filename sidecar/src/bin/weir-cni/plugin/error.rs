//! Errors as the specification numbers them.

use serde_json::{Value, json};

use super::VERSIONS;

/// Why a pod cannot start.
#[derive(Debug)]
pub struct Error {
    code: u32,
    message: &'static str,
    details: String,
}

impl Error {
    pub fn version(details: String) -> Self {
        Self { code: 1, message: "weir-cni: incompatible CNI version", details }
    }

    pub fn environment(details: String) -> Self {
        Self { code: 4, message: "weir-cni: invalid environment variables", details }
    }

    pub fn unreadable(details: String) -> Self {
        Self { code: 6, message: "weir-cni: failed to decode content", details }
    }

    pub fn config(details: String) -> Self {
        Self { code: 7, message: "weir-cni: invalid network config", details }
    }

    pub fn later(details: String) -> Self {
        Self { code: 11, message: "weir-cni: try again later", details }
    }

    /// Numbers from 100 on are the plugin's.
    pub fn rules(details: String) -> Self {
        Self { code: 100, message: "weir-cni: the pod's traffic is not redirected", details }
    }

    pub fn to_json(&self) -> Value {
        let Self { code, message, details } = self;
        // Some runtimes show the message alone.
        json!({
            "cniVersion": VERSIONS[VERSIONS.len() - 1],
            "code": code,
            "msg": format!("{message}: {details}"),
            "details": details,
        })
    }
}
