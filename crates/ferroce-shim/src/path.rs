// SPDX-License-Identifier: MIT OR Apache-2.0
//! Functions that take a path: one of RDMA's is looked up in the folder ([`tree`]).

use core::ffi::{c_char, c_int, c_void, CStr};
use core::ptr;

use libc::{dirent, mode_t, size_t, ssize_t, DIR, FILE};

use crate::real::{Compare, Filter};
use crate::tree::{self, Buffer};
use crate::{device, fail, real, set_errno};

/// Calls `function` with a path, or with where it is in the folder. Returns `failed`, with errno set, if
/// that is too long.
///
/// # Safety
/// The path is null or a C string.
#[inline]
pub unsafe fn with<R>(
    path: *const c_char,
    failed: R,
    function: impl FnOnce(*const c_char) -> R,
) -> R {
    // SAFETY: By this function's contract.
    match unsafe { tree::is_ours(path) } {
        false => function(path),
        // SAFETY: By this function's contract; it is not null.
        true => translated(unsafe { CStr::from_ptr(path) }, failed, function),
    }
}

#[cold]
#[inline(never)]
fn translated<R>(path: &CStr, failed: R, function: impl FnOnce(*const c_char) -> R) -> R {
    let Some(root) = tree::root() else {
        return function(path.as_ptr());
    };
    let mut buffer = Buffer::new();
    match buffer.translate(root, path) {
        Some(path) => function(path.as_ptr()),
        None => {
            set_errno(libc::ENAMETOOLONG);
            failed
        }
    }
}

/// As [`with`], for a function that opens: a device's descriptor is known from then on.
///
/// # Safety
/// The path is null or a C string.
#[inline]
unsafe fn opened(
    path: *const c_char,
    failed: c_int,
    function: impl FnOnce(*const c_char) -> c_int,
) -> c_int {
    // SAFETY: By this function's contract.
    let ours = unsafe { tree::is_ours(path) };
    // SAFETY: Likewise.
    let fd = unsafe { with(path, failed, function) };
    match ours {
        true => device::open(fd),
        false => fd,
    }
}

/// Defines functions of libc's names and types: each calls libc's by [`with`] or [`opened`].
macro_rules! hooks {
    (
        $around:ident($path:ident);
        $($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $failed:expr;)*
    ) => {
        $(
            /// libc's function of this name.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
                // SAFETY: By the caller, and the path is a C string.
                unsafe {
                    $around($path, $failed, |$path| match real::$name() {
                        Some(function) => function($($argument),*),
                        None => {
                            set_errno(libc::ENOSYS);
                            $failed
                        }
                    })
                }
            }
        )*
    };
}

// In C the mode is a variable argument. On the machines that Linux runs on with 64 bits, a function takes
// that from where an ordinary argument is. It is looked at only if the flags say that it is there. Programs
// that are compiled with _FORTIFY_SOURCE call those with _2 where it is not.
hooks! {
    opened(path);
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = -1;
    open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = -1;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = -1;
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = -1;
    __open_2(path: *const c_char, flags: c_int) -> c_int = -1;
    __open64_2(path: *const c_char, flags: c_int) -> c_int = -1;
    __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int = -1;
    __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int = -1;
}

hooks! {
    with(path);
    fopen(path: *const c_char, mode: *const c_char) -> *mut FILE = ptr::null_mut();
    fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE = ptr::null_mut();
    opendir(path: *const c_char) -> *mut DIR = ptr::null_mut();
    scandir(
        path: *const c_char,
        names: *mut *mut *mut dirent,
        filter: Filter,
        compare: Compare
    ) -> c_int = -1;
    scandir64(
        path: *const c_char,
        names: *mut *mut *mut dirent,
        filter: Filter,
        compare: Compare
    ) -> c_int = -1;
    chdir(path: *const c_char) -> c_int = -1;
    access(path: *const c_char, mode: c_int) -> c_int = -1;
    faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int = -1;
    readlink(path: *const c_char, buffer: *mut c_char, size: size_t) -> ssize_t = -1;
    __readlink_chk(
        path: *const c_char,
        buffer: *mut c_char,
        size: size_t,
        room: size_t
    ) -> ssize_t = -1;
    readlinkat(
        dir: c_int,
        path: *const c_char,
        buffer: *mut c_char,
        size: size_t
    ) -> ssize_t = -1;
    __readlinkat_chk(
        dir: c_int,
        path: *const c_char,
        buffer: *mut c_char,
        size: size_t,
        room: size_t
    ) -> ssize_t = -1;
    realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char = ptr::null_mut();
    __realpath_chk(
        path: *const c_char,
        resolved: *mut c_char,
        room: size_t
    ) -> *mut c_char = ptr::null_mut();
    canonicalize_file_name(path: *const c_char) -> *mut c_char = ptr::null_mut();
    getxattr(
        path: *const c_char,
        name: *const c_char,
        value: *mut c_void,
        size: size_t
    ) -> ssize_t = -1;
    lgetxattr(
        path: *const c_char,
        name: *const c_char,
        value: *mut c_void,
        size: size_t
    ) -> ssize_t = -1;
    listxattr(path: *const c_char, list: *mut c_char, size: size_t) -> ssize_t = -1;
    llistxattr(path: *const c_char, list: *mut c_char, size: size_t) -> ssize_t = -1;
}

/// `socket`: that of the RDMA core's is refused, as a kernel refuses it that was built without. libibverbs
/// would take an empty answer from it for the truth, and not look into sysfs.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let rdma = domain == libc::AF_NETLINK && protocol == libc::NETLINK_RDMA;
    if rdma && tree::root().is_some() {
        return fail(libc::EPROTONOSUPPORT);
    }
    match real::socket() {
        // SAFETY: By the caller.
        Some(socket) => unsafe { socket(domain, kind, protocol) },
        None => fail(libc::ENOSYS),
    }
}
