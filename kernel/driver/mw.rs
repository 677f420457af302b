// SPDX-License-Identifier: GPL-2.0

//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use super::{
    device::Ferroce,
    mr::{give_up_key, pd_id, reserve_key, Mr, Named, Range},
    queue_pair::Qp,
    quota::{Counted, Kind},
};
use crate::{
    in_use::InUse,
    key::{self, Access, PdId},
    local::AccessError,
    net::SpinLockBh,
    rdma::{self, mw, MwType, NewMw, UserCall},
    region::Part,
    ring::BindMw,
    window::{self, Bind, Window},
};
use core::{
    ops::Deref,
    sync::atomic::{AtomicU32, Ordering},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
    time::{delay::fsleep, Delta},
};

/// The driver's data for memory windows.
#[pin_data]
pub(crate) struct Mw {
    number: u32,
    /// Taken before that of the region which it is bound to.
    #[pin]
    window: SpinLockBh<Window<BoundRegion>>,
    /// Counts the changes of the window, as a region does.
    changes: AtomicU32,
    /// Those who have memory that was found by the window.
    users: InUse,
    _counted: Counted,
}

/// A window that memory was found by: deallocating it waits until this is dropped, and so does who binds or
/// invalidates it.
pub(crate) struct Through(ARef<rdma::Mw<Mw>>);

impl Through {
    /// To be called before the window is looked at.
    fn new(window: ARef<rdma::Mw<Mw>>) -> Self {
        window.users.enter();
        Self(window)
    }

    /// How often the window has changed.
    pub(crate) fn changes(&self) -> u32 {
        // Pairs with the store in `Mw::change`.
        self.0.changes.load(Ordering::Acquire)
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        // Who waits looks again by itself: this may be a bottom half, and takes no lock.
        let _ = self.0.users.leave();
    }
}

/// How long who waits for users sleeps: about as long as [a part](crate::local::PART) of a message takes.
const PART_TIME: Delta = Delta::from_micros(20);

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
            changes: AtomicU32::new(0),
            users: InUse::new(),
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
        // A message that is being copied goes no further: after this, deallocation waits for its reference.
        let (bound, key) = mw.change(|window| (window.deallocate(), window.key()));
        give_up_key(&mw.device().keys, key);
        // Dropped with the lock released.
        drop(bound);
    }
}

impl Mw {
    /// Changes the window.
    fn change<R>(&self, op: impl FnOnce(&mut Window<BoundRegion>) -> R) -> R {
        let mut window = self.window.lock();
        let result = op(&mut window);
        // Nobody else changes it at the same time. Pairs with the load in `Through::changes`.
        let changes = self.changes.load(Ordering::Relaxed).wrapping_add(1);
        self.changes.store(changes, Ordering::Release);
        result
    }

    /// Waits for those who have found memory by the window before it changed: they copy a part of a message
    /// at most, and look again. It sleeps.
    pub(crate) fn wait_for_users(&self) {
        while self.users.is_used() {
            fsleep(PART_TIME);
        }
    }

    /// Binds the window, or has it be bound to nothing.
    fn rebind(&self, request: &BindMw, bound: Option<Bound>) -> Result<(), AccessError> {
        let (result, unbound) = self.change(|window| window.bind(request, bound));
        // Dropped with the lock released.
        drop(unbound);
        result
    }

    /// Checks that the window's key allows an access, wherever in it.
    pub(crate) fn check_key(&self, access: &Access) -> Result<(), AccessError> {
        self.window.lock().check_key(access)
    }

    /// Checks a remote access by a window.
    pub(crate) fn remote(
        window: ARef<rdma::Mw<Self>>,
        access: &Access,
    ) -> Result<Range, AccessError> {
        let through = Through::new(window.clone());
        let locked = window.window.lock();
        let (region, addr) = locked.check(access)?;
        Range::of(region, addr, access, through)
    }

    /// Ends the access by a key, as the owner or its peer asks.
    pub(crate) fn invalidate(&self, key: u32, qpn: u32) -> Result<(), AccessError> {
        let bound = self.change(|window| window.invalidate(key, qpn))?;
        // Dropped with the lock released.
        drop(bound);
        Ok(())
    }
}

/// Binds a window for a queue pair. Nobody reaches by it any more what it was bound to before. It sleeps.
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
    window.rebind(request, bound)?;
    window.wait_for_users();
    Ok(())
}
