// SPDX-License-Identifier: GPL-2.0

//! Completion queues.

use super::{
    callback::{Callbacks, HasHandlers},
    counters::HostCounter,
    device::Ferroce,
    kernel_user::Polling,
    quota::{Counted, Kind},
    rings::{errno, CompletionQueue, PollQueue, Rings},
};
use crate::{
    net::SpinLockBh,
    rdma::{self, cq, eopnotsupp, CqFlags, Details, NewCq, NotifyFlags, UserCall, WcBuffer},
    ring::{CqGeometry, Cqe, Notify},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc},
};

/// The driver's data for completion queues.
#[pin_data]
pub(crate) struct Cq {
    #[pin]
    queue: SpinLockBh<CompletionQueue>,
    /// The user's side, if that is the kernel.
    user: Option<Pin<KBox<KernelUser>>>,
    _counted: Counted,
}

#[pin_data]
pub(crate) struct KernelUser {
    #[pin]
    pub(crate) polling: Polling,
    callbacks: Arc<Callbacks<rdma::Cq<Cq>>>,
}

/// A completion queue as others hold on to it.
pub(crate) type CqRef = ARef<rdma::Cq<Cq>>;

#[vtable]
impl cq::Operations for Cq {
    type Device = Ferroce;

    fn create(
        cq: &mut NewCq<'_, Self>,
        attr: &cq::CqInitAttr,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result<impl PinInit<Self, Error>> {
        let flags = CqFlags::from_bits(attr.flags);
        if !CqFlags::TIMESTAMP_COMPLETION.contains(flags) {
            return Err(eopnotsupp());
        }
        let counted = cq.device().quota.add(Kind::Cq)?;
        let timestamps = flags.contains(CqFlags::TIMESTAMP_COMPLETION);
        let (rings, queue) = make(attr.cqe, timestamps, call)?;
        let size = queue.producer.geometry();
        cq.set_entries(size.entries());
        let user = match call {
            Some(_) => None,
            None => Some(KernelUser::new(PollQueue::new(&rings, size)?)?),
        };
        Ok(try_pin_init!(Cq {
            queue <- SpinLockBh::new(queue, c"ferroce::Cq::queue", static_lock_class!()),
            user,
            _counted: counted,
        }? Error))
    }

    fn pre_destroy(cq: &rdma::Cq<Self>) {
        if let Some(user) = &cq.user {
            // Nothing completes here any more, so no more handlers are to be called.
            user.callbacks.flush();
        }
    }

    fn poll(cq: &rdma::Cq<Self>, completions: &mut WcBuffer<'_, Ferroce>) -> Result {
        cq.polling().ok_or(EINVAL)?.poll(completions);
        Ok(())
    }

    fn request_notify(cq: &rdma::Cq<Self>, flags: NotifyFlags) -> Result<bool> {
        let Some(polling) = cq.polling() else {
            // A process has asked by itself, and says that there are completions it has not taken.
            let is_due = cq.queue.lock().notify_waiting();
            if is_due {
                raise(cq);
            }
            return Ok(false);
        };
        Ok(polling.arm(flags))
    }

    fn resize(cq: &rdma::Cq<Self>, entries: u32, call: &UserCall<'_, Ferroce>) -> Result<u32> {
        let timestamps = cq.queue.lock().timestamps;
        let (_, new) = make(entries, timestamps, Some(call))?;
        let entries = new.producer.geometry().entries();
        let (unused, fits) = cq.queue.lock().resize(new);
        // Dropped with the lock released: that frees pages.
        drop(unused);
        // More completions wait than there is room for: `ibv_resize_cq(3)` has `EINVAL`.
        fits.then_some(entries).ok_or(EINVAL)
    }

    fn details(cq: &rdma::Cq<Self>, details: &mut Details<'_>) -> Result {
        let (at, failed, timestamps) = {
            let queue = cq.queue.lock();
            let producer = &queue.producer;
            (producer.positions(), producer.is_failed(), queue.timestamps)
        };
        details
            .u32(c"producer", at.producer)?
            .u32(c"consumer", at.consumer)?
            .string(
                c"armed",
                match at.armed {
                    None => c"no",
                    Some(Notify::Solicited) => c"solicited",
                    Some(Notify::Next) => c"next",
                },
            )?
            .u32(c"overrun", failed.into())?
            .u32(c"timestamps", timestamps.into())?;
        Ok(())
    }
}

impl Cq {
    /// The user's side, if that is the kernel.
    pub(crate) fn polling(&self) -> Option<&Polling> {
        self.user.as_ref().map(|user| &user.polling)
    }
}

impl KernelUser {
    fn new(queue: PollQueue) -> Result<Pin<KBox<Self>>> {
        let callbacks = Callbacks::new()?;
        KBox::pin_init(
            try_pin_init!(Self {
                polling <- Polling::new(queue),
                callbacks,
            }? Error),
            GFP_KERNEL,
        )
    }
}

/// Makes a queue of at least so many entries, and tells the process of it.
fn make(
    entries: u32,
    timestamps: bool,
    call: Option<&UserCall<'_, Ferroce>>,
) -> Result<(Arc<Rings>, CompletionQueue)> {
    let size = CqGeometry::new(entries).map_err(|e| errno(e.errno()))?;
    let rings = Rings::new(size.len(), call)?;
    if let Some(call) = call {
        call.respond(&uapi::CqResponse {
            ring: rings.mapping(),
            entries: size.entries(),
            reserved: 0,
        })?;
    }
    let queue = Rings::completion(&rings, size, timestamps)?;
    Ok((rings, queue))
}

/// What a user is told.
#[derive(Clone, Copy)]
enum Event {
    /// There is a completion.
    Completion = 1 << 0,
    /// One was lost.
    Overrun = 1 << 1,
}

/// Raises the event that was asked for.
fn raise(cq: &rdma::Cq<Cq>) {
    cq.device()
        .counters
        .count_host(HostCounter::CompletionEvents);
    tell(cq, Event::Completion);
}

fn tell(cq: &rdma::Cq<Cq>, event: Event) {
    match &cq.user {
        Some(user) => user.callbacks.raise(cq, event as u32),
        None => cq.call(event as u32),
    }
}

impl HasHandlers for rdma::Cq<Cq> {
    fn call(&self, events: u32) {
        if events & Event::Completion as u32 != 0 {
            self.notify();
        }
        if events & Event::Overrun as u32 != 0 {
            self.dispatch_error();
        }
    }
}

/// Delivers a completion, and tells who waits for it.
pub(crate) fn complete(cq: &rdma::Cq<Cq>, cqe: &Cqe, solicited: bool) {
    let completed = cq.queue.lock().complete(cqe, solicited, rdma::clock);
    if completed.notify {
        raise(cq);
    }
    if completed.is_lost {
        cq.device().counters.count_host(HostCounter::CqOverflow);
    }
    if completed.has_overrun {
        let entries = cq.entries();
        cq.warn(fmt!(
            "a completion queue of {entries} entries has overrun: completions are lost"
        ));
        tell(cq, Event::Overrun);
    }
}
