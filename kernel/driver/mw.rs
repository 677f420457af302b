// SPDX-License-Identifier: GPL-2.0

//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use super::{
    device::Ferroce,
    mr::{give_up_key, pd_id, reserve_key, Mr, Named, Range},
    queue_pair::Qp,
    quota::{Counted, Kind},
};
use crate::{
    key::{self, Access, PdId},
    local::AccessError,
    net::SpinLockBh,
    rdma::{self, mw, MwType, NewMw, UserCall},
    region::Part,
    ring::BindMw,
    window::{self, Bind, Window},
};
use core::ops::Deref;
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
};

/// The driver's data for memory windows.
#[pin_data]
pub(crate) struct Mw {
    number: u32,
    /// Taken before that of the region which it is bound to.
    #[pin]
    window: SpinLockBh<Window<BoundRegion>>,
    _counted: Counted,
}

/// A region that a window is bound to, which [counts](Mr::bind) it as long as this exists.
struct BoundRegion(ARef<rdma::Mr<Mr>>);

type Bound = window::Bound<BoundRegion>;

impl Deref for BoundRegion {
    type Target = ARef<rdma::Mr<Mr>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

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
            number: key::number(key),
            window <- SpinLockBh::new(window, c"ferroce::Mw::window", static_lock_class!()),
            _counted: counted,
        }? Error))
    }

    fn created(mw: &rdma::Mw<Self>) -> Result {
        mw.device()
            .keys
            .put(mw.number, Named::Window(ARef::from(mw)));
        Ok(())
    }

    fn dealloc(mw: &rdma::Mw<Self>) {
        let (bound, key) = {
            let mut window = mw.window.lock();
            (window.deallocate(), window.key())
        };
        give_up_key(&mw.device().keys, key);
        // Dropped with the lock released.
        drop(bound);
    }
}

impl Mw {
    /// Binds the window, or has it be bound to nothing.
    fn rebind(&self, request: &BindMw, bound: Option<Bound>) -> Result<(), AccessError> {
        let (result, unbound) = self.window.lock().bind(request, bound);
        // Dropped with the lock released.
        drop(unbound);
        result
    }

    /// Checks that the window's key allows an access, wherever in it.
    pub(crate) fn check_key(&self, access: &Access) -> Result<(), AccessError> {
        self.window.lock().check_key(access)
    }

    /// Checks a remote access by the window.
    pub(crate) fn remote(&self, access: &Access) -> Result<Range, AccessError> {
        let window = self.window.lock();
        let (region, addr) = window.check(access)?;
        Range::of(region, addr, access)
    }

    /// Ends the access by a key, as the owner or its peer asks.
    pub(crate) fn invalidate(&self, key: u32, qpn: u32) -> Result<(), AccessError> {
        let bound = self.window.lock().invalidate(key, qpn)?;
        // Dropped with the lock released.
        drop(bound);
        Ok(())
    }
}

/// Binds a window for a queue pair.
pub(crate) fn bind(qp: &rdma::Qp<Qp>, pd: PdId, request: &BindMw) -> Result<(), AccessError> {
    let keys = &qp.device().keys;
    let Some(Named::Window(window)) = keys.get(key::number(request.mw_rkey)) else {
        return Err(AccessError);
    };
    let bind = window.window.lock().check_bind(pd, request)?;
    let bound = match bind {
        Bind::Nothing => None,
        Bind::To(lkey) => {
            let Some(Named::Region(region)) = keys.get(key::number(lkey)) else {
                return Err(AccessError);
            };
            region.bind(pd, &Part::from(request))?;
            Some(Bound::new(BoundRegion(region), request, qp.number()))
        }
    };
    window.rebind(request, bound)
}
