// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device in this process, in the kernel's place: what libibverbs' commands (`ibv_cmd_*`) do under
//! `ferroce run`, where there is no kernel module.
//!
//! Each function here has the name and the contract of the command that it stands for: it fills in what
//! libibverbs' own does, and returns zero or an errno.

use core::ffi::{c_int, c_void};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ferroce_user::device::Context;
use ferroce_user::process::PROGRAM;
use ferroce_user::{Errno, Result};
use libc::{pthread_cond_t, pthread_mutex_t};

use crate::abi::library::Common;

mod cq;
mod device;
mod device_memory;
mod memory;
mod qp;
mod srq;

pub use cq::{create_cq_ex, device_queue};
#[cfg(feature = "abi59")]
pub use device::query_port_speed;
pub use device::{close, get_context};
pub use device_memory::alloc_dm;
pub use qp::{bells, create_qp_ex2};

/// Whether the device is in this process.
pub fn is_here() -> bool {
    static IS_HERE: OnceLock<bool> = OnceLock::new();
    *IS_HERE.get_or_init(|| !cfg!(test) && std::env::var_os(PROGRAM).is_some())
}

/// The commands that are the same in every private ABI, done here. `library` has those that are not
/// commands.
pub fn commands(library: Common) -> Common {
    // SAFETY: The functions are there as long as this library, which libibverbs does not unload.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
    Common {
        ibv_cmd_query_context: device::query_context,
        ibv_cmd_query_device_any: device::query_device_any,
        ibv_cmd_query_port: device::query_port,
        ibv_cmd_alloc_pd: memory::alloc_pd,
        ibv_cmd_dealloc_pd: memory::dealloc_pd,
        ibv_cmd_reg_mr: memory::reg_mr,
        ibv_cmd_rereg_mr: memory::rereg_mr,
        ibv_cmd_dereg_mr: memory::dereg_mr,
        ibv_cmd_query_mr: memory::query_mr,
        ibv_cmd_advise_mr: memory::advise_mr,
        ibv_cmd_reg_dmabuf_mr: memory::reg_dmabuf_mr,
        ibv_cmd_free_dm: device_memory::free_dm,
        ibv_cmd_reg_dm_mr: device_memory::reg_dm_mr,
        ibv_cmd_alloc_mw: memory::alloc_mw,
        ibv_cmd_dealloc_mw: memory::dealloc_mw,
        ibv_cmd_resize_cq: cq::resize_cq,
        ibv_cmd_req_notify_cq: cq::req_notify_cq,
        ibv_cmd_destroy_cq: cq::destroy_cq,
        ibv_cmd_create_srq: srq::create_srq,
        ibv_cmd_modify_srq: srq::modify_srq,
        ibv_cmd_query_srq: srq::query_srq,
        ibv_cmd_destroy_srq: srq::destroy_srq,
        ibv_cmd_query_qp: qp::query_qp,
        ibv_cmd_modify_qp: qp::modify_qp,
        ibv_cmd_destroy_qp: qp::destroy_qp,
        ibv_cmd_post_send: qp::post_send,
        ibv_cmd_post_recv: qp::post_recv,
        ibv_cmd_post_srq_recv: srq::post_srq_recv,
        ibv_cmd_create_ah: memory::create_ah,
        ibv_cmd_destroy_ah: memory::destroy_ah,
        ibv_cmd_attach_mcast: qp::attach_mcast,
        ibv_cmd_detach_mcast: qp::detach_mcast,
        ..library
    }
}

/// The device's objects by the addresses of C's.
struct Objects<T>(Mutex<Option<HashMap<usize, Arc<T>>>>);

impl<T> Objects<T> {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn put<C>(&self, object: *mut C, device: Arc<T>) {
        lock(&self.0)
            .get_or_insert_default()
            .insert(object.addr(), device);
    }

    fn get<C>(&self, object: *mut C) -> Result<Arc<T>> {
        let objects = lock(&self.0);
        let found = objects
            .as_ref()
            .and_then(|objects| objects.get(&object.addr()));
        found.cloned().ok_or(Errno(libc::EINVAL))
    }

    fn take<C>(&self, object: *mut C) {
        if let Some(objects) = &mut *lock(&self.0) {
            objects.remove(&object.addr());
        }
    }
}

static CONTEXTS: Objects<Context> = Objects::new();

thread_local! {
    /// The tables, while this thread forks.
    static HELD: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Executes what was posted, and takes all locks before a fork: no other thread is to have one, which the child would wait for in vain.
extern "C" fn before_fork() {
    fn hold<T: 'static>(held: &mut Vec<Box<dyn Any>>, table: &'static Mutex<T>) {
        held.push(Box::new(lock(table)));
    }
    ferroce_user::process::flush();
    HELD.with_borrow_mut(|held| {
        hold(held, &CONTEXTS.0);
        hold(held, &memory::PDS.0);
        hold(held, &memory::DOMAINS.0);
        hold(held, &device_memory::MEMORIES.0);
        hold(held, &device_memory::REGIONS.0);
        hold(held, &cq::CQS.0);
        hold(held, &cq::CHANNELS);
        hold(held, &srq::SRQS.0);
        hold(held, &qp::QPS.0);
    });
}

/// In the parent, and in the child, whose only thread is a copy of the one that has taken them.
extern "C" fn after_fork() {
    HELD.with_borrow_mut(Vec::clear);
}

/// Takes the lock of a table, in which no panic leaves anything half done.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a command.
fn status(result: Result<()>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(Errno(errno)) => errno,
    }
}

/// Writes what the driver adds to an answer, as far as there is room.
///
/// # Safety
/// There is room for `size` bytes, of which `core` are the command's own.
unsafe fn respond<T: Copy>(resp: *mut c_void, size: usize, core: usize, driver: T) {
    if size >= core + size_of::<T>() {
        // SAFETY: By this function's contract.
        unsafe { resp.byte_add(core).cast::<T>().write_unaligned(driver) };
    }
}

/// Waits until the program has acknowledged so many events, as libibverbs' commands do that destroy an
/// object.
///
/// # Safety
/// The mutex, the condition variable and the counts are those of an object of libibverbs'.
unsafe fn wait_for_events(
    mutex: *mut pthread_mutex_t,
    cond: *mut pthread_cond_t,
    counts: &[(*const u32, u32)],
) {
    // SAFETY: By this function's contract.
    unsafe {
        libc::pthread_mutex_lock(mutex);
        while counts
            .iter()
            .any(|(count, told)| count.read_volatile() != *told)
        {
            libc::pthread_cond_wait(cond, mutex);
        }
        libc::pthread_mutex_unlock(mutex);
    }
}
