// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two sides of a delivery, as the front end lends them.

use crate::ring::{Remote, Sge, SgeList};
use crate::verbs::limits::GRH_LENGTH;
use crate::verbs::{AccessFlags, EventType, ImmData, RnrTimer, WcOpcode, WcStatus};

/// A range of registered memory whose key was checked. What it refers to stays
/// there as long as the value lives, whatever becomes of the key.
///
/// Offsets and lengths are in bytes; callers keep within the range.
pub trait Region {
    /// Whether there is still access: the key may have been given up since it was checked. The others look
    /// as well, but [`copy_from`](Self::copy_from).
    fn check(&self) -> Result<(), Fault>;

    /// Copies from another region. The two may overlap.
    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault>;

    /// Copies from memory of our own.
    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault>;

    /// Copies to memory of our own.
    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault>;

    /// Applies `change` to the first 8 bytes at once, and returns what was
    /// there. They are aligned.
    fn update(&self, change: AtomicChange) -> Result<u64, Fault>;
}

/// An operation on 8 bytes that no other one comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicChange {
    /// Adds, wrapping.
    Add(u64),
    /// Replaces the value if it is `compare`.
    CompareSwap {
        /// What it must be.
        compare: u64,
        /// What it becomes.
        swap: u64,
    },
    /// Replaces the value.
    Store([u8; 8]),
}

/// Memory that a checked key gave access to is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The page behind an on-demand region cannot be had.
    Gone,
    /// The page can be had, but not now: nobody waits here. The front end has a thread
    /// of the memory's owner wait for it.
    Later,
}

/// Memory of which of two regions is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFault {
    /// Of that which is copied from.
    Source(Fault),
    /// Of that which is copied to.
    Target(Fault),
}

/// A key does not allow an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessError;

/// The keys that a QP's own work requests may use: those of its protection
/// domain.
pub trait LocalMemory {
    /// What a checked key gives.
    type Region: Region;

    /// Checks a scatter/gather element of at least one byte; `write` says
    /// whether it is to be written to (IBTA 10.6.3.1).
    fn local(&self, sge: Sge, write: bool) -> Result<Self::Region, AccessError>;
}

/// A receive work request that was taken from its queue.
#[derive(Clone, Copy, Debug)]
pub struct Receive<'a> {
    /// The program's name for it.
    pub wr_id: u64,
    /// Where the message goes.
    pub scatter: SgeList<'a>,
}

impl Receive<'_> {
    /// The length of the longest message that it takes, in bytes.
    pub fn capacity(&self) -> u64 {
        self.scatter.length()
    }
}

/// How a receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The receive's own `wr_id`.
    pub wr_id: u64,
    /// Success, or what was wrong.
    pub status: WcStatus,
    /// What consumed it.
    pub opcode: WcOpcode,
    /// The length of the message in bytes, for UD with the GRH.
    pub byte_len: u32,
    /// What came along with it.
    pub extra: Extra,
    /// Whether the sender asked to wake the receiver (the BTH's SE bit).
    pub solicited: bool,
    /// Of UD: whom it is from.
    pub source: Option<Source>,
}

/// What a message brings beside its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// Immediate data.
    Immediate(ImmData),
    /// The key that was invalidated.
    Invalidated(u32),
}

/// The sender of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its QP.
    pub qpn: u32,
    /// The first bytes of the receive buffer (IBTA 11.4.1): a GRH, or for RoCE
    /// over IPv4 the IP header in the last 20 of them (annex A17).
    pub grh: [u8; GRH_LENGTH as usize],
}

/// Whether a QP has a receive for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// It had, and this came of it.
    Done(T),
    /// None is posted.
    Empty,
    /// What is posted next was refused, or given back, and is still there.
    Refused,
}

/// The peer's side: a QP that is ready to receive, and that is connected to the
/// requester or takes datagrams.
pub trait Responder: LocalMemory {
    /// Checks a range of at least one byte that a remote key names: the key is
    /// valid, it belongs to this QP's protection domain (or, as a memory window,
    /// to this QP), covers the range, and allows `access` (IBTA 10.6.3.2).
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Self::Region, AccessError>;

    /// Checks a remote key as [`remote`](Self::remote) does, wherever in the region or window: for what
    /// names all of it.
    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError>;

    /// What the QP itself lets its peer do (`qp_access_flags`).
    fn access(&self) -> AccessFlags;

    /// Whether it takes RDMA READs and atomics at all (`max_dest_rd_atomic`).
    fn takes_reads(&self) -> bool;

    /// What it tells a peer for which it has no receive.
    fn min_rnr_timer(&self) -> RnrTimer;

    /// Notes that a request of the connected peer's has come, which may be the first: see
    /// [`QpAttr::established`](crate::qp::QpAttr::established). It may be called for any number of them.
    fn established(&self);

    /// Takes the next receive from its queue, unless `accept` refuses it, and
    /// hands it to `place`. If that returns `None` the receive is the next one
    /// again.
    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T>;

    /// Whether the execution of a long message may go on. Asked between parts of
    /// at most [`PART`](super::PART) bytes: the QP may have left the state in
    /// which it takes messages, and the executing thread may have to do something
    /// else.
    fn may_go_on(&self) -> bool {
        true
    }

    /// Completes a receive that was taken.
    fn complete(&self, received: &Received);

    /// Invalidates a key, as a SEND with Invalidate asks (IBTA 10.6.5).
    fn invalidate(&self, rkey: u32) -> Result<(), AccessError>;

    /// Moves the QP to the error state, which flushes its queues. The event is
    /// for what no completion tells.
    fn fail(&self, event: Option<EventType>);
}
