//! A push: cut into responses, and what was answered to them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::time::Instant;
use weir_config::wire::{
    discovery::{DeltaDiscoveryRequest, RESPONSE_SIZE, Resource},
    resource::{MESH_TYPE, OBJECT_TYPE, Rejections, SECRET_TYPE, SYNC_TYPE, TYPES},
};

use super::{codec::Response, mailbox::Pending};
use crate::store::Section;

/// How long a proxy may take to apply a push. One that does not answer holds resources, and nobody
/// else.
const ANSWER: Duration = Duration::from_secs(120);

/// Rejections that are kept of a push: what a proxy sends has to have an end.
const MAX_REJECTIONS: usize = 10_000;

/// A push that is under way.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) version: Arc<str>,
    /// When the oldest of it was known.
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) unsent: VecDeque<Response>,
    /// Responses that were not answered yet.
    unanswered: BTreeSet<String>,
    pub(super) rejected: BTreeMap<String, String>,
    /// What is in it: what is not rejected of that is no longer rejected.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Bytes of its resources.
    pub(super) size: usize,
}

/// That a proxy did not apply all of a response.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Resources, or 1 if it does not say which.
    pub(super) count: u64,
    pub(super) message: String,
}

impl Push {
    /// Cuts what is pending into responses, in the order of their types, with the end at the end.
    pub(super) fn new(version: Arc<str>, pending: Pending) -> Self {
        let mut unsent = VecDeque::new();
        let mut size = 0;
        for (section, type_url) in [
            (Section::Mesh, MESH_TYPE),
            (Section::Secret, SECRET_TYPE),
            (Section::Object, OBJECT_TYPE),
        ] {
            size += cut(&pending, section, type_url, &version, &mut unsent);
        }
        let sync = Resource::sync(version.to_string()).encode_to_vec().into();
        unsent.push_back(Response {
            push: Arc::clone(&version),
            type_url: SYNC_TYPE,
            nonce: String::new(),
            resources: vec![sync],
            removed: Vec::new(),
        });
        for (index, response) in unsent.iter_mut().enumerate() {
            response.nonce = format!("{version}/{index}");
        }
        let now = Instant::now();
        Self {
            since: pending.since.unwrap_or(now),
            deadline: now + ANSWER,
            unanswered: unsent.iter().map(|response| response.nonce.clone()).collect(),
            unsent,
            rejected: BTreeMap::new(),
            names: pending.changes.into_keys().collect(),
            size,
            version,
        }
    }

    /// Takes note of the answer to a response. A subscription, and the answer to what was not asked,
    /// are none.
    pub(super) fn answer(&mut self, request: DeltaDiscoveryRequest) -> Option<Refusal> {
        if !self.unanswered.remove(&request.response_nonce) {
            return None;
        }
        let error = request.error_detail?;
        let rejections = Rejections::of_details(&error.details);
        let count = rejections.len().max(1) as u64;
        for rejection in rejections {
            if self.rejected.len() < MAX_REJECTIONS {
                self.rejected.insert(rejection.resource_name, rejection.message);
            }
        }
        Some(Refusal { count, message: error.message })
    }

    /// Whether all of it was answered.
    pub(super) fn is_done(&self) -> bool {
        self.unanswered.is_empty()
    }
}

/// The responses for one type; returns their bytes.
fn cut(
    pending: &Pending,
    section: Section,
    type_url: &'static str,
    push: &Arc<str>,
    responses: &mut VecDeque<Response>,
) -> usize {
    let empty = || Response {
        push: Arc::clone(push),
        type_url,
        nonce: String::new(),
        resources: Vec::new(),
        removed: Vec::new(),
    };
    let mut response = empty();
    let (mut size, mut total) = (0, 0);
    for (name, change) in &pending.changes {
        if Section::of_name(name) != section {
            continue;
        }
        size += match change {
            Some(resource) => {
                response.resources.push(resource.bytes.clone());
                resource.bytes.len()
            }
            None => {
                response.removed.push(Arc::clone(name));
                name.len()
            }
        };
        if size >= RESPONSE_SIZE {
            responses.push_back(std::mem::replace(&mut response, empty()));
            total += std::mem::take(&mut size);
        }
    }
    if size > 0 {
        responses.push_back(response);
    }
    total + size
}

/// The last part of a type's URL, as metrics and logs name it.
pub(super) fn short(type_url: &str) -> &'static str {
    TYPES
        .iter()
        .find(|known| **known == type_url)
        .and_then(|known| known.rsplit('.').next())
        .unwrap_or("other")
}
