// SPDX-License-Identifier: MIT OR Apache-2.0
//! The broker: a process that introduces the others of a user to each other, and notices their end.
//!
//! It listens at a name of the abstract namespace, so that there is one in each network namespace and for
//! each user, and nothing of it stays behind. It is started on demand, and ends when the last process that
//! it knows has gone.
//!
//! A process sends [`Request::Join`] with its segment and its memory file, and learns its serial number;
//! with [`Request::Attach`] it gets those of another one.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;

use parking_lot::{Mutex, MutexGuard};

use crate::registry::{self, slot_of, Registry, SLOTS};
use crate::segment::{memory_file, Segment, VERSION};
use crate::socket;

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

/// The environment's name for a group of programs that do not know of others of the same user: tests, say.
pub const GROUP: &str = "FERROCE_GROUP";

/// The name of the broker of this user, in this network namespace.
fn name() -> String {
    // SAFETY: It has no preconditions.
    let user = unsafe { libc::geteuid() };
    let group = std::env::var(GROUP).unwrap_or_default();
    format!("ferroce/{user}/{VERSION}/{group}")
}

/// Connects to the user's broker.
fn connect() -> io::Result<OwnedFd> {
    let socket = socket::connect(&name())?;
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

/// A process, or one that has not joined yet.
struct Known {
    /// Becomes readable when it ends. A child that it leaves behind may still have the socket.
    process: Option<OwnedFd>,
    joined: Option<Joined>,
}

struct Joined {
    serial: u32,
    /// Of the segment.
    file: OwnedFd,
    segment: Segment,
    memory: Option<OwnedFd>,
}

struct Broker {
    registry_file: OwnedFd,
    registry: Registry,
    /// By their sockets.
    known: HashMap<RawFd, (OwnedFd, Known)>,
    next_serial: u32,
}

/// Is the broker, until the last process has gone. Returns at once, with success, if there is one already;
/// and in the process that has called it as soon as there is one: the broker itself is a child of it.
pub fn serve() -> io::Result<()> {
    let listener = match socket::listen(&name()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(()),
        result => result?,
    };
    let file = memory_file(c"ferroce-registry", registry::LENGTH)?;
    let mut broker = Broker {
        registry: Registry::map(file.as_fd())?,
        registry_file: file,
        known: HashMap::new(),
        next_serial: 1,
    };
    // SAFETY: This process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            leave_session(&[listener.as_raw_fd(), broker.registry_file.as_raw_fd()]);
            // Nobody is left to tell an error.
            let status = i32::from(broker.run(&listener).is_err());
            std::process::exit(status)
        }
        1.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the terminal, the folder, the files but `kept`, and the limits of whoever has started the broker.
fn leave_session(kept: &[RawFd]) {
    let open = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let open = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let others: Vec<RawFd> = open
        .filter(|file| *file > 2 && !kept.contains(file))
        .collect();
    for file in others {
        // SAFETY: Nobody uses it in this process. (The listing's own is closed already.)
        unsafe { libc::close(file) };
    }
    // Each process takes four descriptors.
    // SAFETY: The structure is there to be written, and read.
    unsafe {
        let mut limit: libc::rlimit = core::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
    // SAFETY: These have no preconditions but that the names are C strings.
    unsafe {
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..3 {
            libc::dup2(null, standard);
        }
        if null > 2 {
            libc::close(null);
        }
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_NAME, c"ferroce-broker".as_ptr());
    }
}

impl Broker {
    fn run(&mut self, listener: &OwnedFd) -> io::Result<()> {
        // Whoever has started it is about to connect.
        let mut patience = 5_000;
        loop {
            let mut polled = vec![poll(listener.as_raw_fd())];
            for (socket, (_, known)) in &self.known {
                polled.push(poll(*socket));
                if let Some(process) = &known.process {
                    polled.push(libc::pollfd {
                        // Told apart from the socket, whose number it bears.
                        revents: 0,
                        ..poll(process.as_raw_fd())
                    });
                }
            }
            let timeout = if self.known.is_empty() { patience } else { -1 };
            // SAFETY: The list is there to be written.
            let ready =
                unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
            if ready == 0 {
                return Ok(());
            }
            let is_ready = |file: RawFd| polled.iter().any(|p| p.fd == file && p.revents != 0);
            if is_ready(listener.as_raw_fd()) {
                self.accept(listener);
                patience = 0;
            }
            let sockets: Vec<RawFd> = self.known.keys().copied().collect();
            for socket in sockets {
                let has_ended = self.known.get(&socket).is_some_and(|(_, known)| {
                    let process = known.process.as_ref();
                    process.is_some_and(|process| is_ready(process.as_raw_fd()))
                });
                if has_ended || is_ready(socket) && self.answer(socket).is_err() {
                    self.forget(socket);
                }
            }
        }
    }

    fn accept(&mut self, listener: &OwnedFd) {
        let Ok(socket) = socket::accept(listener) else {
            // There is no descriptor left, perhaps, until somebody ends.
            std::thread::sleep(Duration::from_millis(10));
            return;
        };
        // SAFETY: It has no preconditions.
        let user = unsafe { libc::geteuid() };
        match socket::peer(&socket) {
            Ok((_, other)) if other == user => {
                let known = Known {
                    process: None,
                    joined: None,
                };
                self.known.insert(socket.as_raw_fd(), (socket, known));
            }
            // Another user's.
            _ => {}
        }
    }

    /// Answers a request. An error if the process is none to talk to any more.
    fn answer(&mut self, from: RawFd) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::EPROTO);
        let mut bytes = [0; 8];
        let (length, [segment, memory]) = socket::receive(from, &mut bytes)?;
        if length != bytes.len() {
            return Err(refused());
        }
        match Request::parse(bytes).ok_or_else(refused)? {
            Request::Stay => Ok(()),
            Request::Look => socket::send(
                from,
                &0_u32.to_le_bytes(),
                &[self.registry_file.as_raw_fd()],
            ),
            Request::Join => {
                let file = segment.ok_or_else(refused)?;
                let segment = Segment::attach(file.as_fd())?;
                let serial = self.take_serial();
                let (socket, known) = self.known.get_mut(&from).ok_or_else(refused)?;
                let Some(serial) = serial.filter(|_| known.joined.is_none()) else {
                    // No slot is left: an answer without a registry says so.
                    return socket::send(from, &0_u32.to_le_bytes(), &[]);
                };
                known.process = process_file(socket::peer(socket)?.0);
                known.joined = Some(Joined {
                    serial,
                    file,
                    segment,
                    memory,
                });
                self.registry.set(slot_of(serial), serial);
                let registry = self.registry_file.as_raw_fd();
                socket::send(from, &serial.to_le_bytes(), &[registry])
            }
            Request::Attach(serial) => {
                let joined = self.known.values().find_map(|(_, known)| {
                    known
                        .joined
                        .as_ref()
                        .filter(|joined| joined.serial == serial)
                });
                let mut files = Vec::new();
                if let Some(joined) = joined {
                    files.push(joined.file.as_raw_fd());
                    files.extend(joined.memory.as_ref().map(AsRawFd::as_raw_fd));
                }
                socket::send(from, &serial.to_le_bytes(), &files)
            }
        }
    }

    fn forget(&mut self, socket: RawFd) {
        let Some((_, known)) = self.known.remove(&socket) else {
            return;
        };
        if let Some(joined) = known.joined {
            self.registry.set(slot_of(joined.serial), 0);
            // What it was about to do, or to tell, others do themselves.
            for joined in self
                .known
                .values()
                .filter_map(|(_, known)| known.joined.as_ref())
            {
                joined
                    .segment
                    .header()
                    .deaths
                    .fetch_add(1, Ordering::Release);
                joined.segment.wake();
            }
        }
    }

    /// The next serial number whose slot is free.
    fn take_serial(&mut self) -> Option<u32> {
        for _ in 0..SLOTS {
            let serial = self.next_serial;
            self.next_serial = (serial + 1) & (u32::MAX >> 1);
            let slot = slot_of(serial);
            let is_usable = slot != 0 && slot as usize != SLOTS - 1;
            if is_usable && self.registry.serial_at(slot).is_none() {
                return Some(serial);
            }
        }
        None
    }
}

fn poll(file: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd: file,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// A file that becomes readable when the process ends, if the kernel has such.
fn process_file(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: It has no preconditions.
    let file = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let file = RawFd::try_from(file).ok().filter(|file| *file >= 0)?;
    // SAFETY: It is open, and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(file) })
}
