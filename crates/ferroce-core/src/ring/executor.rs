// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side of a work queue that executes: the driver.

use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{fence, AtomicU32, Ordering};

use crate::ring::layout::{WqHeader, NEED_DOORBELL};
use crate::ring::memory::{copy_out, Memory};
use crate::ring::{GeometryError, Queue, WqGeometry};
use crate::verbs::Errno;

/// Why a work queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The poster's index is impossible: more entries published than the ring has, or some taken
    /// back. The queue is of no use any more: QP fatal, or SRQ error.
    Producer {
        /// The poster's index.
        producer: u32,
        /// The entries up to here have been handed back.
        consumer: u32,
        /// The entries up to here have been copied out.
        fetched: u32,
    },
    /// The caller's buffer is shorter than the ring's stride. A mistake of the caller.
    Buffer,
    /// More entries are posted than the ring they are to be moved to has.
    NoRoom {
        /// Entries posted and not handed back.
        posted: u32,
        /// Entries of the other ring.
        entries: u32,
    },
}

impl RingError {
    /// The class of errno this turns into.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Producer { .. } => Errno::Io,
            Self::Buffer | Self::NoRoom { .. } => Errno::Invalid,
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Producer {
                producer,
                consumer,
                fetched,
            } => write!(
                f,
                "the poster's index {producer} is impossible: {consumer} handed back, {fetched} fetched"
            ),
            Self::Buffer => f.write_str("the buffer is shorter than an entry"),
            Self::NoRoom { posted, entries } => {
                write!(f, "{posted} entries do not fit in a ring of {entries}")
            }
        }
    }
}

impl core::error::Error for RingError {}

/// Whether the executor may stop looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "entries may have come in the meantime"]
pub enum Idle {
    /// The queue is empty, and the next post rings the doorbell.
    Asleep,
    /// Entries have come.
    Work,
}

/// Where the two sides of a work queue are, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WqPositions {
    /// Entries posted, as the poster has it, which may have written anything.
    pub producer: u32,
    /// Entries copied out.
    pub fetched: u32,
    /// Entries handed back.
    pub consumer: u32,
    /// Whether the poster is to ring, which the poster may have overwritten.
    pub need_doorbell: bool,
}

/// The executing side of a work queue's ring.
///
/// Entries are copied out one by one ([`fetch`](Self::fetch)) and their slots handed back later or
/// at once ([`hand_back`](Self::hand_back)): a driver that copies a request out whole hands it back
/// at once, one that wants "outstanding" to count against the queue's size does so on completion.
///
/// # Doorbells
/// A ring starts with the executor awake: the doorbell flag is clear and posters do not ring. It is
/// [`sleep`](Self::sleep) that asks for the doorbell:
///
/// - a send queue's executor calls it when the QP enters RTS and whenever it finds the queue empty;
///   in SQE and ERR too, where requests posted later have to be flushed;
/// - a receive queue's executor calls it in ERR alone, for the same reason. As long as messages
///   take the requests, nobody needs to be told of new ones;
/// - an executor that stops for another reason (a drained queue, a full window, a budget used up)
///   leaves the flag clear, and comes back by itself.
///
/// The thread that answers the doorbell has to come after the one that slept: it waits for the queue's
/// lock, or leaves a note that the holder of the lock finds after releasing it. To find the lock taken and turn
/// away would lose the wake-up.
pub struct Executor<Q> {
    memory: Memory,
    geometry: WqGeometry<Q>,
    /// Position of the next entry to be copied out.
    fetched: u32,
    /// What `consumer` holds. Never read back: the other side may write there.
    released: u32,
    /// What `producer` held when last looked at, checked.
    producer: u32,
    /// [`NEED_DOORBELL`] is announced.
    is_asleep: bool,
}

/// How many [words](Executor::words) an executor has.
pub const EXECUTOR_WORDS: usize = 4;

impl<Q: Queue> Executor<Q> {
    /// # Safety
    /// `len` bytes from `base` are valid for reads and writes as long as the value is in use, and
    /// nobody in this address space accesses them but by the types of this module. Other address
    /// spaces may write anything, at any time.
    pub unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        geometry: WqGeometry<Q>,
    ) -> Result<Self, GeometryError> {
        Ok(Self {
            // SAFETY: By this function's own contract; all accesses of this module are atomic.
            memory: unsafe { Memory::new(base, len, geometry.entries(), geometry.stride())? },
            geometry,
            fetched: 0,
            released: 0,
            producer: 0,
            is_asleep: false,
        })
    }

    /// Goes on where an executor of the same ring was that had these [words](Self::words), which may be
    /// anything: if they make no sense, neither does the poster's index.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    pub unsafe fn resume(
        base: NonNull<u8>,
        len: usize,
        geometry: WqGeometry<Q>,
        words: [u32; EXECUTOR_WORDS],
    ) -> Result<Self, GeometryError> {
        let [fetched, released, producer, is_asleep] = words;
        Ok(Self {
            fetched,
            released,
            producer,
            is_asleep: is_asleep != 0,
            // SAFETY: By this function's own contract.
            ..unsafe { Self::new(base, len, geometry)? }
        })
    }

    /// All that it has beside the ring, as plain numbers: for a queue whose entries several processes
    /// execute in turn.
    pub fn words(&self) -> [u32; EXECUTOR_WORDS] {
        [
            self.fetched,
            self.released,
            self.producer,
            self.is_asleep.into(),
        ]
    }

    /// Takes over from an executor that may have ended after it has handed a slot back, before its words were
    /// kept: what it has handed back counts. Returns whether it was so. Of executors that hand one slot back at a
    /// time.
    pub fn recover(&mut self) -> bool {
        let (_, consumer) = self.announced();
        let is_behind = consumer == self.released.wrapping_add(1);
        if is_behind || consumer == self.released {
            self.fetched = consumer;
            self.released = consumer;
            // Some of the words may be those of before: the poster's index is looked at again.
            self.producer = consumer;
        }
        is_behind
    }

    /// The ring's size.
    pub const fn geometry(&self) -> WqGeometry<Q> {
        self.geometry
    }

    /// Starts at a position: for tests of the indexes' wrapping.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, position: u32) {
        self.shared_producer().store(position, Ordering::Relaxed);
        self.discard_all();
    }

    /// The position of the next entry to be fetched: its low bits are its slot, for what the driver
    /// keeps of its own beside each entry.
    pub const fn position(&self) -> u32 {
        self.fetched
    }

    /// Where the two sides are. Nothing is to depend on it.
    pub fn positions(&self) -> WqPositions {
        // Relaxed: one value of many.
        WqPositions {
            producer: self.shared_producer().load(Ordering::Relaxed),
            fetched: self.fetched,
            consumer: self.released,
            need_doorbell: self.shared_doorbell().load(Ordering::Relaxed) == NEED_DOORBELL,
        }
    }

    /// Copies the next entry out, if there is one. `buffer` has room for a whole
    /// [stride](WqGeometry::stride).
    ///
    /// Each byte of the ring is read once. The payload copied is what the *copied* header claims; if
    /// that is more than the entry has room for, there is no payload, and decoding the entry fails.
    pub fn fetch<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, RingError> {
        if buffer.len() < self.geometry.stride() {
            return Err(RingError::Buffer);
        }
        if self.producer == self.fetched && self.refresh()? == 0 {
            return Ok(None);
        }
        let words = self.memory.entry(self.fetched);
        self.fetched = self.fetched.wrapping_add(1);

        // Neither split can fail: the buffer is as long as an entry, whose header is a multiple of
        // eight bytes.
        let (header, payload) = buffer
            .split_at_mut_checked(Q::ENTRY_HEADER_LEN)
            .ok_or(RingError::Buffer)?;
        let (header_words, payload_words) = words
            .split_at_checked(Q::ENTRY_HEADER_LEN / 8)
            .ok_or(RingError::Buffer)?;
        copy_out(header_words, header);
        let payload_len = Q::payload_len(header, self.geometry.payload_capacity()).unwrap_or(0);
        if let Some(payload) = payload.get_mut(..payload_len) {
            copy_out(payload_words, payload);
        }
        Ok(buffer.get(..Q::ENTRY_HEADER_LEN.saturating_add(payload_len)))
    }

    /// How many entries can be fetched (what a shared receive queue's limit is compared with).
    pub fn available(&mut self) -> Result<u32, RingError> {
        self.refresh()
    }

    /// Hands the slots of the next `count` fetched entries back to the poster, in the order of the
    /// ring; no more than have been fetched.
    pub fn hand_back(&mut self, count: u32) {
        let count = count.min(self.fetched.wrapping_sub(self.released));
        self.released = self.released.wrapping_add(count);
        self.publish_consumer();
    }

    /// Has the entries that were fetched and not handed back fetched once more.
    pub fn rewind(&mut self) {
        self.fetched = self.released;
    }

    /// Moves the entries that are posted and not handed back to another ring, whose entries are as long
    /// (Modify SRQ). They keep their positions, and so does the poster, by
    /// [`Poster::resume`](crate::ring::Poster::resume); it posts nothing meanwhile. An entry that has been
    /// fetched and not handed back is the next to be fetched from the other ring.
    ///
    /// On an error this ring stays as it is.
    pub fn move_to(&mut self, to: &mut Self) -> Result<(), RingError> {
        if to.geometry.stride() != self.geometry.stride() {
            return Err(RingError::Buffer);
        }
        // At most all entries of this ring, as `refresh` checks.
        self.refresh()?;
        let posted = self.producer.wrapping_sub(self.released);
        let entries = to.geometry.entries();
        if posted > entries {
            return Err(RingError::NoRoom { posted, entries });
        }
        for ahead in 0..posted {
            let position = self.released.wrapping_add(ahead);
            let words = self.memory.entry(position).iter();
            for (from, to) in words.zip(to.memory.entry(position)) {
                // Relaxed: by barrier A `refresh` sees what is posted. A process that writes meanwhile
                // gets a mixture, which is checked when it is fetched, as anything is.
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        to.producer = self.producer;
        to.fetched = self.released;
        to.released = self.released;
        // Relaxed: the poster reads and writes these after the call that this is part of.
        to.shared_producer().store(self.producer, Ordering::Relaxed);
        to.publish_consumer();
        to.is_asleep = self.is_asleep;
        let doorbell = if self.is_asleep { NEED_DOORBELL } else { 0 };
        to.shared_doorbell().store(doorbell, Ordering::Relaxed);
        Ok(())
    }

    /// Empties the queue without looking at it (a QP's transition to RESET). Also brings a queue
    /// whose poster went wrong back into a sane state.
    pub fn discard_all(&mut self) {
        self.producer = self.shared_producer().load(Ordering::Relaxed);
        self.fetched = self.producer;
        self.released = self.producer;
        self.publish_consumer();
        self.stay_awake();
    }

    /// Announces that this side stops looking, and looks once more: unless entries have come in the
    /// meantime, the next post rings the doorbell.
    ///
    /// After an error the announcement stands, so that the next doorbell leads back here.
    // ANCHOR: sleep
    pub fn sleep(&mut self) -> Result<Idle, RingError> {
        self.is_asleep = true;
        self.shared_doorbell()
            .store(NEED_DOORBELL, Ordering::Relaxed);
        // Barrier C: pairs with the fence in `Poster::publish`. If the load of `producer` below does
        // not see that poster's store, then its load of `doorbell` sees the store above.
        fence(Ordering::SeqCst);
        if self.refresh()? == 0 {
            return Ok(Idle::Asleep);
        }
        self.stay_awake();
        Ok(Idle::Work)
    }
    // ANCHOR_END: sleep

    /// Takes the announcement back (on a doorbell): posters need not ring until the next
    /// [`sleep`](Self::sleep).
    ///
    /// Relaxed: a poster that does not see it yet rings once too often, and one that sees it early
    /// is found by the `sleep` that has to follow.
    pub fn stay_awake(&mut self) {
        // Who looks again and again does not take the line from the poster each time.
        if core::mem::take(&mut self.is_asleep) {
            self.shared_doorbell().store(0, Ordering::Relaxed);
        }
    }

    /// Looks at the poster's index. Returns how many entries can be fetched.
    fn refresh(&mut self) -> Result<u32, RingError> {
        // Barrier A: pairs with the release store in `Poster::publish`.
        let producer = self.shared_producer().load(Ordering::Acquire);
        let published = producer.wrapping_sub(self.released);
        let fetched = self.fetched.wrapping_sub(self.released);
        if published > self.geometry.entries() || published < fetched {
            return Err(RingError::Producer {
                producer,
                consumer: self.released,
                fetched: self.fetched,
            });
        }
        self.producer = producer;
        Ok(published.wrapping_sub(fetched))
    }

    /// Has slots handed back by somebody else, from here on: by the [`Returner`]. What has been fetched
    /// and not handed back is the returner's to hand back.
    ///
    /// # Safety
    /// As [`new`](Self::new): the memory is valid as long as the returner is in use.
    pub unsafe fn returner(&self) -> Returner {
        Returner {
            // SAFETY: By this function's own contract.
            memory: unsafe { self.memory.again() },
            released: self.released,
        }
    }

    /// Notes up to where the returner has handed slots back. To be called before a
    /// [`fetch`](Self::fetch), so that this side knows what the poster may have filled.
    pub fn returned(&mut self, position: u32) {
        self.released = position;
    }

    fn publish_consumer(&mut self) {
        publish(&self.memory, self.released);
    }

    /// How many entries were posted, and how many handed back, as the ring's header has it: for a process
    /// that is neither of the two sides and looks on. Both sides may have written anything.
    pub fn announced(&self) -> (u32, u32) {
        let consumer = self.memory.header::<{ offset_of!(WqHeader, consumer) }>();
        (
            self.shared_producer().load(Ordering::Relaxed),
            consumer.load(Ordering::Relaxed),
        )
    }

    fn shared_producer(&self) -> &AtomicU32 {
        self.memory.header::<{ offset_of!(WqHeader, producer) }>()
    }

    fn shared_doorbell(&self) -> &AtomicU32 {
        self.memory.header::<{ offset_of!(WqHeader, doorbell) }>()
    }
}

/// Hands slots back in an [`Executor`]'s stead, where requests are complete in another context than that
/// in which they are fetched: see [`Executor::returner`].
pub struct Returner {
    memory: Memory,
    released: u32,
}

impl Returner {
    /// Hands the slot of the next entry back to the poster, in the order of the ring. Of one that has
    /// been fetched, and not handed back.
    pub fn hand_back(&mut self) {
        self.released = self.released.wrapping_add(1);
        publish(&self.memory, self.released);
    }

    /// The entries up to here have been handed back: for [`Executor::returned`].
    pub const fn position(&self) -> u32 {
        self.released
    }
}

/// Lets the poster have the slots up to a position.
fn publish(memory: &Memory, released: u32) {
    // Barrier B: pairs with the acquire load in `Poster::check_room`, whose writes to the slots thereby
    // come after this side's reads of them.
    memory
        .header::<{ offset_of!(WqHeader, consumer) }>()
        .store(released, Ordering::Release);
}
