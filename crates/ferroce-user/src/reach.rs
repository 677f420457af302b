// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading and writing memory of processes: of this one, and of peers.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A way to a process's memory.
pub struct Reach {
    way: Way,
    /// The process has ended, as a try to reach it has shown.
    is_gone: AtomicBool,
}

enum Way {
    /// `process_vm_readv` and `process_vm_writev`, by this number.
    Number(libc::pid_t),
    /// The process's own `/proc/self/mem`, which it has passed.
    File(OwnedFd),
}

/// Why memory was not read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Of the process that is reached there is none at this place.
    There,
    /// Of this process there is none at this place.
    Here,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the process that is reached.
    Read,
    /// To it.
    Write,
}

/// A piece of memory of whichever process.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Piece(libc::iovec);

// SAFETY: It is an address and a length. Only the kernel makes use of them.
unsafe impl Send for Piece {}

impl Piece {
    /// So many bytes from an address on.
    pub fn new(address: u64, length: usize) -> Self {
        Self(libc::iovec {
            iov_base: core::ptr::with_exposed_provenance_mut(address as usize),
            iov_len: length,
        })
    }

    /// Its first byte.
    pub fn address(&self) -> u64 {
        self.0.iov_base.addr() as u64
    }

    /// In bytes.
    pub const fn length(&self) -> usize {
        self.0.iov_len
    }
}

impl Reach {
    /// A way to the process of this number, whose memory is tried by `probe`: the address of a number there,
    /// and the number. `file` is taken if there is no shorter way.
    pub fn find(pid: u32, file: Option<OwnedFd>, probe: (u64, u64)) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).unwrap_or(0);
        let ways = [Some(Way::Number(pid)), file.map(Way::File)];
        for way in ways.into_iter().flatten() {
            let reach = Self {
                way,
                is_gone: AtomicBool::new(false),
            };
            let mut found = [0; 8];
            let read = reach.read(probe.0, &mut found);
            if read.is_ok() && u64::from_ne_bytes(found) == probe.1 {
                return Ok(reach);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    /// Whether the process has ended, as far as that was noticed.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Reads from the process.
    pub fn read(&self, from: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.copy(Direction::Read, from, into.as_mut_ptr() as u64, into.len())
    }

    /// Writes to the process.
    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.copy(Direction::Write, to, bytes.as_ptr() as u64, bytes.len())
    }

    /// Copies from an address of the process to one of this process.
    ///
    /// # Safety
    /// The memory here is the program's, to be written by this device.
    pub unsafe fn copy_from(&self, from: u64, to: u64, length: usize) -> Result<(), Fault> {
        self.copy(Direction::Read, from, to, length)
    }

    /// Copies from an address of this process to one of the process.
    pub fn copy_to(&self, to: u64, from: u64, length: usize) -> Result<(), Fault> {
        self.copy(Direction::Write, to, from, length)
    }

    fn copy(
        &self,
        direction: Direction,
        there: u64,
        here: u64,
        length: usize,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < length {
            let at = |start: u64| start.wrapping_add(done as u64);
            match self.copy_some(direction, at(there), at(here), length - done) {
                Ok(0) => {
                    // The end of a memory file: the process has ended, or has become another program.
                    self.is_gone.store(true, Ordering::Relaxed);
                    return Err(Fault::There);
                }
                Ok(count) => done += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ESRCH) => {
                        self.is_gone.store(true, Ordering::Relaxed);
                        return Err(Fault::There);
                    }
                    _ if is_there(at(here)) => return Err(Fault::There),
                    _ => return Err(Fault::Here),
                },
            }
        }
        Ok(())
    }

    /// Copies pieces of memory, one after the other: as many bytes of the one list as of the other, of no more
    /// than `IOV_MAX` pieces each. Returns how many bytes were copied: not all, if memory is not there.
    ///
    /// What is read is written to memory here that the program has registered for that.
    pub fn copy_pieces(&self, direction: Direction, here: &[Piece], there: &[Piece]) -> usize {
        let Way::Number(pid) = self.way else {
            return self.copy_each(direction, here, there);
        };
        let call = match direction {
            Direction::Read => libc::process_vm_readv,
            Direction::Write => libc::process_vm_writev,
        };
        let (heres, theres) = (here.as_ptr().cast(), there.as_ptr().cast());
        let (count, others) = (here.len() as libc::c_ulong, there.len() as libc::c_ulong);
        // SAFETY: The lists are there during the call, and a piece is such a structure. The kernel checks what
        // is in them.
        let copied = unsafe { call(pid, heres, count, theres, others, 0) };
        usize::try_from(copied).unwrap_or(0)
    }

    /// As [`copy_pieces`](Self::copy_pieces), by a system call for each piece.
    fn copy_each(&self, direction: Direction, here: &[Piece], there: &[Piece]) -> usize {
        let mut copied = 0;
        let (mut here, mut there) = (here.iter().copied(), there.iter().copied());
        let (mut from, mut to) = (here.next(), there.next());
        while let (Some(ours), Some(theirs)) = (from, to) {
            let length = ours.length().min(theirs.length());
            let done = self.copy(direction, theirs.address(), ours.address(), length);
            if done.is_err() {
                break;
            }
            copied += length;
            let rest = |piece: Piece| {
                let left = piece.length() - length;
                (left > 0).then(|| Piece::new(piece.address().wrapping_add(length as u64), left))
            };
            (from, to) = (
                rest(ours).or_else(|| here.next()),
                rest(theirs).or_else(|| there.next()),
            );
        }
        copied
    }

    fn copy_some(
        &self,
        direction: Direction,
        there: u64,
        here: u64,
        length: usize,
    ) -> io::Result<usize> {
        let range = |start: u64| libc::iovec {
            iov_base: core::ptr::with_exposed_provenance_mut(start as usize),
            iov_len: length,
        };
        // SAFETY: The kernel checks both ranges. What it writes here is memory that the caller names for
        // that: a slice of its own, or a region that the program has registered for it.
        let count = unsafe {
            match (&self.way, direction) {
                (Way::Number(pid), Direction::Read) => {
                    libc::process_vm_readv(*pid, &range(here), 1, &range(there), 1, 0)
                }
                (Way::Number(pid), Direction::Write) => {
                    libc::process_vm_writev(*pid, &range(here), 1, &range(there), 1, 0)
                }
                (Way::File(file), Direction::Read) => libc::pread64(
                    file.as_raw_fd(),
                    range(here).iov_base,
                    length,
                    there.cast_signed(),
                ),
                (Way::File(file), Direction::Write) => libc::pwrite64(
                    file.as_raw_fd(),
                    range(here).iov_base,
                    length,
                    there.cast_signed(),
                ),
            }
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// Whether there is memory of this process at an address.
fn is_there(address: u64) -> bool {
    let page = address & !(page_size() - 1);
    // SAFETY: It changes no memory. Of a page that is not there it says so.
    unsafe {
        libc::msync(
            core::ptr::with_exposed_provenance_mut(page as usize),
            1,
            libc::MS_ASYNC,
        ) == 0
    }
}

/// Checks that memory of this process is there, and may be written to if that is asked. It has it be there,
/// as registering it with a card does.
pub fn check(address: u64, length: usize, write: bool) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let page = page_size();
    let start = address & !(page - 1);
    let end = address
        .checked_add(length as u64)
        .and_then(|end| end.checked_next_multiple_of(page))
        .ok_or(io::Error::from_raw_os_error(libc::EINVAL))?;
    let advice = match write {
        true => libc::MADV_POPULATE_WRITE,
        false => libc::MADV_POPULATE_READ,
    };
    loop {
        // SAFETY: It changes no memory, and only has it be there.
        let failed = unsafe {
            libc::madvise(
                core::ptr::with_exposed_provenance_mut(start as usize),
                (end - start) as usize,
                advice,
            )
        } != 0;
        if !failed {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => {}
            // A kernel before 5.14, or memory of a device.
            Some(libc::EINVAL) => return check_by_maps(start, end, write),
            // As the kernel has it for a page that is not there, or may not be used so.
            _ => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }
}

/// As [`check`], by what `/proc/self/maps` says.
fn check_by_maps(start: u64, end: u64, write: bool) -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut at = start;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Some((from, to)) = range.split_once('-') else {
            continue;
        };
        let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        let (from, to) = (number(from), number(to));
        let may = rights.starts_with('r') && (!write || rights.as_bytes().get(1) == Some(&b'w'));
        if from <= at && at < to && may {
            at = to;
        }
        if at >= end {
            return Ok(());
        }
    }
    Err(io::Error::from_raw_os_error(libc::EFAULT))
}

fn page_size() -> u64 {
    // SAFETY: It has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_reached_and_what_is_not_there_is_told() {
        let probe = 0x1234_5678_u64;
        let reach =
            Reach::find(std::process::id(), None, (&raw const probe as u64, probe)).unwrap();
        let mut target = [0_u8; 3];
        reach.write(target.as_mut_ptr() as u64, &[1, 2, 3]).unwrap();
        assert_eq!(target, [1, 2, 3]);
        assert_eq!(reach.write(8, &[1]), Err(Fault::There));
        assert_eq!(
            reach.copy_to(target.as_ptr() as u64, 8, 3),
            Err(Fault::Here)
        );
        assert!(!reach.is_gone());
    }

    #[test]
    fn pieces_are_copied_up_to_what_is_not_there() {
        let own = std::process::id();
        let probe = 0x8765_4321_u64;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let by_number = Reach::find(own, None, (&raw const probe as u64, probe)).unwrap();
        let by_file = Reach {
            way: Way::File(file.unwrap().into()),
            is_gone: AtomicBool::new(false),
        };
        for reach in [by_number, by_file] {
            let from: Vec<u8> = (0..100).collect();
            let mut to = [0_u8; 100];
            let at = |bytes: &[u8], start: usize, length| {
                Piece::new(bytes[start..].as_ptr() as u64, length)
            };
            let to_at = to.as_mut_ptr() as u64;
            let here = [at(&from, 50, 10), at(&from, 0, 20), at(&from, 90, 10)];
            let there = [
                Piece::new(to_at, 5),
                Piece::new(to_at + 60, 25),
                Piece::new(8, 10),
            ];
            let copied = reach.copy_pieces(Direction::Write, &here, &there);
            assert_eq!(copied, 30);
            assert_eq!(to[..5], from[50..55]);
            assert_eq!(to[60..65], from[55..60]);
            assert_eq!(to[65..85], from[..20]);
        }
    }

    #[test]
    fn memory_is_checked_as_it_is_to_be_used() {
        let own = vec![0_u8; 10_000];
        check(own.as_ptr() as u64, own.len(), true).unwrap();
        let constant = b"a constant, which cannot be written to";
        check(constant.as_ptr() as u64, constant.len(), false).unwrap();
        for (address, length, write) in [
            (constant.as_ptr() as u64, constant.len(), true),
            (8, 1, false),
            (u64::MAX - 10, 100, false),
        ] {
            assert!(check(address, length, write).is_err(), "{address:x}");
        }
        let (start, end) = (own.as_ptr() as u64, own.as_ptr() as u64 + 10_000);
        check_by_maps(start, end, true).unwrap();
        assert!(check_by_maps(8, 9, false).is_err());
    }

    #[test]
    fn a_process_that_has_ended_is_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let reach = Reach {
            way: Way::Number(child.id().cast_signed()),
            is_gone: AtomicBool::new(false),
        };
        child.wait().unwrap();
        assert_eq!(reach.write(4096, &[1]), Err(Fault::There));
        assert!(reach.is_gone());
    }
}
