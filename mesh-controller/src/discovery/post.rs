//! What a scope has to tell its proxies: once for all of them, in the bytes they get.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use weir_config::wire::{
    discovery::{RESPONSE_SIZE, Resource},
    resource::{SYNC_TYPE, TYPES, type_of_name},
};

use super::codec::Response;
use crate::translate::Delta;

/// A place in time, as the writer goes through it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Names the push that comes of it.
    pub(super) version: Arc<str>,
    /// Up to where in the history of Kubernetes it is.
    pub(super) position: Arc<str>,
}

/// What changed, and where that is in time.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// Names the push that it becomes.
    pub(super) version: Arc<str>,
    /// Up to where in the history of Kubernetes it is.
    position: Arc<str>,
    /// When the oldest of it was known.
    pub(super) since: Instant,
    pub(super) changes: Delta,
    /// Bytes of its resources, and of the names of those that are gone.
    pub(super) size: usize,
    /// As one message, once somebody needs it.
    whole: OnceLock<Bytes>,
}

impl Post {
    pub(super) fn new(place: Place, since: Instant, changes: Delta) -> Self {
        let Place { version, position } = place;
        let size = size_of(&changes);
        Self { version, position, since, changes, size, whole: OnceLock::new() }
    }

    /// Becomes both: of each resource the latest.
    pub(super) fn add(&mut self, later: &Self) {
        for (name, change) in &later.changes {
            let before = self.changes.insert(Arc::clone(name), change.clone());
            let before = before.map(|change| size_of_change(name, change.as_deref()));
            self.size += size_of_change(name, change.as_deref());
            self.size -= before.unwrap_or_default();
        }
        self.version = Arc::clone(&later.version);
        self.position = Arc::clone(&later.position);
        self.whole = OnceLock::new();
    }

    /// The types of which there is something, in the order they are sent.
    pub(super) fn types(&self) -> impl Iterator<Item = &'static str> {
        let has = |wanted: &str| self.changes.keys().any(|name| type_of_name(name) == wanted);
        TYPES.into_iter().filter(move |type_url| has(type_url))
    }

    /// All of it and its end as one message, the same for everybody, unless it is too large for one.
    pub(super) fn whole(&self) -> Option<Bytes> {
        let encode = || {
            let mut whole = self.response(SYNC_TYPE, &self.version);
            for (name, change) in &self.changes {
                match change {
                    Some(resource) => whole.resources.push(resource.bytes.clone()),
                    None => whole.removed.push(Arc::clone(name)),
                }
            }
            whole.resources.push(self.sync());
            whole.encode()
        };
        (self.size < RESPONSE_SIZE).then(|| self.whole.get_or_init(encode).clone())
    }

    /// All of it cut into responses, in the order of their types, with the end at the end.
    pub(super) fn parts(&self) -> Vec<Response> {
        let mut parts: Vec<_> = self.types().flat_map(|type_url| self.cut(type_url)).collect();
        let mut end = self.response(SYNC_TYPE, "");
        end.resources.push(self.sync());
        parts.push(end);
        for (index, part) in parts.iter_mut().enumerate() {
            part.nonce = format!("{}/{index}", self.version).into();
        }
        parts
    }

    /// The responses for one type.
    fn cut(&self, type_url: &'static str) -> Vec<Response> {
        let mut parts = vec![self.response(type_url, "")];
        let mut size = 0;
        for (name, change) in &self.changes {
            if type_of_name(name) != type_url {
                continue;
            }
            if size >= RESPONSE_SIZE {
                parts.push(self.response(type_url, ""));
                size = 0;
            }
            let Some(part) = parts.last_mut() else { continue };
            match change {
                Some(resource) => part.resources.push(resource.bytes.clone()),
                None => part.removed.push(Arc::clone(name)),
            }
            size += size_of_change(name, change.as_deref());
        }
        parts
    }

    fn response(&self, type_url: &'static str, nonce: &str) -> Response {
        Response {
            push: Arc::clone(&self.version),
            type_url,
            nonce: nonce.into(),
            resources: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn sync(&self) -> Bytes {
        let (version, position) = (self.version.to_string(), self.position.to_string());
        Resource::sync_at(version, position).encode_to_vec().into()
    }
}

fn size_of(changes: &Delta) -> usize {
    changes.iter().map(|(name, change)| size_of_change(name, change.as_deref())).sum()
}

fn size_of_change(name: &str, change: Option<&crate::store::Encoded>) -> usize {
    change.map_or(name.len(), |resource| resource.bytes.len())
}

#[cfg(test)]
mod tests {
    use weir_config::wire::resource::{MESH_TYPE, OBJECT_TYPE, SECRET_TYPE};

    use super::*;
    use crate::store::Encoded;

    const OBJECT: &str = "networking.istio.io/Gateway/a/b";

    fn post(changes: &[(&str, Option<usize>)]) -> Post {
        let changes = changes.iter().map(|(name, size)| {
            let encoded = |size| {
                let bytes = vec![b'x'; size].into();
                Arc::new(Encoded { name: (*name).into(), version: "1".into(), bytes })
            };
            (Arc::from(*name), size.map(encoded))
        });
        let place = Place { version: "r/7".into(), position: "here".into() };
        Post::new(place, Instant::now(), changes.collect())
    }

    /// Types and nonces of the parts, and how much is in them.
    fn shown(post: &Post) -> Vec<(&'static str, String, usize, usize)> {
        let parts = post.parts().into_iter();
        let shown = parts.map(|part| {
            (part.type_url, part.nonce.to_string(), part.resources.len(), part.removed.len())
        });
        shown.collect()
    }

    #[test]
    fn parts_are_in_the_order_of_their_types_with_the_end_at_the_end() {
        let post = post(&[(OBJECT, Some(3)), ("/Secret/a/b", None), ("mesh", Some(3))]);
        let expected = [
            (MESH_TYPE, "r/7/0".to_owned(), 1, 0),
            (SECRET_TYPE, "r/7/1".to_owned(), 0, 1),
            (OBJECT_TYPE, "r/7/2".to_owned(), 1, 0),
            (SYNC_TYPE, "r/7/3".to_owned(), 1, 0),
        ];
        assert_eq!(shown(&post), expected);
        assert_eq!(post.size, 3 + "/Secret/a/b".len() + 3);
    }

    #[test]
    fn of_two_posts_the_later_counts_and_so_does_its_size() {
        let mut both = post(&[(OBJECT, Some(9)), ("/Secret/a/b", None), ("mesh", Some(3))]);
        both.add(&post(&[(OBJECT, None), ("/Secret/a/b", Some(40)), ("/Secret/a/c", Some(2))]));
        assert_eq!(both.size, OBJECT.len() + 40 + 2 + 3);
        assert_eq!(both.size, size_of(&both.changes));
    }

    #[test]
    fn what_is_too_large_for_one_response_is_only_sent_in_parts() {
        let large = post(&[(OBJECT, Some(RESPONSE_SIZE)), ("x/Gateway/a/c", Some(1))]);
        assert_eq!(large.whole(), None);
        let kinds: Vec<_> = shown(&large).into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, [OBJECT_TYPE, OBJECT_TYPE, SYNC_TYPE]);
        assert!(post(&[(OBJECT, Some(RESPONSE_SIZE - 1))]).whole().is_some());
    }

    #[test]
    fn a_push_without_changes_is_its_end() {
        let empty = post(&[]);
        assert_eq!(shown(&empty), [(SYNC_TYPE, "r/7/0".to_owned(), 1, 0)]);
        assert!(empty.whole().is_some());
    }
}
