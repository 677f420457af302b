// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder that stands for `/dev/infiniband` and `/sys/class/infiniband*`, and for what links in there
//! lead to.
//!
//! | path that a program gives | where it is |
//! |---|---|
//! | `/dev/infiniband/..` | `$FERROCE_DEVICES/dev/infiniband/..` |
//! | `/sys/class/infiniband..` | `$FERROCE_DEVICES/class/infiniband..` |
//! | `/sys/class/misc/rdma_cm/..` | `$FERROCE_DEVICES/class/misc/rdma_cm/..` |
//! | `/sys/devices/ferroce/..` | `$FERROCE_DEVICES/devices/ferroce/..` |
//!
//! The kernel has no devices of the last name. Programs that resolve links themselves come there.

use core::cell::UnsafeCell;
use core::ffi::{c_char, CStr};
use core::sync::atomic::{AtomicU8, Ordering};

/// The environment variable with the folder's path.
const VARIABLE: &CStr = c"FERROCE_DEVICES";

/// A path's greatest length in bytes, its NUL included (Linux: `PATH_MAX`).
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// Room for the folder's path. It is copied, since a program may write over its environment
/// (`setproctitle`), or change it.
struct Root(UnsafeCell<[u8; PATH_MAX]>);

// SAFETY: It is written by the one thread that has set `STATE` to `FILLING`, and read once that is `KNOWN`.
unsafe impl Sync for Root {}

static ROOT: Root = Root(UnsafeCell::new([0; PATH_MAX]));
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = 0;
const FILLING: u8 = 1;
const KNOWN: u8 = 2;
const NONE: u8 = 3;

/// The folder's path, if there is one: that which the environment had at the first call, which the
/// constructor makes.
pub fn root() -> Option<&'static CStr> {
    // Pairs with the stores in `find`.
    match STATE.load(Ordering::Acquire) {
        KNOWN => {
            // SAFETY: It has been filled with a C string, and nobody writes any more.
            Some(unsafe { CStr::from_ptr(ROOT.0.get().cast()) })
        }
        UNKNOWN => find(),
        // While another thread is at it, this one is passed on to libc. Threads that were started before
        // the constructor may see this.
        _ => None,
    }
}

#[cold]
fn find() -> Option<&'static CStr> {
    let claim = STATE.compare_exchange(UNKNOWN, FILLING, Ordering::Relaxed, Ordering::Relaxed);
    if claim.is_err() {
        return None;
    }
    // SAFETY: The name is a C string. That nobody changes the environment meanwhile is up to the program,
    // as for every call of `getenv`.
    let value = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    // SAFETY: `getenv` returns null or a C string.
    let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) });
    let bytes = value.map_or(&[][..], CStr::to_bytes_with_nul);
    // The folder's path is absolute: the program may change its working directory.
    if bytes.first() != Some(&b'/') || bytes.len() > PATH_MAX {
        STATE.store(NONE, Ordering::Release);
        return None;
    }
    // SAFETY: This thread alone has set `FILLING`; there is room for so many bytes.
    unsafe {
        ROOT.0
            .get()
            .cast::<u8>()
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
    STATE.store(KNOWN, Ordering::Release);
    root()
}

const DEV: &[u8] = b"/dev/infiniband";
const CLASS: &[u8] = b"/sys/class/infiniband";
const CM: &[u8] = b"/sys/class/misc/rdma_cm";
const DEVICES: &[u8] = b"/sys/devices/ferroce";
/// How much of the last three the folder stands for.
const SYS: usize = b"/sys".len();

/// Whether a path is one of those that are looked up in the folder.
///
/// # Safety
/// The path is null or a C string.
#[inline]
pub unsafe fn is_ours(path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: By this function's contract. After a byte that differs, and a NUL does, no more are read.
    unsafe {
        begins_with(path, CLASS)
            || is_or_below(path, DEV)
            || is_or_below(path, DEVICES)
            || is_or_below(path, CM)
    }
}

/// # Safety
/// The path is a C string.
#[inline]
unsafe fn begins_with(path: *const c_char, prefix: &[u8]) -> bool {
    let mut equal = prefix.iter().enumerate();
    // SAFETY: All bytes before this one were equal to the prefix's, so none was the NUL.
    equal.all(|(i, byte)| unsafe { *path.add(i) } as u8 == *byte)
}

/// # Safety
/// The path is a C string.
#[inline]
unsafe fn is_or_below(path: *const c_char, folder: &[u8]) -> bool {
    // SAFETY: By this function's contract; the byte after equal ones is the NUL at the latest.
    unsafe { begins_with(path, folder) && matches!(*path.add(folder.len()) as u8, 0 | b'/') }
}

/// A path in the folder.
pub struct Buffer([u8; PATH_MAX]);

impl Buffer {
    pub const fn new() -> Self {
        Self([0; PATH_MAX])
    }

    /// Where a path that is [ours](is_ours) is in the folder; `None` if that is too long.
    pub fn translate(&mut self, root: &CStr, path: &CStr) -> Option<&CStr> {
        let path = path.to_bytes();
        let rest = match path.starts_with(DEV) {
            true => path,
            false => path.get(SYS..)?,
        };
        self.join(root.to_bytes(), rest)
    }

    /// The path of a device file.
    pub fn device(&mut self, root: &CStr, number: u32) -> Option<&CStr> {
        let mut digits = [0; 10];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at = at.checked_sub(1)?;
            *digits.get_mut(at)? = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let mut name = [0; 40];
        let prefix = b"/dev/infiniband/uverbs";
        let digits = digits.get(at..)?;
        let len = prefix.len() + digits.len();
        name.get_mut(..prefix.len())?.copy_from_slice(prefix);
        name.get_mut(prefix.len()..len)?.copy_from_slice(digits);
        self.join(root.to_bytes(), name.get(..len)?)
    }

    /// The path of the connection manager's file.
    pub fn connection_manager(&mut self, root: &CStr) -> Option<&CStr> {
        self.join(root.to_bytes(), b"/dev/infiniband/rdma_cm")
    }

    fn join(&mut self, first: &[u8], second: &[u8]) -> Option<&CStr> {
        let len = first.len() + second.len();
        self.0.get_mut(..first.len())?.copy_from_slice(first);
        self.0.get_mut(first.len()..len)?.copy_from_slice(second);
        *self.0.get_mut(len)? = 0;
        CStr::from_bytes_with_nul(self.0.get(..=len)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(path: &CStr) -> Option<String> {
        // SAFETY: It is a C string.
        let ours = unsafe { is_ours(path.as_ptr()) };
        ours.then(|| {
            let mut buffer = Buffer::new();
            let there = buffer.translate(c"/tree", path).unwrap();
            there.to_str().unwrap().to_owned()
        })
    }

    #[test]
    fn paths_of_rdma_are_in_the_folder() {
        for (path, there) in [
            (c"/dev/infiniband", "/tree/dev/infiniband"),
            (c"/dev/infiniband/uverbs0", "/tree/dev/infiniband/uverbs0"),
            (c"/sys/class/infiniband", "/tree/class/infiniband"),
            (c"/sys/class/infiniband/", "/tree/class/infiniband/"),
            (c"/sys/devices/ferroce", "/tree/devices/ferroce"),
            (
                c"/sys/class/misc/rdma_cm/dev",
                "/tree/class/misc/rdma_cm/dev",
            ),
            (
                c"/sys/class/infiniband/../../devices",
                "/tree/class/infiniband/../../devices",
            ),
            (
                c"/sys/class/infiniband_verbs/uverbs1/dev",
                "/tree/class/infiniband_verbs/uverbs1/dev",
            ),
        ] {
            assert_eq!(translated(path).as_deref(), Some(there));
        }
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            c"",
            c"/",
            c"/dev",
            c"/dev/infinibandit",
            c"/dev/infiniban",
            c"/sys/class/net",
            c"/sys/devices",
            c"/sys/devices/ferroces",
            c"/sys/class/misc",
            c"dev/infiniband",
            c"/tree/dev/infiniband",
        ] {
            assert_eq!(translated(path), None, "{path:?}");
        }
        // SAFETY: It is null.
        assert!(!unsafe { is_ours(core::ptr::null()) });
    }

    #[test]
    fn a_path_that_is_too_long_is_none() {
        let mut path = b"/dev/infiniband/".to_vec();
        path.resize(PATH_MAX - 1, b'x');
        let path = std::ffi::CString::new(path).unwrap();
        assert_eq!(Buffer::new().translate(c"/tree", &path), None);
    }

    #[test]
    fn device_files_have_a_number() {
        for (number, name) in [(0, "0"), (10, "10"), (u32::MAX, "4294967295")] {
            let mut buffer = Buffer::new();
            let path = buffer.device(c"/t", number).unwrap().to_str().unwrap();
            assert_eq!(path, format!("/t/dev/infiniband/uverbs{name}"));
        }
    }
}
