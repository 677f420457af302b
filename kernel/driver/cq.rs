// SPDX-License-Identifier: GPL-2.0

//! Completion queues.

use super::{
    counters::Host,
    device::Ferroce,
    rings::{errno, CompletionQueue, Rings},
};
use crate::{
    rdma::{self, cq, eopnotsupp, CqFlags, Details, NewCq, UserCall},
    ring::{CqError, CqGeometry, Cqe, Notify},
    uapi,
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{aref::ARef, Arc, SpinLock},
};

/// The driver's data for completion queues.
#[pin_data]
pub(crate) struct Cq {
    /// Whether completions tell when they were.
    timestamps: bool,
    #[pin]
    queue: SpinLock<CompletionQueue>,
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
        let call = call.ok_or(eopnotsupp())?;
        let flags = CqFlags::from_bits(attr.flags);
        if !CqFlags::TIMESTAMP_COMPLETION.contains(flags) {
            return Err(eopnotsupp());
        }
        let queue = make(attr.cqe, call)?;
        cq.set_entries(queue.producer.geometry().entries());
        Ok(try_pin_init!(Cq {
            timestamps: flags.contains(CqFlags::TIMESTAMP_COMPLETION),
            queue <- new_spinlock!(queue, "ferroce::Cq::queue"),
        }? Error))
    }

    fn resize(cq: &rdma::Cq<Self>, entries: u32, call: &UserCall<'_, Ferroce>) -> Result<u32> {
        let mut new = make(entries, call)?;
        let entries = new.producer.geometry().entries();
        let before = {
            let mut queue = cq.queue.lock();
            // More completions wait than there is room for: `ibv_resize_cq(3)` has `EINVAL`.
            queue
                .producer
                .move_to(&mut new.producer)
                .map_err(|_| EINVAL)?;
            core::mem::replace(&mut *queue, new)
        };
        // Dropped with the lock released: that frees pages.
        drop(before);
        Ok(entries)
    }

    fn details(cq: &rdma::Cq<Self>, details: &mut Details<'_>) -> Result {
        let (at, failed) = {
            let producer = &cq.queue.lock().producer;
            (producer.positions(), producer.is_failed())
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
            .u32(c"timestamps", cq.timestamps.into())?;
        Ok(())
    }
}

/// Makes a queue of at least so many entries, and tells the process of it.
fn make(entries: u32, call: &UserCall<'_, Ferroce>) -> Result<CompletionQueue> {
    let size = CqGeometry::new(entries).map_err(|e| errno(e.errno()))?;
    let rings = Arc::new(Rings::new(size.len(), call)?, GFP_KERNEL)?;
    call.respond(&uapi::CqResponse {
        ring: rings.mapping(),
        entries: size.entries(),
        reserved: 0,
    })?;
    Rings::completion(&rings, size)
}

/// Delivers a completion, and tells who waits for it.
pub(crate) fn complete(cq: &rdma::Cq<Cq>, cqe: &Cqe, solicited: bool) {
    let (result, notify) = {
        let mut cqe = *cqe;
        let mut queue = cq.queue.lock();
        if cq.timestamps {
            // With the lock held, so that they are in the order of the completions.
            cqe.timestamp = rdma::clock();
        }
        let result = queue.producer.push(&cqe, solicited);
        (result, queue.producer.notify())
    };
    match result {
        Ok(()) if notify => {
            cq.device().counters.count_host(Host::CompletionEvents);
            cq.notify();
        }
        Ok(()) => {}
        Err(error) => {
            cq.device().counters.count_host(Host::CqOverflow);
            // IBTA 11.6.3.1: told once; what comes later is lost as well.
            if error == CqError::Overrun {
                cq.dispatch_error();
            }
        }
    }
}
