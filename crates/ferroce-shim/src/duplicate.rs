// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dup` and its relatives: a duplicate of a device's descriptor is known as well.

use core::ffi::{c_int, c_void};

use crate::{device, fail, real};

/// Defines functions of libc's names, of which the first argument is duplicated.
macro_rules! duplicating {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            /// libc's function of this name.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C-unwind" fn $name(fd: c_int $(, $argument: $type)*) -> c_int {
                match real::$name() {
                    // SAFETY: By the caller.
                    Some(function) => device::duplicated(fd, unsafe { function(fd $(, $argument)*) }),
                    None => fail(libc::ENOSYS),
                }
            }
        )*
    };
}

duplicating! {
    dup();
    dup2(new: c_int);
    dup3(new: c_int, flags: c_int);
}

/// Defines `fcntl`: two of its commands duplicate. Its third argument is one of a word, or none, which is then
/// not looked at.
macro_rules! fcntl {
    ($($name:ident;)*) => {
        $(
            /// libc's function of this name.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C-unwind" fn $name(
                fd: c_int,
                command: c_int,
                argument: *mut c_void,
            ) -> c_int {
                let Some(function) = real::$name() else {
                    return fail(libc::ENOSYS);
                };
                // SAFETY: By the caller.
                let result = unsafe { function(fd, command, argument) };
                match command {
                    libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => device::duplicated(fd, result),
                    _ => result,
                }
            }
        )*
    };
}

fcntl! {
    fcntl;
    fcntl64;
}
