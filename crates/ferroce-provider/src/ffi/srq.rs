// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues.

use core::ffi::c_int;
use core::ptr;

use ferroce_core::ring::{Poster, RecvQueue, WqDescriptor, WqGeometry};
use ferroce_core::uapi;

use super::domain::threads_of;
use super::doorbell::Bell;
use super::object::Object;
use super::send::post_recv_list;
use super::{object, status, Failure};
use crate::abi::library::Library;
use crate::abi::{
    doorbell, srq_attr_mask, CreateSrqResponse, IbvPd, IbvRecvWr, IbvSrq, IbvSrqAttr,
    IbvSrqInitAttr, ModifySrqRequest, QuerySrqRequest, VerbsSrq,
};
use crate::lock::{queue_lock, QueueLock};
use crate::mapping::Mapping;
use crate::queue::receive::Receiver;
use crate::user;

/// What a shared receive queue is to this provider.
pub struct SrqData {
    queue: QueueLock<MappedReceiver>,
    bell: Bell,
}

/// A receive queue, and the memory its ring is in.
struct MappedReceiver {
    // Dropped before the memory it is in.
    receiver: Receiver,
    _ring: Mapping,
}

impl MappedReceiver {
    /// Maps the ring that the driver has offered.
    fn new(fd: c_int, response: &uapi::SrqResponse) -> Result<Self, Failure> {
        let geometry = receive_geometry(response.recv)?;
        let ring = Mapping::new(fd, &response.ring)?;
        Ok(Self {
            receiver: receiver(&ring, 0, geometry)?,
            _ring: ring,
        })
    }
}

impl AsMut<Receiver> for MappedReceiver {
    fn as_mut(&mut self) -> &mut Receiver {
        &mut self.receiver
    }
}

type Srq = Object<VerbsSrq, SrqData>;

/// A receive queue in a ring of the driver's, at an offset.
pub fn receiver(
    ring: &Mapping,
    offset: usize,
    geometry: WqGeometry<RecvQueue>,
) -> Result<Receiver, Failure> {
    let len = ring.len().checked_sub(offset).ok_or(Failure::PROTOCOL)?;
    // SAFETY: The offset is within the mapping.
    let base = unsafe { ring.base().add(offset) };
    // SAFETY: The ring is mapped, as long as the mapping that the caller keeps beside the poster;
    // nobody in this process has it but the poster. The kernel has zeroed it.
    let poster = unsafe { Poster::new(base, len, geometry) };
    Ok(Receiver::new(poster.map_err(|_| Failure::PROTOCOL)?))
}

/// The size of a receive queue, as the driver has described it.
pub fn receive_geometry(descriptor: WqDescriptor) -> Result<WqGeometry<RecvQueue>, Failure> {
    WqGeometry::from_descriptor(descriptor).map_err(|_| Failure::PROTOCOL)
}

pub unsafe extern "C" fn create_srq(pd: *mut IbvPd, attr: *mut IbvSrqInitAttr) -> *mut IbvSrq {
    object((|| {
        let library = Library::get();
        let srq = Srq::make();
        let mut response = CreateSrqResponse::new();
        let (pointer, len) = (response.as_mut_ptr(), response.len());
        let command = ptr::null_mut();
        // SAFETY: By the contract of the verbs; the response is as long as it is said to be.
        Failure::check(unsafe {
            (library.common.ibv_cmd_create_srq)(
                pd,
                srq.verbs().cast(),
                attr,
                command,
                0,
                pointer,
                len,
            )
        })?;
        // SAFETY: By the contract of the verbs, and the command has succeeded.
        let (fd, handle, threads) = unsafe {
            (
                (*(*pd).context).cmd_fd,
                (*srq.verbs()).srq.handle,
                threads_of(pd),
            )
        };
        match MappedReceiver::new(fd, &response.driver) {
            Ok(queue) => Ok(srq
                .finish(SrqData {
                    queue: queue_lock(threads, queue),
                    bell: match user::is_here() {
                        true => Bell::Nobody,
                        false => Bell::new(fd, handle, doorbell::POST_SRQ_RECV),
                    },
                })
                .cast()),
            Err(failure) => {
                // SAFETY: The command has made it, and nobody has used it.
                unsafe { (library.common.ibv_cmd_destroy_srq)(srq.verbs().cast()) };
                Err(failure)
            }
        }
    })())
}

pub unsafe extern "C" fn modify_srq(
    srq: *mut IbvSrq,
    attr: *mut IbvSrqAttr,
    attr_mask: c_int,
) -> c_int {
    status(match attr_mask & srq_attr_mask::MAX_WR {
        // SAFETY: By the contract of the verbs.
        0 => unsafe { modify(srq, attr, attr_mask, &mut ModifySrqRequest::<()>::new()) },
        // SAFETY: By the contract of the verbs.
        _ => unsafe { resize(srq, attr, attr_mask) },
    })
}

/// # Safety
/// By the contract of the verbs.
unsafe fn modify<D>(
    srq: *mut IbvSrq,
    attr: *mut IbvSrqAttr,
    attr_mask: c_int,
    request: &mut ModifySrqRequest<D>,
) -> Result<(), Failure> {
    let (pointer, len) = (ptr::from_mut(request).cast(), size_of_val(request));
    // SAFETY: By this function's contract; the request is as long as it is said to be.
    Failure::check(unsafe {
        (Library::get().common.ibv_cmd_modify_srq)(srq, attr, attr_mask, pointer, len)
    })
}

/// Moves what is posted to a ring of another size, see [`uapi::ModifySrqRequest`].
///
/// # Safety
/// By the contract of the verbs.
unsafe fn resize(srq: *mut IbvSrq, attr: *mut IbvSrqAttr, attr_mask: c_int) -> Result<(), Failure> {
    // SAFETY: By the contract of the verbs.
    let (data, fd) = unsafe { (Srq::from_ptr(srq).data(), (*(*srq).context).cmd_fd) };
    // Nobody posts while the driver moves the requests.
    let mut guard = data.queue.lock();
    let mut response = uapi::SrqResponse::default();
    let address = ptr::from_mut(&mut response);
    let mut request = ModifySrqRequest::new();
    request.driver = uapi::ModifySrqRequest {
        response: address.expose_provenance() as u64,
    };
    // SAFETY: By this function's contract.
    unsafe { modify(srq, attr, attr_mask, &mut request)? };
    // SAFETY: The driver has written it there, and is done.
    let mut new = MappedReceiver::new(fd, unsafe { &*address })?;
    request.driver.response = 0;
    // SAFETY: By this function's contract.
    unsafe { modify(srq, attr, attr_mask, &mut request)? };
    new.receiver.resume(&guard.receiver);
    *guard = new;
    Ok(())
}

pub unsafe extern "C" fn query_srq(srq: *mut IbvSrq, attr: *mut IbvSrqAttr) -> c_int {
    let mut request = QuerySrqRequest::new();
    let (pointer, len) = (request.as_mut_ptr(), request.len());
    // SAFETY: By the contract of the verbs.
    status(Failure::check(unsafe {
        (Library::get().common.ibv_cmd_query_srq)(srq, attr, pointer, len)
    }))
}

pub unsafe extern "C" fn destroy_srq(srq: *mut IbvSrq) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        Failure::check(unsafe { (Library::get().common.ibv_cmd_destroy_srq)(srq) })?;
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Srq::drop(srq) };
        Ok(())
    })())
}

pub unsafe extern "C" fn post_srq_recv(
    srq: *mut IbvSrq,
    wr: *mut IbvRecvWr,
    bad_wr: *mut *mut IbvRecvWr,
) -> c_int {
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Srq::from_ptr(srq) }.data();
    let ring = || {
        data.bell.ring(|| {
            let mut none = ptr::null_mut();
            // SAFETY: By the contract of the verbs; the list is empty.
            unsafe {
                (Library::get().common.ibv_cmd_post_srq_recv)(srq, ptr::null_mut(), &raw mut none)
            }
        })
    };
    // SAFETY: By the contract of the verbs.
    unsafe { post_recv_list(&data.queue, wr, bad_wr, ring) }
}
