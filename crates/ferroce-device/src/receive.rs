// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive queues, of a queue pair or shared, and what becomes of a receive.

use core::ops::DerefMut;

use crate::address::NetworkType;
use crate::local::{Extra, Receive, Received, Taken};
use crate::qp::state;
use crate::queue::WorkQueue;
use crate::ring::{
    Cqe, Idle, RecvQueue, RecvRequest, RingError, WqGeometry, WqPositions, EXECUTOR_WORDS,
};
use crate::verbs::{QpState, QpType, WcFlags, WcOpcode, WcStatus};

/// A receive queue.
pub struct ReceiveQueue<B> {
    queue: WorkQueue<RecvQueue, B>,
    /// How many bytes of the buffer are an entry that was looked at and left.
    held: Option<usize>,
}

/// What a look at a receive queue comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// A receive of this many bytes was copied out.
    Taken(usize),
    /// There is none.
    Empty,
    /// The next one does not fit, and stays.
    Refused,
}

impl<B: DerefMut<Target = [u8]>> ReceiveQueue<B> {
    /// A queue in which nothing was looked at.
    pub const fn new(queue: WorkQueue<RecvQueue, B>) -> Self {
        Self { queue, held: None }
    }

    /// Forgets all that was posted.
    pub fn reset(&mut self) {
        self.held = None;
        self.queue.ring.discard_all();
    }

    /// The ring's size.
    pub fn size(&self) -> WqGeometry<RecvQueue> {
        self.queue.ring.geometry()
    }

    /// Moves all that is posted to another queue. If it does not fit there, this one stays as it is.
    pub fn move_to(&mut self, to: &mut Self) -> Result<(), RingError> {
        // An entry that was looked at and left has not been handed back, and is moved with the others.
        self.queue.ring.move_to(&mut to.queue.ring)
    }

    /// Of the executor, see [`Executor::words`](crate::ring::Executor::words). An entry that was looked at
    /// and left is looked at again.
    pub fn words(&self) -> [u32; EXECUTOR_WORDS] {
        let [_, released, producer, is_asleep] = self.queue.ring.words();
        [released, released, producer, is_asleep]
    }

    /// Takes over from a process that may have ended in the middle of [`take_into`](Self::take_into). Returns
    /// whether it has taken a receive that its words do not count.
    pub fn recover(&mut self) -> bool {
        self.held = None;
        self.queue.ring.recover()
    }

    /// Where the two sides are.
    pub fn positions(&self) -> WqPositions {
        self.queue.ring.positions()
    }

    /// How many requests are posted.
    pub fn available(&mut self) -> u32 {
        let held = u32::from(self.held.is_some());
        self.queue
            .ring
            .available()
            .unwrap_or(0)
            .saturating_add(held)
    }

    /// Takes the next receive, unless `accept` refuses it, by copying it to `copy`. One that makes no
    /// sense is taken, and found out when the copy is decoded.
    pub fn take_into(
        &mut self,
        copy: &mut [u8],
        accept: impl FnOnce(&Receive<'_>) -> bool,
    ) -> Looked {
        let looked = copy_accepted(self.peek(), copy, accept);
        if let Looked::Taken(_) = looked {
            self.take();
        }
        looked
    }

    /// Takes the next receive to be flushed. Returns its `wr_id`. If there is none, the poster of the next
    /// one rings.
    pub fn flush_one(&mut self) -> Option<u64> {
        loop {
            if let Some(wr_id) = self.peek().map(RecvRequest::wr_id) {
                self.take();
                return Some(wr_id);
            }
            match self.queue.ring.sleep() {
                Ok(Idle::Work) => {}
                Ok(Idle::Asleep) | Err(_) => return None,
            }
        }
    }

    /// The next entry, which stays the next until it is taken.
    fn peek(&mut self) -> Option<&[u8]> {
        if self.held.is_none() {
            // An index that makes no sense: to the peer there is nothing posted.
            self.held = Some(self.queue.fetch().ok().flatten()?);
        }
        Some(self.queue.entry(self.held?))
    }

    fn take(&mut self) {
        self.held = None;
        self.queue.ring.hand_back(1);
    }
}

/// Copies an entry, if there is one, unless `accept` refuses it.
fn copy_accepted(
    entry: Option<&[u8]>,
    copy: &mut [u8],
    accept: impl FnOnce(&Receive<'_>) -> bool,
) -> Looked {
    let Some(entry) = entry else {
        return Looked::Empty;
    };
    let Some(copy) = copy.get_mut(..entry.len()) else {
        return Looked::Empty;
    };
    copy.copy_from_slice(entry);
    if let Ok((request, scatter)) = RecvRequest::decode(copy) {
        let wr_id = request.wr_id;
        if !accept(&Receive { wr_id, scatter }) {
            return Looked::Refused;
        }
    }
    Looked::Taken(entry.len())
}

/// How many receives of a UD queue pair can be given back at the same time: by so many threads and bottom
/// halves that deliver to it. A connected one has one sender.
const MOST_GIVEN_BACK: usize = 16;

/// Receives that were taken for messages whose memory is not there yet, or that are not all copied yet,
/// and given back: they are the next ones.
#[derive(Debug)]
pub struct GivenBack<B> {
    /// Room for so many of them, each as long as an entry of the queue that they are of.
    entries: B,
    stride: usize,
    /// How many bytes of each are a receive.
    lens: [usize; MOST_GIVEN_BACK],
    /// The place of the first one.
    first: usize,
    count: usize,
}

/// What becomes of a receive that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// It is the next one again, or nobody waits for it.
    Done,
    /// It is completed with this status, and the queue pair goes to the error state if it is not there.
    Complete(WcStatus),
}

impl<B: DerefMut<Target = [u8]>> GivenBack<B> {
    /// How many bytes of memory a queue pair needs whose receives are `stride` bytes long.
    pub const fn size(qp_type: QpType, stride: usize) -> usize {
        match qp_type.is_datagram() {
            true => MOST_GIVEN_BACK * stride,
            false => stride,
        }
    }

    /// With memory of that [size](Self::size).
    pub const fn new(entries: B, stride: usize) -> Self {
        Self {
            entries,
            stride,
            lens: [0; MOST_GIVEN_BACK],
            first: 0,
            count: 0,
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the next one, as [`ReceiveQueue::take_into`] does.
    pub fn take_into(
        &mut self,
        copy: &mut [u8],
        accept: impl FnOnce(&Receive<'_>) -> bool,
    ) -> Looked {
        let looked = copy_accepted(self.get(), copy, accept);
        if let Looked::Taken(_) = looked {
            self.drop_first();
        }
        looked
    }

    /// Gives a receive back to a queue pair in this state. Says what is to become of it.
    pub fn give_back(&mut self, entry: &[u8], state: QpState) -> Return {
        if state::accepts_requests(state) {
            return match self.put(entry) {
                true => Return::Done,
                // So many datagrams have given theirs back at the same time that there is no room.
                false => Return::Complete(WcStatus::LocProtErr),
            };
        }
        match state {
            // With the others it has been flushed meanwhile, or would have been.
            QpState::Err => Return::Complete(WcStatus::WrFlushErr),
            _ => Return::Done,
        }
    }

    /// Takes all away.
    pub fn forget(&mut self) {
        self.count = 0;
    }

    /// Takes the next one to be flushed. Returns its `wr_id`.
    pub fn flush_one(&mut self) -> Option<u64> {
        let wr_id = self.get().map(RecvRequest::wr_id)?;
        self.drop_first();
        Some(wr_id)
    }

    fn get(&self) -> Option<&[u8]> {
        if self.count == 0 {
            return None;
        }
        let len = *self.lens.get(self.first)?;
        self.entries.get(self.first * self.stride..)?.get(..len)
    }

    /// Puts a receive behind the others, if there is room.
    fn put(&mut self, entry: &[u8]) -> bool {
        let room = match self.entries.len().checked_div(self.stride) {
            Some(room) if self.count < room => room,
            _ => return false,
        };
        let at = (self.first + self.count) % room.max(1);
        let place = self.entries.get_mut(at * self.stride..);
        let place = place.and_then(|rest| rest.get_mut(..entry.len()));
        let (Some(place), Some(len)) = (place, self.lens.get_mut(at)) else {
            return false;
        };
        place.copy_from_slice(entry);
        *len = entry.len();
        self.count += 1;
        true
    }

    fn drop_first(&mut self) {
        let room = self.entries.len() / self.stride.max(1);
        self.first = (self.first + 1) % room.max(1);
        self.count = self.count.saturating_sub(1);
    }
}

/// The receives of a queue pair. `B` is the memory of a [`ReceiveQueue`], `E` that of [`GivenBack`].
pub struct Receives<B, E> {
    /// `None` if they come from a shared receive queue.
    queue: Option<ReceiveQueue<B>>,
    /// Before all others.
    given_back: GivenBack<E>,
}

impl<B: DerefMut<Target = [u8]>, E: DerefMut<Target = [u8]>> Receives<B, E> {
    /// Those of a queue, or of a shared one that the host has.
    pub const fn new(queue: Option<ReceiveQueue<B>>, given_back: GivenBack<E>) -> Self {
        Self { queue, given_back }
    }

    /// The queue, unless it is a shared one.
    pub const fn queue(&self) -> Option<&ReceiveQueue<B>> {
        self.queue.as_ref()
    }

    /// Takes the next receive, unless `accept` refuses it, by copying it to `copy`. If it is to come from a
    /// shared receive queue, `accept` is returned.
    pub fn take_into<F: FnOnce(&Receive<'_>) -> bool>(
        &mut self,
        copy: &mut [u8],
        accept: F,
    ) -> Result<Looked, F> {
        match &mut self.queue {
            _ if !self.given_back.is_empty() => Ok(self.given_back.take_into(copy, accept)),
            Some(queue) => Ok(queue.take_into(copy, accept)),
            None => Err(accept),
        }
    }

    /// Makes a receive that was taken the next one again.
    pub fn give_back(&mut self, entry: &[u8], state: QpState) -> Return {
        self.given_back.give_back(entry, state)
    }

    /// Takes the next receive to be flushed, not one of a shared receive queue (IBTA 10.2.9). Returns its
    /// `wr_id`.
    pub fn flush_one(&mut self) -> Option<u64> {
        self.given_back
            .flush_one()
            .or_else(|| self.queue.as_mut()?.flush_one())
    }

    /// Forgets all that was posted.
    pub fn reset(&mut self) {
        self.given_back.forget();
        if let Some(queue) = &mut self.queue {
            queue.reset();
        }
    }
}

/// Where the receives of a queue pair come from, as the host has it.
pub trait Source {
    /// Copies the next receive, unless `accept` refuses it.
    fn take_into(&self, copy: &mut [u8], accept: impl FnOnce(&Receive<'_>) -> bool) -> Looked;

    /// Makes a receive that was taken the next one again, as [`Receives::give_back`] does.
    fn give_back(&self, entry: &[u8]);

    /// Completes a receive that cannot be used, and moves the queue pair to the error state.
    fn complete_failed(&self, entry: &[u8], status: WcStatus);
}

/// Takes the next receive, unless `accept` refuses it, and hands it to `place`. If that returns `None` the
/// receive is the next one again. `copy` has room for one.
pub fn take<T>(
    source: &impl Source,
    copy: &mut [u8],
    accept: impl FnOnce(&Receive<'_>) -> bool,
    place: impl FnOnce(&Receive<'_>) -> Option<T>,
) -> Taken<T> {
    let entry = match source.take_into(copy, accept) {
        Looked::Taken(length) => copy.get(..length).unwrap_or(&[]),
        Looked::Empty => return Taken::Empty,
        Looked::Refused => return Taken::Refused,
    };
    match RecvRequest::decode(entry) {
        Ok((request, scatter)) => {
            let wr_id = request.wr_id;
            match place(&Receive { wr_id, scatter }) {
                Some(placed) => Taken::Done(placed),
                None => {
                    source.give_back(entry);
                    Taken::Refused
                }
            }
        }
        Err(error) => {
            // A receive that makes no sense: its poster's error (IBTA 10.10.2.2).
            source.complete_failed(entry, error.status());
            Taken::Empty
        }
    }
}

/// The completion of a receive, for the completion queue of a queue pair, and whether it is solicited.
pub fn completion(received: &Received, qpn: u32) -> (Cqe, bool) {
    let mut cqe = Cqe::new(received.wr_id, qpn, received.opcode, received.status);
    cqe.byte_len = received.byte_len;
    cqe = match received.extra {
        Extra::None => cqe,
        Extra::Immediate(data) => cqe.with_imm(data),
        Extra::Invalidated(rkey) => cqe.with_invalidated(rkey),
    };
    if let Some(source) = &received.source {
        cqe.src_qp = source.qpn;
        let network_type = NetworkType::of(&source.grh);
        cqe.network_hdr_type = network_type as u8;
        cqe.sl = network_type.l3_type();
        cqe.flags = cqe.flags.union(WcFlags::GRH);
    }
    // An error is solicited always (IBTA 11.4.2.2).
    let is_solicited = received.solicited || received.status != WcStatus::Success;
    (cqe, is_solicited)
}

/// The completion of a receive that no message took.
pub const fn ended(wr_id: u64, qpn: u32, status: WcStatus) -> Cqe {
    Cqe::new(wr_id, qpn, WcOpcode::Recv, status)
}
