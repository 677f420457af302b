// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of this host that keep messages apart, and pass open files.

use core::mem::{self, size_of};
use core::ptr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How many files a message brings at most.
pub const FILES: usize = 2;

/// The memory of a control message with that many files.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn new() -> io::Result<OwnedFd> {
    // SAFETY: It has no preconditions.
    let socket = check(unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: It is open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Two sockets that are connected: what is written to the one is read from the other.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut sockets = [-1; 2];
    // SAFETY: There is room for two numbers.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            sockets.as_mut_ptr(),
        )
    })?;
    // SAFETY: They are open, and nobody else's.
    Ok(unsafe {
        (
            OwnedFd::from_raw_fd(sockets[0]),
            OwnedFd::from_raw_fd(sockets[1]),
        )
    })
}

/// An address of the abstract namespace, which has no file: it is there as long as somebody listens.
fn address(name: &[u8]) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: All zero is an address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let mut length = 1;
    for (place, byte) in address.sun_path[1..].iter_mut().zip(name) {
        *place = byte.cast_signed();
        length += 1;
    }
    let path = mem::offset_of!(libc::sockaddr_un, sun_path);
    (address, (path + length) as libc::socklen_t)
}

/// Listens at a name. `AddrInUse` if somebody else does.
pub fn listen(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = new()?;
    let (address, length) = address(name);
    // SAFETY: The socket is open, and the address is there during the calls.
    unsafe {
        let address = ptr::from_ref(&address).cast();
        check(libc::bind(socket.as_raw_fd(), address, length))?;
        check(libc::listen(socket.as_raw_fd(), 128))?;
    }
    Ok(socket)
}

/// Connects to the process that listens at a name. `ConnectionRefused` if nobody does.
pub fn connect(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = new()?;
    let (address, length) = address(name);
    // SAFETY: The socket is open, and the address is there during the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) })?;
    Ok(socket)
}

/// The next connection.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: The socket is open; nobody asks for the address.
    let socket = check(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: It is open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Who is at the other end: process and user.
pub fn peer(socket: &OwnedFd) -> io::Result<(libc::pid_t, libc::uid_t)> {
    // SAFETY: All zero are credentials.
    let mut credentials: libc::ucred = unsafe { mem::zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: The socket is open, and there is room for the answer.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            ptr::from_mut(&mut credentials).cast(),
            &raw mut length,
        )
    })?;
    Ok((credentials.pid, credentials.uid))
}

/// Sends a message, and files with it: [`FILES`] at most.
pub fn send(socket: RawFd, bytes: &[u8], files: &[RawFd]) -> io::Result<()> {
    send_with(socket, bytes, files, 0)
}

/// As [`send`], if there is room for the message at once.
pub fn send_now(socket: RawFd, bytes: &[u8], files: &[RawFd]) -> io::Result<()> {
    send_with(socket, bytes, files, libc::MSG_DONTWAIT)
}

fn send_with(socket: RawFd, bytes: &[u8], files: &[RawFd], flags: libc::c_int) -> io::Result<()> {
    let mut range = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: All zero is a message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut range;
    message.msg_iovlen = 1;
    let files = files.get(..FILES).unwrap_or(files);
    if !files.is_empty() {
        let length = mem::size_of_val(files) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: There is room for as many files in the control message, which is aligned.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(length) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            let data = libc::CMSG_DATA(header);
            ptr::copy_nonoverlapping(files.as_ptr().cast(), data, length as usize);
        }
    }
    loop {
        // SAFETY: All that the message refers to is there during the call.
        let sent = unsafe { libc::sendmsg(socket, &raw const message, flags | libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives a message, and the files that come with it. Its length is zero if the other end is closed.
pub fn receive(socket: RawFd, bytes: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, bytes, 0)
}

/// As [`receive`], if there is a message already.
pub fn receive_now(socket: RawFd, bytes: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, bytes, libc::MSG_DONTWAIT)
}

/// The length of a message, and its files.
pub type Received = (usize, [Option<OwnedFd>; FILES]);

fn receive_with(socket: RawFd, bytes: &mut [u8], flags: libc::c_int) -> io::Result<Received> {
    let mut range = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: All zero is a message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut range;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let length = loop {
        // SAFETY: All that the message refers to is there during the call.
        let received =
            unsafe { libc::recvmsg(socket, &raw mut message, flags | libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(received) {
            Ok(length) => break length,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    let mut files = [None, None];
    // SAFETY: The kernel has filled in the control messages, whose files are open and nobody else's.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let length = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for number in 0..length / size_of::<RawFd>() {
                    let file = OwnedFd::from_raw_fd(data.add(number).read_unaligned());
                    // One too many is closed.
                    if let Some(place) = files.iter_mut().find(|place| place.is_none()) {
                        *place = Some(file);
                    }
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_borders_and_bring_files() {
        let (one, other) = pair().unwrap();
        let file = std::fs::File::open("/proc/self/mem").unwrap();
        send(
            one.as_raw_fd(),
            b"first",
            &[file.as_raw_fd(), file.as_raw_fd()],
        )
        .unwrap();
        send(one.as_raw_fd(), b"second", &[]).unwrap();
        let mut bytes = [0; 16];
        let (length, files) = receive(other.as_raw_fd(), &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"first");
        assert!(files.iter().all(Option::is_some));
        let (length, files) = receive(other.as_raw_fd(), &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"second");
        assert!(files.iter().all(Option::is_none));
        drop(one);
        assert_eq!(receive(other.as_raw_fd(), &mut bytes).unwrap().0, 0);
    }

    #[test]
    fn a_name_is_one_listeners() {
        let name = format!("ferroce-test-{}", std::process::id());
        let name = name.as_bytes();
        let refused = connect(name).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = listen(name).unwrap();
        assert_eq!(listen(name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let client = connect(name).unwrap();
        let server = accept(&listener).unwrap();
        let (pid, _) = peer(&server).unwrap();
        assert_eq!(pid, std::process::id().cast_signed());
        send(client.as_raw_fd(), b"x", &[]).unwrap();
        assert_eq!(receive(server.as_raw_fd(), &mut [0; 4]).unwrap().0, 1);
    }
}
