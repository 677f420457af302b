// SPDX-License-Identifier: MIT OR Apache-2.0
//! The modules of the running kernel: loaded, unloaded, listed and listened to.

mod explain;
mod kmsg;
mod load;

use rustix::io::Errno;

pub use crate::kernel::Loaded;
pub use explain::{explain, Explanation};
pub use kmsg::{as_logged, KernelLog, Record};
pub use load::{load, unload, LoadError, LoadedNow, UnloadError};

/// The name of an errno, such as `ENOEXEC`, as far as module loading has it.
pub fn errno_name(errno: Errno) -> String {
    let name = match errno {
        Errno::PERM => "EPERM",
        Errno::NOENT => "ENOENT",
        Errno::IO => "EIO",
        Errno::NOEXEC => "ENOEXEC",
        Errno::NOMEM => "ENOMEM",
        Errno::ACCESS => "EACCES",
        Errno::BUSY => "EBUSY",
        Errno::EXIST => "EEXIST",
        Errno::NODEV => "ENODEV",
        Errno::INVAL => "EINVAL",
        Errno::NOSPC => "ENOSPC",
        Errno::RANGE => "ERANGE",
        Errno::WOULDBLOCK => "EWOULDBLOCK",
        Errno::BADMSG => "EBADMSG",
        Errno::KEYREJECTED => "EKEYREJECTED",
        Errno::NOKEY => "ENOKEY",
        Errno::NOSYS => "ENOSYS",
        other => return format!("errno {}", other.raw_os_error()),
    };
    name.to_owned()
}
