// SPDX-License-Identifier: GPL-2.0

//! Shared receive queues.

use super::{
    callback::Callbacks,
    device::Ferroce,
    kernel_user::Receives,
    queue_pair::ReceiveQueue,
    quota::{Counted, Kind},
    rings::{errno, Buffer, PostQueue, Rings},
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
    receive::Looked,
    ring::{self, RecvQueue, WqGeometry, WqPositions},
    shared_receive_queue::{Invalid, SharedReceiveQueue},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc},
    uaccess::{UserPtr, UserSlice},
};

/// The driver's data for shared receive queues.
#[pin_data]
pub(crate) struct Srq {
    /// Bytes from one entry to the next. The number of entries changes (Modify SRQ), this does not.
    stride: usize,
    max_sge: u32,
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
    srq: SharedReceiveQueue<Buffer>,
    /// The ring of a new size that the process was told of, and has not moved to yet
    /// ([`uapi::ModifySrqRequest`]).
    offered: Option<ReceiveQueue>,
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
            srq: SharedReceiveQueue::new(queue, attr.srq_limit),
            offered: None,
        };
        Ok(try_pin_init!(Srq {
            stride: size.stride(),
            max_sge: size.max_sge(),
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
        if mask.contains(SrqAttrMask::MAX_WR) {
            resize(srq, attr, mask, call)?;
        } else {
            if let Some(call) = call {
                call.none()?;
            }
            if let Some(limit) = limit(attr, mask) {
                let reached = srq.shared.lock().srq.set_limit(limit).map_err(invalid)?;
                tell_limit(srq, reached);
            }
        }
        Ok(())
    }

    fn query(srq: &rdma::Srq<Self>, attr: &mut SrqAttr) -> Result {
        let shared = srq.shared.lock();
        attr.max_wr = shared.srq.queue().size().entries();
        attr.max_sge = srq.max_sge;
        attr.srq_limit = shared.srq.limit();
        Ok(())
    }

    fn details(srq: &rdma::Srq<Self>, details: &mut Details<'_>) -> Result {
        let (size, queue, limit) = {
            let shared = srq.shared.lock();
            let queue = shared.srq.queue();
            (queue.size(), queue.positions(), shared.srq.limit())
        };
        details.u32(c"entries", size.entries())?;
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
        self.stride
    }
}

/// The limit that a Modify SRQ asks for.
fn limit(attr: &SrqAttr, mask: SrqAttrMask) -> Option<u32> {
    let is_asked = mask.contains(SrqAttrMask::LIMIT);
    is_asked.then_some(attr.srq_limit)
}

fn invalid(_: Invalid) -> Error {
    EINVAL
}

/// Changes the number of entries. All that is posted stays posted, in its order.
fn resize(
    srq: &rdma::Srq<Srq>,
    attr: &SrqAttr,
    mask: SrqAttrMask,
    call: Option<&UserCall<'_, Ferroce>>,
) -> Result {
    let request: Option<uapi::ModifySrqRequest> = call.map(|call| call.request(0)).transpose()?;
    let address = match request {
        Some(request) if request.response == 0 => return move_to_offered(srq, attr, mask),
        Some(request) => usize::try_from(request.response)?,
        None => 0,
    };
    if attr.max_wr == 0 {
        return Err(EINVAL);
    }
    let size = WqGeometry::<RecvQueue>::new(attr.max_wr, srq.max_sge);
    let size = size.map_err(|e| errno(e.errno()))?;
    // Before any memory is allocated. It can be otherwise by the time that the requests are moved.
    let checked = srq.shared.lock().srq.check_move(size, limit(attr, mask));
    checked.map_err(invalid)?;
    let rings = Rings::new(size.len(), call)?;
    let queue = ReceiveQueue::new(Rings::receive(&rings, 0, size)?);
    match &srq.user {
        Some(user) => move_kernel_user(srq, attr, mask, user, &rings, queue),
        None => {
            let response = uapi::SrqResponse {
                ring: rings.mapping(),
                recv: size.descriptor(),
            };
            UserSlice::new(UserPtr::from_addr(address), size_of_val(&response))
                .writer()
                .write(&response)?;
            let before = srq.shared.lock().offered.replace(queue);
            // Dropped with the lock released: that frees pages.
            drop(before);
            Ok(())
        }
    }
}

/// Moves to the ring that the process was told of.
fn move_to_offered(srq: &rdma::Srq<Srq>, attr: &SrqAttr, mask: SrqAttrMask) -> Result {
    let mut shared = srq.shared.lock();
    let Some(mut new) = shared.offered.take() else {
        return Err(eopnotsupp());
    };
    let result = match attr.max_wr > new.size().entries() {
        true => Err(EINVAL),
        false => shared
            .srq
            .move_to(&mut new, limit(attr, mask))
            .map_err(invalid),
    };
    drop(shared);
    // The ring that is not used any more, or not used at all. Dropped with the lock released: that frees pages.
    drop(new);
    result.map(|reached| tell_limit(srq, reached))
}

/// Moves to a new ring, which nobody maps.
fn move_kernel_user(
    srq: &rdma::Srq<Srq>,
    attr: &SrqAttr,
    mask: SrqAttrMask,
    user: &KernelUser,
    rings: &Arc<Rings>,
    mut queue: ReceiveQueue,
) -> Result {
    let post_queue = PostQueue::new(rings, 0, queue.size())?;
    let mut reached = false;
    let mut shared = srq.shared.lock();
    let moved = user.receives.resize(post_queue, || {
        let moved = shared.srq.move_to(&mut queue, limit(attr, mask));
        reached = moved.map_err(invalid)?;
        Ok(())
    });
    drop(shared);
    // Dropped with the lock released, as above.
    drop(queue);
    tell_limit(srq, reached);
    moved.map(drop)
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
    let (looked, reached) = srq.shared.lock().srq.take_into(copy, accept);
    tell_limit(srq, reached);
    looked
}

/// Tells that there are fewer requests than the limit, if that is `reached`.
fn tell_limit(srq: &rdma::Srq<Srq>, reached: bool) {
    if reached {
        match &srq.user {
            Some(user) => user.callbacks.raise(srq, 1),
            None => srq.dispatch(SrqEvent::LimitReached),
        }
    }
}
