// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work requests that come in pieces, from `wr_start` to `wr_complete` (`ibv_wr_post(3)`).
//!
//! An operation begins a work request. Its data and its destination follow, in any order, and the next
//! operation or the end completes it. They are collected here, since what they point to is good during
//! the call alone. If anything is wrong with any work request, none is posted: the end says what it was.

use ferroce_core::ring::{self, Destination, Operation, Payload, SendRequest, Sge};
use ferroce_core::verbs::limits::{MAX_INLINE_DATA, MAX_SEND_SGE};
use ferroce_core::verbs::SendFlags;

use super::send::{Sender, Wake};
use super::state::State;
use super::PostError;

/// What is known of the work request that is being put together.
pub struct Batch {
    request: Option<SendRequest>,
    data: Data,
    sges: [Sge; MAX_SEND_SGE as usize],
    inline: [u8; MAX_INLINE_DATA as usize],
    /// What was wrong first.
    error: Option<PostError>,
}

/// How the data is given.
enum Data {
    None,
    /// So many of the SGEs.
    Sges(usize),
    /// So many bytes.
    Inline(usize),
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            request: None,
            data: Data::None,
            sges: [Sge::default(); MAX_SEND_SGE as usize],
            inline: [0; MAX_INLINE_DATA as usize],
            error: None,
        }
    }
}

impl Sender {
    /// Begins a batch.
    pub fn start(&mut self) {
        self.batch.request = None;
        self.batch.error = None;
        self.abort();
    }

    /// Begins a work request. `flags` are the program's: inline data is known by how it is given.
    pub fn begin(&mut self, wr_id: u64, flags: u32, operation: Operation) {
        self.finish_request();
        self.batch.data = Data::None;
        self.batch.request = Some(SendRequest {
            wr_id,
            flags: SendFlags::from_bits_truncate(flags).without(SendFlags::INLINE),
            operation,
            destination: None,
        });
    }

    /// Says where the work request goes.
    pub fn set_destination(&mut self, destination: Destination) {
        match &mut self.batch.request {
            Some(request) => request.destination = Some(destination),
            None => self.reject(PostError::NoOperation),
        }
    }

    /// Gives the work request's data, in memory regions.
    pub fn set_sges(&mut self, sges: &[Sge]) {
        if self.batch.request.is_none() {
            return self.reject(PostError::NoOperation);
        }
        match self.batch.sges.get_mut(..sges.len()) {
            Some(room) => {
                room.copy_from_slice(sges);
                self.batch.data = Data::Sges(sges.len());
            }
            None => self.reject(ring::PostError::TooManySges(sges.len()).into()),
        }
    }

    /// Gives the work request's data, to be copied now.
    pub fn set_inline<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        if self.batch.request.is_none() {
            return self.reject(PostError::NoOperation);
        }
        let mut length = 0;
        for piece in pieces {
            let end = piece.len().saturating_add(length);
            match self.batch.inline.get_mut(length..end) {
                Some(room) => room.copy_from_slice(piece),
                None => return self.reject(ring::PostError::InlineTooLong(end).into()),
            }
            length = end;
        }
        self.batch.data = Data::Inline(length);
    }

    /// Notes that something is wrong with the batch.
    pub fn reject(&mut self, error: PostError) {
        self.batch.error.get_or_insert(error);
    }

    /// Ends the batch: posts all of it, or nothing.
    pub fn complete(&mut self, state: &State) -> Result<Wake, PostError> {
        if let Err(error) = state.check_send() {
            self.reject(error);
        }
        self.finish_request();
        match self.batch.error.take() {
            None => Ok(self.publish()),
            Some(error) => {
                self.abort();
                Err(error)
            }
        }
    }
}

impl Batch {
    /// Hands over the work request that has been put together, if there is one and all was well so far.
    pub(super) fn finish_request(
        &mut self,
        push: impl FnOnce(&SendRequest, Payload<'_>) -> Result<(), PostError>,
    ) {
        let Some(request) = self.request.take() else {
            return;
        };
        if self.error.is_some() {
            return;
        }
        // Both are within the arrays, which `set_sges` and `set_inline` have seen to.
        let result = match self.data {
            Data::None => push(&request, Payload::NONE),
            Data::Sges(count) => {
                let sges = self.sges.get(..count).unwrap_or_default();
                push(&request, Payload::Sges(sges))
            }
            Data::Inline(length) => {
                let bytes = self.inline.get(..length).unwrap_or_default();
                push(&request, Payload::Inline(&[bytes]))
            }
        };
        self.error = result.err();
    }
}
