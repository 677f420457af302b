// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches: RDMA WRITEs, or READs, that follow each other on a send queue, copied by one system call.
//!
//! Each request is checked as ever, in order; only then is all of it copied, and then completed, in order. If
//! memory is not there, the requests before it are done, and the send queue goes back to the one that failed,
//! which is executed again by itself: what comes of it is decided where it is for all others.

use core::cell::RefCell;
use std::sync::Arc;

use ferroce_core::ring::{Cqe, Operation, SendRequest};
use ferroce_core::verbs::limits::{MAX_INLINE_DATA, MAX_SEND_SGE};
use ferroce_device::send::Completion;

use crate::peer::{Entered, Peer};
use crate::reach::{Direction, Piece};

/// The longest request of a batch, in bytes. With longer ones the system call is a small part of what they cost.
pub const LONGEST: u64 = 4096;

/// Pieces of memory that a system call takes (`IOV_MAX`).
const PIECES: usize = 1024;

/// Room for inline data, in bytes.
const INLINE: usize = 32 << 10;

/// Requests that were checked, and are not copied yet.
#[derive(Default)]
pub struct Batch {
    requests: Vec<Request>,
    direction: Option<Direction>,
    /// Whose memory it is. What was found of that process's objects stays there as long as this is here.
    target: Option<Entered<Arc<Peer>>>,
    pieces: RefCell<Pieces>,
    /// The next request is to be executed by itself.
    is_closed: bool,
}

/// A request of a batch.
struct Request {
    completion: Completion,
    /// In bytes.
    length: u32,
    /// Bytes of the batch up to the end of this request.
    end: usize,
}

/// The memory of a batch. Both lists have as many bytes.
#[derive(Default)]
struct Pieces {
    here: Vec<Piece>,
    there: Vec<Piece>,
    bytes: usize,
    /// Inline data, which stays where it is until it was copied: the room is never more than at first.
    inline: Vec<u8>,
}

/// The end of a list of pieces: how many there are, and the length of the last.
type End = (usize, usize);

/// What there was of a batch before a request.
struct Mark {
    here: End,
    there: End,
    bytes: usize,
    inline: usize,
}

fn end(pieces: &[Piece]) -> End {
    (pieces.len(), pieces.last().map_or(0, Piece::length))
}

fn cut(pieces: &mut Vec<Piece>, (count, length): End) {
    pieces.truncate(count);
    if let Some(last) = pieces.last_mut() {
        *last = Piece::new(last.address(), length);
    }
}

/// Adds a piece, to the last one if it follows that.
fn push(pieces: &mut Vec<Piece>, address: u64, length: usize) {
    if let Some(last) = pieces.last_mut()
        && last.address().checked_add(last.length() as u64) == Some(address)
    {
        *last = Piece::new(last.address(), last.length() + length);
        return;
    }
    pieces.push(Piece::new(address, length));
}

impl Pieces {
    fn mark(&self) -> Mark {
        Mark {
            here: end(&self.here),
            there: end(&self.there),
            bytes: self.bytes,
            inline: self.inline.len(),
        }
    }

    fn undo(&mut self, mark: &Mark) {
        cut(&mut self.here, mark.here);
        cut(&mut self.there, mark.there);
        self.bytes = mark.bytes;
        self.inline.truncate(mark.inline);
    }

    fn add(&mut self, here: u64, there: u64, length: usize) {
        push(&mut self.here, here, length);
        push(&mut self.there, there, length);
        self.bytes += length;
    }

    /// Whether any request may follow.
    fn has_room(&self) -> bool {
        self.here.len().max(self.there.len()) + MAX_SEND_SGE as usize <= PIECES
            && self.inline.len() + MAX_INLINE_DATA as usize <= INLINE
    }

    fn clear(&mut self) {
        self.here.clear();
        self.there.clear();
        self.inline.clear();
        self.bytes = 0;
    }
}

/// Which way a request's data goes, if it may be one of a batch.
fn direction(operation: &Operation) -> Option<Direction> {
    match operation {
        Operation::RdmaWrite(_) => Some(Direction::Write),
        Operation::RdmaRead(_) => Some(Direction::Read),
        _ => None,
    }
}

impl Batch {
    /// Whether there is no request in it.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether a request of `length` bytes may be the next one.
    pub fn admits(&self, request: &SendRequest, length: u64) -> bool {
        let direction = direction(&request.operation);
        direction.is_some()
            && length <= LONGEST
            && !self.is_closed
            && (self.is_empty() || direction == self.direction)
            && self.pieces.borrow().has_room()
    }

    /// Prepares for a request to a process. `false` if the requests before it are to another one.
    pub fn begin(&mut self, request: &SendRequest, target: &Arc<Peer>) -> bool {
        self.direction = direction(&request.operation);
        let entered = self
            .target
            .get_or_insert_with(|| Entered::new(target.clone()));
        Arc::ptr_eq(&entered.peer, target)
    }

    /// Adds a request, unless `check` refuses it. That is handed this batch to add the memory to, and returns
    /// the length in bytes.
    pub fn join(
        &mut self,
        completion: Completion,
        check: impl FnOnce(&Self) -> Option<u32>,
    ) -> Option<u32> {
        let mark = self.pieces.borrow().mark();
        let length = check(self);
        let pieces = self.pieces.get_mut();
        match length {
            None => pieces.undo(&mark),
            Some(length) => self.requests.push(Request {
                completion,
                length,
                end: pieces.bytes,
            }),
        }
        length
    }

    /// Has the next request executed by itself.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// A request was executed by itself.
    pub fn reopen(&mut self) {
        self.is_closed = false;
    }

    /// Copies all of it. Returns how many requests are done, from the first: not all, if memory is not there.
    pub fn copy(&mut self) -> usize {
        let pieces = self.pieces.get_mut();
        let copied = match (&self.target, self.direction) {
            (Some(target), Some(direction)) if pieces.bytes > 0 => {
                let reach = &target.peer.reach;
                reach.copy_pieces(direction, &pieces.here, &pieces.there)
            }
            _ => 0,
        };
        self.requests
            .partition_point(|request| request.end <= copied)
    }

    /// The completions of the first `done` requests.
    pub fn completions(&self, done: usize, qpn: u32) -> impl Iterator<Item = Cqe> {
        let requests = self.requests.iter().take(done);
        requests.filter_map(move |request| request.completion.done(qpn, request.length))
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Forgets its requests.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.pieces.get_mut().clear();
        self.target = None;
    }

    /// Adds memory of the request to come: of this process and of the other.
    pub fn add(&self, here: u64, there: u64, length: u32) {
        self.pieces.borrow_mut().add(here, there, length as usize);
    }

    /// As [`add`](Self::add), of data that is not in the memory of the program.
    pub fn add_inline(&self, bytes: &[u8], there: u64) {
        let mut pieces = self.pieces.borrow_mut();
        let at = pieces.inline.len();
        // The first time: `admits` keeps within it.
        pieces.inline.reserve_exact(INLINE - at);
        pieces.inline.extend_from_slice(bytes);
        let here = pieces.inline.as_ptr().addr() + at;
        pieces.add(here as u64, there, bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_follow_each_other_are_one_and_are_taken_back() {
        let mut pieces = Pieces::default();
        pieces.add(1000, 5000, 8);
        let mark = pieces.mark();
        pieces.add(1008, 5008, 8);
        pieces.add(2000, 5016, 4);
        let ends = |pieces: &[Piece]| -> Vec<_> {
            let both = |piece: &Piece| (piece.address(), piece.length());
            pieces.iter().map(both).collect()
        };
        assert_eq!(ends(&pieces.here), [(1000, 16), (2000, 4)]);
        assert_eq!(ends(&pieces.there), [(5000, 20)]);
        pieces.undo(&mark);
        assert_eq!(ends(&pieces.here), [(1000, 8)]);
        assert_eq!(ends(&pieces.there), [(5000, 8)]);
        assert_eq!(pieces.bytes, 8);
        let none = Pieces::default().mark();
        pieces.undo(&none);
        assert!(pieces.here.is_empty() && pieces.there.is_empty());
    }
}
