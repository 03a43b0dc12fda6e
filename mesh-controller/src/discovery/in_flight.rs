//! A push: what is left to be sent of it, and what was answered.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use weir_config::wire::{
    discovery::DeltaDiscoveryRequest,
    resource::{Rejections, TYPES},
};

use super::post::Post;

/// Rejections that are kept of a push: what a proxy sends has to have an end.
const MAX_REJECTIONS: usize = 10_000;

/// A push that is under way.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) post: Arc<Post>,
    unsent: VecDeque<Unsent>,
    /// Nonces of responses that were not answered yet.
    unanswered: Vec<Arc<str>>,
    pub(super) rejected: BTreeMap<String, String>,
}

/// A response that waits for its turn.
#[derive(Debug)]
enum Unsent {
    /// The bytes that others get as well.
    Whole(Bytes),
    /// One of many, encoded when it is sent: all at once they would be the whole configuration again.
    Part(super::codec::Response),
}

/// That a proxy did not apply all of a response.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) message: String,
    /// What was refused; empty if it does not say.
    pub(super) names: Vec<String>,
}

impl Push {
    /// `takes_whole`: the proxy understands a push that is one response.
    pub(super) fn new(post: Arc<Post>, takes_whole: bool) -> Self {
        let whole = if takes_whole { post.whole() } else { None };
        let (unsent, unanswered) = match whole {
            Some(whole) => {
                (VecDeque::from([Unsent::Whole(whole)]), vec![Arc::clone(&post.version)])
            }
            None => {
                let parts = post.parts();
                let nonces = parts.iter().map(|part| Arc::clone(&part.nonce)).collect();
                (parts.into_iter().map(Unsent::Part).collect(), nonces)
            }
        };
        Self { post, unsent, unanswered, rejected: BTreeMap::new() }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        match self.unsent.pop_front()? {
            Unsent::Whole(message) => Some(message),
            Unsent::Part(response) => Some(response.encode()),
        }
    }

    /// Takes note of the answer to a response. A subscription, and the answer to what was not asked,
    /// are none.
    pub(super) fn answer(&mut self, request: DeltaDiscoveryRequest) -> Option<Refusal> {
        let nonce = request.response_nonce;
        let at = self.unanswered.iter().position(|unanswered| **unanswered == *nonce)?;
        self.unanswered.remove(at);
        let error = request.error_detail?;
        let mut names = Vec::new();
        for rejection in Rejections::of_details(&error.details) {
            names.push(rejection.resource_name.clone());
            if self.rejected.len() < MAX_REJECTIONS {
                self.rejected.insert(rejection.resource_name, rejection.message);
            }
        }
        Some(Refusal { message: error.message, names })
    }

    /// Whether all of it was answered.
    pub(super) fn is_done(&self) -> bool {
        self.unanswered.is_empty()
    }
}

/// The last part of a type's URL, as metrics and logs name it.
pub(super) fn short(type_url: &str) -> &'static str {
    TYPES
        .iter()
        .find(|known| **known == type_url)
        .and_then(|known| known.rsplit('.').next())
        .unwrap_or("other")
}
