//! The responses of a push, until it is whole.

use std::{collections::BTreeMap, fmt};

use prost::Message;
use weir_config::wire::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    google::Status,
    resource::{Rejection, Rejections, SYNC_NAME, SYNC_TYPE, Sync, TYPES, type_of_name},
};

/// `INVALID_ARGUMENT` of gRPC: what a proxy answers with to what it cannot use.
const INVALID_ARGUMENT: i32 = 3;

/// A resource's type and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// One of [`TYPES`].
    pub type_url: &'static str,
    pub name: String,
}

impl Name {
    /// `None`: not a type of ours.
    pub fn new(type_url: &str, name: &str) -> Option<Self> {
        let type_url = TYPES.into_iter().find(|known| *known == type_url)?;
        Some(Self { type_url, name: name.to_owned() })
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What was received since the last push was complete.
#[derive(Debug, Default)]
pub struct Collected {
    changes: BTreeMap<Name, Option<Resource>>,
    received: Vec<Received>,
}

/// A response that is to be answered.
#[derive(Debug)]
struct Received {
    type_url: String,
    nonce: String,
    names: Vec<String>,
}

/// A whole push.
#[derive(Debug)]
pub struct Complete {
    /// What it is called, and where it is in time.
    pub sync: Sync,
    /// `None`: removed. The last word of the push on each name.
    pub changes: BTreeMap<Name, Option<Resource>>,
    pub unanswered: Unanswered,
}

/// The responses of a push, until it is known what became of it.
#[derive(Debug)]
pub struct Unanswered(Vec<Received>);

impl Collected {
    /// Adds a response; `Some` when it ends a push.
    pub fn add(&mut self, response: DeltaDiscoveryResponse) -> Option<Complete> {
        let DeltaDiscoveryResponse { resources, type_url, nonce, removed_resources, .. } = response;
        let names = resources.iter().map(|resource| resource.name.clone()).collect();
        self.received.push(Received { type_url: type_url.clone(), nonce, names });
        let is_last = type_url == SYNC_TYPE;
        let mut sync = None;
        for resource in resources {
            let body = resource.resource.as_ref();
            if is_last && resource.name == SYNC_NAME {
                sync = body.and_then(|body| Sync::decode(body.value.clone()).ok());
                continue;
            }
            // The last response may bring what changed of all types.
            let of = body.filter(|_| is_last).map_or(&*type_url, |body| &*body.type_url).to_owned();
            self.put(&of, resource.name.clone(), Some(resource));
        }
        for name in removed_resources {
            let of = if is_last { type_of_name(&name) } else { &type_url };
            self.put(of, name, None);
        }
        is_last.then(|| {
            let Self { changes, received } = std::mem::take(self);
            let (sync, unanswered) = (sync.unwrap_or_default(), Unanswered(received));
            Complete { sync, changes, unanswered }
        })
    }

    fn put(&mut self, type_url: &str, name: String, change: Option<Resource>) {
        match Name::new(type_url, &name) {
            Some(name) => {
                self.changes.insert(name, change);
            }
            None => {
                tracing::warn!(type_url, name, "a resource of a type nobody asked for, ignored")
            }
        }
    }
}

impl Unanswered {
    /// The answers: each response is told what of it was refused.
    pub fn answers(
        self,
        rejections: &[Rejection],
    ) -> impl Iterator<Item = DeltaDiscoveryRequest> + use<'_> {
        let by_name: BTreeMap<_, _> =
            rejections.iter().map(|it| (it.resource_name.as_str(), it)).collect();
        self.0.into_iter().map(move |Received { type_url, nonce, names }| {
            let refused: Vec<_> = names
                .iter()
                .filter_map(|name| by_name.get(name.as_str()))
                .map(|&rejection| rejection.clone())
                .collect();
            DeltaDiscoveryRequest {
                type_url,
                response_nonce: nonce,
                error_detail: error_detail(refused),
                ..DeltaDiscoveryRequest::default()
            }
        })
    }
}

fn error_detail(rejections: Vec<Rejection>) -> Option<Status> {
    let first = rejections.first()?;
    let mut message = format!("{}: {}", first.resource_name, first.message);
    if rejections.len() > 1 {
        message = format!("{message}; and {} more", rejections.len() - 1);
    }
    let details = vec![Rejections { rejections }.to_any()];
    Some(Status { code: INVALID_ARGUMENT, message, details })
}

#[cfg(test)]
mod tests {
    use weir_config::wire::{
        google::Any,
        resource::{MESH_TYPE, OBJECT_TYPE, SECRET_TYPE},
    };

    use super::*;

    fn response(
        type_url: &str,
        nonce: &str,
        names: &[&str],
        gone: &[&str],
    ) -> DeltaDiscoveryResponse {
        let resource = |name: &&str| Resource { name: (*name).to_owned(), ..Resource::default() };
        DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: nonce.to_owned(),
            resources: names.iter().map(resource).collect(),
            removed_resources: gone.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn sync(nonce: &str) -> DeltaDiscoveryResponse {
        let resources = vec![Resource::sync("7".to_owned())];
        DeltaDiscoveryResponse { resources, ..response(SYNC_TYPE, nonce, &[], &[]) }
    }

    #[test]
    fn a_push_is_complete_with_its_sync_and_not_before() {
        let mut collected = Collected::default();
        assert!(collected.add(response(MESH_TYPE, "1", &["mesh"], &[])).is_none());
        assert!(collected.add(response(OBJECT_TYPE, "2", &["a", "b"], &["c"])).is_none());
        let push = collected.add(sync("3")).unwrap();
        assert_eq!(push.sync.version, "7");
        let changes: Vec<_> =
            push.changes.iter().map(|(name, it)| (name.name.as_str(), it.is_some())).collect();
        assert_eq!(changes, [("mesh", true), ("a", true), ("b", true), ("c", false)]);

        let next = collected.add(sync("4")).unwrap();
        assert!(next.changes.is_empty(), "a push begins with nothing");
    }

    #[test]
    fn a_push_of_every_type_may_be_one_response() {
        let of = |type_url: &str, name: &str| Resource {
            name: name.to_owned(),
            resource: Some(Any { type_url: type_url.to_owned(), ..Any::default() }),
            ..Resource::default()
        };
        let mut whole = sync("n");
        whole.resources.insert(0, of(OBJECT_TYPE, "a"));
        whole.resources.insert(1, of(SECRET_TYPE, "/Secret/ns/new"));
        whole.resources.insert(2, of("type.googleapis.com/weir.config.v2.Later", "later"));
        whole.removed_resources = ["/Secret/ns/old", "b"].map(str::to_owned).into();
        let push = Collected::default().add(whole).unwrap();
        assert_eq!(push.sync.version, "7");
        let changes: Vec<_> = push.changes.iter().map(|(name, it)| (name, it.is_some())).collect();
        let name = |type_url, name: &str| Name { type_url, name: name.to_owned() };
        assert_eq!(
            changes,
            [
                (&name(OBJECT_TYPE, "a"), true),
                (&name(OBJECT_TYPE, "b"), false),
                (&name(SECRET_TYPE, "/Secret/ns/new"), true),
                (&name(SECRET_TYPE, "/Secret/ns/old"), false),
            ]
        );
        let rejection = Rejection { resource_name: "a".to_owned(), message: "wrong".to_owned() };
        let answers: Vec<_> = push.unanswered.answers(&[rejection]).collect();
        let [answer] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((&*answer.type_url, &*answer.response_nonce), (SYNC_TYPE, "n"));
        assert_eq!(answer.error_detail.as_ref().unwrap().message, "a: wrong");
    }

    #[test]
    fn the_last_word_on_a_name_counts() {
        let mut collected = Collected::default();
        collected.add(response(OBJECT_TYPE, "1", &["a"], &[]));
        collected.add(response(OBJECT_TYPE, "2", &[], &["a"]));
        let push = collected.add(sync("3")).unwrap();
        assert_eq!(push.changes.values().flatten().count(), 0);
    }

    #[test]
    fn a_type_nobody_asked_for_is_answered_and_ignored() {
        let mut collected = Collected::default();
        collected.add(response("type.googleapis.com/weir.config.v2.Later", "1", &["a"], &[]));
        let push = collected.add(sync("2")).unwrap();
        assert!(push.changes.is_empty());
        let answers: Vec<_> = push.unanswered.answers(&[]).collect();
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| answer.error_detail.is_none()));
    }

    #[test]
    fn each_response_is_told_what_of_it_was_refused() {
        let mut collected = Collected::default();
        collected.add(response(OBJECT_TYPE, "1", &["a", "b", "c"], &[]));
        collected.add(response(OBJECT_TYPE, "2", &["d"], &[]));
        let push = collected.add(sync("3")).unwrap();
        let rejection = |name: &str| Rejection {
            resource_name: name.to_owned(),
            message: format!("{name} is wrong"),
        };
        let rejections = [rejection("b"), rejection("c")];
        let answers: Vec<_> = push.unanswered.answers(&rejections).collect();
        let nonces: Vec<_> = answers.iter().map(|answer| answer.response_nonce.as_str()).collect();
        assert_eq!(nonces, ["1", "2", "3"]);
        let error = answers[0].error_detail.as_ref().unwrap();
        assert_eq!(error.message, "b: b is wrong; and 1 more");
        assert_eq!(Rejections::of_details(&error.details), rejections);
        assert_eq!(answers[1].error_detail, None);
        assert_eq!(answers[2].error_detail, None);
    }
}
