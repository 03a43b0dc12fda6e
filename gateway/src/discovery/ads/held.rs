//! The resources in force, as far as the next stream has to be told.

use std::collections::BTreeMap;

use weir_config::wire::{
    discovery::{DeltaDiscoveryRequest, Node},
    resource::TYPES,
};

use super::push::Name;

/// Versions by type and name.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<&'static str, BTreeMap<String, String>>);

impl Held {
    pub fn put(&mut self, name: Name, version: String) {
        self.0.entry(name.type_url).or_default().insert(name.name, version);
    }

    pub fn remove(&mut self, name: &Name) {
        if let Some(versions) = self.0.get_mut(name.type_url) {
            versions.remove(&name.name);
        }
    }

    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// What a stream begins with: a subscription to everything, type by type.
    pub fn subscriptions(&self, node: &Node) -> impl Iterator<Item = DeltaDiscoveryRequest> {
        let mut node = Some(node.clone());
        TYPES.into_iter().map(move |type_url| DeltaDiscoveryRequest {
            node: node.take(),
            type_url: type_url.to_owned(),
            initial_resource_versions: self.0.get(type_url).cloned().unwrap_or_default(),
            ..DeltaDiscoveryRequest::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use weir_config::wire::resource::{MESH_TYPE, OBJECT_TYPE, SYNC_TYPE};

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
}
