// SPDX-License-Identifier: GPL-2.0

//! Threads of the kernel's, and the CPUs that they run on.
//!
//! In the kernel tree this would be `rust/kernel/kthread.rs`.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use super::bindings;
use core::{ops::Deref, ptr::NonNull};
use kernel::{
    bindings::task_struct,
    cpu::{nr_cpu_ids, CpuId},
    error::from_err_ptr,
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, Mutex},
};

/// What a thread does each time that it is woken.
pub trait Run: Send + Sync + 'static {
    /// Called in the thread, which sleeps when this returns.
    fn run(&self);
}

/// A thread that sleeps until it is woken. Dropped, it ends.
///
/// # Invariants
///
/// `task` is the thread that runs [`main`] with `shared`, and this has a reference to it.
pub struct Thread<T: Run> {
    task: NonNull<task_struct>,
    shared: Arc<Shared<T>>,
}

#[pin_data]
struct Shared<T> {
    #[pin]
    state: Mutex<State>,
    #[pin]
    changed: CondVar,
    #[pin]
    data: T,
}

#[derive(Default)]
struct State {
    is_woken: bool,
    is_running: bool,
    ends: bool,
}

// SAFETY: A task may be woken and stopped by any thread.
unsafe impl<T: Run> Send for Thread<T> {}
// SAFETY: As above.
unsafe impl<T: Run> Sync for Thread<T> {}

impl<T: Run> Thread<T> {
    /// Makes a thread.
    pub fn new(name: &'static CStr, data: impl PinInit<T, Error>) -> Result<Self> {
        let shared = Arc::pin_init(
            try_pin_init!(Shared {
                state <- new_mutex!(State::default(), "rdma::Thread::state"),
                changed <- new_condvar!("rdma::Thread::changed"),
                data <- data,
            }? Error),
            GFP_KERNEL,
        )?;
        let data: *const Shared<T> = &*shared;
        // SAFETY: `main` gets what it asks for, which exists until the thread has ended.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(main::<T>),
                data.cast_mut().cast(),
                kernel::bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: The thread exists; it waits to be woken for the first time. With the reference the
        // task stays there even when the thread has ended.
        unsafe {
            kernel::bindings::get_task_struct(task);
            kernel::bindings::wake_up_process(task);
        }
        // INVARIANT: Made above.
        Ok(Self {
            task: NonNull::new(task).ok_or(EINVAL)?,
            shared,
        })
    }

    /// Wakes the thread on a CPU. If it runs it stays where it is, and runs once more.
    pub fn wake_on(&self, cpu: CpuId) {
        let mut state = self.shared.state.lock();
        if !state.is_running {
            // If the CPU is gone, the thread runs on any.
            // SAFETY: By the type invariants, and the number is that of a CPU.
            unsafe {
                let mask = bindings::rdma_helper_cpumask_of(cpu.as_u32());
                bindings::set_cpus_allowed_ptr(self.task.as_ptr(), mask);
            }
        }
        state.is_woken = true;
        self.shared.changed.notify_one();
    }
}

impl<T: Run> Deref for Thread<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.shared.data
    }
}

/// # Safety
///
/// `data` must be a `Shared<T>` that exists until the thread has ended.
unsafe extern "C" fn main<T: Run>(data: *mut c_void) -> c_int {
    // SAFETY: By the function's requirements.
    let shared = unsafe { &*data.cast::<Shared<T>>() };
    let mut state = shared.state.lock();
    while !state.ends {
        if !core::mem::take(&mut state.is_woken) {
            state.is_running = false;
            let _ = shared.changed.wait_interruptible(&mut state);
            continue;
        }
        state.is_running = true;
        drop(state);
        shared.data.run();
        state = shared.state.lock();
    }
    0
}

impl<T: Run> Drop for Thread<T> {
    fn drop(&mut self) {
        self.shared.state.lock().ends = true;
        self.shared.changed.notify_one();
        // SAFETY: By the type invariants; it waits for the thread's end, and drops the reference.
        unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
    }
}

/// Whether nothing but this thread wants the CPU that it runs on. A hint, for threads that would take
/// the time of a CPU that is idle otherwise.
pub fn has_cpu_to_itself() -> bool {
    // SAFETY: Any thread may call it.
    unsafe { bindings::single_task_running() }
}

/// Lets those run first that want the CPU as well.
pub fn give_way() {
    // SAFETY: This thread may sleep, and so it may stop for a while.
    unsafe { kernel::bindings::yield_() };
}

/// Whether a thread that works for the calling one may take the time of a CPU: the calling thread may run there
/// itself, by its affinity and its cpuset, and the administrator has not set the CPU apart from the scheduler's
/// balancing (`isolcpus`, isolated cpusets) or from the kernel's own work (`nohz_full`).
pub fn may_work_on(cpu: CpuId) -> bool {
    let cpu = cpu.as_u32();
    // SAFETY: The number is that of a CPU, and any thread may call these.
    unsafe {
        bindings::rdma_helper_current_may_run_on(cpu)
            && bindings::rdma_helper_housekeeping_domain(cpu)
            && bindings::rdma_helper_housekeeping_kernel_noise(cpu)
    }
}

/// A CPU other than this one that a thread [may work on](may_work_on) for the calling one, if there is one:
/// `after` says how many to pass over.
pub fn another_cpu(after: usize) -> Option<CpuId> {
    let here = CpuId::current();
    // After the last CPU comes the first.
    // SAFETY: Any number will do.
    let next = |cpu: u32| unsafe { bindings::rdma_helper_next_active_cpu(cpu) };
    let others = || {
        core::iter::successors(Some(next(here.as_u32())), move |cpu| Some(next(*cpu)))
            // If this one is about to go offline, it is none of the active ones.
            .take(nr_cpu_ids() as usize)
            .take_while(|cpu| *cpu != here.as_u32())
            .filter_map(CpuId::from_u32)
            .filter(|cpu| may_work_on(*cpu))
    };
    let count = others().count();
    others().nth(after.checked_rem(count)?)
}

/// The tick of the kernel's clock.
pub fn jiffies() -> usize {
    // SAFETY: A number that the kernel counts up.
    unsafe { (&raw const kernel::bindings::jiffies).read_volatile() }
}

/// How many ticks there are in a second.
pub fn jiffies_per_second() -> usize {
    kernel::time::msecs_to_jiffies(1000)
}
