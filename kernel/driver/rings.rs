// SPDX-License-Identifier: GPL-2.0

//! The memory behind a queue: pages that the process maps, if there is one, and the kernel's view of
//! them.

use super::device::{Ferroce, Ucontext};
use crate::{
    completion_queue, queue,
    rdma::mmap::{SharedPages, UserMapping},
    rdma::UserCall,
    ring::{
        CqGeometry, Executor, GeometryError, Poller, Poster, Producer, Queue, RecvQueue, Returner,
        SendQueue, WqGeometry,
    },
    uapi, verbs,
};
use core::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::Arc,
    transmute::{AsBytes, FromBytes},
};

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

/// Pages that a process may map, or that are for a kernel user.
pub(crate) struct Rings {
    pages: Arc<SharedPages>,
    mapping: Option<UserMapping<Ucontext>>,
}

impl Rings {
    /// Allocates at least `len` bytes for the process that makes a call, or for a kernel user.
    pub(crate) fn new(len: usize, call: Option<&UserCall<'_, Ferroce>>) -> Result<Arc<Self>> {
        let flags = UserCall::flags(call);
        let pages = Arc::new(SharedPages::new(len, flags)?, flags)?;
        let mapping = call.map(|call| UserMapping::new(call.ucontext(), pages.clone()));
        let mapping = mapping.transpose()?;
        Ok(Arc::new(Self { pages, mapping }, flags)?)
    }

    /// What to allocate with for who has the rings.
    fn flags(&self) -> Flags {
        match self.mapping {
            Some(_) => GFP_KERNEL_ACCOUNT,
            None => GFP_KERNEL,
        }
    }

    /// What the process is to map. A kernel user maps nothing.
    pub(crate) fn mapping(&self) -> uapi::Mapping {
        match &self.mapping {
            Some(mapping) => uapi::Mapping {
                offset: mapping.offset(),
                length: self.pages.len() as u64,
            },
            None => uapi::Mapping::default(),
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
        work_queue(self_, at, size)
    }

    /// The driver's side of a receive queue at an offset.
    pub(crate) fn receive(
        self_: &Arc<Self>,
        at: usize,
        size: WqGeometry<RecvQueue>,
    ) -> Result<WorkQueue<RecvQueue>> {
        work_queue(self_, at, size)
    }

    /// The driver's side of a completion queue.
    pub(crate) fn completion(
        self_: &Arc<Self>,
        size: CqGeometry,
        timestamps: bool,
    ) -> Result<CompletionQueue> {
        let (base, len) = self_.place(0)?;
        Ok(CompletionQueue {
            // SAFETY: The pages are ours and valid for `len` bytes as long as `memory` lives, which
            // is dropped after the producer. The kernel reaches them by the ring's types only.
            producer: unsafe { Producer::new(base, len, size) }.map_err(geometry)?,
            timestamps,
            memory: self_.clone(),
        })
    }
}

/// A work queue as its kernel user has it.
pub(crate) struct PostQueue<Q> {
    pub(crate) poster: Poster<Q>,
    _rings: Arc<Rings>,
}

impl<Q: Queue> PostQueue<Q> {
    /// The kernel user's side of a work queue at an offset: there is no other poster.
    pub(crate) fn new(rings: &Arc<Rings>, at: usize, size: WqGeometry<Q>) -> Result<Self> {
        let (base, len) = rings.place(at)?;
        Ok(Self {
            // SAFETY: The pages are ours and valid for `len` bytes as long as `_rings` lives, which is
            // dropped after the poster. They were zero, and the kernel reaches them by the ring's
            // types only.
            poster: unsafe { Poster::new(base, len, size) }.map_err(geometry)?,
            _rings: rings.clone(),
        })
    }
}

/// A completion queue as its kernel user has it.
pub(crate) struct PollQueue {
    pub(crate) poller: Poller,
    _rings: Arc<Rings>,
}

impl PollQueue {
    /// The kernel user's side of a completion queue: there is no other poller.
    pub(crate) fn new(rings: &Arc<Rings>, size: CqGeometry) -> Result<Self> {
        let (base, len) = rings.place(0)?;
        Ok(Self {
            // SAFETY: As in `PostQueue::new`.
            poller: unsafe { Poller::new(base, len, size) }.map_err(geometry)?,
            _rings: rings.clone(),
        })
    }
}

/// A work queue as the driver has it.
pub(crate) type WorkQueue<Q> = queue::WorkQueue<Q, Buffer>;

/// Room for an entry of a work queue. The memory of the ring is there as long as this is.
pub(crate) struct Buffer {
    bytes: KVec<u8>,
    rings: Arc<Rings>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// The driver's side of a work queue at an offset.
fn work_queue<Q: Queue>(
    rings: &Arc<Rings>,
    at: usize,
    size: WqGeometry<Q>,
) -> Result<WorkQueue<Q>> {
    let (base, len) = rings.place(at)?;
    let mut bytes = KVec::new();
    bytes.resize(size.stride(), 0, rings.flags())?;
    Ok(WorkQueue {
        // SAFETY: The pages are ours and valid for `len` bytes as long as the buffer lives, which is
        // dropped after the executor. The kernel reaches them by the ring's types only.
        ring: unsafe { Executor::new(base, len, size) }.map_err(geometry)?,
        buffer: Buffer {
            bytes,
            rings: rings.clone(),
        },
    })
}

/// Who hands slots of a send queue back from here on, in any context.
pub(crate) fn returner(queue: &WorkQueue<SendQueue>) -> SlotReturner {
    SlotReturner {
        // SAFETY: The pages are ours as long as `_rings` lives, which is dropped after the returner.
        returner: unsafe { queue.ring.returner() },
        _rings: queue.buffer.rings.clone(),
    }
}

/// Hands the slots of a send queue back.
pub(crate) struct SlotReturner {
    pub(crate) returner: Returner,
    _rings: Arc<Rings>,
}

/// A completion queue as the driver has it.
pub(crate) type CompletionQueue = completion_queue::CompletionQueue<Arc<Rings>>;

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
// SAFETY: One number, which may have any value.
unsafe impl FromBytes for uapi::ModifySrqRequest {}
