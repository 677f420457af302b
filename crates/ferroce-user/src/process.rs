// SPDX-License-Identifier: MIT OR Apache-2.0
//! This process, as one of those that share the card.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};

use ferroce_core::uapi;
use parking_lot::{Mutex, RwLock};

use crate::ah::Addresses;
use crate::broker::Client;
use crate::cq::Cq;
use crate::helper::{self, Helper};
use crate::lock::Owner;
use crate::mapping::Mapping;
use crate::peer::{wait_for_users, Peer};
use crate::qp::Qp;
use crate::registry::{slot_of, Registry, SLOTS};
use crate::rings::RingSpace;
use crate::segment::{Segment, CQS, KEYS, QPS, SRQS};
use crate::srq::Srq;
use crate::table::Table;
use crate::{Errno, Result};

/// This process.
pub struct Process {
    registry: Registry,
    broker: Client,
    /// As others have it.
    pub own: Arc<Peer>,
    /// The others, by their slots.
    peers: RwLock<HashMap<u32, Arc<Peer>>>,
    pub(crate) rings: Mutex<RingSpace>,
    /// Who waits for threads that use objects has this.
    waits: Mutex<()>,
    pub(crate) helper: Helper,
    /// How many queue pairs have requests that were left to be executed soon.
    pub(crate) deferring: AtomicU32,
    pub(crate) qps: Mutex<Table<Arc<Qp>>>,
    pub(crate) cqs: Mutex<Table<Arc<Cq>>>,
    pub(crate) srqs: Mutex<Table<Arc<Srq>>>,
    pub(crate) keys: Mutex<Table<()>>,
    pub(crate) addresses: Addresses,
}

/// Memory that is zero again in a child, which is no process of the card before it opens a device itself.
struct Page {
    /// Whether a thread makes the process known.
    is_joining: AtomicU32,
    process: AtomicPtr<Process>,
}

fn page() -> Result<&'static Page> {
    static MAPPING: OnceLock<Option<Mapping>> = OnceLock::new();
    let mapping = MAPPING.get_or_init(|| Mapping::wiped_on_fork(size_of::<Page>()).ok());
    let mapping = mapping.as_ref().ok_or(Errno(libc::ENOMEM))?;
    // SAFETY: The mapping is there for ever, begins at a page, and is longer than this; all zero will do.
    Ok(unsafe { mapping.base().cast().as_ref() })
}

/// Whether a process is this one, not a parent whose memory this is a copy of.
fn current() -> Option<&'static Process> {
    let process = page().ok()?.process.load(Ordering::Acquire);
    // SAFETY: Whatever is there was leaked by `join`.
    unsafe { process.as_ref() }
}

pub use ferroce_core::user::PROGRAM;

/// How long to wait for the table of queue pairs, which others have for some instructions.
const FLUSH_LIMIT: Duration = Duration::from_millis(10);

/// Executes what this process has left of requests: it is about to fork, or to exit.
pub extern "C" fn flush() {
    if let Some(process) = current() {
        process.flush_all();
    }
}

impl Process {
    /// This process. The first call makes it known to the others.
    pub fn join() -> Result<&'static Self> {
        let page = page()?;
        while page.is_joining.swap(1, Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
        let process = match current() {
            Some(process) => Ok(process),
            None => Self::make(),
        };
        if let Ok(process) = process {
            page.process
                .store(ptr::from_ref(process).cast_mut(), Ordering::Release);
        }
        page.is_joining.store(0, Ordering::Release);
        process
    }

    fn make() -> Result<&'static Self> {
        let program = std::env::var_os(PROGRAM).ok_or(Errno(libc::ENODEV))?;
        // Where Yama lets nobody but a parent reach a process (scope 1), this lets all of the user's.
        // SAFETY: It has no preconditions. Without Yama it is an error, and not needed.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        let (segment, file) = Segment::create()?;
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let memory = memory.ok();
        let (client, serial, registry) = Client::join(
            &program,
            file.as_raw_fd(),
            memory.as_ref().map(AsRawFd::as_raw_fd),
        )?;
        let base = slot_of(serial) * QPS as u32;
        let process = Self {
            registry,
            broker: client,
            own: Arc::new(Peer::own(serial, segment, memory.map(Into::into))?),
            peers: RwLock::default(),
            rings: Mutex::default(),
            waits: Mutex::default(),
            helper: Helper::default(),
            deferring: AtomicU32::new(0),
            qps: Mutex::new(crate::table::new(base, QPS)),
            cqs: Mutex::new(crate::table::new(0, CQS)),
            srqs: Mutex::new(crate::table::new(0, SRQS)),
            keys: Mutex::new(crate::table::new(0, KEYS)),
            addresses: Addresses::default(),
        };
        let process = Box::leak(Box::new(process));
        helper::start(process)?;
        // If there is no room for another function, what a program posts last and does not wait for is lost.
        // SAFETY: The function is there as long as this library, which nobody unloads.
        unsafe { libc::atexit(flush) };
        Ok(process)
    }

    /// `EACCES` in a child, which has nothing of its parent's but a copy.
    pub fn check_current(&self) -> Result<()> {
        match self.is_current() {
            true => Ok(()),
            false => Err(Errno(libc::EACCES)),
        }
    }

    /// Whether it is this process, and not one that this is a child of.
    pub fn is_current(&self) -> bool {
        current().is_some_and(|process| ptr::eq(process, self))
    }

    /// Executes what was left of the requests of a queue pair.
    pub(crate) fn flush(&self, qpn: u32) {
        let qp = self.qps.lock().get(qpn).cloned();
        if let Some(qp) = qp {
            qp.flush();
        }
    }

    /// Executes what was left of the requests of all queue pairs. At exit a thread may have the table and not run
    /// any more, and is not waited for.
    pub(crate) fn flush_all(&self) {
        if self.deferring.load(Ordering::Relaxed) == 0 {
            return;
        }
        let qps = self.qps.try_lock_for(FLUSH_LIMIT);
        let qps: Vec<Arc<Qp>> = qps.map_or_else(Vec::new, |qps| qps.objects().cloned().collect());
        qps.iter().for_each(|qp| qp.flush());
    }

    /// The process that has queue pairs of a number like this one.
    pub(crate) fn peer_of(&self, qpn: u32) -> Option<Arc<Peer>> {
        let serial = self.registry.serial_at(qpn / QPS as u32)?;
        self.peer(serial)
    }

    /// The memory of rings that `Rings` has made for this process, for the plug-in to use.
    pub fn lend(&self, rings: &uapi::Mapping) -> Result<(NonNull<u8>, usize)> {
        let length = usize::try_from(rings.length).unwrap_or(usize::MAX);
        let base = self.own.segment.ring(rings.offset, length);
        Ok((base.ok_or(Errno(libc::EINVAL))?, length))
    }

    /// The address handles.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Whether a process still has queue pairs of a number like this one.
    pub(crate) fn has(&self, peer: &Peer, qpn: u32) -> bool {
        self.registry.serial_at(qpn / QPS as u32) == Some(peer.serial)
    }

    /// A process that is alive.
    pub(crate) fn peer(&self, serial: u32) -> Option<Arc<Peer>> {
        if serial == self.own.serial {
            return Some(self.own.clone());
        }
        let slot = slot_of(serial);
        let known = || {
            self.peers
                .read()
                .get(&slot)
                .filter(|peer| peer.serial == serial)
                .cloned()
        };
        if let Some(peer) = known() {
            return Some(peer);
        }
        // One thread at a time: it begins to count this process's threads there.
        let broker = self.broker.lock();
        if let Some(peer) = known() {
            return Some(peer);
        }
        let (segment, memory) = broker.attach(serial).ok()?;
        let peer = Arc::new(Peer::attach(serial, &segment, memory, self.own.serial).ok()?);
        self.peers.write().insert(slot, peer.clone());
        Some(peer)
    }

    /// All processes that are alive, this one too.
    pub(crate) fn everybody(&self) -> impl Iterator<Item = Arc<Peer>> {
        self.registry.alive().filter_map(|serial| self.peer(serial))
    }

    /// Gives up what it has of processes that have ended.
    pub(crate) fn forget_dead(&self) {
        let is_alive = |peer: &Arc<Peer>| self.registry.is_alive(peer.serial);
        self.peers.write().retain(|_, peer| is_alive(peer));
    }

    /// Nobody of a process that has ended uses objects of this one any more: the next process in its slot may never
    /// have to do with this one.
    pub(crate) fn forget_users(&self) {
        let has_ended = |slot| self.registry.serial_at(slot).is_none();
        self.own.forget_users(|slot| has_ended(slot as u32));
    }

    /// Whether there is a process of the number that a peer has had.
    fn has_process(&self, serial: u32) -> bool {
        let peer = self.peers.read().get(&slot_of(serial)).cloned();
        let pid = peer.map(|peer| peer.segment.header().pid.load(Ordering::Relaxed));
        let pid = pid.and_then(|pid| libc::pid_t::try_from(pid).ok());
        // SAFETY: It sends no signal.
        pid.is_some_and(|pid| unsafe { libc::kill(pid, 0) } == 0)
    }

    /// Waits until no thread, of whichever process, uses an object of this one any more that was changed
    /// before this.
    pub(crate) fn wait_for_users(&self) {
        let _guard = self.waits.lock();
        let is_alive = |slot: usize| {
            let serial = self.registry.serial_at(slot as u32);
            serial.is_some_and(|serial| serial == self.own.serial || self.is_alive(serial))
        };
        wait_for_users(&self.own, is_alive);
    }
}

impl Owner for Process {
    fn serial(&self) -> u32 {
        self.own.serial
    }

    fn is_alive(&self, serial: u32) -> bool {
        // Without the broker nobody says who has ended: then it is looked for.
        let is_there = || !self.broker.has_ended() || self.has_process(serial);
        self.registry.is_alive(serial) && is_there()
    }
}

const _: () = assert!(SLOTS * QPS == 1 << 24, "QP numbers have 24 bits");
