// SPDX-License-Identifier: GPL-2.0

//! The timers of a connection.

use crate::{
    counters::HostCounter,
    net::SpinLockBh,
    queue_pair::{Qp, QpRef},
    rdma,
};
use kernel::{
    impl_has_hr_timer,
    prelude::*,
    sync::{static_lock_class, Arc, ArcBorrow},
    time::{
        hrtimer::{
            AbsoluteSoftMode, ArcHrTimerHandle, HasHrTimer, HrTimer, HrTimerCallback,
            HrTimerCallbackContext, HrTimerPointer, HrTimerRestart,
        },
        Delta, Instant, Monotonic,
    },
};

/// What the kernel's timer is in.
#[pin_data]
struct Clock {
    #[pin]
    qp: SpinLockBh<Option<QpRef>>,
    expired: fn(&rdma::Qp<Qp>),
    #[pin]
    timer: HrTimer<Clock>,
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Clock {
        mode: AbsoluteSoftMode<Monotonic>, field: self.timer
    }
}

impl HrTimerCallback for Clock {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        _context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        let qp = this.qp.lock().clone();
        if let Some(qp) = qp {
            let began = rdma::clock();
            (this.expired)(&qp);
            qp.device()
                .counters
                .took(HostCounter::LongestBottomHalf, began);
        }
        HrTimerRestart::NoRestart
    }
}

/// A timer that has a function called, in a bottom half.
///
/// To drop it waits for that call: it must not be done under a lock that the call takes.
pub(super) struct Alarm {
    clock: Arc<Clock>,
    /// Stops the timer when it is dropped.
    _handle: ArcHrTimerHandle<Clock>,
    /// What the timer is set to, in nanoseconds of [`rdma::clock`].
    due: Option<u64>,
}

/// As good as never.
const A_YEAR: Delta = Delta::from_secs(365 * 24 * 60 * 60);

impl Alarm {
    /// Has `expired` called with `qp`, once [`Self::set`] says when.
    pub(super) fn new(qp: QpRef, expired: fn(&rdma::Qp<Qp>)) -> Result<Self> {
        let flags = qp.flags();
        let clock = Arc::pin_init(
            pin_init!(Clock {
                qp <- SpinLockBh::new(Some(qp), c"ferroce::Clock::qp", static_lock_class!()),
                expired,
                timer <- HrTimer::new(),
            }),
            flags,
        )?;
        let handle = clock.clone().start(Instant::now() + A_YEAR);
        Ok(Self {
            clock,
            _handle: handle,
            due: None,
        })
    }

    /// Has the call come at a time, or earlier: then there may be nothing to do.
    pub(super) fn set(&mut self, at: u64) {
        if self.due.is_some_and(|due| due <= at) {
            return;
        }
        self.due = Some(at);
        let left = at.saturating_sub(rdma::clock());
        let at = Instant::<Monotonic>::now() + Delta::from_nanos(left as i64);
        // SAFETY: A valid object, which lives until the handle has stopped the timer.
        unsafe { <Clock as HasHrTimer<Clock>>::start(Arc::as_ptr(&self.clock), at) };
    }

    /// Notes that the call has come.
    pub(super) fn rang(&mut self) {
        self.due = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Before the timer is stopped, so that a call that comes until then finds nothing to do.
        let qp = self.clock.qp.lock().take();
        // Dropped with the lock released.
        drop(qp);
    }
}
