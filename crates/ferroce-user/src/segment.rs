// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that a process lends to its peers: its rings, and what they look at of its objects.
//!
//! All of it is atomic numbers, at the same place in each segment, without pointers: any bytes in it are
//! survived. What belongs together is changed with a `Lock` held.

use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use ferroce_core::ring::{
    Producer, Queue, WqDescriptor, WqGeometry, EXECUTOR_WORDS, MAX_RECV_STRIDE,
};
use ferroce_core::user::VERSION;
use ferroce_device::{attrs, region, window};

use crate::beside::Slot;
pub use crate::lock::Lock;
use crate::mapping::Mapping;
use crate::registry::SLOTS;
use crate::table::random;
use crate::users::Counts;

/// Numbers of a plain type of the device's, in shared memory.
#[derive(Debug)]
#[repr(transparent)]
pub struct Words<const N: usize>([AtomicU32; N]);

impl<const N: usize> Words<N> {
    /// Reads them, each for itself.
    pub fn load(&self) -> [u32; N] {
        self.0.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    /// Writes them, each for itself.
    pub fn store(&self, words: [u32; N]) {
        for (place, word) in self.0.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }
}

/// How many queue pairs a process has at most: their numbers are its slot in the registry, and this many
/// below it.
pub const QPS: usize = 1 << 14;
/// How many completion queues.
pub const CQS: usize = 1 << 14;
/// How many shared receive queues.
pub const SRQS: usize = 1 << 12;
/// How many regions and windows.
pub const KEYS: usize = 1 << 18;
/// How many memberships of queue pairs in multicast groups.
pub const MEMBERS: usize = 1 << 8;

/// What a segment begins with that this release understands.
const MAGIC: u64 = u64::from_be_bytes(*b"ferroce\0") + VERSION as u64;

/// The beginning of a segment.
#[repr(C)]
pub struct Header {
    magic: AtomicU64,
    /// A number that no other process has: peers find out by it how they reach the memory of this one.
    cookie: AtomicU64,
    /// Where the process itself has that number.
    cookie_at: AtomicU64,
    /// Its number, as it has it itself.
    pub pid: AtomicU32,
    /// Its number in the registry.
    pub serial: AtomicU32,
    /// Changes when the helper thread has something to do, which sleeps on it.
    pub wake: AtomicU32,
    /// Whether that sleeps.
    pub sleeps: AtomicU32,
    /// Which of the two counts of `users` threads enter by.
    pub phase: AtomicU32,
    /// How many queue pairs are members of groups.
    pub members: AtomicU32,
    /// How many other processes have ended.
    pub deaths: AtomicU32,
    /// How often keys have changed.
    pub keys_changes: AtomicU32,
    /// Who changes keys has this.
    pub keys_lock: Lock,
    /// How many of `key_changes` count.
    pub key_changes_due: AtomicU32,
    /// Who does an atomic operation has this.
    pub atomics_lock: Lock,
    /// Who changes the members of groups has this.
    pub groups_lock: Lock,
    _reserved: [AtomicU32; 12],
    /// How many threads of each peer use this process's objects: see `Entered`.
    pub users: [Counts; SLOTS],
    /// Which objects have something to do for the helper thread: one bit each.
    pub dirty_qps: [AtomicU64; QPS / 64],
    /// As above.
    pub dirty_cqs: [AtomicU64; CQS / 64],
    /// As above.
    pub dirty_srqs: [AtomicU64; SRQS / 64],
    /// Which queue pairs are in which multicast groups.
    pub groups: [Member; MEMBERS],
    /// What a peer is about to write to key records, for the case that it ends in the middle.
    pub key_changes: [KeyChange; 2],
}

/// What is about to be at a key record.
#[repr(C)]
pub struct KeyChange {
    /// The number of the key.
    pub number: AtomicU32,
    /// As in the record.
    pub kind: AtomicU32,
    /// As in the record.
    pub words: Words<{ max(region::WORDS, window::WORDS) }>,
}

/// A queue pair in a multicast group.
#[repr(C)]
pub struct Member {
    /// The group's GID.
    pub gid: Words<4>,
    /// Zero if there is none here.
    pub qpn: AtomicU32,
    /// How often it was attached.
    pub times: AtomicU32,
}

/// Where the ring of a work queue is.
#[repr(C)]
pub struct RingRecord {
    /// In bytes from the beginning of the segment.
    pub offset: AtomicU64,
    /// As [`WqDescriptor`] has it.
    pub entries: AtomicU32,
    /// As above.
    pub stride: AtomicU32,
}

impl RingRecord {
    /// Says where it is, and its size.
    pub fn set<Q: Queue>(&self, offset: u64, geometry: WqGeometry<Q>) {
        let descriptor = geometry.descriptor();
        self.offset.store(offset, Ordering::Relaxed);
        self.entries.store(descriptor.entries, Ordering::Relaxed);
        self.stride.store(descriptor.stride, Ordering::Relaxed);
    }

    /// Says that there is none.
    pub fn clear(&self) {
        self.entries.store(0, Ordering::Relaxed);
    }

    /// Its size, if that makes sense.
    pub fn geometry<Q: Queue>(&self) -> Option<WqGeometry<Q>> {
        let descriptor = WqDescriptor {
            entries: self.entries.load(Ordering::Relaxed),
            stride: self.stride.load(Ordering::Relaxed),
        };
        WqGeometry::from_descriptor(descriptor).ok()
    }
}

/// A receive queue.
#[repr(C)]
pub struct QueueRecord {
    /// Its ring.
    pub ring: RingRecord,
    /// Of the executor.
    pub executor: Words<EXECUTOR_WORDS>,
}

/// A queue pair. What peers write with each message is in the first cache line, and what its own process reads
/// to send is not.
#[repr(C, align(64))]
pub struct QpRecord {
    /// Who looks at the rest has this, if it is to belong together.
    pub lock: Lock,
    /// What the helper thread is to do.
    pub work: AtomicU32,
    /// How many bytes of a receive were given back: the next one.
    pub given_back: AtomicU32,
    /// From where a receive is about to be taken, as [`taking`] has it.
    pub taking: AtomicU32,
    /// The serial number of the process that has taken a receive and not completed it; zero if none has.
    pub taken_by: AtomicU32,
    /// A process has ended that had the lock: the queue pair is to be put into error.
    pub is_broken: AtomicU32,
    /// The `wr_id` of the receive that was taken.
    pub taken_wr_id: AtomicU64,
    /// Its own receive queue.
    pub receives: QueueRecord,
    /// How often the attributes have changed.
    pub changes: AtomicU32,
    /// Zero if there is none here.
    pub number: AtomicU32,
    /// The transport, as Linux numbers it.
    pub qp_type: AtomicU32,
    /// Its protection domain.
    pub pd: AtomicU32,
    /// Its receive completion queue.
    pub recv_cq: AtomicU32,
    /// Its shared receive queue, from one on; zero if it has its own.
    pub srq: AtomicU32,
    /// The GUID of its device.
    pub device: AtomicU64,
    /// Its attributes.
    pub attrs: Words<{ attrs::WORDS }>,
    /// The receive that was given back.
    pub given_back_entry: Words<{ MAX_RECV_STRIDE / 4 }>,
    /// Its send queue, for others to look at.
    pub sends: RingRecord,
    /// How often the oldest request was tried in vain, for others to look at: in the low byte since there was
    /// no receive, in the one above since nobody answered.
    pub tries: AtomicU32,
}

const _: () = assert!(core::mem::offset_of!(QpRecord, changes) == 64);

/// From where a receive is about to be taken.
pub mod taking {
    /// None is.
    pub const NONE: u32 = 0;
    /// From the queue pair's own queue.
    pub const OWN_QUEUE: u32 = 1;
    /// It was given back before.
    pub const GIVEN_BACK: u32 = 2;
}

/// A completion queue. What peers write with each completion is in the first cache line, and what its own
/// process reads when it polls is not.
#[repr(C, align(64))]
pub struct CqRecord {
    /// Who completes has this.
    pub lock: Lock,
    /// What the helper thread is to do.
    pub work: AtomicU32,
    /// Of the producer.
    pub producer: Words<{ Producer::WORDS }>,
    /// The number of the queue pair whose receive is about to be completed; zero if none is.
    pub completing: AtomicU32,
    _reserved: [AtomicU32; 7],
    /// Where its ring is, in bytes from the beginning of the segment.
    pub offset: AtomicU64,
    /// Where its slots for data are, in bytes from the beginning of the segment; zero if it has none.
    pub slots: AtomicU64,
    /// Its entries, zero if there is none here.
    pub entries: AtomicU32,
    /// Whether completions tell when they were written.
    pub timestamps: AtomicU32,
    /// Whether its completions may raise events.
    pub has_channel: AtomicU32,
}

const _: () = assert!(core::mem::offset_of!(CqRecord, offset) == 64);

/// A shared receive queue.
#[repr(C, align(64))]
pub struct SrqRecord {
    /// Who takes a receive has this.
    pub lock: Lock,
    /// What the helper thread is to do.
    pub work: AtomicU32,
    /// An event is due when there are fewer receives than this; zero if not.
    pub limit: AtomicU32,
    /// The number of the queue pair for which a receive is about to be taken; zero if none is.
    pub taking: AtomicU32,
    /// The queue.
    pub queue: QueueRecord,
}

/// What a key names.
#[repr(C, align(64))]
pub struct KeyRecord {
    /// See [`kind`].
    pub kind: AtomicU32,
    _reserved: AtomicU32,
    /// The address in the process of a region's memory.
    pub address: AtomicU64,
    /// Of the region or the window.
    pub words: Words<{ max(region::WORDS, window::WORDS) }>,
}

const fn max(one: usize, other: usize) -> usize {
    if one > other {
        one
    } else {
        other
    }
}

/// What is at a [`KeyRecord`].
pub mod kind {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// A region.
    pub const REGION: u32 = 1;
    /// A window.
    pub const WINDOW: u32 = 2;
}

/// Where the tables are.
#[repr(C, align(4096))]
struct Tables {
    header: Header,
    qps: [QpRecord; QPS],
    cqs: [CqRecord; CQS],
    srqs: [SrqRecord; SRQS],
    keys: [KeyRecord; KEYS],
}

/// Where the rings begin, in bytes.
pub const RINGS: usize = size_of::<Tables>();
/// Bytes of a segment. Only what is used is there.
pub const LENGTH: usize = 1 << 34;

/// A segment, of this process or of a peer.
pub struct Segment {
    mapping: Mapping,
}

impl Segment {
    /// Makes one for this process.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let file = memory_file(c"ferroce", LENGTH)?;
        let segment = Self::map(file.as_raw_fd())?;
        let header = segment.header();
        let at = (&raw const header.cookie).addr() as u64;
        header.cookie.store(random(), Ordering::Relaxed);
        header.cookie_at.store(at, Ordering::Relaxed);
        header.pid.store(std::process::id(), Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok((segment, file))
    }

    /// Maps that of a peer.
    pub fn attach(file: BorrowedFd<'_>) -> io::Result<Self> {
        check(file, LENGTH)?;
        let segment = Self::map(file.as_raw_fd())?;
        if segment.header().magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT));
        }
        Ok(segment)
    }

    fn map(file: i32) -> io::Result<Self> {
        let mapping = Mapping::shared(file, LENGTH)?;
        Ok(Self { mapping })
    }

    fn tables(&self) -> &Tables {
        // SAFETY: The mapping is longer than this, its file cannot become shorter, and it begins at a page.
        // All of it is atomic numbers, for which any bytes will do.
        unsafe { self.mapping.base().cast().as_ref() }
    }

    /// Its beginning.
    pub fn header(&self) -> &Header {
        &self.tables().header
    }

    /// An address in the process whose segment it is, and the number there.
    pub fn probe(&self) -> (u64, u64) {
        let header = self.header();
        let [at, cookie] =
            [&header.cookie_at, &header.cookie].map(|word| word.load(Ordering::Relaxed));
        (at, cookie)
    }

    /// A queue pair.
    pub fn qp(&self, index: u32) -> Option<&QpRecord> {
        self.tables().qps.get(index as usize)
    }

    /// A completion queue.
    pub fn cq(&self, index: u32) -> Option<&CqRecord> {
        self.tables().cqs.get(index as usize)
    }

    /// A shared receive queue.
    pub fn srq(&self, index: u32) -> Option<&SrqRecord> {
        self.tables().srqs.get(index as usize)
    }

    /// What a number of a key names.
    pub fn key(&self, number: u32) -> Option<&KeyRecord> {
        self.tables().keys.get(number as usize)
    }

    /// The memory of a ring, if it is in the segment.
    pub fn ring(&self, offset: u64, length: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        if offset < RINGS || end > LENGTH {
            return None;
        }
        // SAFETY: It is within the mapping.
        Some(unsafe { self.mapping.base().add(offset) })
    }

    /// The slots for data of a completion queue with so many entries.
    pub fn slots(&self, offset: u64, entries: u32) -> Option<&[Slot]> {
        let entries = entries as usize;
        let base = self.ring(offset, entries.checked_mul(size_of::<Slot>())?)?;
        if !offset.is_multiple_of(align_of::<Slot>() as u64) {
            return None;
        }
        // SAFETY: It is within the mapping, and aligned. All of it is atomic numbers, for which any bytes will
        // do.
        Some(unsafe { core::slice::from_raw_parts(base.cast().as_ptr(), entries) })
    }

    /// Gives the memory of a ring back: it is zero when it is used again.
    pub fn clear(&self, offset: usize, length: usize) {
        if let Some(start) = self.ring(offset as u64, length) {
            // SAFETY: The ring is this process's own, and nobody uses it any more. If it fails the memory
            // stays as it is, and is cleared when a ring is made of it.
            unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_REMOVE) };
        }
    }

    /// Has the helper thread of the process look.
    pub fn wake(&self) {
        let header = self.header();
        // The helper says that it sleeps, and then looks at this number once more.
        header.wake.fetch_add(1, Ordering::SeqCst);
        if header.sleeps.load(Ordering::SeqCst) != 0 {
            crate::futex::wake(&header.wake, 1);
        }
    }
}

/// Makes a file in memory of a fixed length, which nobody can make shorter.
pub fn memory_file(name: &core::ffi::CStr, length: usize) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: The name is a C string.
    let file = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: It is open, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    let length = libc::off_t::try_from(length).unwrap_or(libc::off_t::MAX);
    // SAFETY: The file is open. Where files may not become that long (`RLIMIT_FSIZE`) the kernel sends a signal
    // too, which is for this thread, and is taken back before it is let through.
    let done = unsafe {
        let (mut set, mut before) = (core::mem::zeroed(), core::mem::zeroed());
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
        let is_long = libc::ftruncate(file.as_raw_fd(), length) == 0;
        if !is_long {
            let now = core::mem::zeroed();
            libc::sigtimedwait(&raw const set, core::ptr::null_mut(), &raw const now);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, core::ptr::null_mut());
        is_long && libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) == 0
    };
    match done {
        true => Ok(file),
        false => Err(io::Error::from_raw_os_error(libc::EFBIG)),
    }
}

/// Checks that a file is one that [`memory_file`] has made.
pub fn check(file: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    // SAFETY: The file is open, and the structure is there to be written.
    let (seals, size) = unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        let failed = libc::fstat(file.as_raw_fd(), &raw mut stat) != 0;
        let seals = libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS);
        (seals, if failed { 0 } else { stat.st_size })
    };
    let is_fixed = seals >= 0 && seals & libc::F_SEAL_SHRINK != 0;
    if !is_fixed || usize::try_from(size).ok() != Some(length) {
        return Err(io::Error::from_raw_os_error(libc::EPROTO));
    }
    Ok(())
}
