// SPDX-License-Identifier: GPL-2.0

//! Work on a queue pair that is done later, by a thread of the kernel's.

use super::{flush_receives, kick, QpRef};
use kernel::{
    bindings, impl_has_delayed_work, impl_has_work, new_delayed_work, new_spinlock, new_work,
    prelude::*,
    sync::{Arc, SpinLock},
    time::{msecs_to_jiffies, Delta},
    workqueue::{self, DelayedWork, Work, WorkItem},
};

/// A queue pair's deferred work.
///
/// It is apart from the queue pair, so that work that is still pending does not keep that from
/// going.
#[pin_data]
pub(crate) struct Deferred {
    #[pin]
    qp: SpinLock<Option<QpRef>>,
    #[pin]
    soon: Work<Deferred, 0>,
    #[pin]
    later: DelayedWork<Deferred, 1>,
}

impl_has_work! {
    impl HasWork<Self, 0> for Deferred { self.soon }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Deferred { self.later }
}

impl Deferred {
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                qp <- new_spinlock!(None, "ferroce::Deferred::qp"),
                soon <- new_work!("ferroce::Deferred::soon"),
                later <- new_delayed_work!("ferroce::Deferred::later"),
            }),
            GFP_KERNEL,
        )
    }

    /// Sets the queue pair.
    pub(super) fn attach(&self, qp: QpRef) {
        *self.qp.lock() = Some(qp);
    }

    /// Gives the queue pair up: what is pending finds nothing to do.
    pub(super) fn detach(&self) {
        let qp = self.qp.lock().take();
        // Dropped with the lock released.
        drop(qp);
    }

    /// Has the send queue looked at by another thread.
    pub(super) fn soon(self: &Arc<Self>) {
        // That it is pending already is as good.
        let _ = workqueue::system_highpri().enqueue::<_, 0>(self.clone());
    }

    /// Has the send queue looked at after a time, or a little later.
    pub(super) fn after(self: &Arc<Self>, delay: Delta) {
        let millis = (delay.as_nanos() as u64).div_ceil(1_000_000);
        // One more: the current tick has begun already.
        let jiffies = msecs_to_jiffies(millis.try_into().unwrap_or(u32::MAX)) + 1;
        let _ = workqueue::system_highpri().enqueue_delayed::<_, 1>(self.clone(), jiffies);
    }

    /// Ends what is pending, and waits for what is running. Nobody may ask for more.
    pub(super) fn cancel(self: &Arc<Self>) {
        let soon = (&raw const self.soon).cast_mut().cast();
        let later = (&raw const self.later).cast_mut().cast();
        // SAFETY: Both types are transparent wrappers of the C structures, which are initialised and
        // stay so while there is a reference. What was pending holds a reference that its function
        // would have taken over; as that will not run, it is dropped here.
        unsafe {
            if bindings::cancel_work_sync(soon) {
                drop(Arc::from_raw(Arc::as_ptr(self)));
            }
            if bindings::cancel_delayed_work_sync(later) {
                drop(Arc::from_raw(Arc::as_ptr(self)));
            }
        }
    }

    fn run(&self) {
        let qp = self.qp.lock().clone();
        if let Some(qp) = qp {
            flush_receives(&qp);
            kick(&qp);
        }
    }
}

impl WorkItem<0> for Deferred {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.run();
    }
}

impl WorkItem<1> for Deferred {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.run();
    }
}
