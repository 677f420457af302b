// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files in memory, mapped.

use core::ffi::c_int;
use core::ptr::{self, NonNull};
use std::io;

/// Memory that is mapped until this is dropped.
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: The memory belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: It gives out an address, not references.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file for reading and writing, together with others that have it.
    pub fn shared(file: c_int, length: usize) -> io::Result<Self> {
        Self::map(file, length, libc::MAP_SHARED | libc::MAP_NORESERVE)
    }

    /// Maps new memory, which is zero in this process, and zero again in a child of it.
    pub fn wiped_on_fork(length: usize) -> io::Result<Self> {
        let mapping = Self::map(-1, length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
        // SAFETY: The memory is this mapping's.
        match unsafe { libc::madvise(mapping.base.as_ptr().cast(), length, libc::MADV_WIPEONFORK) }
        {
            0 => Ok(mapping),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn map(file: c_int, length: usize, flags: c_int) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: The kernel chooses the place, so no memory in use is replaced.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, file, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // It is sparse, and large: not for a core dump.
        // SAFETY: It has just been mapped.
        unsafe { libc::madvise(base, length, libc::MADV_DONTDUMP) };
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Self { base, length }),
            None => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }

    /// Its first byte.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` has mapped it, and its users are dropped before it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
