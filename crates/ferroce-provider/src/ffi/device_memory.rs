// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device memory: mapped, so that copying to and from it takes no system call.

use core::ffi::{c_int, c_uint, c_void};
use core::ptr::{self, NonNull};

use ferroce_core::uapi;

use super::memory::new_mr;
use super::object::Object;
use super::{object, status, Failure};
use crate::abi::device_memory::{allocate, IbvAllocDmAttr, IbvDm, VerbsDm, MASK_HANDLE};
use crate::abi::library::Library;
use crate::abi::{IbvContext, IbvMr, IbvPd};
use crate::mapping::Mapping;
use crate::user;

/// What is behind libibverbs' part.
struct Memory {
    mapping: Mapping,
    /// In bytes; the mapping is of whole pages.
    length: usize,
}

type Dm = Object<VerbsDm, Memory>;

pub unsafe extern "C" fn alloc_dm(
    context: *mut IbvContext,
    attr: *mut IbvAllocDmAttr,
) -> *mut IbvDm {
    // SAFETY: By the contract of the verbs.
    object(unsafe { alloc(context, &*attr) })
}

unsafe fn alloc(context: *mut IbvContext, attr: &IbvAllocDmAttr) -> Result<*mut IbvDm, Failure> {
    if attr.comp_mask != 0 {
        return Err(Failure::INVALID);
    }
    let dm = Dm::make();
    // SAFETY: By the caller's contract.
    let fd = unsafe { (*context).cmd_fd };
    let (handle, offset) = match user::is_here() {
        true => user::alloc_dm(context, dm.verbs(), attr)
            .map_err(|ferroce_user::Errno(errno)| Failure(errno))?,
        false => allocate(fd, attr)?,
    };
    // SAFETY: The new one is nobody else's yet.
    unsafe {
        let verbs = dm.verbs();
        (*verbs).handle = handle;
        (*verbs).dm = IbvDm {
            context,
            memcpy_to_dm: Some(memcpy_to_dm),
            memcpy_from_dm: Some(memcpy_from_dm),
            comp_mask: MASK_HANDLE,
            handle,
        };
    }
    let offered = uapi::Mapping {
        offset,
        length: attr.length as u64,
    };
    match Mapping::new(fd, &offered) {
        Ok(mapping) => {
            let length = attr.length;
            Ok(dm.finish(Memory { mapping, length }).cast())
        }
        Err(error) => {
            // SAFETY: It has been allocated.
            unsafe { (Library::get().common.ibv_cmd_free_dm)(dm.verbs()) };
            Err(error.into())
        }
    }
}

pub unsafe extern "C" fn free_dm(dm: *mut IbvDm) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        Failure::check(unsafe { (Library::get().common.ibv_cmd_free_dm)(dm.cast()) })?;
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Dm::drop(dm) };
        Ok(())
    })())
}

pub unsafe extern "C" fn reg_dm_mr(
    pd: *mut IbvPd,
    dm: *mut IbvDm,
    dm_offset: u64,
    length: usize,
    access: c_uint,
) -> *mut IbvMr {
    let link = ptr::null_mut();
    // SAFETY: By the contract of the verbs. The range is the kernel's to check.
    new_mr(|mr| unsafe {
        (Library::get().common.ibv_cmd_reg_dm_mr)(
            pd,
            dm.cast(),
            dm_offset,
            length,
            access,
            mr,
            link,
        )
    })
}

/// What offsets and lengths are multiples of, in bytes: a ConnectX takes no others, and rdma-core's own tests
/// want them refused.
const GRANULE: usize = 4;

/// Where `length` bytes at an offset are.
///
/// # Safety
/// As the contract of the verbs has it.
unsafe fn range(dm: *mut IbvDm, offset: u64, length: usize) -> Result<NonNull<u8>, Failure> {
    // SAFETY: By this function's contract.
    let memory = unsafe { Dm::from_ptr(dm) }.data();
    let offset = usize::try_from(offset).map_err(|_| Failure::FAULT)?;
    let end = offset.checked_add(length).ok_or(Failure::FAULT)?;
    if end > memory.length {
        return Err(Failure::FAULT);
    }
    if !offset.is_multiple_of(GRANULE) || !length.is_multiple_of(GRANULE) {
        return Err(Failure::INVALID);
    }
    // SAFETY: The mapping is at least as long as the memory.
    Ok(unsafe { memory.mapping.base().add(offset) })
}

unsafe extern "C" fn memcpy_to_dm(
    dm: *mut IbvDm,
    dm_offset: u64,
    host_addr: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: By the contract of the verbs.
    let range = unsafe { range(dm, dm_offset, length) };
    // SAFETY: Both are valid for that many bytes.
    status(range.map(|to| unsafe { ptr::copy(host_addr.cast(), to.as_ptr(), length) }))
}

unsafe extern "C" fn memcpy_from_dm(
    host_addr: *mut c_void,
    dm: *mut IbvDm,
    dm_offset: u64,
    length: usize,
) -> c_int {
    // SAFETY: By the contract of the verbs.
    let range = unsafe { range(dm, dm_offset, length) };
    // SAFETY: Both are valid for that many bytes.
    status(range.map(|from| unsafe { ptr::copy(from.as_ptr(), host_addr.cast(), length) }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::*;
    use crate::ffi::tests::fake::errno;
    use crate::ffi::tests::rig::{verb, Rig};

    /// 100 bytes of device memory, in a file that stands for the device's.
    fn dm() -> *mut IbvDm {
        // SAFETY: The name is a C string; a new descriptor is nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"dm".as_ptr(), 0)) };
        // SAFETY: It is open.
        assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), 4096) }, 0);
        let offered = uapi::Mapping {
            offset: 0,
            length: 100,
        };
        let memory = Memory {
            mapping: Mapping::new(file.as_raw_fd(), &offered).unwrap(),
            length: 100,
        };
        Dm::make().finish(memory).cast()
    }

    #[test]
    fn words_are_copied_within_the_memory_alone() {
        let dm = dm();
        let mut back = [0u8; 104];
        let to = |offset, bytes: &[u8]| {
            // SAFETY: It has been made, and the bytes are there.
            unsafe { memcpy_to_dm(dm, offset, bytes.as_ptr().cast(), bytes.len()) }
        };
        assert_eq!(to(92, b"8 bytes!"), 0);
        assert_eq!(to(100, b""), 0);
        assert_eq!(to(2, b"four"), libc::EINVAL);
        assert_eq!(to(4, b"two"), libc::EINVAL);
        for offset in [96, 104, u64::MAX - 3] {
            assert_eq!(to(offset, b"8 bytes!"), libc::EFAULT, "{offset}");
        }
        let mut from = |offset, length| {
            // SAFETY: It has been made, and there is room.
            unsafe { memcpy_from_dm(back.as_mut_ptr().cast(), dm, offset, length) }
        };
        assert_eq!(from(0, 104), libc::EFAULT);
        assert_eq!(from(0, 100), 0);
        assert_eq!(&back[88..100], b"\0\0\0\08 bytes!");
        // SAFETY: Nobody uses it any more.
        unsafe { Dm::drop(dm) };
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let rig = Rig::new();
        let context = rig.device.context();
        let mut attr = IbvAllocDmAttr {
            length: 100,
            log_align_req: 0,
            comp_mask: 1,
        };
        assert!(verb!(rig, alloc_dm(context, &mut attr)).is_null());
        assert_eq!(errno(), libc::EINVAL);
        attr.comp_mask = 0;
        // The file of the device for tests knows no such call.
        assert!(verb!(rig, alloc_dm(context, &mut attr)).is_null());
        assert_eq!(errno(), libc::ENOTTY);
    }
}
