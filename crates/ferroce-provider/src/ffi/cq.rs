// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.

use core::ffi::{c_int, c_uint};
use core::ptr;

use ferroce_core::ring::{CqGeometry, Notify, Poller};
use ferroce_core::uapi;
use parking_lot::lock_api::RawMutex as _;

use super::domain::threads_of;
use super::object::Object;
use super::{cq_ex, object, status, Failure};
use crate::abi::library::Library;
use crate::abi::{
    cq_init_attr_mask, create_cq_attr_flags, create_cq_wc_flags, CreateCqExResponse,
    IbvCompChannel, IbvContext, IbvCq, IbvCqEx, IbvCqInitAttrEx, IbvWc, ResizeCqRequest,
    ResizeCqResponse, VerbsCq,
};
use crate::idle;
use crate::lock::{queue_lock, QueueLock, Threads};
use crate::mapping::Mapping;
use crate::queue::completion::CompletionQueue;
use crate::user;

/// What a completion queue is to this provider.
pub struct CqData {
    queue: QueueLock<MappedQueue>,
}

/// A completion queue, and the memory its ring is in.
struct MappedQueue {
    queue: CompletionQueue,
    // Kept, not used: the queue is in it.
    ring: Mapping,
}

pub type Cq = Object<VerbsCq, CqData>;

impl CqData {
    /// Uses the queue under its lock.
    pub fn with<R>(&self, body: impl FnOnce(&mut CompletionQueue) -> R) -> R {
        body(&mut self.queue.lock().queue)
    }

    /// Begins to read completions: takes the lock and keeps it, if `body` says so.
    pub fn begin_reading<R, E>(
        &self,
        body: impl FnOnce(&mut CompletionQueue) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut guard = self.queue.lock();
        let result = body(&mut guard.queue);
        if result.is_ok() {
            core::mem::forget(guard);
        }
        result
    }

    /// The queue while completions are being read.
    ///
    /// # Safety
    /// This thread has the lock, from [`begin_reading`](Self::begin_reading), and has no other
    /// reference from here.
    #[allow(clippy::mut_from_ref)] // By the contract there is only one.
    pub unsafe fn reading(&self) -> &mut CompletionQueue {
        // SAFETY: By this function's contract.
        unsafe { &mut (*self.queue.data_ptr()).queue }
    }

    /// Ends reading: gives the lock back.
    ///
    /// # Safety
    /// This thread has the lock, from [`begin_reading`](Self::begin_reading).
    pub unsafe fn end_reading(&self) {
        // SAFETY: By this function's contract.
        unsafe { self.queue.force_unlock() };
    }

    /// Whether somebody has the lock.
    pub fn is_locked(&self) -> bool {
        // SAFETY: The lock itself is only looked at.
        unsafe { self.queue.raw() }.is_locked()
    }
}

/// Maps the ring that the driver has offered.
fn map(fd: c_int, response: &uapi::CqResponse) -> Result<(Poller, Mapping), Failure> {
    let geometry = CqGeometry::new(response.entries).map_err(|_| Failure::PROTOCOL)?;
    if geometry.entries() != response.entries {
        return Err(Failure::PROTOCOL);
    }
    let ring = Mapping::new(fd, &response.ring)?;
    // SAFETY: The ring is mapped, as long as the mapping that is kept beside the poller; nobody in this
    // process has it but the poller. The kernel has zeroed it.
    let poller = unsafe { Poller::new(ring.base(), ring.len(), geometry) };
    Ok((poller.map_err(|_| Failure::PROTOCOL)?, ring))
}

/// # Safety
/// By the contract of the verbs.
unsafe fn create(
    context: *mut IbvContext,
    attr: &IbvCqInitAttrEx,
) -> Result<*mut VerbsCq, Failure> {
    let flags = match attr.comp_mask & cq_init_attr_mask::FLAGS {
        0 => 0,
        _ => attr.flags,
    };
    let wc_flags = create_cq_wc_flags::STANDARD
        | create_cq_wc_flags::COMPLETION_TIMESTAMP
        | create_cq_wc_flags::COMPLETION_TIMESTAMP_WALLCLOCK;
    if attr.comp_mask & !(cq_init_attr_mask::FLAGS | cq_init_attr_mask::PD) != 0
        || flags & !create_cq_attr_flags::SINGLE_THREADED != 0
        || attr.wc_flags & !wc_flags != 0
    {
        return Err(Failure::NOT_SUPPORTED);
    }
    let mut threads = Threads::Many;
    if attr.comp_mask & cq_init_attr_mask::PD != 0 {
        // SAFETY: By this function's contract.
        threads = unsafe { threads_of(attr.parent_domain) };
    }
    if flags & create_cq_attr_flags::SINGLE_THREADED != 0 {
        threads = Threads::One;
    }

    let library = Library::get();
    let cq = Cq::make();
    let mut response = CreateCqExResponse::new();
    let (pointer, len) = (response.as_mut_ptr(), response.len());
    // SAFETY: By this function's contract; the response is as long as it is said to be.
    Failure::check(unsafe {
        library
            .specific
            .create_cq_ex(context, attr, cq.verbs(), pointer, len)
    })?;
    // SAFETY: By this function's contract.
    let fd = unsafe { (*context).cmd_fd };
    match map(fd, &response.driver) {
        Ok((poller, ring)) => {
            // SAFETY: The queue is nobody else's yet.
            cq_ex::fill_in(unsafe { &mut *cq.verbs() });
            let queue = CompletionQueue::new(poller, user::device_queue(cq.verbs().cast()));
            Ok(cq.finish(CqData {
                queue: queue_lock(threads, MappedQueue { queue, ring }),
            }))
        }
        Err(failure) => {
            // SAFETY: The command has made it, and nobody has used it. libibverbs initialises what
            // this waits for only when the verb returns, so there must be nothing to wait for: there
            // have been no events.
            unsafe { (library.common.ibv_cmd_destroy_cq)(cq.verbs().cast()) };
            Err(failure)
        }
    }
}

pub unsafe extern "C" fn create_cq_ex(
    context: *mut IbvContext,
    attr: *mut IbvCqInitAttrEx,
) -> *mut IbvCqEx {
    // SAFETY: By the contract of the verbs.
    object(unsafe { create(context, &*attr) })
}

pub unsafe extern "C" fn create_cq(
    context: *mut IbvContext,
    cqe: c_int,
    channel: *mut IbvCompChannel,
    comp_vector: c_int,
) -> *mut IbvCq {
    let attr = IbvCqInitAttrEx {
        cqe: cqe.cast_unsigned(),
        cq_context: ptr::null_mut(),
        channel,
        comp_vector: comp_vector.cast_unsigned(),
        wc_flags: 0,
        comp_mask: 0,
        flags: 0,
        parent_domain: ptr::null_mut(),
    };
    // SAFETY: By the contract of the verbs.
    object(unsafe { create(context, &attr) }.map(<*mut VerbsCq>::cast))
}

pub unsafe extern "C" fn resize_cq(cq: *mut IbvCq, cqe: c_int) -> c_int {
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Cq::from_ptr(cq) }.data();
    status((|| {
        // Nobody polls or arms while the driver moves the completions to another ring.
        let mut guard = data.queue.lock();
        let (mut request, mut response) = (ResizeCqRequest::new(), ResizeCqResponse::new());
        // SAFETY: By the contract of the verbs; the buffers are as long as they are said to be.
        Failure::check(unsafe {
            (Library::get().common.ibv_cmd_resize_cq)(
                cq,
                cqe,
                request.as_mut_ptr(),
                request.len(),
                response.as_mut_ptr(),
                response.len(),
            )
        })?;
        // SAFETY: By the contract of the verbs.
        let fd = unsafe { (*(*cq).context).cmd_fd };
        // If this fails the driver fills a ring that nobody polls: the queue is lost, as the program
        // learns by the error.
        let (poller, ring) = map(fd, &response.driver)?;
        guard.queue.resize(poller);
        // The old ring goes: the poller in it has gone before.
        guard.ring = ring;
        Ok(())
    })())
}

pub unsafe extern "C" fn destroy_cq(cq: *mut IbvCq) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        Failure::check(unsafe { (Library::get().common.ibv_cmd_destroy_cq)(cq) })?;
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Cq::drop(cq) };
        Ok(())
    })())
}

pub unsafe extern "C" fn poll_cq(cq: *mut IbvCq, num_entries: c_int, wc: *mut IbvWc) -> c_int {
    let limit = usize::try_from(num_entries).unwrap_or(0);
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Cq::from_ptr(cq) }.data();
    let count = data.with(|queue| {
        queue.poll(limit, |index, completion| {
            // SAFETY: By the contract of the verbs there is room for `limit` completions.
            unsafe { wc.add(index).write(completion) };
        })
    });
    idle::polled(count != 0);
    // At most `num_entries`.
    count as c_int
}

pub unsafe extern "C" fn req_notify_cq(cq: *mut IbvCq, solicited_only: c_int) -> c_int {
    let notify = match solicited_only {
        0 => Notify::Next,
        _ => Notify::Solicited,
    };
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Cq::from_ptr(cq) }.data();
    if !data.with(|queue| queue.arm(notify)) {
        return 0;
    }
    // The driver raises the event for what is there. With the lock released: it is a system call.
    // SAFETY: By the contract of the verbs.
    unsafe { (Library::get().common.ibv_cmd_req_notify_cq)(cq, solicited_only) }
}

const _: () = assert!(size_of::<c_uint>() == 4);
