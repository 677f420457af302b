// SPDX-License-Identifier: GPL-2.0

//! Shared receive queues.

use super::{
    callback::Callbacks,
    device::Ferroce,
    kernel_user::Receives,
    queue_pair::{Looked, ReceiveQueue},
    quota::{Counted, Kind},
    rings::{errno, PostQueue, Rings},
};
use crate::{
    local::Receive,
    net::SpinLockBh,
    rdma::{
        self, eopnotsupp,
        srq::{self, SrqAttr, SrqEvent},
        wr::RecvWrs,
        Details, NewSrq, SrqAttrMask, UserCall,
    },
    ring::{self, RecvQueue, WqGeometry, WqPositions},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc},
};

/// The driver's data for shared receive queues.
#[pin_data]
pub(crate) struct Srq {
    size: WqGeometry<RecvQueue>,
    #[pin]
    shared: SpinLockBh<Shared>,
    /// The user's side, if that is the kernel.
    user: Option<KernelUser>,
    _counted: Counted,
}

struct KernelUser {
    receives: Pin<KBox<Receives>>,
    callbacks: Arc<Callbacks<rdma::Srq<Srq>>>,
}

/// A shared receive queue as queue pairs hold on to it.
pub(crate) type SrqRef = ARef<rdma::Srq<Srq>>;

struct Shared {
    queue: ReceiveQueue,
    /// Tell when there are fewer requests than this; zero if not armed (IBTA 10.2.9.3).
    limit: u32,
}

#[vtable]
impl srq::Operations for Srq {
    type Device = Ferroce;

    fn create(
        srq: &mut NewSrq<'_, Self>,
        attr: &mut SrqAttr,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result<impl PinInit<Self, Error>> {
        let failed = |e: ring::GeometryError| errno(e.errno());
        let counted = srq.device().quota.add(Kind::Srq)?;
        let size = WqGeometry::<RecvQueue>::new(attr.max_wr, attr.max_sge).map_err(failed)?;
        let rings = Rings::new(size.len(), call)?;
        let queue = ReceiveQueue::new(Rings::receive(&rings, 0, size)?);
        let user = match call {
            Some(call) => {
                call.respond(&uapi::SrqResponse {
                    ring: rings.mapping(),
                    recv: size.descriptor(),
                })?;
                None
            }
            None => Some(KernelUser {
                receives: Receives::new(PostQueue::new(&rings, 0, size)?)?,
                callbacks: Callbacks::new()?,
            }),
        };
        attr.max_wr = size.entries();
        attr.max_sge = size.max_sge();
        let shared = Shared {
            queue,
            limit: attr.srq_limit,
        };
        Ok(try_pin_init!(Srq {
            size,
            shared <- SpinLockBh::new(shared, c"ferroce::Srq::shared", static_lock_class!()),
            user,
            _counted: counted,
        }? Error))
    }

    fn modify(
        srq: &rdma::Srq<Self>,
        attr: &SrqAttr,
        mask: SrqAttrMask,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result {
        if let Some(call) = call {
            call.none()?;
        }
        if mask.contains(SrqAttrMask::MAX_WR) {
            // As of rdma-core's own devices but one, the size is what it is.
            return Err(eopnotsupp());
        }
        if mask.contains(SrqAttrMask::LIMIT) {
            if attr.srq_limit > srq.size.entries() {
                return Err(EINVAL);
            }
            srq.shared.lock().limit = attr.srq_limit;
            tell_limit(srq);
        }
        Ok(())
    }

    fn query(srq: &rdma::Srq<Self>, attr: &mut SrqAttr) -> Result {
        attr.max_wr = srq.size.entries();
        attr.max_sge = srq.size.max_sge();
        attr.srq_limit = srq.shared.lock().limit;
        Ok(())
    }

    fn details(srq: &rdma::Srq<Self>, details: &mut Details<'_>) -> Result {
        let (queue, limit) = {
            let shared = srq.shared.lock();
            (shared.queue.positions(), shared.limit)
        };
        details.u32(c"entries", srq.size.entries())?;
        receive_details(details, &queue)?;
        details.u32(c"limit", limit)?;
        Ok(())
    }

    fn post_recv(srq: &rdma::Srq<Self>, wrs: &mut RecvWrs<'_, Ferroce>) -> Result {
        match &srq.user {
            // Nobody waits for the doorbell.
            Some(user) => user.receives.post(wrs).1,
            // A process has its ring; this is its doorbell.
            None if wrs.is_empty() => Ok(()),
            None => Err(eopnotsupp()),
        }
    }
}

impl Srq {
    /// Bytes from one entry to the next.
    pub(crate) fn stride(&self) -> usize {
        self.size.stride()
    }
}

/// Writes where the two sides of a receive queue are.
pub(crate) fn receive_details(details: &mut Details<'_>, at: &WqPositions) -> Result {
    details
        .u32(c"rq_producer", at.producer)?
        .u32(c"rq_consumer", at.consumer)?;
    Ok(())
}

/// Takes the next request for a message.
pub(crate) fn take(
    srq: &rdma::Srq<Srq>,
    copy: &mut [u8],
    accept: impl FnOnce(&Receive<'_>) -> bool,
) -> Looked {
    let looked = srq.shared.lock().queue.take_into(copy, accept);
    if let Looked::Taken(_) = looked {
        tell_limit(srq);
    }
    looked
}

/// Tells, once, that there are fewer requests than the limit.
fn tell_limit(srq: &rdma::Srq<Srq>) {
    let reached = {
        let mut shared = srq.shared.lock();
        let reached = shared.limit > 0 && shared.queue.available() < shared.limit;
        if reached {
            shared.limit = 0;
        }
        reached
    };
    if reached {
        match &srq.user {
            Some(user) => user.callbacks.raise(srq, 1),
            None => srq.dispatch(SrqEvent::LimitReached),
        }
    }
}
