//! A workload's proxy: what captures its traffic, and what is done with it.

use std::error::Error;

pub mod arguments;
pub mod redirect;

/// What an error says, with its causes behind it.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
