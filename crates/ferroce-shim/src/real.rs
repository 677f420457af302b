// SPDX-License-Identifier: MIT OR Apache-2.0
//! libc's own functions: the next ones of their names behind this library's (`dlsym(RTLD_NEXT)`).

use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{dirent, size_t, ssize_t, DIR, FILE};

/// A function of libc's, by its name.
struct Symbol {
    /// With a NUL at its end.
    name: &'static str,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            address: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Its address, or null if this libc has none.
    fn get(&self) -> *mut c_void {
        // What is read through the address is code, which was there before: nothing to order.
        let known = self.address.load(Ordering::Relaxed);
        if known.is_null() {
            self.find()
        } else {
            known
        }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        // SAFETY: The name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr().cast()) };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Declares the functions. Each returns `None` where libc has none of the name: some came with newer
/// releases, some went. A program that calls one has a libc that has it.
macro_rules! functions {
    ($($name:ident: $type:ty;)*) => {
        #[allow(non_upper_case_globals)]
        mod symbols {
            use super::Symbol;
            $(pub static $name: Symbol = Symbol::new(concat!(stringify!($name), "\0"));)*
        }

        $(
            #[inline]
            pub fn $name() -> Option<$type> {
                let address = symbols::$name.get();
                // SAFETY: libc's function of this name has this type, and an `Option` of a function
                // is an address that may be null.
                unsafe { core::mem::transmute::<*mut c_void, Option<$type>>(address) }
            }
        )*

        /// Finds them all, so that later calls need not: `dlsym` must not be called in a signal handler,
        /// and `write` may be.
        pub fn resolve() {
            $(symbols::$name.find();)*
        }
    };
}

type Path<R> = unsafe extern "C-unwind" fn(*const c_char) -> R;
type Open = unsafe extern "C-unwind" fn(*const c_char, c_int, ...) -> c_int;
type OpenAt = unsafe extern "C-unwind" fn(c_int, *const c_char, c_int, ...) -> c_int;
type Stat = unsafe extern "C-unwind" fn(*const c_char, *mut libc::stat) -> c_int;
type FStat = unsafe extern "C-unwind" fn(c_int, *mut libc::stat) -> c_int;
type StatAt = unsafe extern "C-unwind" fn(c_int, *const c_char, *mut libc::stat, c_int) -> c_int;
type XStat = unsafe extern "C-unwind" fn(c_int, *const c_char, *mut libc::stat) -> c_int;
type FXStat = unsafe extern "C-unwind" fn(c_int, c_int, *mut libc::stat) -> c_int;
type XStatAt =
    unsafe extern "C-unwind" fn(c_int, c_int, *const c_char, *mut libc::stat, c_int) -> c_int;
pub type Filter = Option<unsafe extern "C-unwind" fn(*const dirent) -> c_int>;
pub type Compare =
    Option<unsafe extern "C-unwind" fn(*mut *const dirent, *mut *const dirent) -> c_int>;
type ScanDir =
    unsafe extern "C-unwind" fn(*const c_char, *mut *mut *mut dirent, Filter, Compare) -> c_int;

type GetXattr =
    unsafe extern "C-unwind" fn(*const c_char, *const c_char, *mut c_void, size_t) -> ssize_t;

functions! {
    open: Open;
    open64: Open;
    openat: OpenAt;
    openat64: OpenAt;
    __open_2: unsafe extern "C-unwind" fn(*const c_char, c_int) -> c_int;
    __open64_2: unsafe extern "C-unwind" fn(*const c_char, c_int) -> c_int;
    __openat_2: unsafe extern "C-unwind" fn(c_int, *const c_char, c_int) -> c_int;
    __openat64_2: unsafe extern "C-unwind" fn(c_int, *const c_char, c_int) -> c_int;
    fopen: unsafe extern "C-unwind" fn(*const c_char, *const c_char) -> *mut FILE;
    fopen64: unsafe extern "C-unwind" fn(*const c_char, *const c_char) -> *mut FILE;
    opendir: Path<*mut DIR>;
    scandir: ScanDir;
    scandir64: ScanDir;
    chdir: Path<c_int>;
    access: unsafe extern "C-unwind" fn(*const c_char, c_int) -> c_int;
    faccessat: unsafe extern "C-unwind" fn(c_int, *const c_char, c_int, c_int) -> c_int;
    readlink: unsafe extern "C-unwind" fn(*const c_char, *mut c_char, size_t) -> ssize_t;
    __readlink_chk:
        unsafe extern "C-unwind" fn(*const c_char, *mut c_char, size_t, size_t) -> ssize_t;
    readlinkat: unsafe extern "C-unwind" fn(c_int, *const c_char, *mut c_char, size_t) -> ssize_t;
    __readlinkat_chk:
        unsafe extern "C-unwind" fn(c_int, *const c_char, *mut c_char, size_t, size_t) -> ssize_t;
    realpath: unsafe extern "C-unwind" fn(*const c_char, *mut c_char) -> *mut c_char;
    __realpath_chk: unsafe extern "C-unwind" fn(*const c_char, *mut c_char, size_t) -> *mut c_char;
    canonicalize_file_name: Path<*mut c_char>;
    getxattr: GetXattr;
    lgetxattr: GetXattr;
    listxattr: unsafe extern "C-unwind" fn(*const c_char, *mut c_char, size_t) -> ssize_t;
    llistxattr: unsafe extern "C-unwind" fn(*const c_char, *mut c_char, size_t) -> ssize_t;

    stat: Stat;
    stat64: Stat;
    lstat: Stat;
    lstat64: Stat;
    fstat: FStat;
    fstat64: FStat;
    fstatat: StatAt;
    fstatat64: StatAt;
    __xstat: XStat;
    __xstat64: XStat;
    __lxstat: XStat;
    __lxstat64: XStat;
    __fxstat: FXStat;
    __fxstat64: FXStat;
    __fxstatat: XStatAt;
    __fxstatat64: XStatAt;
    statx: unsafe extern "C-unwind" fn(c_int, *const c_char, c_int, c_uint, *mut libc::statx) -> c_int;

    write: unsafe extern "C-unwind" fn(c_int, *const c_void, size_t) -> ssize_t;
    ioctl: unsafe extern "C-unwind" fn(c_int, c_ulong, ...) -> c_int;
    dup: unsafe extern "C-unwind" fn(c_int) -> c_int;
    dup2: unsafe extern "C-unwind" fn(c_int, c_int) -> c_int;
    dup3: unsafe extern "C-unwind" fn(c_int, c_int, c_int) -> c_int;
    fcntl: unsafe extern "C-unwind" fn(c_int, c_int, ...) -> c_int;
    fcntl64: unsafe extern "C-unwind" fn(c_int, c_int, ...) -> c_int;
    socket: unsafe extern "C-unwind" fn(c_int, c_int, c_int) -> c_int;
}

#[cfg(test)]
mod tests {
    #[test]
    fn libc_has_the_functions() {
        assert!(super::open().is_some());
        assert!(super::write().is_some());
        assert!(super::socket().is_some());
    }
}
