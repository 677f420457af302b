// SPDX-License-Identifier: GPL-2.0

//! Calls of the handlers of kernel users.
//!
//! A driver must not call a handler from within a call of its own functions, whose caller may hold
//! the lock that the handler takes, nor the handlers of one completion queue twice at the same time
//! (Documentation/infiniband/core_locking.rst, Callbacks). So they are called from a bottom half of
//! their own.

use crate::rdma::SpinLockIrqSave;
use kernel::{
    bindings, impl_has_work, new_work,
    prelude::*,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        static_lock_class, Arc,
    },
    workqueue::{self, Work, WorkItem},
};

/// An object that has a user with handlers.
pub(crate) trait HasHandlers: AlwaysRefCounted + Send + Sync + 'static {
    /// Calls the handlers for a set of events, in numbers of the object's own.
    fn call(&self, events: u32);
}

/// The calls that an object owes its user.
#[pin_data]
pub(crate) struct Callbacks<T: HasHandlers> {
    #[pin]
    due: SpinLockIrqSave<Due<T>>,
    #[pin]
    work: Work<Callbacks<T>>,
}

struct Due<T: HasHandlers> {
    /// Who is destroyed waits for the calls that are due.
    object: Option<ARef<T>>,
    events: u32,
}

impl_has_work! {
    impl{T: HasHandlers} HasWork<Self> for Callbacks<T> { self.work }
}

impl<T: HasHandlers> Callbacks<T> {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let due = Due {
            object: None,
            events: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                due <- SpinLockIrqSave::new(due, c"ferroce::Callbacks::due", static_lock_class!()),
                work <- new_work!("ferroce::Callbacks::work"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has the handlers of `object`, which these belong to, called for an event. In any context.
    pub(crate) fn raise(self: &Arc<Self>, object: &T, event: u32) {
        let before = {
            let mut due = self.due.lock();
            due.events |= event;
            due.object.replace(ARef::from(object))
        };
        // Dropped with the lock released.
        drop(before);
        // If it is pending already, it finds this event as well.
        let _ = workqueue::system_bh_highpri().enqueue(self.clone());
    }

    /// Waits until the handlers have been called for all events so far.
    pub(crate) fn flush(&self) {
        let work = (&raw const self.work).cast_mut().cast();
        // SAFETY: The type is a transparent wrapper of the C structure, which is initialised.
        unsafe { bindings::flush_work(work) };
    }
}

impl<T: HasHandlers> WorkItem for Callbacks<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let (object, events) = {
            let mut due = this.due.lock();
            (due.object.take(), core::mem::take(&mut due.events))
        };
        if let Some(object) = object {
            object.call(events);
        }
    }
}
