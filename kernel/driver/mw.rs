// SPDX-License-Identifier: GPL-2.0

//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use super::{
    device::Ferroce,
    mr::{
        find_region, find_window, give_up_key, pd_id, publish, reserve_key, FoundMr, FoundMw, Mr,
        Range,
    },
    queue_pair::Qp,
    quota::{Counted, Kind},
};
use crate::{
    in_use::InUse,
    key::{Access, PdId},
    local::AccessError,
    net::SpinLockBh,
    published::Published,
    rdma::{self, mw, rcu::RcuSlot, MwType, NewMw, UserCall},
    region::Part,
    ring::BindMw,
    window::{self, Bind, Window},
};
use core::sync::atomic::{fence, Ordering};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
    time::{delay::fsleep, Delta},
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
    /// Those who have memory that was found by the window.
    users: InUse,
    _counted: Counted,
}

/// A window, and the region that it is bound to.
struct State {
    window: Window<u32>,
    region: Option<FoundMr>,
    /// As of so many changes.
    changes: u32,
}

/// A window that memory was found by: deallocating it waits until this is dropped, and so does who binds or
/// invalidates it.
pub(crate) struct Through {
    window: FoundMw,
    /// As of so many changes of the window.
    changes: u32,
}

impl Through {
    /// With the window as it is now.
    fn new(window: FoundMw) -> (Self, State) {
        window.users.enter();
        // Pairs with that in `Mw::wait_for_users`: either the window is seen here as it was changed, or who
        // has changed it waits for this.
        fence(Ordering::SeqCst);
        let state = window.state();
        let changes = state.changes;
        (Self { window, changes }, state)
    }

    /// Whether the window is still what it was.
    pub(crate) fn is_current(&self) -> bool {
        self.window.published.changes() == self.changes
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        // Who waits looks again by itself: this may be a bottom half, and takes no lock.
        let _ = self.window.users.leave();
    }
}

/// How long who waits for users sleeps: about as long as [a part](crate::local::PART) of a message takes.
const PART_TIME: Delta = Delta::from_micros(20);

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
            users: InUse::new(),
            _counted: counted,
        }? Error))
    }

    fn created(mw: &rdma::Mw<Self>) -> Result {
        publish(&mw.device().keys, mw.rkey(), ARef::from(mw), |named| {
            &named.window
        })
    }

    fn dealloc(mw: &rdma::Mw<Self>) {
        // A message that is being copied goes no further: after this, deallocation waits for its reference.
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

    /// The window as it is now. Without a lock, unless it is just being changed.
    fn state(&self) -> State {
        let read = |words| (Window::from_words(&words), self.region.get());
        let ((window, region), changes) = self.published.read(read).unwrap_or_else(|| {
            let window = self.window.lock();
            (read(window.words(|_| 0)), self.published.changes())
        });
        State {
            window,
            region,
            changes,
        }
    }

    /// Waits for those who have found memory by the window before it changed: they copy a part of a message
    /// at most, and look again. It sleeps.
    pub(crate) fn wait_for_users(&self) {
        fence(Ordering::SeqCst);
        while self.users.is_used() {
            fsleep(PART_TIME);
        }
    }

    /// Binds the window, or has it be bound to nothing.
    fn rebind(&self, request: &BindMw, bound: Option<Bound>) -> Result<(), AccessError> {
        let (result, _unbound) = self.change(|window| window.bind(request, bound));
        result
    }

    /// Checks that the window's key allows an access, wherever in it.
    pub(crate) fn check_key(&self, access: &Access) -> Result<(), AccessError> {
        self.state().window.check_key(access)
    }

    /// Checks a remote access by a window.
    pub(crate) fn remote(window: FoundMw, access: &Access) -> Result<Range, AccessError> {
        let (through, state) = Through::new(window);
        let (_, addr) = state.window.check(access)?;
        Range::of(state.region.ok_or(AccessError)?, addr, access, through)
    }

    /// Ends the access by a key, as the owner or its peer asks.
    pub(crate) fn invalidate(&self, key: u32, qpn: u32) -> Result<(), AccessError> {
        self.change(|window| window.invalidate(key, qpn)).map(drop)
    }
}

/// Binds a window for a queue pair. Nobody reaches by it any more what it was bound to before. It sleeps.
pub(crate) fn bind(qp: &rdma::Qp<Qp>, pd: PdId, request: &BindMw) -> Result<(), AccessError> {
    let keys = &qp.device().keys;
    let window = find_window(keys, request.mw_rkey)?;
    let bind = window.state().window.check_bind(pd, request)?;
    let bound = match bind {
        Bind::Nothing => None,
        Bind::To(lkey) => {
            let region = find_region(keys, lkey)?;
            region.bind(pd, &Part::from(request))?;
            Some(Bound::new(BoundRegion(region), request, qp.number()))
        }
    };
    window.rebind(request, bound)?;
    window.wait_for_users();
    Ok(())
}
