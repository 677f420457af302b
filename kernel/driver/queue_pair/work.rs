// SPDX-License-Identifier: GPL-2.0

//! Work on a queue pair that is done later, by a thread of the kernel's.

use super::{catch_up, QpRef};
use crate::counters::Host;
use kernel::{
    alloc::Flags,
    bindings, impl_has_hr_timer, impl_has_work, new_spinlock, new_work,
    prelude::*,
    sync::{Arc, ArcBorrow, SpinLock},
    time::{
        hrtimer::{
            AbsoluteMode, ArcHrTimerHandle, HrTimer, HrTimerCallback, HrTimerCallbackContext,
            HrTimerPointer, HrTimerRestart,
        },
        Instant, Monotonic,
    },
    workqueue::{self, Work, WorkItem},
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
    work: Work<Deferred, SOON>,
    /// What [`Self::work`] leaves. It is another, since each is always for the same work queue: only of
    /// these does the kernel know whether they run.
    #[pin]
    rest: Work<Deferred, LATER>,
    /// Has the work done at a time. Its resolution is that of the specification's timers (10 µs for
    /// the shortest RNR wait, IBTA table 45), which a tick of the kernel's clock is far from.
    #[pin]
    timer: HrTimer<Deferred>,
}

const SOON: u64 = 0;
const LATER: u64 = 1;

impl_has_work! {
    impl HasWork<Self, SOON> for Deferred { self.work }
    impl HasWork<Self, LATER> for Deferred { self.rest }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Deferred {
        mode: AbsoluteMode<Monotonic>, field: self.timer
    }
}

/// A timer that runs; dropped, it does not any more. Whoever drops it may wait for it to have run.
pub(super) type Timer = ArcHrTimerHandle<Deferred>;

impl Deferred {
    pub(super) fn new(flags: Flags) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                qp <- new_spinlock!(None, "ferroce::Deferred::qp"),
                work <- new_work!("ferroce::Deferred::work"),
                rest <- new_work!("ferroce::Deferred::rest"),
                timer <- HrTimer::new(),
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

    /// Has the send queue looked at by another thread, at once.
    pub(crate) fn soon(self: &Arc<Self>) {
        // That it is pending already is as good.
        let _ = workqueue::system_highpri().enqueue::<_, SOON>(self.clone());
    }

    /// Has the rest of what took long done by another thread, of ordinary priority, when there is time.
    pub(super) fn later(self: &Arc<Self>) {
        // As above.
        let _ = workqueue::system_unbound().enqueue::<_, LATER>(self.clone());
    }

    /// Has the send queue looked at by another thread, at a time. No other timer may run.
    pub(super) fn at(self: &Arc<Self>, time: Instant<Monotonic>) -> Timer {
        self.clone().start(time)
    }

    /// Ends what is pending, and waits for what is running. Nobody may ask for more, and no timer may
    /// run.
    pub(super) fn cancel(self: &Arc<Self>) {
        let works = [
            (&raw const self.work).cast_mut().cast(),
            (&raw const self.rest).cast_mut().cast(),
        ];
        for work in works {
            // SAFETY: The type is a transparent wrapper of the C structure, which is initialised and
            // stays so while there is a reference. What was pending holds a reference that its function
            // would have taken over; as that will not run, it is dropped here.
            unsafe {
                if bindings::cancel_work_sync(work) {
                    drop(Arc::from_raw(Arc::as_ptr(self)));
                }
            }
        }
    }

    fn catch_up(&self) {
        let qp = self.qp.lock().clone();
        if let Some(qp) = qp {
            qp.device().counters.count_host(Host::Deferred);
            catch_up(&qp);
        }
    }
}

impl WorkItem<SOON> for Deferred {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.catch_up();
    }
}

impl WorkItem<LATER> for Deferred {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.catch_up();
    }
}

impl HrTimerCallback for Deferred {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        _context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        // Not here, where nothing may sleep.
        Arc::from(this).soon();
        HrTimerRestart::NoRestart
    }
}
