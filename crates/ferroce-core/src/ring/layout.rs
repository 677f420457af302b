// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes both sides agree on: the ABI, version [`ABI_VERSION`].
//!
//! These structures are never referenced in place (the other side writes to them); they fix the
//! offsets that the codecs use. All numbers are in the machine's own byte order: both sides run on
//! the same machine.

use core::mem::{align_of, offset_of, size_of};
use core::sync::atomic::AtomicU32;

use crate::verbs::limits::{MAX_INLINE_DATA, MAX_RECV_SGE, MAX_SEND_SGE};

/// Changes whenever anything in this file does. The kernel and the provider compare it when the
/// device is opened.
pub const ABI_VERSION: u32 = 1;

/// Bytes before a ring's first entry.
pub const HEADER_LEN: usize = size_of::<WqHeader>();
/// Alignment of a ring's first byte: indexes written by different sides are in different cache
/// lines.
pub const RING_ALIGN: usize = align_of::<WqHeader>();
/// Bytes of a send work request before its gather list or inline data.
pub const SEND_HEADER_LEN: usize = size_of::<SendWqe>();
/// Bytes of a receive work request before its scatter list.
pub const RECV_HEADER_LEN: usize = size_of::<RecvWqe>();
/// Bytes of a gather or scatter entry.
pub const SGE_LEN: usize = size_of::<Sge>();
/// Bytes of a completion.
pub const CQE_LEN: usize = size_of::<RawCqe>();
/// The longest entry of a send queue, in bytes.
pub const MAX_SEND_STRIDE: usize = SEND_HEADER_LEN + MAX_SEND_SGE as usize * SGE_LEN;
/// The longest entry of a receive queue, in bytes.
pub const MAX_RECV_STRIDE: usize = RECV_HEADER_LEN + MAX_RECV_SGE as usize * SGE_LEN;

/// [`WqHeader::doorbell`]: the executor has stopped looking, so the poster has to ring.
pub(super) const NEED_DOORBELL: u32 = 1 << 0;

// ANCHOR: work-queue
/// The header of a work queue. One cache line for each writer of a hot index.
#[repr(C, align(64))]
pub(super) struct WqHeader {
    /// Entries published; the poster's.
    pub(super) producer: AtomicU32,
    _reserved0: [u32; 15],
    /// Entries handed back; the executor's.
    pub(super) consumer: AtomicU32,
    _reserved1: [u32; 15],
    /// [`NEED_DOORBELL`]; the executor's.
    pub(super) doorbell: AtomicU32,
    _reserved2: [u32; 31],
}
// ANCHOR_END: work-queue

/// The header of a completion queue.
#[repr(C, align(64))]
pub(super) struct CqHeader {
    /// Completions taken; the poller's.
    pub(super) consumer: AtomicU32,
    _reserved0: [u32; 15],
    /// The request for an event: kind in bits 0 and 1, sequence above; the poller's.
    pub(super) arm: AtomicU32,
    _reserved1: [u32; 15],
    /// Completions produced; the kernel's, for diagnostics alone.
    pub(super) producer: AtomicU32,
    /// The sequence of the last request that got its event; the kernel's.
    pub(super) served: AtomicU32,
    _reserved2: [u32; 30],
}

/// A gather or scatter entry: the same as `struct ibv_sge` and `struct ib_sge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Sge {
    /// Address in the memory region.
    pub addr: u64,
    /// Length in bytes.
    pub length: u32,
    /// The region's local key.
    pub lkey: u32,
}

/// The header of a send work request.
#[repr(C)]
pub(super) struct SendWqe {
    pub(super) wr_id: u64,
    /// [`SendOpcode`](crate::verbs::SendOpcode).
    pub(super) opcode: u8,
    /// [`SendFlags`](crate::verbs::SendFlags).
    pub(super) flags: u8,
    /// Gather entries that follow; 0 if the data is inline.
    pub(super) num_sge: u8,
    pub(super) reserved0: u8,
    /// Immediate data in network byte order, or the key to invalidate.
    pub(super) imm_or_rkey: u32,
    /// Bytes of inline data that follow; 0 if it is not.
    pub(super) inline_length: u32,
    pub(super) reserved1: u32,
    /// One of the structures below, by opcode and QP type.
    pub(super) arguments: [u64; 5],
}

/// Arguments of RDMA WRITE, RDMA READ and ATOMIC WRITE.
#[repr(C)]
pub(super) struct RdmaArguments {
    pub(super) remote_addr: u64,
    pub(super) rkey: u32,
    _reserved: u32,
}

/// Arguments of the atomics.
#[repr(C)]
pub(super) struct AtomicArguments {
    pub(super) remote_addr: u64,
    pub(super) compare_add: u64,
    pub(super) swap: u64,
    pub(super) rkey: u32,
    _reserved: u32,
}

/// Arguments of FLUSH.
#[repr(C)]
pub(super) struct FlushArguments {
    pub(super) remote_addr: u64,
    pub(super) rkey: u32,
    pub(super) length: u32,
    pub(super) selectivity: u32,
    pub(super) placement: u32,
}

/// Arguments of a SEND on a datagram QP.
#[repr(C)]
pub(super) struct DatagramArguments {
    /// The kernel's number of the address handle.
    pub(super) ah: u32,
    pub(super) remote_qpn: u32,
    pub(super) remote_qkey: u32,
    /// GSI only.
    pub(super) pkey_index: u16,
    _reserved: u16,
}

/// Arguments of a memory window's bind.
#[repr(C)]
pub(super) struct BindMwArguments {
    pub(super) addr: u64,
    pub(super) length: u64,
    pub(super) mr_lkey: u32,
    pub(super) mw_rkey: u32,
    pub(super) new_rkey: u32,
    pub(super) access: u32,
}

/// Arguments of a fast registration; kernel only.
#[repr(C)]
pub(super) struct RegMrArguments {
    /// The kernel's number of the region.
    pub(super) mr: u32,
    pub(super) key: u32,
    pub(super) access: u32,
    _reserved: u32,
}

/// The header of a receive work request.
#[repr(C)]
pub(super) struct RecvWqe {
    pub(super) wr_id: u64,
    pub(super) num_sge: u32,
    pub(super) reserved: u32,
}

/// A completion. Both sides access it as seven words of 64 bits and one of 32, `sequence`.
#[repr(C, align(64))]
pub(super) struct RawCqe {
    pub(super) wr_id: u64,
    /// Nanoseconds.
    pub(super) timestamp: u64,
    pub(super) byte_len: u32,
    /// Immediate data in network byte order, or the invalidated key.
    pub(super) imm_or_rkey: u32,
    pub(super) qp_num: u32,
    pub(super) src_qp: u32,
    pub(super) vendor_err: u32,
    pub(super) pkey_index: u16,
    /// [`WcFlags`](crate::verbs::WcFlags).
    pub(super) flags: u16,
    /// [`WcStatus`](crate::verbs::WcStatus).
    pub(super) status: u8,
    /// [`WcOpcode`](crate::verbs::WcOpcode).
    pub(super) opcode: u8,
    pub(super) sl: u8,
    pub(super) network_hdr_type: u8,
    _reserved0: [u32; 3],
    _reserved1: u32,
    /// The position of this completion, plus one: what makes it valid.
    pub(super) sequence: AtomicU32,
}

/// 64-bit words of a completion, all of it but its last eight bytes.
pub(super) const CQE_WORDS: usize = offset_of!(RawCqe, _reserved1) / 8;

const _: () = {
    assert!(HEADER_LEN == 256 && size_of::<CqHeader>() == HEADER_LEN);
    assert!(RING_ALIGN == 64 && align_of::<CqHeader>() == RING_ALIGN);
    assert!(offset_of!(WqHeader, producer) == 0);
    assert!(offset_of!(WqHeader, consumer) == 64);
    assert!(offset_of!(WqHeader, doorbell) == 128);
    assert!(offset_of!(CqHeader, consumer) == 0);
    assert!(offset_of!(CqHeader, arm) == 64);
    assert!(offset_of!(CqHeader, producer) == 128);
    assert!(offset_of!(CqHeader, served) == 132);

    assert!(SGE_LEN == 16);
    assert!(offset_of!(Sge, addr) == 0);
    assert!(offset_of!(Sge, length) == 8);
    assert!(offset_of!(Sge, lkey) == 12);

    assert!(SEND_HEADER_LEN == 64);
    assert!(offset_of!(SendWqe, opcode) == 8);
    assert!(offset_of!(SendWqe, flags) == 9);
    assert!(offset_of!(SendWqe, num_sge) == 10);
    assert!(offset_of!(SendWqe, imm_or_rkey) == 12);
    assert!(offset_of!(SendWqe, inline_length) == 16);
    assert!(offset_of!(SendWqe, arguments) == 24);
    assert!(size_of::<RdmaArguments>() <= 40);
    assert!(size_of::<AtomicArguments>() <= 40);
    assert!(size_of::<FlushArguments>() <= 40);
    assert!(size_of::<DatagramArguments>() <= 40);
    assert!(size_of::<BindMwArguments>() <= 40);
    assert!(size_of::<RegMrArguments>() <= 40);
    assert!(offset_of!(AtomicArguments, rkey) == 24);
    assert!(offset_of!(BindMwArguments, access) == 28);

    assert!(RECV_HEADER_LEN == 16);
    assert!(offset_of!(RecvWqe, num_sge) == 8);

    assert!(CQE_LEN == 64 && CQE_WORDS == 7);
    assert!(offset_of!(RawCqe, byte_len) == 16);
    assert!(offset_of!(RawCqe, status) == 40);
    assert!(offset_of!(RawCqe, _reserved1) == 56);
    assert!(offset_of!(RawCqe, sequence) == 60);

    assert!(MAX_SEND_STRIDE == 576 && MAX_SEND_STRIDE % 64 == 0);
    assert!(MAX_SEND_STRIDE == SEND_HEADER_LEN + MAX_INLINE_DATA as usize);
    assert!(MAX_RECV_STRIDE == 528);
    // `num_sge` of a send work request is a byte.
    assert!(MAX_SEND_SGE <= u8::MAX as u32);
};

/// The `N` bytes at `at`; zeros where `bytes` is shorter. Offsets are constants of this file, so
/// the fallback is never taken: it is there so that nothing can panic.
pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// Puts `value` at `at`. As [`get`], it cannot panic.
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value;
    }
}

/// Words of an entry that are put together in registers. A word that is written to memory in pieces and then
/// read as a whole has to wait until the pieces have left the processor's store buffer.
pub(super) struct Words<const N: usize>(pub(super) [u64; N]);

impl<const N: usize> Words<N> {
    /// All zero.
    pub(super) const fn new() -> Self {
        Self([0; N])
    }

    /// Puts `value` at `at`, in bytes, where there is nothing yet, and which is within a word.
    #[inline(always)]
    pub(super) fn put<const M: usize>(&mut self, at: usize, value: [u8; M]) {
        let mut word = [0; 8];
        put(&mut word, at % 8, value);
        if let Some(place) = self.0.get_mut(at / 8) {
            *place |= u64::from_ne_bytes(word);
        }
    }
}

impl Sge {
    /// Its words in a ring.
    pub(super) fn words(self) -> [u64; SGE_LEN / 8] {
        let mut words = Words::new();
        words.put(offset_of!(Self, addr), self.addr.to_ne_bytes());
        words.put(offset_of!(Self, length), self.length.to_ne_bytes());
        words.put(offset_of!(Self, lkey), self.lkey.to_ne_bytes());
        words.0
    }

    pub(super) fn from_bytes(bytes: &[u8; SGE_LEN]) -> Self {
        Self {
            addr: u64::from_ne_bytes(get(bytes, offset_of!(Self, addr))),
            length: u32::from_ne_bytes(get(bytes, offset_of!(Self, length))),
            lkey: u32::from_ne_bytes(get(bytes, offset_of!(Self, lkey))),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; SGE_LEN] {
        let mut bytes = [0; SGE_LEN];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words()) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
