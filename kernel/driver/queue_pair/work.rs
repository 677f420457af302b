// SPDX-License-Identifier: GPL-2.0

//! Work on a queue pair that is done later, by a thread of the kernel's.

use super::{catch_up, QpRef};
use crate::{
    counters::HostCounter,
    rdma::workqueue::{self, WorkQueue},
};
use kernel::{
    alloc::Flags,
    impl_has_hr_timer, impl_has_work, new_spinlock, new_work,
    prelude::*,
    sync::{Arc, ArcBorrow, SpinLock},
    time::{
        hrtimer::{
            AbsoluteMode, ArcHrTimerHandle, HrTimer, HrTimerCallback, HrTimerCallbackContext,
            HrTimerPointer, HrTimerRestart,
        },
        Instant, Monotonic,
    },
    workqueue::{Work, WorkItem},
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
    work: Work<Deferred>,
    /// Has the work done at a time. Its resolution is that of the specification's timers (10 µs for
    /// the shortest RNR wait, IBTA table 45), which a tick of the kernel's clock is far from.
    #[pin]
    timer: HrTimer<Deferred>,
    /// That of the user context, or of the device for a kernel user.
    queue: Arc<WorkQueue>,
}

impl_has_work! {
    impl HasWork<Self> for Deferred { self.work }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Deferred {
        mode: AbsoluteMode<Monotonic>, field: self.timer
    }
}

/// A timer that runs. Dropping it cancels it, and waits for a callback that runs already.
pub(super) type Timer = ArcHrTimerHandle<Deferred>;

impl Deferred {
    /// For a queue pair whose work is done by `queue`.
    pub(super) fn new(queue: Arc<WorkQueue>, flags: Flags) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                qp <- new_spinlock!(None, "ferroce::Deferred::qp"),
                work <- new_work!("ferroce::Deferred::work"),
                timer <- HrTimer::new(),
                queue,
            }),
            flags,
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

    /// Has the queue pair looked at by a thread of the work queue: once more, if that is at it now.
    pub(crate) fn queue(self: &Arc<Self>) {
        // That it is queued already is as good.
        let _ = self.queue.enqueue(self.clone());
    }

    /// Has the queue pair looked at by a thread of the work queue, at a time. No other timer may run.
    pub(super) fn at(self: &Arc<Self>, time: Instant<Monotonic>) -> Timer {
        self.clone().start(time)
    }

    /// Ends what is pending, and waits for what is running. Nobody may ask for more, and no timer may
    /// run.
    pub(super) fn cancel(self: &Arc<Self>) {
        workqueue::cancel(self);
    }
}

impl WorkItem for Deferred {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let qp = this.qp.lock().clone();
        if let Some(qp) = qp {
            qp.device().counters.count_host(HostCounter::Deferred);
            catch_up(&qp);
        }
    }
}

impl HrTimerCallback for Deferred {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        _context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        // Not here, where nothing may sleep.
        Arc::from(this).queue();
        HrTimerRestart::NoRestart
    }
}
