// SPDX-License-Identifier: MIT OR Apache-2.0
//! The broker: a process that introduces the others of a user to each other, and notices their end.
//!
//! It listens at a name of the abstract namespace, so that there is one in each network namespace and for
//! each user, and nothing of it stays behind. It is started on demand, and ends when the last process that
//! it knows has gone.
//!
//! A process sends [`Request::Join`] with its segment and its memory file, and learns its serial number;
//! with [`Request::Attach`] it gets those of another one. The broker (`server`) is the connection manager
//! (`cm`) too.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Command;

use ferroce_core::user::{Name, Purpose};
use parking_lot::{Mutex, MutexGuard};

use crate::registry::Registry;
use crate::socket;

mod server;

pub use ferroce_core::user::GROUP;
pub use server::serve;

/// What a process asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To be one of those that the broker knows.
    Join,
    /// For the segment and the memory file of the process of this serial number.
    Attach(u32),
    /// Nothing, but that the broker stays as long as the connection.
    Stay,
    /// For the registry, to see who is there.
    Look,
}

impl Request {
    fn bytes(self) -> [u8; 8] {
        let (kind, argument) = match self {
            Self::Join => (1_u32, 0),
            Self::Attach(serial) => (2, serial),
            Self::Stay => (3, 0),
            Self::Look => (4, 0),
        };
        (u64::from(kind) << 32 | u64::from(argument)).to_le_bytes()
    }

    fn parse(bytes: [u8; 8]) -> Option<Self> {
        let number = u64::from_le_bytes(bytes);
        let argument = number as u32;
        match number >> 32 {
            1 => Some(Self::Join),
            2 => Some(Self::Attach(argument)),
            3 => Some(Self::Stay),
            4 => Some(Self::Look),
            _ => None,
        }
    }
}

/// A name of the broker of this user, in this network namespace.
fn name(purpose: Purpose) -> Name {
    // SAFETY: It has no preconditions.
    let user = unsafe { libc::geteuid() };
    let group = std::env::var_os(GROUP).unwrap_or_default();
    Name::new(purpose, user, group.as_encoded_bytes())
}

/// Connects to the user's broker.
fn connect() -> io::Result<OwnedFd> {
    let socket = socket::connect(name(Purpose::Devices).bytes())?;
    // SAFETY: It has no preconditions.
    let user = unsafe { libc::geteuid() };
    let (_, other) = socket::peer(&socket)?;
    // Anybody can listen at a name.
    match other == user {
        true => Ok(socket),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// Connects to the user's broker, and starts it if there is none, by this program's hidden command.
pub fn connect_or_start(program: &std::ffi::OsStr) -> io::Result<OwnedFd> {
    for _ in 0..10 {
        match connect() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            result => return result,
        }
        // It returns when somebody listens: the broker that it has started, or another.
        let status = Command::new(program)
            .args(["run", "--broker"])
            .env_remove("LD_PRELOAD")
            .status();
        match status {
            Ok(status) if status.success() => {}
            // The program ignores its children's ends, or has waited for this one itself.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(_) => break,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
}

/// Has a broker of the user run, and stay as long as this process and what it becomes or starts: the
/// connection is not closed when another program is executed.
pub fn ensure(program: &std::ffi::OsStr) -> io::Result<()> {
    let socket = connect_or_start(program)?;
    socket::send(socket.as_raw_fd(), &Request::Stay.bytes(), &[])?;
    // SAFETY: The socket is open.
    if unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    core::mem::forget(socket);
    Ok(())
}

/// What a process has of the broker.
pub struct Client {
    socket: OwnedFd,
    /// Of the socket: a program may close all its descriptors, and another gets the number.
    inode: u64,
    asks: Mutex<()>,
}

/// One thread asks at a time.
pub struct Asking<'a> {
    client: &'a Client,
    _guard: MutexGuard<'a, ()>,
}

fn inode(file: RawFd) -> io::Result<u64> {
    // SAFETY: All zero is such a structure, and it is there to be written.
    unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        match libc::fstat(file, &raw mut stat) {
            0 => Ok(stat.st_ino),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Client {
    /// Makes this process known. Returns its serial number too, and the registry.
    pub fn join(
        program: &std::ffi::OsStr,
        segment: RawFd,
        memory: Option<RawFd>,
    ) -> io::Result<(Self, u32, Registry)> {
        let files = [Some(segment), memory];
        let files: Vec<RawFd> = files.into_iter().flatten().collect();
        let mut tries = 0;
        loop {
            let client = Self::new(connect_or_start(program)?)?;
            let answer = client.lock().ask(Request::Join, &files);
            match answer {
                Ok((serial, [registry, _])) => {
                    let registry = registry.ok_or(io::Error::from_raw_os_error(libc::EUSERS))?;
                    let registry = Registry::map(registry.as_fd())?;
                    return Ok((client, serial, registry));
                }
                // A broker that was about to end.
                Err(_) if tries < 10 => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection by which to look at others, if there is a broker, and the registry.
    pub fn look() -> io::Result<Option<(Self, Registry)>> {
        let socket = match connect() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            result => result?,
        };
        let client = Self::new(socket)?;
        let (_, [registry, _]) = client.lock().ask(Request::Look, &[])?;
        let registry = registry.ok_or(io::Error::from_raw_os_error(libc::EPROTO))?;
        Ok(Some((client, Registry::map(registry.as_fd())?)))
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            inode: inode(socket.as_raw_fd())?,
            socket,
            asks: Mutex::new(()),
        })
    }

    /// To ask something.
    pub fn lock(&self) -> Asking<'_> {
        Asking {
            client: self,
            _guard: self.asks.lock(),
        }
    }

    /// Whether there is no broker any more, or no connection to it.
    pub fn has_ended(&self) -> bool {
        let socket = self.socket.as_raw_fd();
        if inode(socket).ok() != Some(self.inode) {
            return true;
        }
        let mut polled = poll(socket);
        // SAFETY: The structure is there to be written.
        let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
        ready > 0 && polled.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }
}

impl Asking<'_> {
    /// The segment and the memory file of a process, if there is one of that serial number.
    pub fn attach(&self, serial: u32) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let (_, [segment, memory]) = self.ask(Request::Attach(serial), &[])?;
        let segment = segment.ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok((segment, memory))
    }

    fn ask(
        &self,
        request: Request,
        files: &[RawFd],
    ) -> io::Result<(u32, [Option<OwnedFd>; socket::FILES])> {
        let socket = self.client.socket.as_raw_fd();
        if inode(socket)? != self.client.inode {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        socket::send(socket, &request.bytes(), files)?;
        let mut answer = [0; 4];
        match socket::receive(socket, &mut answer)? {
            (4, files) => Ok((u32::from_le_bytes(answer), files)),
            _ => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
        }
    }
}

fn poll(file: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd: file,
        events: libc::POLLIN,
        revents: 0,
    }
}
