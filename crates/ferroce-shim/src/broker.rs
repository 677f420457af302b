// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the broker is found, for the connection manager's file ([`rdma_cm`](crate::rdma_cm)).

use core::ffi::{c_int, CStr};
use core::mem;
use core::ptr;

use ferroce_core::user::{self, Name, Purpose};

use crate::errno;

/// The result of a system call. It is made by its number, so that no thread is cancelled halfway, and no other
/// library that is preloaded (rsockets') has a hand in it.
pub fn check(result: libc::c_long) -> Result<libc::c_long, c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(errno()),
    }
}

/// A descriptor of this library's. It is not closed when it is dropped, as threads may be cancelled.
#[derive(Clone, Copy)]
pub struct Fd(pub c_int);

impl Fd {
    pub fn close(self) {
        // SAFETY: It is this library's own.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

fn name() -> Name {
    let group = environment(user::GROUP).map_or(&[][..], CStr::to_bytes);
    // SAFETY: It has no preconditions.
    let user = unsafe { libc::geteuid() };
    Name::new(Purpose::ConnectionManager, user, group)
}

/// A variable of the environment.
fn environment(name: &str) -> Option<&'static CStr> {
    let mut terminated = [0_u8; 32];
    terminated
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    // SAFETY: The name is a C string, as it is shorter than the room. That nobody changes the environment
    // meanwhile is up to the program, as for every call of `getenv`.
    let value = unsafe { libc::getenv(terminated.as_ptr().cast()) };
    // SAFETY: `getenv` returns null or a C string.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// Where `sun_path` begins, and the NUL that an abstract name begins with.
const BEFORE_NAME: usize = mem::offset_of!(libc::sockaddr_un, sun_path) + 1;

/// Whether a socket is connected to the broker.
pub fn is_peer(fd: c_int) -> bool {
    // SAFETY: All zero is an address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&address) as libc::socklen_t;
    let before = errno();
    let (room, room_length) = (&raw mut address, &raw mut length);
    // SAFETY: There is room for the address, as the length says.
    let result = unsafe { libc::syscall(libc::SYS_getpeername, fd, room, room_length) };
    let failed = result != 0;
    crate::set_errno(before);
    if failed || c_int::from(address.sun_family) != libc::AF_UNIX {
        return false;
    }
    let name = name();
    let [first, rest @ ..] = &address.sun_path;
    let bytes = rest.iter().map(|byte| byte.cast_unsigned());
    let is_long = length as usize == BEFORE_NAME + name.bytes().len();
    *first == 0 && is_long && bytes.zip(name.bytes()).all(|(one, other)| one == *other)
}

/// Connects to it. `ECONNREFUSED` if there is none.
pub fn connect() -> Result<Fd, c_int> {
    let name = name();
    // SAFETY: All zero is an address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, byte) in address.sun_path.iter_mut().skip(1).zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    let length = BEFORE_NAME + name.bytes().len();
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: It has no preconditions.
    let socket = check(unsafe { libc::syscall(libc::SYS_socket, libc::AF_UNIX, kind, 0) })?;
    let socket = Fd(socket as c_int);
    let pointer = &raw const address;
    // SAFETY: The address is there during the call.
    let connected = unsafe { libc::syscall(libc::SYS_connect, socket.0, pointer, length) };
    let connected = check(connected).and_then(|_| check_user(socket));
    if connected.is_err() {
        socket.close();
    }
    connected.map(|()| socket)
}

/// Checks that the other end is this user's: anybody can listen at a name.
fn check_user(socket: Fd) -> Result<(), c_int> {
    // SAFETY: All zero are credentials.
    let mut peer: libc::ucred = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&peer) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    let (room, room_length) = (&raw mut peer, &raw mut length);
    let call = libc::SYS_getsockopt;
    // SAFETY: There is room for the answer.
    check(unsafe { libc::syscall(call, socket.0, level, option, room, room_length) })?;
    // SAFETY: It has no preconditions.
    match peer.uid == unsafe { libc::geteuid() } {
        true => Ok(()),
        false => Err(libc::EPERM),
    }
}

/// How many variables the broker gets.
const VARIABLES: usize = 1024;

/// Starts it, by the hidden command of the program that has started this one.
pub fn start() -> Result<(), c_int> {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    let program = environment(user::PROGRAM).ok_or(libc::ENODEV)?;
    let mut variables = [ptr::null_mut(); VARIABLES + 1];
    let mut count = 0;
    // SAFETY: The list ends with null, as do the strings in it with a NUL.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() && count < VARIABLES {
            if !CStr::from_ptr(*next).to_bytes().starts_with(b"LD_PRELOAD=") {
                variables[count] = *next;
                count += 1;
            }
            next = next.add(1);
        }
    }
    let arguments = [program, c"run", c"--broker"].map(|text| text.as_ptr().cast_mut());
    let arguments = [arguments[0], arguments[1], arguments[2], ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: The lists end with null, and are there during the call.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            ptr::null(),
            ptr::null(),
            arguments.as_ptr(),
            variables.as_ptr(),
        )
    };
    if failed != 0 {
        return Err(failed);
    }
    let mut status = 0;
    // It ends when somebody listens: the broker that it has started, or another.
    // SAFETY: There is room for the status.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        if errno() != libc::EINTR {
            // The program ignores its children's ends, or has waited for this one itself.
            let pause = libc::timespec {
                tv_sec: 0,
                tv_nsec: 20_000_000,
            };
            // SAFETY: The time is there during the call.
            unsafe { libc::syscall(libc::SYS_nanosleep, &raw const pause, 0) };
            break;
        }
    }
    Ok(())
}
