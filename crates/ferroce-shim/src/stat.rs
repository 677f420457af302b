// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stat` and its relatives: a device file is a character device.

use core::ffi::{c_char, c_int, c_uint};

use crate::{device, fail, path, real};

/// Has a device's status be a character device's, if the call has succeeded.
///
/// # Safety
/// If `result` is zero, the status has been filled in.
#[inline]
unsafe fn presented(result: c_int, status: *mut libc::stat, fd: Option<c_int>) -> c_int {
    if result == 0 {
        // SAFETY: By this function's contract.
        device::present(unsafe { &mut *status }, fd);
    }
    result
}

/// Defines functions that take a path and a status: `stat` and, with a number for the status' version in
/// front, those that programs of glibc before 2.33 call. On 64-bit machines there is but one layout.
macro_rules! by_path {
    ($($name:ident($($before:ident: $type:ty),*; $($after:ident: $later:ty),*);)*) => {
        $(
            /// libc's function of this name.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C-unwind" fn $name(
                $($before: $type,)*
                path: *const c_char,
                status: *mut libc::stat
                $(, $after: $later)*
            ) -> c_int {
                // SAFETY: By the caller, and the path is a C string.
                let result = unsafe {
                    path::with(path, -1, |path| match real::$name() {
                        Some(function) => function($($before,)* path, status $(, $after)*),
                        None => fail(libc::ENOSYS),
                    })
                };
                // SAFETY: libc has filled it in if the result is zero.
                unsafe { presented(result, status, None) }
            }
        )*
    };
}

by_path! {
    stat(;);
    stat64(;);
    lstat(;);
    lstat64(;);
    __xstat(version: c_int;);
    __xstat64(version: c_int;);
    __lxstat(version: c_int;);
    __lxstat64(version: c_int;);
}

/// As above, relative to a folder: with an empty path it is the descriptor's own status.
macro_rules! at {
    ($($name:ident($($before:ident: $type:ty),*);)*) => {
        $(
            /// libc's function of this name.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C-unwind" fn $name(
                $($before: $type,)*
                dir: c_int,
                path: *const c_char,
                status: *mut libc::stat,
                flags: c_int,
            ) -> c_int {
                // SAFETY: By the caller, and the path is a C string.
                let result = unsafe {
                    path::with(path, -1, |path| match real::$name() {
                        Some(function) => function($($before,)* dir, path, status, flags),
                        None => fail(libc::ENOSYS),
                    })
                };
                let own = flags & libc::AT_EMPTY_PATH != 0 && dir >= 0;
                // SAFETY: By the caller: without a path it is the descriptor's.
                let own = own && unsafe { path.is_null() || *path == 0 };
                // SAFETY: libc has filled it in if the result is zero.
                unsafe { presented(result, status, own.then_some(dir)) }
            }
        )*
    };
}

at! {
    fstatat();
    fstatat64();
    __fxstatat(version: c_int);
    __fxstatat64(version: c_int);
}

macro_rules! by_descriptor {
    ($($name:ident($($before:ident: $type:ty),*);)*) => {
        $(
            /// libc's function of this name.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C-unwind" fn $name(
                $($before: $type,)*
                fd: c_int,
                status: *mut libc::stat,
            ) -> c_int {
                let result = match real::$name() {
                    // SAFETY: By the caller.
                    Some(function) => unsafe { function($($before,)* fd, status) },
                    None => fail(libc::ENOSYS),
                };
                // SAFETY: libc has filled it in if the result is zero.
                unsafe { presented(result, status, Some(fd)) }
            }
        )*
    };
}

by_descriptor! {
    fstat();
    fstat64();
    __fxstat(version: c_int);
    __fxstat64(version: c_int);
}

/// libc's function of this name.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn statx(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    status: *mut libc::statx,
) -> c_int {
    // SAFETY: By the caller, and the path is a C string.
    let result = unsafe {
        path::with(path, -1, |path| match real::statx() {
            Some(function) => function(dir, path, flags, mask, status),
            None => fail(libc::ENOSYS),
        })
    };
    if result == 0 {
        // SAFETY: It has been filled in.
        device::present_statx(unsafe { &mut *status });
    }
    result
}
