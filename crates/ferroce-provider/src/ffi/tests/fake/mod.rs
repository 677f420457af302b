// SPDX-License-Identifier: MIT OR Apache-2.0
//! A libibverbs and a driver for tests.
//!
//! The device file is a file in memory: rings are parts of it, which the verbs map, and which the test
//! maps a second time to be the driver. What is written to it, as doorbells are, lands far behind the
//! rings.

use core::cell::Cell;
use core::ffi::c_int;
use core::ptr;

use ferroce_core::ring::{
    CqGeometry, Executor, Producer, QpLayout, RecvQueue, SendQueue, WqGeometry,
};
use ferroce_core::uapi;

use crate::abi::library::Library;
use crate::abi::*;
use crate::ffi::context_ops;
use crate::mapping::Mapping;

mod commands;

pub use commands::{errno, Opening, OPENING, REGISTERED};

/// Puts the functions of this module in libibverbs' place.
pub fn put_library() {
    Library::put(commands::library);
}

/// Where doorbells go in the file.
const DOORBELLS: u64 = 1 << 30;

/// An open device.
#[repr(C)]
pub struct Device {
    // The verbs have a pointer to it.
    context: IbvContext,
    next_offset: Cell<u64>,
    next_handle: Cell<u32>,
    /// What the driver answered last.
    pub last: Cell<Answer>,
    /// Objects there are.
    pub objects: Cell<u32>,
    /// What the driver does next instead of what it should.
    pub trouble: Cell<Trouble>,
    /// The state that the kernel says a queue pair is in.
    pub state: Cell<u32>,
    /// How often it was asked by a system call to raise an event (`ibv_cmd_req_notify_cq`).
    pub asked: Cell<u32>,
}

#[derive(Clone, Copy, Default)]
pub struct Answer {
    pub cq: uapi::CqResponse,
    pub qp: uapi::QpResponse,
    pub srq: uapi::SrqResponse,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Fails with this errno.
    Fail(c_int),
    /// Fails with this errno in the second of two commands.
    FailLater(c_int),
    /// Describes queues that cannot be.
    Nonsense,
}

impl Device {
    pub fn open() -> Box<Self> {
        put_library();
        // SAFETY: The name is a C string.
        let fd = unsafe { libc::memfd_create(c"device".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: The file is open.
        unsafe {
            assert_eq!(libc::ftruncate(fd, DOORBELLS.cast_signed()), 0);
            let end = libc::lseek(fd, DOORBELLS.cast_signed(), libc::SEEK_SET);
            assert_eq!(end, DOORBELLS.cast_signed());
        }
        // SAFETY: All bytes zero are a valid context.
        let mut context: IbvContext = unsafe { core::mem::zeroed() };
        context.cmd_fd = fd;
        Box::new(Self {
            context,
            next_offset: Cell::new(0),
            next_handle: Cell::new(100),
            last: Cell::default(),
            objects: Cell::new(0),
            trouble: Cell::new(Trouble::None),
            state: Cell::new(0),
            asked: Cell::new(0),
        })
    }

    pub fn context(&self) -> *mut IbvContext {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The verbs, as libibverbs gets them.
    pub fn ops() -> ContextOps {
        context_ops(Library::get())
    }

    /// How often the doorbell has rung.
    pub fn doorbells(&self) -> u64 {
        // SAFETY: The file is open.
        let end = unsafe { libc::lseek(self.context.cmd_fd, 0, libc::SEEK_CUR) };
        (end.cast_unsigned() - DOORBELLS) / size_of::<DoorbellCommand>() as u64
    }

    /// What has rung it the n-th time, counted from zero.
    pub fn doorbell(&self, n: u64) -> DoorbellCommand {
        let mut command = core::mem::MaybeUninit::<DoorbellCommand>::uninit();
        let len = size_of::<DoorbellCommand>();
        let offset = DOORBELLS + n * len as u64;
        // SAFETY: The file is open and the structure there to be written; it is all integers.
        unsafe {
            let read = libc::pread(
                self.context.cmd_fd,
                command.as_mut_ptr().cast(),
                len,
                offset.cast_signed(),
            );
            assert_eq!(read, len.cast_signed());
            command.assume_init()
        }
    }

    /// From now on the file cannot be written to.
    pub fn disconnect(&self) {
        // SAFETY: The name is a C string; the file is open, and so is what replaces it.
        unsafe {
            let read_only = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            assert!(read_only >= 0);
            assert!(libc::dup2(read_only, self.context.cmd_fd) >= 0);
            libc::close(read_only);
        }
    }

    /// The driver's side of the send queue of the queue pair made last.
    pub fn sends(&self) -> Driver<Executor<SendQueue>> {
        let answer = self.last.get().qp;
        let memory = self.map(&answer.rings);
        let geometry = WqGeometry::from_descriptor(answer.send).unwrap();
        // SAFETY: It is mapped, and no one else in this test has this mapping.
        let side = unsafe { Executor::new(memory.base(), memory.len(), geometry) };
        Driver {
            side: side.unwrap(),
            _memory: memory,
        }
    }

    /// The driver's side of its receive queue.
    pub fn receives(&self) -> Driver<Executor<RecvQueue>> {
        let answer = self.last.get().qp;
        let send = WqGeometry::from_descriptor(answer.send).unwrap();
        let geometry = WqGeometry::from_descriptor(answer.recv).unwrap();
        let offset = QpLayout::new(send, Some(geometry)).recv_offset().unwrap();
        let memory = self.map(&answer.rings);
        // SAFETY: As above; the offset is within the mapping.
        let side =
            unsafe { Executor::new(memory.base().add(offset), memory.len() - offset, geometry) };
        Driver {
            side: side.unwrap(),
            _memory: memory,
        }
    }

    /// The driver's side of the shared receive queue made or resized last.
    pub fn shared_receives(&self) -> Driver<Executor<RecvQueue>> {
        let answer = self.last.get().srq;
        let memory = self.map(&answer.ring);
        let geometry = WqGeometry::from_descriptor(answer.recv).unwrap();
        // SAFETY: As above.
        let side = unsafe { Executor::new(memory.base(), memory.len(), geometry) };
        Driver {
            side: side.unwrap(),
            _memory: memory,
        }
    }

    /// The driver's side of the completion queue made or resized last.
    pub fn completions(&self) -> Driver<Producer> {
        let answer = self.last.get().cq;
        let memory = self.map(&answer.ring);
        let geometry = CqGeometry::new(answer.entries).unwrap();
        // SAFETY: As above.
        let side = unsafe { Producer::new(memory.base(), memory.len(), geometry) };
        Driver {
            side: side.unwrap(),
            _memory: memory,
        }
    }

    fn map(&self, offered: &uapi::Mapping) -> Mapping {
        Mapping::new(self.context.cmd_fd, offered).unwrap()
    }

    /// Room for a ring.
    fn offer(&self, len: usize) -> uapi::Mapping {
        let length = (len as u64).next_multiple_of(4096);
        let offset = self.next_offset.get();
        self.next_offset.set(offset + length);
        uapi::Mapping { offset, length }
    }

    fn handle(&self) -> u32 {
        let handle = self.next_handle.get();
        self.next_handle.set(handle + 1);
        handle
    }

    fn answer(&self, change: impl FnOnce(&mut Answer)) {
        let mut answer = self.last.get();
        change(&mut answer);
        self.last.set(answer);
    }

    /// A new object's handle, or the errno of the trouble there is.
    fn create(&self) -> Result<u32, c_int> {
        if let Trouble::Fail(errno) = self.trouble.get() {
            return Err(errno);
        }
        self.objects.set(self.objects.get() + 1);
        Ok(self.handle())
    }

    fn destroy(&self) -> c_int {
        if let Trouble::Fail(errno) = self.trouble.get() {
            return errno;
        }
        self.objects.set(self.objects.get() - 1);
        0
    }

    fn nonsense(&self) -> bool {
        self.trouble.get() == Trouble::Nonsense
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: It is open, and nobody uses it any more.
        unsafe { libc::close(self.context.cmd_fd) };
    }
}

/// One of the driver's sides of a ring, and its memory.
pub struct Driver<S> {
    pub side: S,
    _memory: Mapping,
}
