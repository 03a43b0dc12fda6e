//! A set that mostly has one member.

use std::collections::BTreeSet;

/// Of 10,000 hosts nearly every one is served by one VirtualService, and a node of a `BTreeSet` takes
/// the room of eleven. Never empty: whoever removes the last member removes the set.
#[derive(Debug, Clone)]
pub(super) enum Members<T> {
    One(T),
    Many(BTreeSet<T>),
}

impl<T: Ord> Members<T> {
    pub(super) fn insert(&mut self, member: T) {
        match self {
            Self::One(one) if *one == member => {}
            Self::One(_) => {
                let before = std::mem::replace(self, Self::Many(BTreeSet::from([member])));
                if let (Self::One(one), Self::Many(many)) = (before, self) {
                    many.insert(one);
                }
            }
            Self::Many(many) => {
                many.insert(member);
            }
        }
    }

    /// Returns whether nothing is left; the set is to be dropped then.
    pub(super) fn remove(&mut self, member: &T) -> bool {
        match self {
            Self::One(one) => one == member,
            Self::Many(many) => {
                many.remove(member);
                match many.len() {
                    0 => true,
                    1 => {
                        if let Some(last) = many.pop_first() {
                            *self = Self::One(last);
                        }
                        false
                    }
                    _ => false,
                }
            }
        }
    }

    /// In their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_kept_in_order_however_they_come_and_go() {
        let mut members = Members::One(2);
        for member in [2, 3, 1, 3] {
            members.insert(member);
        }
        assert_eq!(members.iter().collect::<Vec<_>>(), [&1, &2, &3]);
        assert!(!members.remove(&2));
        assert!(!members.remove(&7));
        assert!(!members.remove(&1));
        assert_eq!(members.iter().collect::<Vec<_>>(), [&3]);
        assert!(!members.remove(&1));
        assert!(members.remove(&3));
    }
}
