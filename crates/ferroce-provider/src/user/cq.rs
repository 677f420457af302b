// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.

use core::ffi::{c_int, c_void, CStr};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, Weak};

use ferroce_user::cq::Cq;
use ferroce_user::events::Events;
use ferroce_user::{Errno, Result};

use super::{lock, respond, status, wait_for_events, Objects, CONTEXTS};
use crate::abi::{create_cq_wc_flags, IbvContext, IbvCq, IbvCqInitAttrEx, VerbsCq};

pub(super) static CQS: Objects<Cq> = Objects::new();

/// The completion channels that queues use, by the descriptors that programs read from: by their numbers and
/// inodes, as a number may be another's by now.
type Channels = HashMap<(RawFd, u64), Weak<Events>>;

pub(super) static CHANNELS: Mutex<Option<Channels>> = Mutex::new(None);

/// The function of the shim that knows the other end of a completion channel.
const OTHER_END: &CStr = c"ferroce_shim_channel";

fn channel(fd: RawFd) -> Result<Arc<Events>> {
    let no_channel = Errno(libc::EBADF);
    // SAFETY: All zero is such a structure, and it is there to be written.
    let inode = unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        match libc::fstat(fd, &raw mut stat) {
            0 => stat.st_ino,
            _ => return Err(no_channel),
        }
    };
    let fd_and_inode = (fd, inode);
    let mut channels = lock(&CHANNELS);
    let channels = channels.get_or_insert_default();
    if let Some(events) = channels.get(&fd_and_inode).and_then(Weak::upgrade) {
        return Ok(events);
    }
    // SAFETY: The name is a C string.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, OTHER_END.as_ptr()) };
    if function.is_null() {
        return Err(no_channel);
    }
    // SAFETY: It is the shim's function of that name, which takes a descriptor and returns one.
    let other_end = unsafe {
        core::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> c_int>(function)
    };
    // SAFETY: It has no preconditions.
    let write = unsafe { other_end(fd) };
    if write < 0 {
        return Err(no_channel);
    }
    // SAFETY: It is open, as the program's channel is.
    let write = unsafe { BorrowedFd::borrow_raw(write) }.try_clone_to_owned()?;
    let events = Arc::new(Events::new(fd, write));
    channels.retain(|_, events| events.strong_count() > 0);
    channels.insert(fd_and_inode, Arc::downgrade(&events));
    Ok(events)
}

/// The device's queue of one of C's, if the device is in this process.
pub fn device_queue(cq: *mut IbvCq) -> Option<Arc<Cq>> {
    CQS.get(cq).ok()
}

/// # Safety
/// As `ibv_cmd_create_cq_ex` in C.
pub unsafe fn create_cq_ex(
    context: *mut IbvContext,
    attr: *const IbvCqInitAttrEx,
    cq: *mut VerbsCq,
    resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    status((|| {
        // SAFETY: By this function's contract.
        let attr = unsafe { &*attr };
        if attr.comp_vector != 0 || attr.cqe == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let opened = CONTEXTS.get(context)?;
        let channel = match attr.channel.is_null() {
            true => None,
            // SAFETY: By this function's contract.
            false => Some(channel(unsafe { (*attr.channel).fd })?),
        };
        let timestamps = create_cq_wc_flags::COMPLETION_TIMESTAMP
            | create_cq_wc_flags::COMPLETION_TIMESTAMP_WALLCLOCK;
        let has_timestamps = attr.wc_flags & timestamps != 0;
        let handle = cq.expose_provenance() as u64;
        let (queue, response) = Cq::create(&opened, attr.cqe, has_timestamps, channel, handle)?;
        // SAFETY: By this function's contract.
        unsafe {
            (*cq).cq.handle = queue.number;
            (*cq).cq.cqe = response.entries.cast_signed();
            (*cq).cq.context = context;
            respond(resp, resp_size, 16, response);
        }
        CQS.put(cq, queue);
        Ok(())
    })())
}

pub unsafe extern "C" fn resize_cq(
    cq: *mut IbvCq,
    cqe: c_int,
    _cmd: *mut c_void,
    _cmd_size: usize,
    resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    status((|| {
        let entries = u32::try_from(cqe).map_err(|_| Errno(libc::EINVAL))?;
        let response = CQS.get(cq)?.resize(entries)?;
        // SAFETY: By the contract of the command.
        unsafe {
            (*cq).cqe = response.entries.cast_signed();
            respond(resp, resp_size, 8, response);
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn req_notify_cq(cq: *mut IbvCq, _solicited_only: c_int) -> c_int {
    status((|| CQS.get(cq)?.notify_waiting())())
}

pub unsafe extern "C" fn destroy_cq(cq: *mut IbvCq) -> c_int {
    status((|| {
        let (told, told_errors) = CQS.get(cq)?.destroy()?;
        CQS.take(cq);
        // SAFETY: By the contract of the command. A queue that never had an event has nothing to wait for,
        // and perhaps no mutex yet.
        unsafe {
            if told != 0 || told_errors != 0 {
                let counts = [
                    (&raw const (*cq).comp_events_completed, told),
                    (&raw const (*cq).async_events_completed, told_errors),
                ];
                wait_for_events(&raw mut (*cq).mutex, &raw mut (*cq).cond, &counts);
            }
        }
        Ok(())
    })())
}
