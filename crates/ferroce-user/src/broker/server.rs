// SPDX-License-Identifier: MIT OR Apache-2.0
//! The broker itself.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use ferroce_core::user::Purpose;
use rustix::event::{epoll, Timespec};

use super::{name, Request};
use crate::cm::server::Server;
use crate::registry::{self, slot_of, Registry, SLOTS};
use crate::segment::{memory_file, Segment};
use crate::socket;

/// A process, or one that has not joined yet.
struct Known {
    socket: OwnedFd,
    /// Becomes readable when it ends. A child that it leaves behind may still have the socket.
    process: Option<OwnedFd>,
    /// By which the last one is known.
    process_token: u64,
    joined: Option<Joined>,
}

struct Joined {
    serial: u32,
    /// Of the segment.
    file: OwnedFd,
    segment: Segment,
    memory: Option<OwnedFd>,
}

/// What waits for descriptors. Each has a token that no other one ever has.
struct Broker {
    epoll: OwnedFd,
    next_token: u64,
    registry_file: OwnedFd,
    registry: Registry,
    known: HashMap<u64, Known>,
    /// Who the files of processes are of.
    processes: HashMap<u64, u64>,
    channels: Server,
    next_serial: u32,
}

/// Where processes with devices connect.
const DEVICES: u64 = 0;
/// Where channels of the connection manager do.
const CHANNELS: u64 = 1;

/// Is the broker, until the last process has gone. Returns at once, with success, if there is one already;
/// and in the process that has called it as soon as there is one: the broker itself is a child of it.
pub fn serve() -> io::Result<()> {
    // The process that has the second name has the first.
    let listener = match socket::listen(name(Purpose::Devices).bytes()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(()),
        result => result?,
    };
    let channels = socket::listen(name(Purpose::ConnectionManager).bytes())?;
    let file = memory_file(c"ferroce-registry", registry::LENGTH)?;
    // SAFETY: This process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let kept = [&listener, &channels, &file].map(AsRawFd::as_raw_fd);
            leave_session(&kept);
            // Nobody is left to tell an error.
            let served = Broker::new(file).and_then(|mut broker| broker.run(&listener, &channels));
            std::process::exit(served.is_err().into())
        }
        1.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the terminal, the folder, the files but `kept`, and the limits of the process that has started the
/// broker.
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

/// Has a descriptor be waited for.
fn watch(epoll: &OwnedFd, file: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token);
    Ok(epoll::add(epoll, file, data, epoll::EventFlags::IN)?)
}

impl Broker {
    fn new(registry_file: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            next_token: CHANNELS + 1,
            registry: Registry::map(registry_file.as_fd())?,
            registry_file,
            known: HashMap::new(),
            processes: HashMap::new(),
            channels: Server::default(),
            next_serial: 1,
        })
    }

    fn run(&mut self, listener: &OwnedFd, channels: &OwnedFd) -> io::Result<()> {
        watch(&self.epoll, listener.as_fd(), DEVICES)?;
        watch(&self.epoll, channels.as_fd(), CHANNELS)?;
        // The process that has started it is about to connect.
        let mut patience = Duration::from_secs(5);
        loop {
            let is_unused = self.known.is_empty() && self.channels.is_empty();
            let timeout = match is_unused {
                true => Some(patience),
                false => self.channels.timeout(),
            };
            let mut events = Vec::with_capacity(64);
            self.wait(&mut events, timeout)?;
            if is_unused && events.is_empty() {
                return Ok(());
            }
            for event in &events {
                match event.data.u64() {
                    DEVICES => {
                        if let Some((token, socket)) = self.accept(listener) {
                            self.add(token, socket);
                        }
                        patience = Duration::ZERO;
                    }
                    CHANNELS => {
                        if let Some((token, socket)) = self.accept(channels) {
                            self.channels.add(token, socket);
                        }
                        patience = Duration::ZERO;
                    }
                    token => self.serve(token),
                }
            }
            self.channels.ring();
        }
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, timeout: Option<Duration>) -> io::Result<()> {
        // Whole milliseconds, which all kernels know, and not too early.
        let rounded = timeout.map(|timeout| timeout.as_millis() + u128::from(!timeout.is_zero()));
        let timeout = rounded.map(|millis| {
            let time = Duration::from_millis(millis.min(1 << 30) as u64);
            Timespec::try_from(time).unwrap_or_default()
        });
        let buffer = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            waited => Ok(waited.map(drop)?),
        }
    }

    /// A descriptor has something to read.
    fn serve(&mut self, token: u64) {
        if self.channels.has(token) {
            if self.channels.receive(token).is_err() {
                self.channels.remove(token);
            }
        } else if let Some(known) = self.processes.get(&token).copied() {
            self.forget(known);
        } else if self.known.contains_key(&token) && self.answer(token).is_err() {
            self.forget(token);
        }
    }

    /// The next connection, of this user's.
    fn accept(&mut self, listener: &OwnedFd) -> Option<(u64, OwnedFd)> {
        let Ok(socket) = socket::accept(listener) else {
            // There is no descriptor left, perhaps, until somebody ends.
            std::thread::sleep(Duration::from_millis(10));
            return None;
        };
        // SAFETY: It has no preconditions.
        let user = unsafe { libc::geteuid() };
        let (_, other) = socket::peer(&socket).ok()?;
        let token = self.next_token;
        self.next_token += 1;
        let is_watched = other == user && watch(&self.epoll, socket.as_fd(), token).is_ok();
        is_watched.then_some((token, socket))
    }

    fn add(&mut self, token: u64, socket: OwnedFd) {
        let known = Known {
            socket,
            process: None,
            process_token: 0,
            joined: None,
        };
        self.known.insert(token, known);
    }

    /// Answers a request. An error if the process is none to talk to any more.
    fn answer(&mut self, token: u64) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::EPROTO);
        let known = self.known.get(&token).ok_or_else(refused)?;
        let from = known.socket.as_raw_fd();
        let mut bytes = [0; 8];
        let (length, [segment, memory]) = match socket::receive_now(from, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            received => received?,
        };
        if length != bytes.len() {
            return Err(refused());
        }
        match Request::parse(bytes).ok_or_else(refused)? {
            Request::Stay => Ok(()),
            Request::Look => socket::send_now(
                from,
                &0_u32.to_le_bytes(),
                &[self.registry_file.as_raw_fd()],
            ),
            Request::Join => {
                let file = segment.ok_or_else(refused)?;
                let segment = Segment::attach(file.as_fd())?;
                let serial = self.take_serial();
                let new_token = self.next_token;
                let known = self.known.get_mut(&token).ok_or_else(refused)?;
                let Some(serial) = serial.filter(|_| known.joined.is_none()) else {
                    // No slot is left: an answer without a registry says so.
                    return socket::send_now(from, &0_u32.to_le_bytes(), &[]);
                };
                known.process = process_file(socket::peer(&known.socket)?.0);
                if let Some(process) = &known.process {
                    self.next_token += 1;
                    watch(&self.epoll, process.as_fd(), new_token)?;
                    self.processes.insert(new_token, token);
                    known.process_token = new_token;
                }
                known.joined = Some(Joined {
                    serial,
                    file,
                    segment,
                    memory,
                });
                self.registry.set(slot_of(serial), serial);
                let registry = self.registry_file.as_raw_fd();
                socket::send_now(from, &serial.to_le_bytes(), &[registry])
            }
            Request::Attach(serial) => {
                let joined = self.known.values().find_map(|known| {
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
                socket::send_now(from, &serial.to_le_bytes(), &files)
            }
        }
    }

    fn forget(&mut self, token: u64) {
        let Some(known) = self.known.remove(&token) else {
            return;
        };
        self.processes.remove(&known.process_token);
        if let Some(joined) = known.joined {
            self.registry.set(slot_of(joined.serial), 0);
            // What it was about to do, or to tell, others do themselves.
            for joined in self
                .known
                .values()
                .filter_map(|known| known.joined.as_ref())
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

/// A file that becomes readable when the process ends, if the kernel has such.
fn process_file(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: It has no preconditions.
    let file = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let file = RawFd::try_from(file).ok().filter(|file| *file >= 0)?;
    // SAFETY: It is open, and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(file) })
}
