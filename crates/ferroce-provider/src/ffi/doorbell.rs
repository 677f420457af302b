// SPDX-License-Identifier: MIT OR Apache-2.0
//! Telling the driver to look at a queue.

use core::ffi::{c_int, c_void};
use core::ptr;
use std::sync::Arc;

use ferroce_user::qp::Qp;

use crate::abi::DoorbellCommand;

/// How to tell the driver to look at a queue.
pub enum Bell {
    /// The kernel's.
    Kernel(KernelBell),
    /// The device is in this process: what to do with the queue pair there.
    Here(Arc<Qp>, fn(&Qp)),
    /// Nobody waits for it.
    Nobody,
}

/// How to tell the kernel's.
///
/// It is a command of the RDMA core that there has always been, with a list of work requests that is
/// empty. Written to the device file it takes the shortest way to the driver.
pub struct KernelBell {
    fd: c_int,
    /// The kernel's number of the queue pair or shared receive queue.
    handle: u32,
    command: u32,
    wqe_size: u32,
}

impl Bell {
    /// For the queue of this `handle` in the kernel. `command` is one of
    /// [`doorbell`](crate::abi::doorbell).
    pub const fn new(fd: c_int, handle: u32, (command, wqe_size): (u32, u32)) -> Self {
        Self::Kernel(KernelBell {
            fd,
            handle,
            command,
            wqe_size,
        })
    }

    /// Rings. Returns zero or an errno.
    ///
    /// The kernel refuses a write by a process with other credentials than the one that opened the
    /// file, such as its child. `otherwise` is for that case: it sends the same command by `ioctl`.
    #[inline]
    pub fn ring(&self, otherwise: impl FnOnce() -> c_int) -> c_int {
        match self {
            Self::Kernel(bell) => bell.ring(otherwise),
            Self::Here(qp, look) => {
                look(qp);
                0
            }
            Self::Nobody => 0,
        }
    }
}

impl KernelBell {
    fn ring(&self, otherwise: impl FnOnce() -> c_int) -> c_int {
        let mut response = 0u32;
        let command = DoorbellCommand {
            command: self.command,
            in_words: (size_of::<DoorbellCommand>() / 4) as u16,
            out_words: (size_of_val(&response) / 4) as u16,
            response: ptr::from_mut(&mut response).expose_provenance() as u64,
            handle: self.handle,
            wr_count: 0,
            sge_count: 0,
            wqe_size: self.wqe_size,
        };
        let bytes = ptr::from_ref(&command).cast::<c_void>();
        loop {
            // SAFETY: Both buffers are there during the call. The kernel reads one, writes the other,
            // and knows their lengths.
            let written = unsafe { libc::write(self.fd, bytes, size_of_val(&command)) };
            if written >= 0 {
                return 0;
            }
            match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EACCES) => return otherwise(),
                // What is in the ring cannot be taken back, and would be executed with what is posted
                // next: that the kernel is short of memory right now is not to be told of it.
                Some(libc::ENOMEM | libc::EINTR) => std::thread::yield_now(),
                Some(errno) => return errno,
                None => return libc::EIO,
            }
        }
    }
}
