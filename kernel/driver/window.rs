// SPDX-License-Identifier: GPL-2.0

//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use super::{
    device::Ferroce,
    memory::{give_up_key, reserve_key, Mr, Named, PdId, Range, Wanted, KEY_BITS},
    queue_pair::Qp,
    quota::{Counted, Kind},
};
use crate::{
    local::AccessError,
    net::SpinLockBh,
    rdma::{self, mw, MwType, NewMw, UserCall},
    ring::{BindMw, Sge},
    verbs::AccessFlags,
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
};

/// The part of a key that whoever binds the window may choose.
const OWN_PART: u32 = (1 << KEY_BITS) - 1;

/// The driver's data for memory windows.
#[pin_data]
pub(crate) struct Mw {
    number: u32,
    mw_type: MwType,
    pd: PdId,
    #[pin]
    state: SpinLockBh<State>,
    _counted: Counted,
}

struct State {
    key: u32,
    bound: Option<Bound>,
    /// It is being deallocated.
    is_gone: bool,
}

/// What a window is bound to. The region counts it.
struct Bound {
    region: ARef<rdma::Mr<Mr>>,
    addr: u64,
    length: u64,
    access: AccessFlags,
    /// A window of type 2 belongs to the queue pair that bound it.
    qpn: u32,
}

impl Bound {
    fn new(region: ARef<rdma::Mr<Mr>>, request: &BindMw, qpn: u32) -> Result<Self, AccessError> {
        region.window_bound()?;
        Ok(Self {
            region,
            addr: request.addr,
            length: request.length,
            access: request.access,
            qpn,
        })
    }

    /// What a peer calls the first byte.
    fn first(&self) -> u64 {
        match self.access.contains(AccessFlags::ZERO_BASED) {
            true => 0,
            false => self.addr,
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.region.window_gone();
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
        let pd = PdId::of(mw.pd());
        let counted = mw.device().quota.add(Kind::Mw)?;
        let key = reserve_key(&mw.device().keys, GFP_KERNEL_ACCOUNT)?;
        let number = key >> KEY_BITS;
        mw.set_rkey(key);
        let state = State {
            key,
            bound: None,
            is_gone: false,
        };
        Ok(try_pin_init!(Mw {
            number,
            mw_type,
            pd,
            state <- SpinLockBh::new(state, c"ferroce::Mw::state", static_lock_class!()),
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
            let mut state = mw.state.lock();
            // Who still holds on to the window cannot bind it any more: nobody would unbind it.
            state.is_gone = true;
            (state.bound.take(), state.key)
        };
        give_up_key(&mw.device().keys, key);
        // Dropped with the lock released.
        drop(bound);
    }
}

impl Mw {
    /// Replaces what the window is bound to, and its key, if that is `before`.
    fn rebind(&self, before: u32, key: u32, bound: Option<Bound>) -> Result<(), AccessError> {
        let mut other = bound;
        let result = {
            let mut state = self.state.lock();
            let is_bound = state.bound.is_some();
            // One of type 2 is invalidated first (o10-37.2.30, as rdma_rxe quotes it).
            if state.is_gone || state.key != before || self.mw_type == MwType::Type2 && is_bound {
                Err(AccessError)
            } else {
                state.key = key;
                core::mem::swap(&mut state.bound, &mut other);
                Ok(())
            }
        };
        // Dropped with the lock released: what was bound, or could not be.
        drop(other);
        result
    }

    /// What the window is bound to, if its key allows the access (IBTA 10.6.7.2).
    fn bound<'a>(&self, state: &'a State, wanted: &Wanted) -> Result<&'a Bound, AccessError> {
        let bound = state.bound.as_ref().ok_or(AccessError)?;
        let owner = self.mw_type == MwType::Type1 || bound.qpn == wanted.qpn;
        if state.key != wanted.key
            || self.pd != wanted.pd
            || !owner
            || !bound.access.contains(wanted.access)
        {
            return Err(AccessError);
        }
        Ok(bound)
    }

    /// Checks that the window's key allows an access, wherever in it.
    pub(crate) fn check_key(&self, wanted: &Wanted) -> Result<(), AccessError> {
        self.bound(&self.state.lock(), wanted).map(|_| ())
    }

    /// Checks a remote access by the window.
    pub(crate) fn remote(&self, wanted: &Wanted) -> Result<Range, AccessError> {
        let state = self.state.lock();
        let bound = self.bound(&state, wanted)?;
        let offset = wanted.addr.checked_sub(bound.first()).ok_or(AccessError)?;
        let end = offset
            .checked_add(wanted.length.into())
            .ok_or(AccessError)?;
        if end > bound.length {
            return Err(AccessError);
        }
        // Within the region, as was checked when it was bound.
        let addr = bound.addr.wrapping_add(offset);
        Range::of(&bound.region, addr, wanted)
    }

    /// Ends the access by a key, as the owner or its peer asks (IBTA 10.6.7.2.6). Only a window of
    /// type 2 knows this.
    pub(crate) fn invalidate(&self, key: u32, qpn: u32) -> Result<(), AccessError> {
        let bound = {
            let mut state = self.state.lock();
            let owned = state.bound.as_ref().is_some_and(|b| b.qpn == qpn);
            if self.mw_type != MwType::Type2 || state.key != key || !owned {
                return Err(AccessError);
            }
            state.bound.take()
        };
        // Dropped with the lock released.
        drop(bound);
        Ok(())
    }
}

/// Binds a window (IBTA 10.6.7.2, 11.4.1.1).
pub(crate) fn bind(qp: &rdma::Qp<Qp>, pd: PdId, request: &BindMw) -> Result<(), AccessError> {
    let keys = &qp.device().keys;
    let Some(Named::Window(window)) = keys.get(request.mw_rkey >> KEY_BITS) else {
        return Err(AccessError);
    };
    if window.pd != pd {
        return Err(AccessError);
    }
    let key = request.mw_rkey & !OWN_PART | request.new_rkey & OWN_PART;
    // What only one of the types can do: be unbound so (IBTA 11.4.1.1; the other is invalidated), and
    // begin at zero (o10-36.2.2, as rdma_rxe quotes it).
    match window.mw_type {
        MwType::Type1 if request.length == 0 => {
            return window.rebind(request.mw_rkey, key, None);
        }
        MwType::Type1 if request.access.contains(AccessFlags::ZERO_BASED) => {
            return Err(AccessError);
        }
        MwType::Type2 if request.length == 0 => return Err(AccessError),
        _ => {}
    }
    let Some(Named::Region(region)) = keys.get(request.mr_lkey >> KEY_BITS) else {
        return Err(AccessError);
    };
    let sge = Sge {
        addr: request.addr,
        length: 0,
        lkey: request.mr_lkey,
    };
    region.check_bind(pd, sge, request.length, request.access)?;
    let bound = Bound::new(region, request, qp.number())?;
    window.rebind(request.mw_rkey, key, Some(bound))
}
