// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side of a work queue that posts: the provider, and kernel verbs.

use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{fence, Ordering};

use crate::ring::layout::{Sge, WqHeader, NEED_DOORBELL, SGE_LEN};
use crate::ring::memory::{copy_in, Memory, Writer};
use crate::ring::{
    GeometryError, Queue, RecvQueue, RecvRequest, SendQueue, SendRequest, WqGeometry,
};
use crate::verbs::{Errno, SendOpcode};

/// Why a work request cannot be posted. Nothing of it is in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// Every entry is taken.
    Full,
    /// More SGEs than an entry has room for.
    TooManySges(usize),
    /// More inline data than an entry has room for, in bytes.
    InlineTooLong(usize),
    /// The operation cannot have inline data.
    InlineNotPermitted(SendOpcode),
    /// The operation takes no data.
    UnexpectedData(SendOpcode),
}

impl PostError {
    /// The class of errno this turns into (`ibv_post_send(3)`).
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Full => Errno::NoMemory,
            _ => Errno::Invalid,
        }
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the work queue is full"),
            Self::TooManySges(n) => write!(f, "{n} SGEs are more than the queue was created for"),
            Self::InlineTooLong(n) => write!(
                f,
                "{n} bytes of inline data are more than the queue was created for"
            ),
            Self::InlineNotPermitted(opcode) => write!(f, "{opcode:?} cannot have inline data"),
            Self::UnexpectedData(opcode) => write!(f, "{opcode:?} takes no data"),
        }
    }
}

impl core::error::Error for PostError {}

/// The data of a send work request to be posted.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// In memory regions; empty for no data.
    Sges(&'a [Sge]),
    /// Copied into the ring, one piece after the other.
    Inline(&'a [&'a [u8]]),
}

impl Payload<'_> {
    /// No data.
    pub const NONE: Self = Self::Sges(&[]);
}

/// Whether the executor has to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an executor that sleeps has to be woken"]
pub enum Doorbell {
    /// It has stopped looking.
    Ring,
    /// It is at work, and will find the entries.
    Skip,
}

/// The posting side of a work queue's ring.
///
/// Entries are staged one by one and published together: one barrier, and one doorbell at most, for
/// each call of `ibv_post_send`.
pub struct Poster<Q> {
    memory: Memory,
    geometry: WqGeometry<Q>,
    /// Position of the next entry to be staged.
    staged: u32,
    /// What `producer` holds.
    published: u32,
    /// What `consumer` held when last looked at: the true one is the same or ahead.
    consumer: u32,
}

impl<Q: Queue> Poster<Q> {
    /// # Safety
    /// `len` bytes from `base` are valid for reads and writes as long as the value is in use, and
    /// nobody in this address space accesses them but by the types of this module. They were all
    /// zero when the ring was created, and this is its only poster (else it posts nonsense, to
    /// the harm of nobody else).
    pub unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        geometry: WqGeometry<Q>,
    ) -> Result<Self, GeometryError> {
        Ok(Self {
            // SAFETY: By this function's own contract; all accesses of this module are atomic.
            memory: unsafe { Memory::new(base, len, geometry.entries(), geometry.stride())? },
            geometry,
            staged: 0,
            published: 0,
            consumer: 0,
        })
    }

    /// The ring's size.
    pub const fn geometry(&self) -> WqGeometry<Q> {
        self.geometry
    }

    /// Starts at a position: for tests of the indexes' wrapping.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, position: u32) {
        self.staged = position;
        self.published = position;
        self.consumer = position;
    }

    /// Goes on where another ring's poster was, after
    /// [`Executor::move_to`](crate::ring::Executor::move_to). Nothing was staged there.
    pub fn resume(&mut self, before: &Self) {
        self.staged = before.published;
        self.published = before.published;
        // The true one is the same or ahead, and `check_room` looks at it before it says that there is no
        // room.
        self.consumer = before.consumer;
    }

    /// The position of the next entry to be staged: its low bits are its slot, for what the caller
    /// keeps of its own beside each entry.
    pub const fn position(&self) -> u32 {
        self.staged
    }

    /// Publishes what is staged, for an executor that is woken each time by way of a lock: nobody looks at
    /// whether it sleeps. Returns whether there was anything.
    pub fn publish_and_ring(&mut self) -> bool {
        if self.published == self.staged {
            return false;
        }
        self.store_producer();
        true
    }

    // ANCHOR: publish
    /// Publishes what is staged, and says whether to ring the doorbell.
    pub fn publish(&mut self) -> Doorbell {
        if self.published == self.staged {
            return Doorbell::Skip;
        }
        self.store_producer();
        // Barrier C: pairs with the fence in `Executor::sleep`. If the load below does not see that
        // executor's NEED_DOORBELL, then its load of `producer` sees the store above. Nothing less
        // than a full fence keeps a store before a later load.
        fence(Ordering::SeqCst);
        let doorbell = self
            .memory
            .header::<{ offset_of!(WqHeader, doorbell) }>()
            .load(Ordering::Relaxed);
        if doorbell & NEED_DOORBELL != 0 {
            Doorbell::Ring
        } else {
            Doorbell::Skip
        }
    }
    // ANCHOR_END: publish

    fn store_producer(&mut self) {
        self.published = self.staged;
        // Barrier A: pairs with the acquire load in `Executor::refresh`, which thereby sees the
        // entries' words.
        self.memory
            .header::<{ offset_of!(WqHeader, producer) }>()
            .store(self.staged, Ordering::Release);
    }

    /// Forgets what is staged and not published (`ibv_wr_abort`).
    pub fn abort(&mut self) {
        self.staged = self.published;
    }

    fn check_room(&mut self) -> Result<(), PostError> {
        if self.staged.wrapping_sub(self.consumer) < self.geometry.entries() {
            return Ok(());
        }
        // Barrier B: pairs with the release store in `Executor::hand_back`, so that the executor's
        // reads of the slot come before the writes that follow here.
        self.consumer = self
            .memory
            .header::<{ offset_of!(WqHeader, consumer) }>()
            .load(Ordering::Acquire);
        // Anything but 0..entries, a `consumer` that makes no sense included, is no room.
        if self.staged.wrapping_sub(self.consumer) < self.geometry.entries() {
            Ok(())
        } else {
            Err(PostError::Full)
        }
    }

    fn check_sges(&self, sges: &[Sge]) -> Result<(), PostError> {
        if sges.len() > self.geometry.max_sge() as usize {
            return Err(PostError::TooManySges(sges.len()));
        }
        Ok(())
    }

    fn stage(&mut self, header: &[u64], sges: &[Sge], inline: &[&[u8]]) {
        let words = self.memory.entry(self.staged);
        copy_in(words, header);
        let payload = words.get(header.len()..).unwrap_or(&[]);
        for (words, sge) in payload.chunks(SGE_LEN / 8).zip(sges) {
            copy_in(words, &sge.words());
        }
        let mut writer = Writer::new(payload);
        for piece in inline {
            writer.write(piece);
        }
        writer.finish();
        self.staged = self.staged.wrapping_add(1);
    }
}

impl Poster<SendQueue> {
    /// Stages a send work request.
    pub fn push(&mut self, request: &SendRequest, payload: Payload<'_>) -> Result<(), PostError> {
        let opcode = request.operation.opcode();
        match payload {
            Payload::Sges(sges) => {
                self.check_sges(sges)?;
                if opcode.has_no_data() && !sges.is_empty() {
                    return Err(PostError::UnexpectedData(opcode));
                }
                self.check_room()?;
                // `max_sge` is at most 32.
                let header = request.encode(sges.len() as u8, None);
                self.stage(&header, sges, &[]);
            }
            Payload::Inline(pieces) => {
                if !opcode.permits_inline() {
                    return Err(PostError::InlineNotPermitted(opcode));
                }
                let length = pieces
                    .iter()
                    .fold(0usize, |sum, piece| sum.saturating_add(piece.len()));
                let length = u32::try_from(length)
                    .ok()
                    .filter(|&length| length <= self.geometry.max_inline())
                    .ok_or(PostError::InlineTooLong(length))?;
                self.check_room()?;
                let header = request.encode(0, Some(length));
                self.stage(&header, &[], pieces);
            }
        }
        Ok(())
    }
}

impl Poster<RecvQueue> {
    /// Stages a receive work request.
    pub fn push(&mut self, request: &RecvRequest, sges: &[Sge]) -> Result<(), PostError> {
        self.check_sges(sges)?;
        self.check_room()?;
        // `max_sge` is at most 32.
        let header = request.encode(sges.len() as u32);
        self.stage(&header, sges, &[]);
        Ok(())
    }
}
