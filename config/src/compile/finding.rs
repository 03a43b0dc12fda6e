//! Diagnostics while they are being found.

use crate::{
    api::Object,
    diagnostic::{Diagnostic, Severity},
};

/// What one unit of compilation has to say about the objects it read.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings(Vec<Diagnostic>);

impl Findings {
    /// Says that `field` of `object` does not do all that was asked of it. Compilation only warns:
    /// what makes an object unusable is found by `validate`, before it gets here.
    pub(super) fn warn(
        &mut self,
        object: &Object,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.0.push(Diagnostic {
            severity: Severity::Warning,
            object: Some(object.key()),
            source: object.source.clone(),
            field: field.into(),
            message: message.into(),
        });
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    pub(super) fn into_vec(self) -> Vec<Diagnostic> {
        self.0
    }
}
