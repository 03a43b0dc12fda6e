//! One stream after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::PathBuf,
    time::Instant,
};

use http::uri::PathAndQuery;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Request, Status, codegen::tokio_stream::wrappers::ReceiverStream};
use tonic_prost::ProstCodec;
use weir_config::wire::{
    discovery::{
        DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        MAX_MESSAGE_SIZE, Resource,
    },
    resource::{Rejection, Sync},
};

use super::{
    AdsSource, Answer, Push, Translated,
    push::{Collected, Complete, Name},
};
use crate::control_plane::{self, Backoff};

/// Requests that wait for the connection: more than a stream begins with.
const REQUESTS: usize = 16;

/// What is said of a resource that is refused unread.
const SUSPECT: &str = "the gateway ended early, several times, after it took this version from its \
                       copy on disk; another version, or an orderly restart, is tried again";

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    NotConnected(#[from] control_plane::Error),
    #[error(
        "the controller does not accept the token at {} ({code:?}): {message}",
        token.display()
    )]
    NotAccepted { token: PathBuf, code: Code, message: String },
    #[error("the controller knows less than what is in force here: {message}")]
    Behind { message: String },
    #[error("the stream of the controller broke ({code:?}): {message}")]
    Broken { code: Code, message: String },
    #[error("the controller ended the stream")]
    Ended,
    /// Nobody wants pushes any more: the process ends.
    #[error("nobody listens")]
    Unwanted,
}

/// Follows the controller until nobody wants its pushes.
pub(super) async fn follow(mut source: AdsSource, pushes: mpsc::Sender<Push>) {
    let mut backoff = Backoff::default();
    // Each once until there is a push again: several controllers may fail for several reasons.
    let mut said = BTreeSet::new();
    loop {
        let Err(end) = source.session(&pushes, &mut backoff, &mut said).await;
        match end {
            End::Unwanted => return,
            End::Behind { .. } => source.insist(),
            _ => {}
        }
        let problem = format!("{:#}", anyhow::Error::from(end));
        if said.insert(problem.clone()) {
            tracing::warn!("{problem}; what is in force stays, and the controller is tried again");
        }
        source.status.disconnected(problem);
        tokio::time::sleep(backoff.wait()).await;
    }
}

impl AdsSource {
    async fn session(
        &mut self,
        pushes: &mpsc::Sender<Push>,
        backoff: &mut Backoff,
        said: &mut BTreeSet<String>,
    ) -> Result<Infallible, End> {
        let mut grpc =
            self.control_plane.connect().await?.max_decoding_message_size(MAX_MESSAGE_SIZE);
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        for request in self.held.subscriptions(&self.node) {
            send(&requests, request).await?;
        }
        let path = PathAndQuery::from_static(DELTA_AGGREGATED_RESOURCES);
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let outgoing = Request::new(ReceiverStream::new(outgoing));
        let opened = grpc.streaming(outgoing, path, codec).await;
        let mut responses = opened.map_err(|status| self.end(&status))?.into_inner();
        tracing::info!("the stream of the controller is open");
        self.status.connected();

        let mut collected = Collected::default();
        let mut noticed = None;
        loop {
            let response = responses.message().await.map_err(|status| self.end(&status))?;
            let response = response.ok_or(End::Ended)?;
            noticed.get_or_insert_with(Instant::now);
            if let Some(push) = collected.add(response) {
                let began = noticed.take();
                self.apply(push, began, pushes, &requests).await?;
                *backoff = Backoff::default();
                said.clear();
            }
        }
    }

    /// Has a push put in force, then answers it and writes it down.
    async fn apply(
        &mut self,
        push: Complete,
        noticed: Option<Instant>,
        pushes: &mpsc::Sender<Push>,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), End> {
        let Complete { sync, mut changes, unanswered } = push;
        if let Some(probation) = self.probation.take_if(|_| !changes.is_empty()) {
            // From here on it is not the copy alone.
            probation.passed();
        }
        let suspects = self.refuse_suspects(&mut changes);
        let read = changes.iter().map(|(name, resource)| (name, resource.as_ref()));
        let Translated { mut update, mut rejections, subjects } = self.objects.translate(read);
        update.noticed = noticed;
        rejections.extend(suspects);
        let (answer, answered) = oneshot::channel();
        let push = Push { update, answer: Answer { subjects, rejections: answer } };
        pushes.send(push).await.map_err(|_closed| End::Unwanted)?;
        rejections.extend(answered.await.map_err(|_closed| End::Unwanted)?);

        self.status.synced(&sync.version, rejections.len());
        for answer in unanswered.answers(&rejections) {
            send(requests, answer).await?;
        }
        tracing::debug!(sync.version, changes = changes.len(), "a push is in force");
        self.remember(sync, changes, &rejections).await;
        Ok(())
    }

    /// Takes what ended others out of a push.
    fn refuse_suspects(
        &mut self,
        changes: &mut BTreeMap<Name, Option<Resource>>,
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        changes.retain(|name, resource| {
            let version = resource.as_ref().map(|resource| &resource.version);
            let is_suspect = version.is_some() && self.suspects.get(name) == version;
            if is_suspect {
                let message = SUSPECT.to_owned();
                rejections.push(Rejection { resource_name: name.name.clone(), message });
            } else {
                self.suspects.remove(name);
            }
            !is_suspect
        });
        rejections
    }

    /// Takes note of what is in force now, for the next stream and the next start.
    async fn remember(
        &mut self,
        sync: Sync,
        changes: BTreeMap<Name, Option<Resource>>,
        rejections: &[Rejection],
    ) {
        self.held.set_position(sync.position.clone());
        let refused: BTreeSet<_> = rejections.iter().map(|it| it.resource_name.as_str()).collect();
        let mut put = Vec::new();
        let mut removed = Vec::new();
        for (name, resource) in changes {
            match resource {
                Some(_) if refused.contains(name.name.as_str()) => {}
                Some(resource) => {
                    self.held.put(name.clone(), resource.version.clone());
                    put.push((name, resource));
                }
                None => {
                    self.held.remove(&name);
                    removed.push(name);
                }
            }
        }
        let Some(mut copy) = self.copy.take() else { return };
        let write = tokio::task::spawn_blocking(move || {
            let written = copy.write(&put, &removed, &sync);
            (copy, written)
        });
        // A panic in there is a bug that was said; the copy is not continued.
        let Ok((copy, written)) = write.await else { return };
        self.copy = Some(copy);
        match written {
            Ok(()) => self.unwritten = None,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if self.unwritten.as_ref() != Some(&error) {
                    tracing::error!("{error}; tried again with the next push");
                }
                self.unwritten = Some(error);
            }
        }
    }

    /// What is in force stays, unless it has to be taken that nobody will ever know as much again.
    fn insist(&mut self) {
        self.status.found_older();
        if self.held.is_ahead(Instant::now()) {
            tracing::warn!("no controller has known as much for minutes: what they know is taken");
        }
    }

    fn end(&self, status: &Status) -> End {
        let (code, message) = (status.code(), status.message().to_owned());
        match code {
            Code::Unauthenticated | Code::PermissionDenied => {
                End::NotAccepted { token: self.control_plane.token.clone(), code, message }
            }
            Code::FailedPrecondition => End::Behind { message },
            _ => End::Broken { code, message },
        }
    }
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), End> {
    // The other end goes when the stream breaks; why, its own end would say later.
    requests.send(request).await.map_err(|_closed| End::Ended)
}
