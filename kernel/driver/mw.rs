// SPDX-License-Identifier: GPL-2.0

//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use super::{
    device::Ferroce,
    mr::{find_region, find_window, give_up_key, pd_id, publish, reserve_key, FoundMr, Mr, Range},
    queue_pair::Qp,
    quota::{Counted, Kind},
};
use crate::{
    key::{Access, PdId},
    local::AccessError,
    net::SpinLockBh,
    published::Published,
    rdma::{self, mw, rcu::RcuSlot, MwType, NewMw, UserCall},
    region::Part,
    ring::BindMw,
    window::{self, Bind, Window},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
};

/// The driver's data for memory windows.
#[pin_data]
pub(crate) struct Mw {
    /// Taken before that of the region which it is bound to.
    #[pin]
    window: SpinLockBh<Window<BoundRegion>>,
    /// The region that the window is bound to. It changes with the lock held.
    region: RcuSlot<ARef<rdma::Mr<Mr>>>,
    /// The window, for lookups.
    published: Published<{ window::WORDS }>,
    _counted: Counted,
}

/// A region that a window is bound to, which [counts](Mr::bind) it as long as this exists.
struct BoundRegion(FoundMr);

type Bound = window::Bound<BoundRegion>;

impl Drop for BoundRegion {
    fn drop(&mut self) {
        self.0.unbind();
    }
}

#[vtable]
impl mw::Operations for Mw {
    type Device = Ferroce;

    fn alloc(
        mw: &mut NewMw<'_, Self>,
        mw_type: MwType,
        call: &UserCall<'_, Ferroce>,
    ) -> Result<impl PinInit<Self, Error>> {
        call.none()?;
        let pd = pd_id(mw.pd());
        let kind = match mw_type {
            MwType::Type1 => window::Kind::Type1,
            MwType::Type2 => window::Kind::Type2,
        };
        let counted = mw.device().quota.add(Kind::Mw)?;
        let key = reserve_key(&mw.device().keys, GFP_KERNEL_ACCOUNT)?;
        mw.set_rkey(key);
        let window = Window::new(kind, pd, key);
        Ok(try_pin_init!(Mw {
            region: RcuSlot::default(),
            published: Published::new(window.words(|_| 0)),
            window <- SpinLockBh::new(window, c"ferroce::Mw::window", static_lock_class!()),
            _counted: counted,
        }? Error))
    }

    fn created(mw: &rdma::Mw<Self>) -> Result {
        publish(&mw.device().keys, mw.rkey(), ARef::from(mw), |named| {
            &named.window
        })
    }

    fn dealloc(mw: &rdma::Mw<Self>) {
        let (key, bound) = mw.change(|window| (window.key(), window.deallocate()));
        give_up_key(&mw.device().keys, key);
        drop(bound);
    }
}

impl Mw {
    /// Changes the window. What `op` returns is dropped by the caller, with the lock released.
    fn change<R>(&self, op: impl FnOnce(&mut Window<BoundRegion>) -> R) -> R {
        let mut window = self.window.lock();
        let (result, before) = self.published.change(|| {
            let result = op(&mut window);
            let region = window.region().map(|BoundRegion(region)| region.clone());
            let before = self.region.replace(region);
            (window.words(|_| 0), (result, before))
        });
        // In this order.
        drop(window);
        drop(before);
        result
    }

    /// The window as it is now, and the region that it is bound to. Without a lock, unless it is just being
    /// changed.
    fn state(&self) -> (Window<u32>, Option<FoundMr>) {
        let read = |words| (Window::from_words(&words), self.region.get());
        let read = self.published.read(read).map(|(state, _)| state);
        read.unwrap_or_else(|| {
            let window = self.window.lock();
            (Window::from_words(&window.words(|_| 0)), self.region.get())
        })
    }

    /// Binds the window, or has it be bound to nothing.
    fn rebind(&self, request: &BindMw, bound: Option<Bound>) -> Result<(), AccessError> {
        let (result, _unbound) = self.change(|window| window.bind(request, bound));
        result
    }

    /// Checks that the window's key allows an access, wherever in it.
    pub(crate) fn check_key(&self, access: &Access) -> Result<(), AccessError> {
        self.state().0.check_key(access)
    }

    /// Checks a remote access by the window.
    pub(crate) fn remote(&self, access: &Access) -> Result<Range, AccessError> {
        let (window, region) = self.state();
        let (_, addr) = window.check(access)?;
        Range::of(&region.ok_or(AccessError)?, addr, access)
    }

    /// Ends the access by a key, as the owner or its peer asks.
    pub(crate) fn invalidate(&self, key: u32, qpn: u32) -> Result<(), AccessError> {
        self.change(|window| window.invalidate(key, qpn)).map(drop)
    }
}

/// Binds a window for a queue pair.
pub(crate) fn bind(qp: &rdma::Qp<Qp>, pd: PdId, request: &BindMw) -> Result<(), AccessError> {
    let keys = &qp.device().keys;
    let window = find_window(keys, request.mw_rkey)?;
    let bind = window.state().0.check_bind(pd, request)?;
    let bound = match bind {
        Bind::Nothing => None,
        Bind::To(lkey) => {
            let region = find_region(keys, lkey)?;
            region.bind(pd, &Part::from(request))?;
            Some(Bound::new(BoundRegion(region), request, qp.number()))
        }
    };
    window.rebind(request, bound)
}
