//! What the API server was last known to have of one kind.

use std::{collections::HashMap, time::Duration};

use rustc_hash::FxBuildHasher;
use tokio::time::Instant;

/// Objects by `namespace/name`, with the version they were last seen in.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: HashMap<Box<str>, Box<str>, FxBuildHasher>,
    /// Since when a list is not believed that lacks much of what is known.
    doubted_since: Option<Instant>,
}

/// What a complete list says about objects that it lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// They are gone.
    Gone(Vec<Box<str>>),
    /// Too many to be believed after a failure; to be asked again.
    Doubted(usize),
}

impl Known {
    /// Whether the object is new in this version.
    pub(super) fn insert(&mut self, name: &str, version: &str) -> bool {
        match self.versions.get_mut(name) {
            Some(known) if **known == *version => false,
            Some(known) => {
                *known = version.into();
                true
            }
            None => {
                self.versions.insert(name.into(), version.into());
                true
            }
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.versions.remove(name).is_some()
    }

    /// Judges a complete list, of which `is_listed` knows the names. An API server that has just
    /// failed may come back with nothing or with too little, and what is deleted by mistake fails
    /// every request, while what is kept too long harms nobody: so after a failure a list without a
    /// fifth of what is known has to say so for `doubt`.
    pub(super) fn missing(
        &mut self,
        is_listed: impl Fn(&str) -> bool,
        after_failure: bool,
        now: Instant,
        doubt: Duration,
    ) -> Missing {
        let missing: Vec<Box<str>> =
            self.versions.keys().filter(|name| !is_listed(name)).cloned().collect();
        let is_much = missing.len() * 5 > self.versions.len();
        if !is_much || !(after_failure || self.doubted_since.is_some()) {
            self.doubted_since = None;
            return Missing::Gone(missing);
        }
        let since = *self.doubted_since.get_or_insert(now);
        if now.duration_since(since) < doubt {
            return Missing::Doubted(missing.len());
        }
        self.doubted_since = None;
        Missing::Gone(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBT: Duration = Duration::from_secs(100);

    fn known(count: usize) -> Known {
        let mut known = Known::default();
        for number in 0..count {
            assert!(known.insert(&format!("a/{number}"), "1"));
        }
        known
    }

    #[test]
    fn an_empty_list_after_a_failure_has_to_be_repeated_for_a_while() {
        let (mut known, start) = (known(3), Instant::now());
        let mut missing = |after_failure, now| known.missing(|_| false, after_failure, now, DOUBT);
        assert_eq!(missing(true, start), Missing::Doubted(3));
        assert_eq!(missing(false, start + DOUBT / 2), Missing::Doubted(3));
        let Missing::Gone(gone) = missing(false, start + DOUBT) else { panic!("doubted") };
        assert_eq!(gone.len(), 3);
    }

    #[test]
    fn objects_that_come_back_end_the_doubt() {
        let (mut known, now) = (known(3), Instant::now());
        assert_eq!(known.missing(|_| false, true, now, DOUBT), Missing::Doubted(3));
        assert_eq!(known.missing(|_| true, false, now, DOUBT), Missing::Gone(vec![]));
        let gone = known.missing(|name| name != "a/1", false, now, DOUBT);
        assert_eq!(gone, Missing::Gone(vec!["a/1".into()]));
    }

    #[test]
    fn a_list_without_a_failure_before_it_is_believed() {
        let Missing::Gone(gone) = known(3).missing(|_| false, false, Instant::now(), DOUBT) else {
            panic!("doubted")
        };
        assert_eq!(gone.len(), 3);
    }

    #[test]
    fn few_missing_objects_are_gone_even_after_a_failure() {
        let gone = known(10).missing(|name| name != "a/7", true, Instant::now(), DOUBT);
        assert_eq!(gone, Missing::Gone(vec!["a/7".into()]));
    }
}
