//! Both bodies at once. Each direction moves as far as the side it writes to has room; a side without
//! room stops only what is written to it. Nothing here grows with the size of a body.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use http::HeaderValue;

use super::{
    deadline::{Deadlines, Expired},
    field::GRPC_STATUS,
    grpc::MessageCounter,
    mirror::Copies,
};
use crate::codec::{ClientSession, Frame, ServerSession, StreamError};

/// What ended the movement before its end.
#[derive(Debug)]
pub enum Failure {
    Downstream(StreamError),
    Upstream(StreamError),
    Expired(Expired),
}

/// The request's body on its way up. What an attempt took is kept, within a limit, for the next one.
#[derive(Debug)]
pub struct RequestBody {
    kept: Vec<Frame>,
    kept_bytes: usize,
    /// Bytes that may be kept; 0 once the request can be sent only once.
    keep: usize,
    /// The next of `kept` to be sent in this attempt.
    next: usize,
    /// The client's end of the body was read.
    ended: bool,
    /// The end was written to the upstream of this attempt.
    finished: bool,
    /// Something was read that is not kept any more.
    lost: bool,
    copies: Copies,
    /// Body bytes read from the client.
    pub received: u64,
    /// Of a gRPC request.
    messages: Option<MessageCounter>,
}

impl RequestBody {
    /// `empty`: there is nothing to read. `keep`: bytes kept so that the request can be sent again; 0
    /// when it will not be.
    #[must_use]
    pub fn new(empty: bool, keep: usize) -> Self {
        Self {
            kept: Vec::new(),
            kept_bytes: 0,
            keep,
            next: 0,
            ended: empty,
            finished: false,
            lost: false,
            copies: Copies::default(),
            received: 0,
            messages: None,
        }
    }

    /// The body is also sent to where these go.
    #[must_use]
    pub fn copied_to(mut self, mut copies: Copies) -> Self {
        if self.ended {
            copies.finish();
        }
        self.copies = copies;
        self
    }

    /// The body is a series of gRPC messages, to be counted.
    pub fn count_messages(&mut self) {
        self.messages = Some(MessageCounter::default());
    }

    /// gRPC messages read from the client.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.as_ref().map_or(0, MessageCounter::count)
    }

    /// Whether another attempt would carry the same body.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        !self.lost
    }

    /// From the start, for a new attempt.
    pub fn rewind(&mut self) {
        self.next = 0;
        self.finished = false;
    }

    /// No further attempt will be made: what is kept is let go as soon as it is sent.
    pub fn stop_keeping(&mut self) {
        self.keep = 0;
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The client has sent all of it.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.ended
    }

    /// Moves what can be moved; ready once the end was written (not: flushed) to the upstream.
    /// `moved` is set when anything was.
    pub fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut ServerSession,
        upstream: &mut ClientSession,
        moved: &mut bool,
    ) -> Poll<Result<(), Failure>> {
        while !self.finished {
            ready!(upstream.poll_ready(cx)).map_err(Failure::Upstream)?;
            let Some(frame) = ready!(self.poll_next(cx, session)).map_err(Failure::Downstream)?
            else {
                upstream.finish().map_err(Failure::Upstream)?;
                self.finished = true;
                *moved = true;
                break;
            };
            self.finished = matches!(frame, Frame::Trailers(_));
            *moved = true;
            upstream.write(frame).map_err(Failure::Upstream)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut ServerSession,
    ) -> Poll<Result<Option<Frame>, StreamError>> {
        if let Some(frame) = self.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Ok(Some(duplicate(frame))));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let frame = ready!(session.poll_read(cx))?;
        match &frame {
            Some(frame) => {
                if !self.copies.is_empty() {
                    self.copies.push(|| duplicate(frame));
                }
                self.keep(frame);
            }
            None => {
                self.ended = true;
                self.copies.finish();
            }
        }
        Poll::Ready(Ok(frame))
    }

    fn keep(&mut self, frame: &Frame) {
        let bytes = match frame {
            Frame::Data(data) => {
                if let Some(messages) = &mut self.messages {
                    messages.see(data);
                }
                data.len()
            }
            Frame::Trailers(_) => {
                self.ended = true;
                0
            }
        };
        self.received += bytes as u64;
        if !self.lost && self.kept_bytes + bytes <= self.keep {
            self.kept_bytes += bytes;
            self.kept.push(duplicate(frame));
            self.next = self.kept.len();
        } else {
            self.lost = true;
            self.kept = Vec::new();
            self.next = 0;
        }
    }
}

/// Data is shared, not copied.
fn duplicate(frame: &Frame) -> Frame {
    match frame {
        Frame::Data(data) => Frame::Data(data.clone()),
        Frame::Trailers(trailers) => Frame::Trailers(trailers.clone()),
    }
}

/// The response's body on its way down.
#[derive(Debug, Default)]
pub struct ResponseBody {
    finished: bool,
    /// Body bytes written to the client.
    pub sent: u64,
    /// `grpc-status` of the trailers.
    pub grpc_status: Option<u8>,
    /// Of a gRPC response.
    messages: Option<MessageCounter>,
}

impl ResponseBody {
    /// The body is a series of gRPC messages, to be counted.
    pub fn count_messages(&mut self) {
        self.messages = Some(MessageCounter::default());
    }

    /// gRPC messages written to the client.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.as_ref().map_or(0, MessageCounter::count)
    }

    /// Moves what can be moved; ready once the end was written (not: flushed) to the client.
    pub fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut ClientSession,
        session: &mut ServerSession,
        moved: &mut bool,
    ) -> Poll<Result<(), Failure>> {
        while !self.finished {
            ready!(session.poll_ready(cx)).map_err(Failure::Downstream)?;
            let frame = ready!(upstream.poll_read(cx)).map_err(Failure::Upstream)?;
            *moved = true;
            match frame {
                Some(Frame::Data(data)) => {
                    self.sent += data.len() as u64;
                    if let Some(messages) = &mut self.messages {
                        messages.see(&data);
                    }
                    session.write(Frame::Data(data)).map_err(Failure::Downstream)?;
                }
                Some(Frame::Trailers(trailers)) => {
                    self.grpc_status = trailers.get(GRPC_STATUS).and_then(grpc_status);
                    self.finished = true;
                    session.write(Frame::Trailers(trailers)).map_err(Failure::Downstream)?;
                }
                None => {
                    self.finished = true;
                    session.finish().map_err(Failure::Downstream)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What `grpc-status` of headers or trailers says.
#[must_use]
pub fn grpc_status(value: &HeaderValue) -> Option<u8> {
    value.to_str().ok()?.parse().ok()
}

/// Moves both bodies until the response has reached the client; a tunnel until both ends are done.
///
/// # Errors
/// The side that failed, or the deadline that passed. An upstream that stops reading the request is
/// not a failure as long as it answers.
pub async fn bodies(
    session: &mut ServerSession,
    upstream: &mut ClientSession,
    (request, response): (&mut RequestBody, &mut ResponseBody),
    tunnel: bool,
    deadlines: &mut Deadlines<'_>,
) -> Result<(), Failure> {
    let mut sending = true;
    poll_fn(|cx| {
        let mut moved = false;
        if sending {
            let forwarded = match request.poll_forward(cx, session, upstream, &mut moved) {
                Poll::Ready(Err(Failure::Upstream(error))) => Err(error),
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            };
            let flushed = forwarded.and_then(|()| match upstream.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    // All was sent; only reading is left on that side.
                    sending = !request.is_finished();
                    Ok(())
                }
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => Ok(()),
            });
            if flushed.is_err() {
                sending = false;
            }
        }
        let answered = match response.poll_forward(cx, upstream, session, &mut moved) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        match session.poll_flush(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Downstream(error))),
            Poll::Ready(Ok(())) if answered && !(tunnel && sending) => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        // An upstream that is silent for now would never let us notice by a write that failed.
        if !tunnel && !answered && request.is_finished() && session.poll_closed(cx).is_ready() {
            let closed = StreamError::Closed { started: true };
            return Poll::Ready(Err(Failure::Downstream(closed)));
        }
        if moved {
            deadlines.moved();
        }
        deadlines.poll_expired(cx).map(|expired| Err(Failure::Expired(expired)))
    })
    .await
}
