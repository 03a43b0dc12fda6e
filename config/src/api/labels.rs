//! Names with values: labels, annotations, and what selects by labels.

use std::{collections::BTreeMap, fmt, ops::Index, sync::Arc};

use serde::{Deserialize, Deserializer};

/// Sorted by name, in one piece that copies share. There are many of them with few entries each, and a
/// tree takes the room of eleven for the first.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.0[place].1)
    }

    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Keeps what equals `other` once.
    pub(crate) fn share_with(&mut self, other: &Self) {
        if self == other {
            self.clone_from(other);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Index<&str> for Labels {
    type Output = str;

    fn index(&self, name: &str) -> &str {
        self.get(name).expect("a label that is there")
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(sorted: BTreeMap<String, String>) -> Self {
        Self(sorted.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(labels: [(String, String); N]) -> Self {
        BTreeMap::from(labels).into()
    }
}

impl From<&Labels> for BTreeMap<String, String> {
    fn from(labels: &Labels) -> Self {
        labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|sorted: BTreeMap<String, String>| sorted.into())
    }
}

/// Whatever has labels, for what selects by them: objects have [`Labels`], what a process was told of
/// its own is a map.
pub trait LabelSet {
    fn label(&self, name: &str) -> Option<&str>;
    fn labels(&self) -> impl Iterator<Item = (&str, &str)>;

    /// Whether as a selector it leaves nothing out.
    fn selects_all(&self) -> bool {
        self.labels().next().is_none()
    }

    /// Whether it has all of `selector`.
    fn has_all(&self, selector: &impl LabelSet) -> bool {
        selector.labels().all(|(name, value)| self.label(name) == Some(value))
    }
}

impl LabelSet for Labels {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name)
    }

    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
    }
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }

    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<T: LabelSet> LabelSet for Arc<T> {
    fn label(&self, name: &str) -> Option<&str> {
        (**self).label(name)
    }

    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        (**self).labels()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = pairs.iter().map(|(name, value)| (String::from(*name), String::from(*value)));
        owned.collect::<BTreeMap<_, _>>().into()
    }

    #[test]
    fn labels_are_found_by_name() {
        let set = labels(&[("version", "v1"), ("app", "web"), ("tier", "")]);
        assert_eq!(set.get("app"), Some("web"));
        assert_eq!(&set["version"], "v1");
        assert_eq!(set.get("tier"), Some(""));
        assert!(!set.contains_key("ap"));
        assert_eq!(format!("{set:?}"), r#"{"app": "web", "tier": "", "version": "v1"}"#);
    }

    #[test]
    fn a_selector_needs_all_of_its_labels() {
        let web = labels(&[("app", "web"), ("version", "v1")]);
        for (selector, expected) in [
            (labels(&[]), true),
            (labels(&[("app", "web")]), true),
            (labels(&[("app", "web"), ("version", "v2")]), false),
            (labels(&[("tier", "")]), false),
        ] {
            assert_eq!(web.has_all(&selector), expected, "{selector:?}");
            assert_eq!(BTreeMap::from(&web).has_all(&selector), expected, "{selector:?}");
        }
    }
}
