// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device files: regular files in the folder, which programs see as character devices.
//!
//! A file is known by its inode, whatever path or descriptor leads to it: duplicated, inherited, or
//! received over a socket. Since `write` and `ioctl` are called often, and hardly ever on a device, they
//! look at a bit for the descriptor first ([`mark`]). The bit is set where a device is opened, or seen by
//! `fstat`, which libibverbs does with every descriptor that it takes for a device. It is a hint: closing
//! is not noticed, so a caller that finds the bit set asks for the inode.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::{dev_t, ino_t, mode_t};

use crate::tree::{self, Buffer};
use crate::{errno, real, set_errno};

/// The major number of the device files: the kernel's for `uverbs` (`IB_UVERBS_MAJOR`).
const MAJOR: u32 = 231;
/// The minor number of `uverbs0` (`IB_UVERBS_BASE_MINOR`).
const BASE_MINOR: u32 = 192;
/// What everybody may: read and write, as udev's rules for RDMA have it.
const MODE: mode_t = libc::S_IFCHR | 0o666;

/// How many devices there may be.
const MOST: usize = 64;
/// The number up to which device files are looked for.
const NUMBERS: u32 = 256;

/// An inode that is a device, and its number.
struct Entry {
    dev: AtomicU64,
    ino: AtomicU64,
    number: AtomicU32,
}

#[expect(
    clippy::declare_interior_mutable_const,
    reason = "a value to make the table of"
)]
const EMPTY: Entry = Entry {
    dev: AtomicU64::new(0),
    ino: AtomicU64::new(0),
    number: AtomicU32::new(0),
};

static TABLE: [Entry; MOST] = [EMPTY; MOST];
/// How many there are in the table; [`NOT_LOADED`] at first. The files stay as they are, so two threads
/// that load the table at once write the same.
static COUNT: AtomicU32 = AtomicU32::new(NOT_LOADED);
const NOT_LOADED: u32 = u32::MAX;

/// The number of the device that an inode is.
pub fn number(dev: dev_t, ino: ino_t) -> Option<u32> {
    // Pairs with the store in `load`.
    let count = match COUNT.load(Ordering::Acquire) {
        NOT_LOADED => load(),
        count => count,
    };
    let entries = TABLE.iter().take(count as usize);
    let mut equal = entries.filter(|entry| {
        entry.ino.load(Ordering::Relaxed) == ino && entry.dev.load(Ordering::Relaxed) == dev
    });
    equal
        .next()
        .map(|entry| entry.number.load(Ordering::Relaxed))
}

/// Looks for the device files. Their numbers follow one another, from the first on.
#[cold]
fn load() -> u32 {
    let Some(root) = tree::root() else {
        return 0;
    };
    let errno = errno();
    let mut buffer = Buffer::new();
    let mut table = TABLE.iter();
    let mut count = 0;
    for number in 0..NUMBERS {
        let Some(path) = buffer.device(root, number) else {
            break;
        };
        let found = status(libc::AT_FDCWD, path.as_ptr(), 0);
        match found {
            // With `--keep` the machine's own devices are there too, as symbolic links.
            Some(found) if is_regular(&found) => {
                let Some(entry) = table.next() else { break };
                entry.dev.store(found.st_dev, Ordering::Relaxed);
                entry.ino.store(found.st_ino, Ordering::Relaxed);
                entry.number.store(number, Ordering::Relaxed);
                count += 1;
            }
            None if count > 0 => break,
            _ => {}
        }
    }
    set_errno(errno);
    COUNT.store(count, Ordering::Release);
    count
}

fn is_regular(status: &libc::stat) -> bool {
    status.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// What the kernel says of a file, which is what libc would say. Changes errno if it fails.
fn status(dir: c_int, path: *const libc::c_char, flags: c_int) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    #[cfg(target_arch = "x86_64")]
    let call = libc::SYS_newfstatat;
    #[cfg(not(target_arch = "x86_64"))]
    let call = libc::SYS_fstatat;
    // SAFETY: The path is a C string, and the kernel's structure is libc's on 64-bit machines.
    let result = unsafe { libc::syscall(call, dir, path, status.as_mut_ptr(), flags) };
    // SAFETY: The kernel has filled it in.
    (result == 0).then(|| unsafe { status.assume_init() })
}

/// The number of the device that a descriptor is open on.
fn of_descriptor(fd: c_int) -> Option<u32> {
    let errno = errno();
    let status = status(fd, c"".as_ptr(), libc::AT_EMPTY_PATH);
    set_errno(errno);
    let status = status.filter(is_regular)?;
    number(status.st_dev, status.st_ino)
}

/// A bit for each descriptor; those with large numbers share them.
static MARKS: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
const WORDS: usize = 128;

fn bit(fd: c_int) -> (&'static AtomicU64, u64) {
    let index = fd as usize % (WORDS * 64);
    (&MARKS[index / 64], 1 << (index % 64))
}

/// Whether a descriptor is open on a device.
#[inline]
pub fn is_open(fd: c_int) -> bool {
    let (word, bit) = bit(fd);
    // The descriptor reached this thread by means of the program's, after it was marked.
    word.load(Ordering::Relaxed) & bit != 0 && is_open_indeed(fd)
}

#[cold]
fn is_open_indeed(fd: c_int) -> bool {
    let open = of_descriptor(fd).is_some();
    if !open {
        // Another descriptor that shares the bit, and is a device, is marked again by `fstat` only: but
        // there are none of such numbers in a program that has not thousands of files open.
        let (word, bit) = bit(fd);
        word.fetch_and(!bit, Ordering::Relaxed);
    }
    open
}

/// Marks a descriptor that has just been opened, if it is a device.
pub fn mark(fd: c_int) {
    if fd >= 0 && of_descriptor(fd).is_some() {
        set_mark(fd);
    }
}

fn set_mark(fd: c_int) {
    let (word, bit) = bit(fd);
    word.fetch_or(bit, Ordering::Relaxed);
}

/// Has a device file's status be a character device's. Marks the descriptor that it was asked for by.
#[inline]
pub fn present(status: &mut libc::stat, fd: Option<c_int>) {
    if !is_regular(status) {
        return;
    }
    if let Some(number) = number(status.st_dev, status.st_ino) {
        status.st_mode = MODE;
        status.st_rdev = libc::makedev(MAJOR, BASE_MINOR + number);
        if let Some(fd) = fd {
            set_mark(fd);
        }
    }
}

/// As [`present`], for the newer structure.
#[inline]
pub fn present_statx(status: &mut libc::statx) {
    if mode_t::from(status.stx_mode) & libc::S_IFMT != libc::S_IFREG {
        return;
    }
    let dev = libc::makedev(status.stx_dev_major, status.stx_dev_minor);
    if let Some(number) = number(dev, status.stx_ino) {
        status.stx_mode = MODE as u16;
        status.stx_rdev_major = MAJOR;
        status.stx_rdev_minor = BASE_MINOR + number;
    }
}

/// `ioctl`: a device has none, so that libibverbs asks sysfs, or writes commands.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn ioctl(
    fd: c_int,
    request: libc::c_ulong,
    argument: *mut libc::c_void,
) -> c_int {
    if request == RDMA_VERBS_IOCTL && is_open(fd) {
        return crate::fail(libc::ENOTTY);
    }
    match real::ioctl() {
        // SAFETY: By the caller. All requests have one argument or none, which is then not looked at.
        Some(ioctl) => unsafe { ioctl(fd, request, argument) },
        None => crate::fail(libc::ENOSYS),
    }
}

/// `_IOWR(0x1b, 1, struct ib_uverbs_ioctl_hdr)` of `rdma/rdma_user_ioctl_cmds.h`.
const RDMA_VERBS_IOCTL: libc::c_ulong = 0xc018_1b01;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_that_is_no_device_is_left_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_raw_fd();
        let mut found = status(fd, c"".as_ptr(), libc::AT_EMPTY_PATH).unwrap();
        let before = (found.st_mode, found.st_rdev);
        present(&mut found, Some(fd));
        assert_eq!((found.st_mode, found.st_rdev), before);
        assert!(!is_open(fd));
    }

    #[test]
    fn a_mark_on_what_is_no_device_goes() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_raw_fd();
        set_mark(fd);
        assert!(!is_open(fd));
        let (word, bit) = bit(fd);
        assert_eq!(word.load(Ordering::Relaxed) & bit, 0);
    }

    #[test]
    fn any_number_has_a_bit() {
        for fd in [-1, 0, c_int::MAX, c_int::MIN] {
            assert!(!is_open(fd));
        }
    }
}
