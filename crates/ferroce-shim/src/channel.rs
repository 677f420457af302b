// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion channels: pairs of sockets.
//!
//! The program reads events from one end, with `read`, `poll`, `epoll` and `O_NONBLOCK` as from the
//! kernel's. The plug-in asks for the other end ([`ferroce_shim_channel`]) and writes events to it, each as
//! one message (`SOCK_SEQPACKET`).
//!
//! The program closes its end without telling anybody, by `ibv_destroy_comp_channel` or `close`. So
//! before a channel is made, the ends whose other end is gone are closed. Who is who is told by inodes, not
//! by the descriptors' numbers: a program may have closed one and have another file there.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// How many channels a process may have at once.
const MOST: usize = 4096;

/// A channel. No lock is held on it: a thread has it to itself from setting [`CLAIMED`] on.
struct Channel {
    /// The inode of the program's end; [`FREE`], or [`CLAIMED`].
    read_ino: AtomicU64,
    /// The inode of the other end, and its descriptor.
    write_ino: AtomicU64,
    write_fd: AtomicI32,
}

// No socket has one of these for its inode.
const FREE: u64 = 0;
const CLAIMED: u64 = u64::MAX;

static CHANNELS: [Channel; MOST] = [const {
    Channel {
        read_ino: AtomicU64::new(FREE),
        write_ino: AtomicU64::new(FREE),
        write_fd: AtomicI32::new(-1),
    }
}; MOST];

impl Channel {
    /// Takes it if its program's end has this inode.
    fn claim(&self, read_ino: u64) -> bool {
        // Pairs with the store in `release`.
        let claim =
            self.read_ino
                .compare_exchange(read_ino, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        claim.is_ok()
    }

    /// Gives it back after [`claim`](Self::claim).
    fn release(&self, read_ino: u64) {
        self.read_ino.store(read_ino, Ordering::Release);
    }

    /// The descriptor to write events to, while it is that.
    fn write_fd(&self) -> Option<c_int> {
        let fd = self.write_fd.load(Ordering::Relaxed);
        (inode(fd)? == self.write_ino.load(Ordering::Relaxed)).then_some(fd)
    }
}

/// A socket's inode. All sockets are in one file system.
fn inode(fd: c_int) -> Option<u64> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // By the kernel's call: libc's is this library's.
    // SAFETY: The kernel's structure is libc's on 64-bit machines.
    let result = unsafe { libc::syscall(libc::SYS_fstat, fd, status.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: The kernel has filled it in.
    let status = unsafe { status.assume_init() };
    (status.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(status.st_ino)
}

/// Makes a channel, and returns the program's end.
pub fn create() -> Result<c_int, c_int> {
    close_unread();
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: There is room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    if made != 0 {
        return Err(crate::errno());
    }
    let [read_fd, write_fd] = ends;
    if remember(read_fd, write_fd).is_none() {
        // SAFETY: They were made here, and nobody else has them.
        unsafe {
            libc::close(read_fd);
            libc::close(write_fd);
        }
        return Err(libc::EMFILE);
    }
    Ok(read_fd)
}

fn remember(read_fd: c_int, write_fd: c_int) -> Option<()> {
    // The thread that completes a request writes the event: it must not wait for the program.
    // SAFETY: The descriptor was made by the caller.
    if unsafe { libc::fcntl(write_fd, libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
        return None;
    }
    let (read_ino, write_ino) = (inode(read_fd)?, inode(write_fd)?);
    let channel = CHANNELS.iter().find(|channel| channel.claim(FREE))?;
    channel.write_ino.store(write_ino, Ordering::Relaxed);
    channel.write_fd.store(write_fd, Ordering::Relaxed);
    channel.release(read_ino);
    Some(())
}

/// How many descriptors are polled by one call.
const BATCH: usize = 64;

/// Closes the ends whose other end has been closed everywhere.
fn close_unread() {
    const NONE: libc::pollfd = libc::pollfd {
        // `poll` skips it.
        fd: -1,
        events: 0,
        revents: 0,
    };
    for channels in CHANNELS.chunks(BATCH) {
        let mut polled = [NONE; BATCH];
        let mut any = false;
        for (channel, polled) in channels.iter().zip(&mut polled) {
            if !matches!(channel.read_ino.load(Ordering::Acquire), FREE | CLAIMED) {
                polled.fd = channel.write_fd.load(Ordering::Relaxed);
                any = true;
            }
        }
        if !any {
            continue;
        }
        // SAFETY: There are as many.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), BATCH as libc::nfds_t, 0) };
        if ready <= 0 {
            continue;
        }
        let gone = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
        for (channel, polled) in channels.iter().zip(&polled) {
            if polled.revents & gone != 0 {
                close_if_unread(channel);
            }
        }
    }
}

/// Looks again, with the channel claimed: another thread may have closed it, and made another.
#[cold]
fn close_if_unread(channel: &Channel) {
    let read_ino = channel.read_ino.load(Ordering::Relaxed);
    if matches!(read_ino, FREE | CLAIMED) || !channel.claim(read_ino) {
        return;
    }
    let Some(fd) = channel.write_fd() else {
        // The program has closed this end, too.
        return channel.release(FREE);
    };
    let mut polled = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: There is one.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    if ready == 1 && polled.revents & libc::POLLHUP != 0 {
        // SAFETY: The inode is this channel's, so it is its descriptor.
        unsafe { libc::close(fd) };
        channel.release(FREE);
    } else {
        channel.release(read_ino);
    }
}

/// For the plug-in, which finds it by `dlsym(RTLD_DEFAULT, ..)`: the descriptor to write a channel's events
/// to, by the one that the program reads them from (`struct ibv_comp_channel.fd`). -1 if that is none.
///
/// It does not block, and stays open as long as the program's end does. It is the channel's: a
/// caller that uses it longer than the channel is there duplicates it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn ferroce_shim_channel(read_fd: c_int) -> c_int {
    let errno = crate::errno();
    let found = inode(read_fd).and_then(|ino| {
        // Pairs with the store in `release`.
        let mut equal = CHANNELS
            .iter()
            .filter(|channel| channel.read_ino.load(Ordering::Acquire) == ino);
        equal.next()?.write_fd()
    });
    crate::set_errno(errno);
    found.unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    use std::sync::Mutex;

    /// The table is the process': a test that counts must be alone.
    static ALONE: Mutex<()> = Mutex::new(());

    fn close(fd: c_int) {
        // SAFETY: It is the test's own.
        assert_eq!(unsafe { libc::close(fd) }, 0);
    }

    fn file(fd: c_int) -> ManuallyDrop<File> {
        // SAFETY: It is open, and stays so: the file is not dropped.
        ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
    }

    fn used() -> usize {
        let channels = CHANNELS.iter();
        channels
            .filter(|channel| channel.read_ino.load(Ordering::Relaxed) != FREE)
            .count()
    }

    #[test]
    fn events_come_one_by_one() {
        let _alone = ALONE.lock().unwrap();
        let read_fd = create().unwrap();
        let write_fd = ferroce_shim_channel(read_fd);
        for event in [1_u64, 2] {
            file(write_fd).write_all(&event.to_ne_bytes()).unwrap();
        }
        for event in [1_u64, 2] {
            let mut bytes = [0; 64];
            assert_eq!(file(read_fd).read(&mut bytes).unwrap(), 8);
            assert_eq!(bytes[..8], event.to_ne_bytes());
        }
        close(read_fd);
    }

    #[test]
    fn a_channel_that_the_program_closed_is_closed() {
        let _alone = ALONE.lock().unwrap();
        close_unread();
        let before = used();
        let channels: Vec<_> = (0..100).map(|_| create().unwrap()).collect();
        assert_eq!(used(), before + 100);
        for fd in &channels[1..] {
            close(*fd);
        }
        close_unread();
        assert_eq!(used(), before + 1);
        assert!(ferroce_shim_channel(channels[0]) >= 0);
        close(channels[0]);
        close_unread();
    }

    #[test]
    fn a_duplicate_is_the_channel_as_well() {
        let _alone = ALONE.lock().unwrap();
        let read_fd = create().unwrap();
        // SAFETY: It is open.
        let other = unsafe { libc::dup(read_fd) };
        let write_fd = ferroce_shim_channel(read_fd);
        close(read_fd);
        assert_eq!(ferroce_shim_channel(other), write_fd);
        close(other);
    }

    #[test]
    fn another_file_at_the_number_of_a_closed_end_is_left_alone() {
        let _alone = ALONE.lock().unwrap();
        let read_fd = create().unwrap();
        let write_fd = ferroce_shim_channel(read_fd);
        // A program that closes all descriptors, and opens something else.
        let mut pair = [-1; 2];
        // SAFETY: There is room for two.
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) };
        // SAFETY: Both are open.
        assert_eq!(unsafe { libc::dup2(pair[0], write_fd) }, write_fd);
        close(pair[0]);
        close(pair[1]);
        assert_eq!(ferroce_shim_channel(read_fd), -1);
        let before = used();
        close_unread();
        assert_eq!(used(), before - 1);
        assert!(inode(write_fd).is_some(), "it was closed");
        close(write_fd);
        close(read_fd);
    }

    #[test]
    fn what_is_no_channel_is_none() {
        for fd in [-1, 0, 1_000_000] {
            assert_eq!(ferroce_shim_channel(fd), -1);
        }
    }
}
