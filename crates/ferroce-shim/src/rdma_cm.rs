// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connection manager's file: who opens it gets a channel, which is a socket to the broker
//! ([`ferroce_core::user`]).
//!
//! It is the program's own descriptor: duplicated, inherited and closed as any. What it is, is told by the
//! name that its other end listens at. A command is sent to the broker with a socket of its own for the
//! answer, so that threads and processes that share a channel need not know of each other.
//!
//! The kernel copies from and to the program's memory, so that a wrong address is an error (`EFAULT`).

use core::ffi::{c_int, c_void, CStr};
use core::mem::{self, MaybeUninit};
use core::ptr;

use ferroce_core::user::{self, AnswerHeader, CommandHeader};
use ferroce_core::user::{MAX_ANSWER, MAX_COMMAND, MAX_OPTION};
use libc::{size_t, ssize_t};

use crate::broker::{self, check, Fd};
use crate::{errno, tree};

unsafe extern "C-unwind" {
    /// libc's, in which a thread may be cancelled.
    fn recv(fd: c_int, buffer: *mut c_void, length: size_t, flags: c_int) -> ssize_t;
}

fn pair() -> Result<[Fd; 2], c_int> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let (call, room) = (libc::SYS_socketpair, ends.as_mut_ptr());
    // SAFETY: There is room for two descriptors.
    check(unsafe { libc::syscall(call, libc::AF_UNIX, kind, 0, room) })?;
    Ok(ends.map(Fd))
}

/// Whether a socket is a channel.
pub fn is_channel(fd: c_int) -> bool {
    broker::is_peer(fd)
}

/// How often the broker is looked for, which may be about to end.
const TRIES: u32 = 10;

/// Has a descriptor that is open on the file be a channel. Closes it, and returns -1 with errno set, if that
/// fails.
pub fn open(file: c_int) -> c_int {
    let opened = try_open(file);
    if let Err(errno) = opened {
        Fd(file).close();
        return crate::fail(errno);
    }
    file
}

#[cold]
fn try_open(file: c_int) -> Result<(), c_int> {
    let root = tree::root().ok_or(libc::ENODEV)?;
    let mut tries = 0;
    let channel = loop {
        tries += 1;
        let channel = broker::connect().and_then(|channel| match introduce(channel, root) {
            Ok(()) => Ok(channel),
            Err(errno) => {
                channel.close();
                Err(errno)
            }
        });
        match channel {
            Err(libc::ECONNREFUSED) if tries < TRIES => broker::start()?,
            Err(libc::EIO) if tries < TRIES => {}
            channel => break channel?,
        }
    };
    let put = replace(file, channel);
    channel.close();
    put
}

/// Has a descriptor be another's file, with its own flags.
fn replace(file: c_int, by: Fd) -> Result<(), c_int> {
    // SAFETY: Both are open.
    unsafe {
        let status = check(libc::syscall(libc::SYS_fcntl, file, libc::F_GETFL))? as c_int;
        let own = check(libc::syscall(libc::SYS_fcntl, file, libc::F_GETFD))? as c_int;
        let cloexec = match own & libc::FD_CLOEXEC {
            0 => 0,
            _ => libc::O_CLOEXEC,
        };
        check(libc::syscall(libc::SYS_dup3, by.0, file, cloexec))?;
        let nonblocking = status & libc::O_NONBLOCK;
        check(libc::syscall(
            libc::SYS_fcntl,
            file,
            libc::F_SETFL,
            nonblocking,
        ))?;
    }
    Ok(())
}

/// Tells the broker of a new channel, and which devices its program has.
fn introduce(channel: Fd, root: &CStr) -> Result<(), c_int> {
    let header = CommandHeader {
        channel: inode(channel.0).ok_or(libc::EIO)?,
        ..CommandHeader::default()
    };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: The path is a C string.
    let folder = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, root.as_ptr(), flags) };
    let folder = Fd(check(folder)? as c_int);
    let result = pair().and_then(|ends| {
        // SAFETY: An answer without data has no address to be written to.
        unsafe { exchange(channel, ends, Some(folder), &header.to_bytes(), channel) }
    });
    folder.close();
    result
}

fn inode(fd: c_int) -> Option<u64> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: The kernel's structure is libc's on 64-bit machines.
    let result = unsafe { libc::syscall(libc::SYS_fstat, fd, status.as_mut_ptr()) };
    // SAFETY: The kernel has filled it in.
    (result == 0).then(|| unsafe { status.assume_init() }.st_ino)
}

/// Bytes of a command's message.
const MESSAGE: usize = HEADER + MAX_COMMAND + MAX_OPTION;
const HEADER: usize = 24;
const ANSWER_HEADER: usize = 20;

/// Copies from the program's memory, by way of a pair of sockets that nothing is in. `EFAULT` if it is not
/// there.
fn copy_from(ends: [Fd; 2], from: *const c_void, to: &mut [u8]) -> Result<(), c_int> {
    if to.is_empty() {
        return Ok(());
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let none = ptr::null::<c_void>();
    // SAFETY: The kernel checks the first address; there is room for as many bytes at the second.
    unsafe {
        let sent = libc::syscall(libc::SYS_sendto, ends[1].0, from, to.len(), flags, none, 0);
        check(sent)?;
        let room = to.as_mut_ptr();
        let got = libc::syscall(
            libc::SYS_recvfrom,
            ends[0].0,
            room,
            to.len(),
            flags,
            none,
            none,
        );
        check(got)?;
    }
    Ok(())
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    found.copied().unwrap_or([0; N])
}

/// A command that the program has written to a channel.
///
/// # Safety
/// If the bytes at the address are a command, the address in it is that of enough room for its answer, as the
/// command's header says. Wrong addresses are errors where there is no memory.
#[cold]
pub unsafe fn command(fd: c_int, buffer: *const c_void, count: size_t) -> Result<(), c_int> {
    let mut message = [0; MESSAGE];
    let length = count.min(MAX_COMMAND);
    let ends = pair()?;
    let read = read_command(ends, fd, buffer, count, &mut message);
    let Ok((message_length, source)) = read else {
        ends.into_iter().for_each(Fd::close);
        return read.map(drop);
    };
    let message = message.get(..message_length).unwrap_or_default();
    let kind = u32::from_ne_bytes(number(message, HEADER));
    if kind != user::command::GET_EVENT || length < 8 {
        // SAFETY: By this function's contract.
        return unsafe { exchange(Fd(fd), ends, None, message, source) };
    }
    ends.into_iter().for_each(Fd::close);
    if u16::from_ne_bytes(number(message, HEADER + 6)) < user::command::EVENT_ROOM {
        return Err(libc::ENOSPC);
    }
    loop {
        take_token(fd)?;
        // SAFETY: By this function's contract.
        let result =
            pair().and_then(|ends| unsafe { exchange(Fd(fd), ends, None, message, source) });
        match result {
            // Its event is gone, with the id.
            Err(libc::EAGAIN) => {}
            result => return result,
        }
    }
}

/// Makes a message of a command. Returns its length, and the channel that tokens may have to be taken from.
fn read_command(
    ends: [Fd; 2],
    fd: c_int,
    buffer: *const c_void,
    count: size_t,
    message: &mut [u8; MESSAGE],
) -> Result<(usize, Fd), c_int> {
    let mut header = CommandHeader {
        count: count as u64,
        length: count.min(MAX_COMMAND) as u32,
        ..CommandHeader::default()
    };
    let mut source = Fd(fd);
    let end = HEADER + header.length as usize;
    let room = message.get_mut(HEADER..end).unwrap_or_default();
    copy_from(ends, buffer, room)?;
    let command = message.get(HEADER..end).unwrap_or_default();
    match u32::from_ne_bytes(number(command, 0)) {
        user::command::SET_OPTION => {
            let value = u64::from_ne_bytes(number(command, 8)) as *const c_void;
            let length = u32::from_ne_bytes(number(command, 28)) as usize;
            header.option_length = length.min(MAX_OPTION) as u32;
            let end_of_option = end + header.option_length as usize;
            let room = message.get_mut(end..end_of_option).unwrap_or_default();
            copy_from(ends, value, room)?;
        }
        user::command::MIGRATE_ID => {
            source = Fd(u32::from_ne_bytes(number(command, 20)).cast_signed());
            header.channel = inode(source.0).ok_or(libc::ENOENT)?;
            if !is_channel(source.0) {
                return Err(libc::EINVAL);
            }
        }
        _ => {}
    }
    if let Some(place) = message.first_chunk_mut() {
        *place = header.to_bytes();
    }
    Ok((end + header.option_length as usize, source))
}

/// Waits for a token, as the channel's flags say. A thread may be cancelled here.
fn take_token(fd: c_int) -> Result<(), c_int> {
    let mut token = [0_u8; 1];
    // SAFETY: There is room for one byte.
    match unsafe { recv(fd, token.as_mut_ptr().cast(), 1, 0) } {
        1.. => Ok(()),
        0 => Err(libc::EIO),
        _ => Err(errno()),
    }
}

/// Sends a message, with the other one of two sockets and perhaps a file, and receives the answer. Closes both
/// sockets.
///
/// # Safety
/// Where the answer says that it goes to there is room, or no memory at all.
unsafe fn exchange(
    channel: Fd,
    ends: [Fd; 2],
    file: Option<Fd>,
    message: &[u8],
    source: Fd,
) -> Result<(), c_int> {
    let [own, other] = ends;
    let sent = send(channel, message, other, file);
    other.close();
    // SAFETY: By this function's contract.
    let answered = sent.and_then(|()| unsafe { receive(own) });
    own.close();
    let (status, stale) = answered?;
    for _ in 0..stale {
        let mut token = [0_u8; 1];
        let flags = libc::MSG_DONTWAIT;
        let (room, none) = (token.as_mut_ptr(), ptr::null::<c_void>());
        // SAFETY: There is room for one byte.
        let taken =
            unsafe { libc::syscall(libc::SYS_recvfrom, source.0, room, 1, flags, none, none) };
        if taken <= 0 {
            break;
        }
    }
    match status {
        0 => Ok(()),
        errno => Err(errno),
    }
}

/// The memory of a control message with two descriptors.
#[repr(C, align(8))]
struct Control([u8; 32]);

fn send(channel: Fd, message: &[u8], reply: Fd, file: Option<Fd>) -> Result<(), c_int> {
    let files = [reply.0, file.map_or(-1, |file| file.0)];
    let size = match file {
        Some(_) => mem::size_of_val(&files),
        None => mem::size_of::<c_int>(),
    };
    let mut control = Control([0; 32]);
    let mut range = libc::iovec {
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: message.len(),
    };
    // SAFETY: All zero is a message. There is room for the descriptors in the control message, which is aligned.
    let header = unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &raw mut range;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(size as u32) as _;
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(size as u32) as _;
        ptr::copy_nonoverlapping(files.as_ptr().cast(), libc::CMSG_DATA(first), size);
        header
    };
    loop {
        let (pointer, flags) = (&raw const header, libc::MSG_NOSIGNAL);
        // SAFETY: All that the message refers to is there during the call.
        let sent = check(unsafe { libc::syscall(libc::SYS_sendmsg, channel.0, pointer, flags) });
        match sent {
            Ok(_) => return Ok(()),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => wait_for_room(channel),
            // There is no broker any more.
            Err(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => return Err(libc::EIO),
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until the broker has taken other commands from a channel that is not to block.
fn wait_for_room(channel: Fd) {
    let mut polled = libc::pollfd {
        fd: channel.0,
        events: libc::POLLOUT,
        revents: 0,
    };
    let none = ptr::null::<c_void>();
    // SAFETY: There is one.
    unsafe { libc::syscall(libc::SYS_ppoll, &raw mut polled, 1, none, none, 0) };
}

/// Receives an answer, into the program's memory. Returns its status, and how many tokens are stale.
///
/// # Safety
/// As [`exchange`].
unsafe fn receive(own: Fd) -> Result<(c_int, u32), c_int> {
    let mut bytes = [0; ANSWER_HEADER];
    let mut ranges = [
        libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        },
        libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        },
    ];
    // SAFETY: There is room for the header.
    let peeked = unsafe { receive_into(own, &mut ranges, 1, libc::MSG_PEEK)? };
    if peeked < ANSWER_HEADER {
        return Err(libc::EIO);
    }
    let header = AnswerHeader::from_bytes(bytes);
    if header.length != 0 {
        ranges[1].iov_base = header.address as *mut c_void;
        ranges[1].iov_len = (header.length as usize).min(MAX_ANSWER);
        // SAFETY: By this function's contract.
        unsafe { receive_into(own, &mut ranges, 2, 0)? };
    }
    Ok((header.status.cast_signed(), header.stale))
}

/// # Safety
/// There is room in the first `count` ranges, or no memory at all.
unsafe fn receive_into(
    own: Fd,
    ranges: &mut [libc::iovec; 2],
    count: usize,
    flags: c_int,
) -> Result<usize, c_int> {
    // SAFETY: All zero is a message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = ranges.as_mut_ptr();
    message.msg_iovlen = count as _;
    loop {
        let pointer = &raw mut message;
        // SAFETY: By this function's contract; the kernel checks the addresses.
        match check(unsafe { libc::syscall(libc::SYS_recvmsg, own.0, pointer, flags) }) {
            // The command is under way, and cannot be taken back.
            Err(libc::EINTR) => {}
            received => return received.map(|length| length as usize),
        }
    }
}
