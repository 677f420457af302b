// SPDX-License-Identifier: GPL-2.0

//! The memory behind a queue: pages that the process maps, and the kernel's view of them.

use super::device::{Ferroce, Ucontext};
use crate::{
    rdma::mmap::{SharedPages, UserMapping},
    rdma::UserCall,
    ring::{
        CqGeometry, Executor, GeometryError, Producer, Queue, RecvQueue, SendQueue, WqGeometry,
    },
    uapi, verbs,
};
use core::ptr::NonNull;
use kernel::{prelude::*, sync::Arc, transmute::AsBytes};

/// The errno of an error of the core's.
pub(crate) fn errno(error: verbs::Errno) -> Error {
    match error {
        verbs::Errno::Io => EIO,
        verbs::Errno::NoMemory => ENOMEM,
        verbs::Errno::Invalid => EINVAL,
        verbs::Errno::NotSupported => crate::rdma::eopnotsupp(),
    }
}

fn geometry(error: GeometryError) -> Error {
    errno(error.errno())
}

/// Pages that a process may map.
pub(crate) struct Rings {
    pages: Arc<SharedPages>,
    mapping: UserMapping<Ucontext>,
}

impl Rings {
    /// Allocates at least `len` bytes for the process that makes a call.
    pub(crate) fn new(len: usize, call: &UserCall<'_, Ferroce>) -> Result<Self> {
        let pages = Arc::new(SharedPages::new(len)?, GFP_KERNEL)?;
        let mapping = UserMapping::new(call.ucontext(), pages.clone())?;
        Ok(Self { pages, mapping })
    }

    /// What the process is to map.
    pub(crate) fn mapping(&self) -> uapi::Mapping {
        uapi::Mapping {
            offset: self.mapping.offset(),
            length: self.pages.len() as u64,
        }
    }

    /// Where a ring begins and how much there is behind that.
    fn place(&self, at: usize) -> Result<(NonNull<u8>, usize)> {
        let len = self.pages.len().checked_sub(at).ok_or(EINVAL)?;
        // SAFETY: `at` is within the pages.
        let base = unsafe { self.pages.as_ptr().add(at) };
        Ok((NonNull::new(base).ok_or(EINVAL)?, len))
    }

    /// The driver's side of a send queue at an offset.
    pub(crate) fn send(
        self_: &Arc<Self>,
        at: usize,
        size: WqGeometry<SendQueue>,
    ) -> Result<WorkQueue<SendQueue>> {
        WorkQueue::new(self_, at, size)
    }

    /// The driver's side of a receive queue at an offset.
    pub(crate) fn receive(
        self_: &Arc<Self>,
        at: usize,
        size: WqGeometry<RecvQueue>,
    ) -> Result<WorkQueue<RecvQueue>> {
        WorkQueue::new(self_, at, size)
    }

    /// The driver's side of a completion queue.
    pub(crate) fn completion(self_: &Arc<Self>, size: CqGeometry) -> Result<CompletionQueue> {
        let (base, len) = self_.place(0)?;
        Ok(CompletionQueue {
            // SAFETY: The pages are ours and valid for `len` bytes as long as `rings` lives, which
            // is dropped after the producer. The kernel reaches them by the ring's types only.
            producer: unsafe { Producer::new(base, len, size) }.map_err(geometry)?,
            _rings: self_.clone(),
        })
    }
}

/// A work queue as the driver has it.
pub(crate) struct WorkQueue<Q> {
    pub(crate) executor: Executor<Q>,
    /// A private copy of the entry that is being looked at.
    pub(crate) buffer: KVec<u8>,
    _rings: Arc<Rings>,
}

// SAFETY: An executor is a pointer to pages that `_rings` keeps, and may be used by any thread, one
// at a time.
unsafe impl<Q> Send for WorkQueue<Q> {}

impl<Q: Queue> WorkQueue<Q> {
    fn new(rings: &Arc<Rings>, at: usize, size: WqGeometry<Q>) -> Result<Self> {
        let (base, len) = rings.place(at)?;
        // SAFETY: The pages are ours and valid for `len` bytes as long as `_rings` lives, which is
        // dropped after the executor. The kernel reaches them by the ring's types only.
        let executor = unsafe { Executor::new(base, len, size) }.map_err(geometry)?;
        let mut buffer = KVec::new();
        buffer.resize(size.stride(), 0, GFP_KERNEL)?;
        Ok(Self {
            executor,
            buffer,
            _rings: rings.clone(),
        })
    }
}

/// A completion queue as the driver has it.
pub(crate) struct CompletionQueue {
    pub(crate) producer: Producer,
    _rings: Arc<Rings>,
}

// SAFETY: As of `WorkQueue`.
unsafe impl Send for CompletionQueue {}

// SAFETY: The answers in `uapi` have no padding; there are assertions for that beside them.
unsafe impl AsBytes for uapi::UcontextResponse {}
// SAFETY: As above.
unsafe impl AsBytes for uapi::CqResponse {}
// SAFETY: As above.
unsafe impl AsBytes for uapi::QpResponse {}
// SAFETY: As above.
unsafe impl AsBytes for uapi::SrqResponse {}
// SAFETY: As above.
unsafe impl AsBytes for uapi::AhResponse {}
