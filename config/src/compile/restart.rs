//! What was in force before some changes, and how to get back to it.
//!
//! A panic in the middle of a change leaves a compiler that nobody can trust, but for the objects it
//! holds. Compiling is a function of those, so compiling them again from the beginning is the way back.

use std::{collections::BTreeMap, sync::Arc};

use super::{Change, Compiler, Unit, finding::Findings};
use crate::{
    api::{MeshConfig, Object, ObjectKey},
    diagnostic::{Diagnostic, Severity},
};

/// What changes are about to replace.
#[derive(Debug)]
pub struct Before {
    mesh: Option<MeshConfig>,
    objects: Vec<(ObjectKey, Earlier)>,
}

#[derive(Debug)]
struct Earlier {
    object: Option<Arc<Object>>,
    /// Why a later version than `object` was refused.
    refusal: Option<Vec<Diagnostic>>,
}

impl Compiler {
    /// What is in force of that which `changes` are about.
    #[must_use]
    pub fn before<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Before {
        let earlier = |key: &ObjectKey| Earlier {
            object: self.view.store.find(key).cloned(),
            refusal: self.refused.contains(key).then(|| self.findings_about(key)),
        };
        let keys = changes.into_iter().map(Change::key);
        Before {
            mesh: self.has_mesh.then(|| self.view.mesh.clone()),
            objects: keys.map(|key| (key.clone(), earlier(&key))).collect(),
        }
    }

    /// A compiler as this one was `before`, all of it compiled anew: whatever happened since in this
    /// one does not matter. Costs what the configuration is large.
    #[must_use]
    pub fn restarted(&self, before: &Before) -> Self {
        let Before { mesh, objects: earlier } = before;
        let objects = self.view.store.objects();
        let mut objects: BTreeMap<_, _> = objects.map(|it| (it.key(), Arc::clone(it))).collect();
        let refused = self.refused.iter().map(|key| (key.clone(), self.findings_about(key)));
        let mut refused: BTreeMap<_, _> = refused.collect();
        for (key, Earlier { object, refusal }) in earlier {
            match object {
                Some(object) => objects.insert(key.clone(), Arc::clone(object)),
                None => objects.remove(key),
            };
            match refusal {
                Some(findings) => refused.insert(key.clone(), findings.clone()),
                None => refused.remove(key),
            };
        }
        let mut compiler = Self::new(self.view.proxy.clone(), mesh.clone());
        compiler.apply(objects.into_values().map(Change::Upsert));
        for (key, findings) in refused {
            compiler.refuse(key, findings);
        }
        compiler
    }

    /// Says that a version of this object that was never applied is refused. The one in force stays.
    pub fn refuse(&mut self, key: ObjectKey, findings: impl IntoIterator<Item = Diagnostic>) {
        let mut all = Findings::default();
        findings.into_iter().for_each(|finding| all.push(finding));
        self.output.set_findings(Unit::Object(key.clone()), all);
        self.refused.insert(key);
    }

    /// That nothing but `message` is known of why a change cannot be applied.
    #[must_use]
    pub fn failure(&self, change: &Change, message: &str) -> Diagnostic {
        let key = change.key();
        let source = match change {
            Change::Upsert(object) => Some(object.source.clone()),
            Change::Remove(_) => self.view.store.find(&key).map(|object| object.source.clone()),
        };
        Diagnostic {
            severity: Severity::Error,
            object: Some(key),
            source: source.unwrap_or_default(),
            field: String::new(),
            message: message.to_owned(),
        }
    }

    fn findings_about(&self, key: &ObjectKey) -> Vec<Diagnostic> {
        self.output.findings_of(&Unit::Object(key.clone())).to_vec()
    }
}

impl Change {
    /// The object that changes.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Upsert(object) => object.key(),
            Self::Remove(key) => key.clone(),
        }
    }
}
