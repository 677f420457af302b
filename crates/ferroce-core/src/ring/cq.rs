// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two sides of a completion queue.
//!
//! # Arming
//! The poller asks for an event by a word it alone writes: a kind, and a sequence number that tells
//! a new request from one that got its event. The producer notes the number of the request it served
//! last, in private, and in the ring for the poller to see. A request is *outstanding* until then;
//! asking again meanwhile can only widen it, from solicited completions to all (IBTA 11.4.2.2, C11-31,
//! C11-32).
//!
//! A poller that asks while there are completions that it has not taken then tells the driver, which
//! raises the event at once ([`Producer::notify_waiting`]): a ConnectX does so, and perftest relies on it,
//! which asks, takes some, and waits for the next event. (IBTA 11.4.2.2 has only a completion that is added
//! later raise it.)
//!
//! The poller can see a request as outstanding when it has been served a moment ago. That is no lost
//! event: `served` is written before the event is raised, so the event of that request has yet to be
//! taken, and a program that waits for one gets it.

use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{fence, AtomicU64, Ordering};

use crate::ring::cqe::ENCODED_LEN;
use crate::ring::layout::{CqHeader, CQE_LEN, CQE_WORDS};
use crate::ring::memory::{copy_in, copy_out, Memory};
use crate::ring::{CqGeometry, Cqe, GeometryError};
use crate::verbs::{Errno, WcStatus};

/// The kind of an arm word.
const KIND_MASK: u32 = 0b11;
/// The lowest bit of its sequence number.
const SEQUENCE_ONE: u32 = 1 << 2;

/// Which completion raises the event asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Notify {
    /// The next that is of a solicited message, or in error.
    Solicited = 1,
    /// The next.
    Next = 2,
}

impl Notify {
    const fn of(arm: u32) -> Option<Self> {
        match arm & KIND_MASK {
            1 => Some(Self::Solicited),
            2 => Some(Self::Next),
            _ => None,
        }
    }
}

/// Why a completion cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CqError {
    /// The queue is full, or its consumer index makes no sense. The queue is in error from now on;
    /// the event [`CqErr`](crate::verbs::EventType::CqErr) is due, once.
    Overrun,
    /// The queue has been in error before.
    Failed,
}

impl CqError {
    /// The class of errno this turns into.
    pub const fn errno(&self) -> Errno {
        Errno::Io
    }
}

impl fmt::Display for CqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overrun => "the completion queue has overrun",
            Self::Failed => "the completion queue is in error",
        })
    }
}

impl core::error::Error for CqError {}

/// Where the two sides of a completion queue are, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CqPositions {
    /// Completions produced.
    pub producer: u32,
    /// Completions taken, as the poller has it, which may have written anything.
    pub consumer: u32,
    /// The event that is asked for.
    pub armed: Option<Notify>,
}

/// The side of a completion queue that fills it: the driver.
pub struct Producer {
    memory: Memory,
    geometry: CqGeometry,
    /// Position of the next completion.
    position: u32,
    /// What `consumer` held when last looked at.
    consumer: u32,
    /// The arm word of the last request that got its event, without its kind.
    served: u32,
    /// What the completions since the last [`Producer::notify`] call for, at most.
    pending: Option<Notify>,
    /// Position after the last solicited completion.
    solicited: u32,
    failed: bool,
}

impl Producer {
    /// # Safety
    /// `len` bytes from `base` are valid for reads and writes as long as the value is in use, and
    /// nobody in this address space accesses them but by the types of this module. They were all
    /// zero when the ring was created. Other address spaces may write anything, at any time.
    pub unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        geometry: CqGeometry,
    ) -> Result<Self, GeometryError> {
        Ok(Self {
            // SAFETY: By this function's own contract; all accesses of this module are atomic.
            memory: unsafe { Memory::new(base, len, geometry.entries(), CQE_LEN)? },
            geometry,
            position: 0,
            consumer: 0,
            served: 0,
            pending: None,
            solicited: 0,
            failed: false,
        })
    }

    /// Goes on where a producer of the same ring was that had these [words](Self::words), which may be
    /// anything: if they make no sense the queue is in error soon.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    pub unsafe fn resume(
        base: NonNull<u8>,
        len: usize,
        geometry: CqGeometry,
        words: [u32; Self::WORDS],
    ) -> Result<Self, GeometryError> {
        let [position, consumer, served, pending, solicited, failed] = words;
        Ok(Self {
            position,
            consumer,
            served,
            pending: Notify::of(pending),
            solicited,
            failed: failed != 0,
            // SAFETY: By this function's own contract.
            ..unsafe { Self::new(base, len, geometry)? }
        })
    }

    /// How many [`words`](Self::words) there are.
    pub const WORDS: usize = 6;

    /// All that it has beside the ring, as plain numbers: for a queue that several processes fill in turn.
    pub fn words(&self) -> [u32; Self::WORDS] {
        [
            self.position,
            self.consumer,
            self.served,
            self.pending.map_or(0, |notify| notify as u32),
            self.solicited,
            self.failed.into(),
        ]
    }

    /// Takes over from a producer that may have ended in the middle of a [`push`](Self::push), before its
    /// words were kept: what it has published counts, and may have been meant to raise an event. Returns whether
    /// there was a completion.
    pub fn recover(&mut self) -> bool {
        let next = self.position.wrapping_add(1);
        // Acquire: as the poller.
        let is_behind = self.memory.sequence(self.position).load(Ordering::Acquire) == next;
        if is_behind {
            self.position = next;
            self.solicited = next;
            self.pending = Some(Notify::Solicited);
        }
        is_behind
    }

    /// The ring's size.
    pub const fn geometry(&self) -> CqGeometry {
        self.geometry
    }

    /// Starts at a position: for tests of the indexes' wrapping.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, position: u32) {
        self.position = position;
        self.consumer = position;
        self.solicited = position;
    }

    /// Where the two sides are. Nothing is to depend on it.
    pub fn positions(&self) -> CqPositions {
        // Relaxed: one value of many.
        let arm = self
            .memory
            .header::<{ offset_of!(CqHeader, arm) }>()
            .load(Ordering::Relaxed);
        CqPositions {
            producer: self.position,
            consumer: self
                .memory
                .header::<{ offset_of!(CqHeader, consumer) }>()
                .load(Ordering::Relaxed),
            armed: (arm & !KIND_MASK != self.served)
                .then(|| Notify::of(arm))
                .flatten(),
        }
    }

    /// The position of the next completion: its low bits are its slot.
    pub const fn position(&self) -> u32 {
        self.position
    }

    /// The completion at a position, which has been pushed and not taken.
    pub fn completion(&self, position: u32) -> Cqe {
        let mut bytes = [0; ENCODED_LEN];
        copy_out(completion_words(&self.memory, position), &mut bytes);
        Cqe::decode(&bytes)
    }

    /// Whether there is room for another completion.
    pub fn has_room(&mut self) -> bool {
        !self.failed && !self.is_full()
    }

    /// Whether the queue is in error.
    pub const fn is_failed(&self) -> bool {
        self.failed
    }

    /// Delivers a completion. `solicited` says whether it is of a message that asked for an event.
    ///
    /// After one or several of them, [`notify`](Self::notify).
    pub fn push(&mut self, cqe: &Cqe, solicited: bool) -> Result<(), CqError> {
        if self.failed {
            return Err(CqError::Failed);
        }
        if self.is_full() {
            self.failed = true;
            return Err(CqError::Overrun);
        }
        copy_in(completion_words(&self.memory, self.position), &cqe.encode());
        let next = self.position.wrapping_add(1);
        // Barrier D: pairs with the acquire load in `Poller::poll`, which thereby sees the words.
        self.memory
            .sequence(self.position)
            .store(next, Ordering::Release);
        self.position = next;

        // IBTA 11.4.2.2: a completion in error counts as solicited.
        let calls_for = if solicited || cqe.status != WcStatus::Success {
            self.solicited = next;
            Notify::Solicited
        } else {
            Notify::Next
        };
        // `Solicited` is the stronger reason: it serves either request.
        self.pending = Some(self.pending.map_or(calls_for, |p| p.min(calls_for)));
        Ok(())
    }

    /// Moves the completions that have not been taken to another, empty ring (Resize CQ). The process
    /// neither polls nor arms meanwhile: it is what asked for this. An event that is asked for stays
    /// so.
    ///
    /// If they do not fit, both rings stay as they are.
    pub fn move_to(&mut self, to: &mut Self) -> Result<(), CqError> {
        if self.failed {
            return Err(CqError::Failed);
        }
        // Barrier E: as in `is_full`.
        let consumer = self
            .memory
            .header::<{ offset_of!(CqHeader, consumer) }>()
            .load(Ordering::Acquire);
        let waiting = self.position.wrapping_sub(consumer);
        if waiting > self.geometry.entries() || waiting > to.geometry.entries() {
            return Err(CqError::Overrun);
        }
        for ahead in 0..waiting {
            let position = consumer.wrapping_add(ahead);
            to.push(&self.completion(position), false)?;
        }
        // They have had their event, or none: what is outstanding is for those to come.
        to.pending = None;
        if is_before(consumer, self.solicited) {
            to.solicited = to.position;
        }
        to.served = self.served;
        let arm = self.memory.header::<{ offset_of!(CqHeader, arm) }>();
        to.memory
            .header::<{ offset_of!(CqHeader, arm) }>()
            .store(arm.load(Ordering::Relaxed), Ordering::Relaxed);
        to.memory
            .header::<{ offset_of!(CqHeader, served) }>()
            .store(self.served, Ordering::Relaxed);
        Ok(())
    }

    /// As [`notify`](Self::notify), for a process that has asked for an event while there were completions
    /// that it had not taken: those raise it as well.
    #[must_use = "somebody may be waiting for the event"]
    pub fn notify_waiting(&mut self) -> bool {
        // Relaxed: the process is in a system call, after its last store. If it lies, it gets an event too
        // many, or none.
        let consumer = self
            .memory
            .header::<{ offset_of!(CqHeader, consumer) }>()
            .load(Ordering::Relaxed);
        if is_before(consumer, self.solicited) {
            self.pending = Some(Notify::Solicited);
        } else if is_before(consumer, self.position) {
            self.pending = Some(self.pending.unwrap_or(Notify::Next));
        }
        self.notify()
    }

    /// Whether the completions since the last call raise an event. Then the caller raises one
    /// *after* this call: a process that has taken the event has to see its request as served.
    #[must_use = "somebody may be waiting for the event"]
    pub fn notify(&mut self) -> bool {
        let Some(reason) = self.pending.take() else {
            return false;
        };
        // Relaxed: for people who look at a core dump.
        self.memory
            .header::<{ offset_of!(CqHeader, producer) }>()
            .store(self.position, Ordering::Relaxed);
        // Barrier F: pairs with the fence in `Poller::arm`. If the load below does not see that
        // poller's request, then the polls that follow the request see the completions above.
        fence(Ordering::SeqCst);
        let arm = self
            .memory
            .header::<{ offset_of!(CqHeader, arm) }>()
            .load(Ordering::Relaxed);
        let sequence = arm & !KIND_MASK;
        if sequence == self.served {
            return false;
        }
        let is_due = match Notify::of(arm) {
            Some(Notify::Next) => true,
            Some(Notify::Solicited) => reason == Notify::Solicited,
            None => false,
        };
        if is_due {
            self.served = sequence;
            // Relaxed: what orders it for the poller is the event itself, raised and taken.
            self.memory
                .header::<{ offset_of!(CqHeader, served) }>()
                .store(sequence, Ordering::Relaxed);
        }
        is_due
    }

    fn is_full(&mut self) -> bool {
        if self.position.wrapping_sub(self.consumer) < self.geometry.entries() {
            return false;
        }
        // Barrier E: pairs with the release store in `Poller::hand_back`, so that the poller's reads
        // of the slot come before the writes that follow here.
        self.consumer = self
            .memory
            .header::<{ offset_of!(CqHeader, consumer) }>()
            .load(Ordering::Acquire);
        // A consumer ahead of the producer, or a whole ring behind it, is no room either. One that
        // lies about its progress loses its own completions.
        self.position.wrapping_sub(self.consumer) >= self.geometry.entries()
    }
}

/// How far [`Poller::disown`] has come.
#[derive(Debug)]
pub struct Disown {
    qp_num: u32,
    /// Position of the next completion to look at.
    next: u32,
    /// Position after the last one.
    end: u32,
}

/// Whether a position comes before another, which is less than half of all positions away.
const fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

/// The side of a completion queue that empties it: the provider, and kernel verbs.
pub struct Poller {
    memory: Memory,
    geometry: CqGeometry,
    /// Position of the next completion.
    position: u32,
    /// What the arm word holds.
    arm: u32,
}

impl Poller {
    /// # Safety
    /// `len` bytes from `base` are valid for reads and writes as long as the value is in use, and
    /// nobody in this address space accesses them but by the types of this module. They were all
    /// zero when the ring was created, and this is its only poller (else it takes nonsense).
    pub unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        geometry: CqGeometry,
    ) -> Result<Self, GeometryError> {
        Ok(Self {
            // SAFETY: By this function's own contract; all accesses of this module are atomic.
            memory: unsafe { Memory::new(base, len, geometry.entries(), CQE_LEN)? },
            geometry,
            position: 0,
            arm: 0,
        })
    }

    /// The ring's size.
    pub const fn geometry(&self) -> CqGeometry {
        self.geometry
    }

    /// Starts at a position: for tests of the indexes' wrapping.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, position: u32) {
        self.position = position;
        self.hand_back();
    }

    /// Goes on where another ring's poller was, after [`Producer::move_to`]: with the event it has
    /// asked for.
    pub fn resume(&mut self, before: &Self) {
        self.arm = before.arm;
    }

    /// Takes the next completion, if there is one. It touches no memory but that completion's.
    ///
    /// After one or several of them, [`hand_back`](Self::hand_back).
    // Inlined: a program that waits finds nothing most of the time, and this is all it does.
    #[inline(always)]
    pub fn poll(&mut self) -> Option<Cqe> {
        self.has_completion().then(|| self.take())
    }

    #[inline(never)]
    fn take(&mut self) -> Cqe {
        let mut bytes = [0; ENCODED_LEN];
        copy_out(completion_words(&self.memory, self.position), &mut bytes);
        self.position = self.position.wrapping_add(1);
        Cqe::decode(&bytes)
    }

    /// The position of the next completion: its low bits are its slot.
    pub const fn position(&self) -> u32 {
        self.position
    }

    /// Whether there is a completion to take (`IB_CQ_REPORT_MISSED_EVENTS`, after arming).
    pub fn has_completion(&self) -> bool {
        self.has_completion_at(self.position)
    }

    fn has_completion_at(&self, position: u32) -> bool {
        // Barrier D: pairs with the release store in `Producer::push`.
        self.memory.sequence(position).load(Ordering::Acquire) == position.wrapping_add(1)
    }

    /// Begins to make the completions of a QP that has gone nobody's: they stay in the queue, as those of
    /// QP 0, which has none of its own. Its driver makes no more of them, so all of them are in the queue now.
    pub const fn begin_disown(&self, qp_num: u32) -> Disown {
        Disown {
            qp_num,
            next: self.position,
            end: self.position.wrapping_add(self.geometry.entries()),
        }
    }

    /// Goes on with that for `count` completions at most, of whichever QP. Returns whether there are more.
    /// Between two calls completions may be taken, and others made.
    ///
    /// It allocates nothing, and so can be done where nothing may sleep.
    pub fn disown(&mut self, disown: &mut Disown, count: u32) -> bool {
        let qp_num = disown.qp_num;
        if is_before(disown.next, self.position) {
            disown.next = self.position;
        }
        for _ in 0..count {
            let position = disown.next;
            if !is_before(position, disown.end) || !self.has_completion_at(position) {
                return false;
            }
            let words = completion_words(&self.memory, position);
            let mut bytes = [0; ENCODED_LEN];
            copy_out(words, &mut bytes);
            let mut cqe = Cqe::decode(&bytes);
            if cqe.qp_num == qp_num {
                cqe.qp_num = 0;
                // The slot is this side's until it is handed back.
                copy_in(words, &cqe.encode());
            }
            disown.next = position.wrapping_add(1);
        }
        true
    }

    /// Hands the slots of the completions taken back to the producer.
    pub fn hand_back(&mut self) {
        // Barrier E: pairs with the acquire load in `Producer::is_full`.
        self.memory
            .header::<{ offset_of!(CqHeader, consumer) }>()
            .store(self.position, Ordering::Release);
    }

    /// Asks for an event (`ibv_req_notify_cq`). A completion that is not found by a poll after this
    /// raises it, if it is of the kind asked for.
    pub fn arm(&mut self, notify: Notify) {
        // Relaxed: see the module's documentation for why a value of a moment ago is as good.
        let served = self
            .memory
            .header::<{ offset_of!(CqHeader, served) }>()
            .load(Ordering::Relaxed);
        let sequence = self.arm & !KIND_MASK;
        let (sequence, outstanding) = if sequence == served {
            (sequence.wrapping_add(SEQUENCE_ONE), None)
        } else {
            (sequence, Notify::of(self.arm))
        };
        let kind = outstanding.map_or(notify, |outstanding| outstanding.max(notify));
        self.arm = sequence | kind as u32;
        self.memory
            .header::<{ offset_of!(CqHeader, arm) }>()
            .store(self.arm, Ordering::Relaxed);
        // Barrier F: pairs with the fence in `Producer::notify`. If that producer does not see the
        // request, then the polls that follow here see its completions.
        fence(Ordering::SeqCst);
    }
}

/// The words of a completion that [`Cqe`] is in; the last one holds the sequence.
fn completion_words(memory: &Memory, position: u32) -> &[AtomicU64] {
    memory.entry(position).get(..CQE_WORDS).unwrap_or(&[])
}
