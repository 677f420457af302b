// SPDX-License-Identifier: MIT OR Apache-2.0
//! How large a ring is, and where it lies: computed by the kernel, checked by the provider.

use core::fmt;
use core::marker::PhantomData;

use crate::ring::layout::{
    CQE_LEN, HEADER_LEN, MAX_RECV_STRIDE, MAX_SEND_STRIDE, RECV_HEADER_LEN, RING_ALIGN,
    SEND_HEADER_LEN, SGE_LEN,
};
use crate::verbs::limits::{MAX_CQE, MAX_INLINE_DATA, MAX_QP_WR, MAX_RECV_SGE, MAX_SEND_SGE};
use crate::verbs::Errno;

/// Why a ring cannot be, or cannot be where it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// More entries than the device has.
    Entries(u32),
    /// More gather or scatter entries than the device has.
    Sge(u32),
    /// More inline data than the device has, in bytes.
    Inline(u32),
    /// The length does not fit in the machine's addresses.
    TooLarge,
    /// The other side's numbers do not fit together.
    Descriptor,
    /// The memory is not aligned to [`RING_ALIGN`](crate::ring::RING_ALIGN).
    Misaligned,
    /// The memory is too short.
    TooShort {
        /// What the ring takes, in bytes.
        needed: usize,
        /// What there is.
        len: usize,
    },
}

impl GeometryError {
    /// The class of errno this turns into.
    pub const fn errno(&self) -> Errno {
        Errno::Invalid
    }
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(n) => write!(f, "the device has no queue of {n} entries"),
            Self::Sge(n) => write!(f, "the device has no work request of {n} SGEs"),
            Self::Inline(n) => write!(f, "the device has no {n} bytes of inline data"),
            Self::TooLarge => f.write_str("the ring is larger than the address space"),
            Self::Descriptor => f.write_str("the ring's description is inconsistent"),
            Self::Misaligned => f.write_str("the ring's memory is misaligned"),
            Self::TooShort { needed, len } => {
                write!(f, "the ring takes {needed} bytes, its memory has {len}")
            }
        }
    }
}

impl core::error::Error for GeometryError {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::SendQueue {}
    impl Sealed for super::RecvQueue {}
}

/// What tells the kinds of work queue apart.
pub trait Queue: sealed::Sealed {
    /// Bytes before the payload of an entry.
    #[doc(hidden)]
    const ENTRY_HEADER_LEN: usize;
    /// Every stride is a multiple of it.
    #[doc(hidden)]
    const STRIDE_UNIT: usize;
    #[doc(hidden)]
    const MAX_STRIDE: usize;
    #[doc(hidden)]
    const MAX_SGE: u32;
    #[doc(hidden)]
    const MAX_INLINE: u32;

    /// Bytes of payload an entry claims to have; `None` if that is more than `capacity`.
    #[doc(hidden)]
    fn payload_len(header: &[u8], capacity: usize) -> Option<usize>;
}

/// A send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendQueue {}

/// A receive queue, a QP's own or a shared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvQueue {}

/// The description of a work queue in the kernel's answer to a create command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct WqDescriptor {
    /// Entries, a power of two.
    pub entries: u32,
    /// Bytes from one entry to the next.
    pub stride: u32,
}

/// The size of a work queue's ring.
#[derive(Debug, PartialEq, Eq)]
pub struct WqGeometry<Q> {
    entries: u32,
    stride: usize,
    queue: PhantomData<Q>,
}

impl<Q> Clone for WqGeometry<Q> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q> Copy for WqGeometry<Q> {}

impl WqGeometry<SendQueue> {
    /// For a send queue of at least this capacity (`struct ib_qp_cap`); `max_inline` is in bytes.
    pub const fn new(max_wr: u32, max_sge: u32, max_inline: u32) -> Result<Self, GeometryError> {
        if max_sge > MAX_SEND_SGE {
            return Err(GeometryError::Sge(max_sge));
        }
        if max_inline > MAX_INLINE_DATA {
            return Err(GeometryError::Inline(max_inline));
        }
        // At least one SGE's worth, so that an ATOMIC WRITE always has room for its eight bytes.
        let mut payload = SGE_LEN;
        if max_sge as usize * SGE_LEN > payload {
            payload = max_sge as usize * SGE_LEN;
        }
        if max_inline as usize > payload {
            payload = max_inline as usize;
        }
        let stride = (SEND_HEADER_LEN + payload).next_multiple_of(64);
        match round_up_entries(max_wr, MAX_QP_WR) {
            Ok(entries) => Ok(Self {
                entries,
                stride,
                queue: PhantomData,
            }),
            Err(error) => Err(error),
        }
    }
}

impl WqGeometry<RecvQueue> {
    /// For a receive queue of at least this capacity (`struct ib_qp_cap`, `struct ib_srq_attr`).
    pub const fn new(max_wr: u32, max_sge: u32) -> Result<Self, GeometryError> {
        if max_sge > MAX_RECV_SGE {
            return Err(GeometryError::Sge(max_sge));
        }
        match round_up_entries(max_wr, MAX_QP_WR) {
            Ok(entries) => Ok(Self {
                entries,
                stride: RECV_HEADER_LEN + max_sge as usize * SGE_LEN,
                queue: PhantomData,
            }),
            Err(error) => Err(error),
        }
    }
}

impl<Q: Queue> WqGeometry<Q> {
    /// From the other side's description.
    pub fn from_descriptor(descriptor: WqDescriptor) -> Result<Self, GeometryError> {
        let stride = usize::try_from(descriptor.stride).map_err(|_| GeometryError::Descriptor)?;
        if !descriptor.entries.is_power_of_two() || descriptor.entries > MAX_QP_WR {
            return Err(GeometryError::Descriptor);
        }
        if stride < Q::ENTRY_HEADER_LEN || stride > Q::MAX_STRIDE || stride % Q::STRIDE_UNIT != 0 {
            return Err(GeometryError::Descriptor);
        }
        Ok(Self {
            entries: descriptor.entries,
            stride,
            queue: PhantomData,
        })
    }

    /// For the other side.
    pub const fn descriptor(&self) -> WqDescriptor {
        WqDescriptor {
            entries: self.entries,
            // At most `MAX_SEND_STRIDE`.
            stride: self.stride as u32,
        }
    }

    /// Entries: a power of two, not below the `max_wr` asked for. What Create QP answers.
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes from one entry to the next.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Gather or scatter entries a work request has room for, not below those asked for.
    pub const fn max_sge(&self) -> u32 {
        let room = (self.payload_capacity() / SGE_LEN) as u32;
        if room < Q::MAX_SGE {
            room
        } else {
            Q::MAX_SGE
        }
    }

    /// Bytes of inline data a work request has room for, not below those asked for.
    pub const fn max_inline(&self) -> u32 {
        let room = self.payload_capacity() as u32;
        if room < Q::MAX_INLINE {
            room
        } else {
            Q::MAX_INLINE
        }
    }

    /// Bytes of the whole ring.
    pub const fn len(&self) -> usize {
        // At most 2^15 * 576 + 256: no overflow, even with 32-bit addresses.
        HEADER_LEN + self.entries as usize * self.stride
    }

    /// Never: even the smallest ring has a header.
    pub const fn is_empty(&self) -> bool {
        false
    }

    pub(super) const fn payload_capacity(&self) -> usize {
        self.stride.saturating_sub(Q::ENTRY_HEADER_LEN)
    }
}

impl Queue for SendQueue {
    const ENTRY_HEADER_LEN: usize = SEND_HEADER_LEN;
    const STRIDE_UNIT: usize = 64;
    const MAX_STRIDE: usize = MAX_SEND_STRIDE;
    const MAX_SGE: u32 = MAX_SEND_SGE;
    const MAX_INLINE: u32 = MAX_INLINE_DATA;

    fn payload_len(header: &[u8], capacity: usize) -> Option<usize> {
        crate::ring::send::payload_len(header).filter(|&len| len <= capacity)
    }
}

impl Queue for RecvQueue {
    const ENTRY_HEADER_LEN: usize = RECV_HEADER_LEN;
    const STRIDE_UNIT: usize = SGE_LEN;
    const MAX_STRIDE: usize = MAX_RECV_STRIDE;
    const MAX_SGE: u32 = MAX_RECV_SGE;
    const MAX_INLINE: u32 = 0;

    fn payload_len(header: &[u8], capacity: usize) -> Option<usize> {
        crate::ring::recv::payload_len(header).filter(|&len| len <= capacity)
    }
}

/// The size of a completion queue's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CqGeometry {
    entries: u32,
}

impl CqGeometry {
    /// For a completion queue of at least `cqe` entries.
    pub const fn new(cqe: u32) -> Result<Self, GeometryError> {
        match round_up_entries(cqe, MAX_CQE) {
            Ok(entries) => Ok(Self { entries }),
            Err(error) => Err(error),
        }
    }

    /// Entries: a power of two, not below the number asked for. What Create CQ answers, and what
    /// the other side computes the same geometry from.
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes of the whole ring.
    pub const fn len(&self) -> usize {
        // At most 2^18 * 64 + 256.
        HEADER_LEN + self.entries as usize * CQE_LEN
    }

    /// Never: even the smallest ring has a header.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Where the rings of a QP lie in its one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpLayout {
    send: WqGeometry<SendQueue>,
    recv: Option<WqGeometry<RecvQueue>>,
}

/// The capacities of a QP (`struct ibv_qp_cap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // As there.
pub struct QpCaps {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

impl QpLayout {
    /// One with these capacities at least; those of receives do not count with a shared receive queue.
    pub fn with_caps(caps: &QpCaps, has_srq: bool) -> Result<Self, GeometryError> {
        let send =
            WqGeometry::<SendQueue>::new(caps.max_send_wr, caps.max_send_sge, caps.max_inline_data);
        let recv = match has_srq {
            true => None,
            false => Some(WqGeometry::<RecvQueue>::new(
                caps.max_recv_wr,
                caps.max_recv_sge,
            )?),
        };
        Ok(Self::new(send?, recv))
    }

    /// Its capacities.
    pub const fn caps(&self) -> QpCaps {
        let (max_recv_wr, max_recv_sge) = match self.recv {
            Some(recv) => (recv.entries(), recv.max_sge()),
            None => (0, 0),
        };
        QpCaps {
            max_send_wr: self.send.entries(),
            max_recv_wr,
            max_send_sge: self.send.max_sge(),
            max_recv_sge,
            max_inline_data: self.send.max_inline(),
        }
    }

    /// `recv` is `None` if the QP takes its receives from a shared receive queue.
    pub const fn new(send: WqGeometry<SendQueue>, recv: Option<WqGeometry<RecvQueue>>) -> Self {
        Self { send, recv }
    }

    /// The send queue's size.
    pub const fn send(&self) -> WqGeometry<SendQueue> {
        self.send
    }

    /// The receive queue's size.
    pub const fn recv(&self) -> Option<WqGeometry<RecvQueue>> {
        self.recv
    }

    /// The send queue's first byte.
    pub const fn send_offset(&self) -> usize {
        0
    }

    /// The receive queue's first byte, if there is one.
    pub const fn recv_offset(&self) -> Option<usize> {
        match self.recv {
            Some(_) => Some(self.send.len().next_multiple_of(RING_ALIGN)),
            None => None,
        }
    }

    /// Bytes of the mapping; the kernel rounds it up to pages.
    pub const fn len(&self) -> usize {
        match (self.recv, self.recv_offset()) {
            (Some(recv), Some(offset)) => offset + recv.len(),
            _ => self.send.len(),
        }
    }

    /// Never: a QP always has a send queue.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

const fn round_up_entries(wanted: u32, max: u32) -> Result<u32, GeometryError> {
    if wanted > max {
        return Err(GeometryError::Entries(wanted));
    }
    // `max` is a power of two, so rounding up cannot go past it.
    Ok(wanted.next_power_of_two())
}

const _: () = assert!(MAX_QP_WR.is_power_of_two() && MAX_CQE.is_power_of_two());
