// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that rings are in.

use core::ffi::c_int;
use core::ptr::{self, NonNull};
use std::io;

use ferroce_core::uapi;
use ferroce_user::process::Process;
use ferroce_user::Errno;

use crate::user;

/// Memory that the driver has offered, mapped into the process.
///
/// It is shared, so a fork does not make the kernel and the process see different pages, as it does
/// with memory of the process that a device writes to. Other providers have to keep such memory out
/// of children (`ibv_dontfork_range`), this one has none.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// It is part of the segment of the device in this process, which stays mapped.
    is_lent: bool,
}

// SAFETY: The memory belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: It gives out an address, not references.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps what the driver has offered on this device file.
    pub fn new(fd: c_int, offered: &uapi::Mapping) -> io::Result<Self> {
        if user::is_here() {
            return Self::of_segment(offered);
        }
        let too_large = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
        let len = usize::try_from(offered.length).map_err(too_large)?;
        let offset = libc::off_t::try_from(offered.offset).map_err(too_large)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: The kernel chooses the place, so no memory in use is replaced.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd,
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Self {
                base,
                len,
                is_lent: false,
            }),
            // Only a process that may use page zero, and has nothing there, gets that.
            None => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }

    /// What the device in this process has offered.
    fn of_segment(offered: &uapi::Mapping) -> io::Result<Self> {
        let (base, len) = Process::join()
            .and_then(|process| process.lend(offered))
            .map_err(|Errno(errno)| io::Error::from_raw_os_error(errno))?;
        Ok(Self {
            base,
            len,
            is_lent: true,
        })
    }

    /// Its first byte.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_lent {
            return;
        }
        // SAFETY: `new` has mapped it, and its users are dropped before it: see where there is one.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
