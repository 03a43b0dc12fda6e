//! What stands in the journal.

use std::time::{SystemTime, UNIX_EPOCH};

use weir_config::wire::{discovery::Resource, resource::Sync};

use super::{Identity, Name};

/// One frame.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    pub(super) kind: Option<Kind>,
}

/// The kinds of frames.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(message, tag = "1")]
    Owner(Owner),
    #[prost(message, tag = "2")]
    Put(Put),
    #[prost(message, tag = "3")]
    Remove(Remove),
    #[prost(message, tag = "4")]
    Commit(Commit),
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Owner {
    #[prost(string, tag = "1")]
    pub(super) namespace: String,
    #[prost(string, tag = "2")]
    pub(super) service_account: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Put {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Resource>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Remove {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

/// The end of a push, from which on it is in force.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Commit {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(uint64, tag = "2")]
    pub(super) unix_seconds: u64,
    /// As the controller said it.
    #[prost(string, tag = "3")]
    pub(super) position: String,
}

impl Owner {
    pub(super) fn of(identity: &Identity) -> Self {
        let Identity { namespace, service_account } = identity.clone();
        Self { namespace, service_account }
    }
}

impl Put {
    /// `None` for a type that is not known (any more).
    pub(super) fn into_parts(self) -> Option<(Name, Resource)> {
        let resource = self.resource?;
        Some((Name::new(&self.type_url, &resource.name)?, resource))
    }
}

impl Remove {
    pub(super) fn name(&self) -> Option<Name> {
        Name::new(&self.type_url, &self.name)
    }
}

impl Commit {
    pub(super) fn now(sync: &Sync) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Sync { version, position } = sync.clone();
        Self { version, unix_seconds: now.as_secs(), position }
    }
}
