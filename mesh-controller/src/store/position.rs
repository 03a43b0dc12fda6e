//! How far in the history of Kubernetes the watches have come, kind by kind.
//!
//! Versions of objects are numbers of one history, and each kind is watched by itself. So of two
//! replicas neither need be ahead of the other, and one number would say nothing. What a proxy was sent
//! includes certain changes of each kind; a replica is not older than that if it has seen as much of
//! each.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

/// How far the watch of a kind has come.
#[derive(Debug, Default, Clone, Copy)]
struct Reached {
    /// The newest version that an object was changed or removed with.
    changed: u64,
    /// Nothing is unknown up to this version, which may be that of a list in which nothing is new.
    seen: u64,
    /// Versions up to this one are of a history that is no more: a backup was restored.
    rewritten: u64,
}

/// Where the watches of all kinds are.
#[derive(Debug, Default)]
pub(super) struct Reaches {
    history: Arc<str>,
    kinds: BTreeMap<&'static str, Reached>,
}

impl Reaches {
    /// Versions of another history, that of another cluster, say nothing.
    pub(super) fn set_history(&mut self, history: Arc<str>) {
        self.history = history;
    }

    /// A list is in: as of `version`, the newest object in it of `changed`.
    pub(super) fn listed(&mut self, kind: &'static str, version: u64, changed: u64) {
        let reached = self.kinds.entry(kind).or_default();
        if version < reached.seen {
            reached.rewritten = reached.rewritten.max(reached.seen);
            reached.changed = 0;
        }
        reached.seen = version;
        reached.changed = reached.changed.max(changed);
    }

    /// A watch told of a change, or that there was none.
    pub(super) fn watched(&mut self, kind: &'static str, version: u64, is_change: bool) {
        let reached = self.kinds.entry(kind).or_default();
        reached.seen = reached.seen.max(version);
        if is_change {
            reached.changed = reached.changed.max(version);
        }
    }

    /// What who gets everything from here has.
    pub(super) fn position(&self) -> Position {
        let kinds = self.kinds.iter().filter(|(_, reached)| reached.changed > 0);
        Position {
            history: self.history.to_string(),
            kinds: kinds.map(|(kind, reached)| ((*kind).to_owned(), reached.changed)).collect(),
        }
    }

    /// Whether everything up to `position` is known here, as far as that can be said.
    pub(super) fn include(&self, position: &Position) -> bool {
        *position.history != *self.history
            || position.kinds.iter().all(|(kind, version)| {
                // A kind that is not watched here is nothing to wait for.
                let reached = self.kinds.get(kind.as_str());
                reached.is_none_or(|reached| *version <= reached.seen.max(reached.rewritten))
            })
    }
}

/// What a proxy has, as it is told with each push and says again when it comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    history: String,
    kinds: BTreeMap<String, u64>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.history)?;
        self.kinds.iter().try_for_each(|(kind, version)| write!(f, " {kind}={version}"))
    }
}

/// Not a position: a controller of another version, or somebody else, made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form HISTORY KIND=VERSION..")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (history, rest) = text.split_once(' ').unwrap_or((text, ""));
        let kind = |pair: &str| {
            let (kind, version) = pair.split_once('=').ok_or(InvalidPosition)?;
            let version = version.parse().map_err(|_not_a_number| InvalidPosition)?;
            Ok((kind.to_owned(), version))
        };
        let kinds = rest.split(' ').filter(|pair| !pair.is_empty()).map(kind);
        Ok(Self { history: history.to_owned(), kinds: kinds.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a list as of `version` with an object of `changed`.
    fn listed(version: u64, changed: u64) -> Reaches {
        let mut reaches = Reaches::default();
        reaches.listed("Service", version, changed);
        reaches
    }

    #[test]
    fn a_replica_is_behind_until_it_has_seen_the_changes_that_were_sent() {
        let (mut ahead, mut behind) = (listed(10, 7), listed(9, 7));
        assert!(behind.include(&ahead.position()), "nothing changed between the two lists");
        ahead.watched("Service", 12, true);
        assert!(!behind.include(&ahead.position()));
        behind.watched("Service", 11, false);
        assert!(!behind.include(&ahead.position()));
        behind.watched("Service", 12, true);
        assert!(behind.include(&ahead.position()));
    }

    #[test]
    fn a_change_of_one_kind_says_nothing_of_another() {
        let (mut a, mut b) = (listed(10, 7), listed(10, 7));
        for reaches in [&mut a, &mut b] {
            reaches.listed("Pod", 10, 3);
        }
        a.watched("Pod", 20, true);
        b.watched("Service", 21, true);
        assert!(!b.include(&a.position()));
        assert!(!a.include(&b.position()));
    }

    #[test]
    fn an_object_that_was_removed_before_a_list_need_not_have_been_seen() {
        let (mut witness, later) = (listed(10, 7), listed(15, 6));
        witness.watched("Service", 12, true);
        assert!(later.include(&witness.position()));
    }

    #[test]
    fn after_a_restored_backup_nobody_waits_for_what_is_no_more() {
        let mut reaches = listed(100, 90);
        let before = reaches.position();
        reaches.listed("Service", 40, 30);
        assert!(reaches.include(&before));
        assert_eq!(reaches.position().to_string(), " Service=30");
        // One that was started afterwards cannot know that.
        assert!(!listed(40, 30).include(&before));
    }

    #[test]
    fn another_history_says_nothing() {
        let (mut reaches, mut other) = (listed(10, 7), listed(100, 90));
        reaches.set_history("uid-a".into());
        other.set_history("uid-b".into());
        assert!(reaches.include(&other.position()));
        other.set_history("uid-a".into());
        assert!(!reaches.include(&other.position()));
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let mut reaches = listed(10, 7);
        reaches.listed("Pod", 20, 9);
        for history in ["", "0b9c-77"] {
            reaches.set_history(history.into());
            let text = reaches.position().to_string();
            assert_eq!(text, format!("{history} Pod=9 Service=7"));
            assert_eq!(text.parse(), Ok(reaches.position()));
        }
        assert_eq!("a Service".parse::<Position>(), Err(InvalidPosition));
        assert_eq!("a Service=x".parse::<Position>(), Err(InvalidPosition));
    }
}
