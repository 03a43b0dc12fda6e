//! What is in force, as far as the next stream has to be told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_config::wire::{
    discovery::{DeltaDiscoveryRequest, Node},
    resource::{SYNC_NAME, SYNC_TYPE, TYPES},
};

use super::push::Name;

/// How long nothing older is taken while every controller that answers knows less. That may be all
/// there is: a backup was restored.
const INSISTS: Duration = Duration::from_secs(300);

/// Resources, and where in time they are.
#[derive(Debug, Default)]
pub struct Held {
    /// Versions by type and name.
    versions: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// As the controller said it; empty: it did not.
    position: String,
    /// Since when controllers have known less.
    insists_since: Option<Instant>,
}

impl Held {
    pub fn put(&mut self, name: Name, version: String) {
        self.versions.entry(name.type_url).or_default().insert(name.name, version);
    }

    pub fn remove(&mut self, name: &Name) {
        if let Some(versions) = self.versions.get_mut(name.type_url) {
            versions.remove(&name.name);
        }
    }

    pub fn len(&self) -> usize {
        self.versions.values().map(BTreeMap::len).sum()
    }

    /// What is held is as of there.
    pub fn set_position(&mut self, position: String) {
        self.position = position;
        self.insists_since = None;
    }

    /// A controller knows less than what is held. Returns whether the next one may all the same.
    pub fn is_ahead(&mut self, now: Instant) -> bool {
        let since = *self.insists_since.get_or_insert(now);
        let gives_in = now.duration_since(since) >= INSISTS;
        if gives_in {
            self.set_position(String::new());
        }
        gives_in
    }

    /// What a stream begins with: a subscription to everything, type by type.
    pub fn subscriptions(&self, node: &Node) -> impl Iterator<Item = DeltaDiscoveryRequest> {
        let mut node = Some(node.clone());
        TYPES.into_iter().map(move |type_url| DeltaDiscoveryRequest {
            node: node.take(),
            type_url: type_url.to_owned(),
            initial_resource_versions: self.initial(type_url),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn initial(&self, type_url: &str) -> BTreeMap<String, String> {
        if type_url == SYNC_TYPE && !self.position.is_empty() {
            return BTreeMap::from([(SYNC_NAME.to_owned(), self.position.clone())]);
        }
        self.versions.get(type_url).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use weir_config::wire::resource::{MESH_TYPE, OBJECT_TYPE};

    use super::*;

    #[test]
    fn a_stream_begins_with_what_is_held_and_ends_its_beginning_with_sync() {
        let mut held = Held::default();
        let name = |name: &str| Name::new(OBJECT_TYPE, name).unwrap();
        held.put(name("a"), "1".to_owned());
        held.put(name("b"), "2".to_owned());
        held.put(name("a"), "3".to_owned());
        held.remove(&name("b"));
        assert_eq!(held.len(), 1);

        let node = Node { id: "me".to_owned(), ..Node::default() };
        let requests: Vec<_> = held.subscriptions(&node).collect();
        let types: Vec<_> = requests.iter().map(|it| it.type_url.as_str()).collect();
        assert_eq!(types, TYPES);
        assert_eq!((types[0], types[3]), (MESH_TYPE, SYNC_TYPE));
        assert_eq!(requests[0].node, Some(node), "only the first says who asks");
        assert!(requests[1..].iter().all(|it| it.node.is_none()));
        let versions = BTreeMap::from([("a".to_owned(), "3".to_owned())]);
        assert_eq!(requests[2].initial_resource_versions, versions);
        assert!(requests[0].initial_resource_versions.is_empty());
    }

    fn said_position(held: &Held) -> Option<String> {
        let node = Node::default();
        let mut requests = held.subscriptions(&node);
        requests.find_map(|request| request.initial_resource_versions.get(SYNC_NAME).cloned())
    }

    #[test]
    fn nothing_older_is_taken_until_nobody_has_known_as_much_for_minutes() {
        let mut held = Held::default();
        assert_eq!(said_position(&held), None);
        held.set_position("here".to_owned());
        assert_eq!(said_position(&held).as_deref(), Some("here"));
        let start = Instant::now();
        assert!(!held.is_ahead(start));
        assert!(!held.is_ahead(start + INSISTS / 2));
        // One that knew as much: it begins anew.
        held.set_position("further".to_owned());
        assert!(!held.is_ahead(start + INSISTS));
        assert!(!held.is_ahead(start + INSISTS * 2 - Duration::from_secs(1)));
        assert_eq!(said_position(&held).as_deref(), Some("further"));
        assert!(held.is_ahead(start + INSISTS * 2));
        assert_eq!(said_position(&held), None);
    }
}
