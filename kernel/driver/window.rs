// SPDX-License-Identifier: GPL-2.0

//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use super::{
    device::Ferroce,
    memory::{Mr, Named, PdId, Range, KEY_BITS},
    queue_pair::Qp,
};
use crate::{
    local::AccessError,
    rdma::{self, mw, MwType, NewMw, UserCall},
    ring::{BindMw, Remote, Sge},
    verbs::AccessFlags,
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{aref::ARef, SpinLock},
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
    state: SpinLock<State>,
}

struct State {
    key: u32,
    bound: Option<Bound>,
}

/// What a window is bound to.
struct Bound {
    region: ARef<rdma::Mr<Mr>>,
    addr: u64,
    length: u64,
    access: AccessFlags,
    /// A window of type 2 belongs to the queue pair that bound it.
    qpn: u32,
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
        let number = mw.device().keys.reserve(GFP_KERNEL)?.keep();
        let key = number << KEY_BITS;
        mw.set_rkey(key);
        let state = State { key, bound: None };
        Ok(try_pin_init!(Mw {
            number,
            mw_type,
            pd,
            state <- new_spinlock!(state, "ferroce::Mw::state"),
        }? Error))
    }

    fn created(mw: &rdma::Mw<Self>) -> Result {
        mw.device()
            .keys
            .put(mw.number, Named::Window(ARef::from(mw)));
        Ok(())
    }

    fn dealloc(mw: &rdma::Mw<Self>) {
        mw.device().keys.remove(mw.number);
        mw.unbind();
    }
}

impl Mw {
    /// Replaces what the window is bound to.
    fn set(&self, key: u32, bound: Option<Bound>) {
        let before = {
            let mut state = self.state.lock();
            state.key = key;
            core::mem::replace(&mut state.bound, bound)
        };
        if let Some(before) = before {
            before.region.window_gone();
        }
        // Dropped with the lock released.
    }

    fn unbind(&self) {
        let key = self.state.lock().key;
        self.set(key, None);
    }

    /// Checks a remote access by the window (IBTA 10.6.7.2).
    pub(crate) fn remote(
        &self,
        pd: PdId,
        qpn: u32,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range, AccessError> {
        let state = self.state.lock();
        let bound = state.bound.as_ref().ok_or(AccessError)?;
        let owner = self.mw_type == MwType::Type1 || bound.qpn == qpn;
        if state.key != remote.rkey || self.pd != pd || !owner || !bound.access.contains(access) {
            return Err(AccessError);
        }
        let offset = remote.addr.checked_sub(bound.addr).ok_or(AccessError)?;
        let end = offset.checked_add(length.into()).ok_or(AccessError)?;
        if end > bound.length {
            return Err(AccessError);
        }
        Range::of(&bound.region, remote.addr, length)
    }

    /// Ends the access by a key, as the owner or its peer asks (IBTA 10.6.7.2.6). Only a window of
    /// type 2 knows this.
    pub(crate) fn invalidate(&self, key: u32, qpn: u32) -> Result<(), AccessError> {
        {
            let state = self.state.lock();
            let owned = state.bound.as_ref().is_some_and(|b| b.qpn == qpn);
            if self.mw_type != MwType::Type2 || state.key != key || !owned {
                return Err(AccessError);
            }
        }
        self.unbind();
        Ok(())
    }
}

/// Binds a window (IBTA 10.6.7.2, 11.4.1.1).
pub(crate) fn bind(qp: &rdma::Qp<Qp>, pd: PdId, request: &BindMw) -> Result<(), AccessError> {
    let keys = &qp.device().keys;
    let Some(Named::Window(window)) = keys.get(request.mw_rkey >> KEY_BITS) else {
        return Err(AccessError);
    };
    {
        let state = window.state.lock();
        let taken = window.mw_type == MwType::Type2 && state.bound.is_some();
        if state.key != request.mw_rkey || window.pd != pd || taken {
            return Err(AccessError);
        }
    }
    let key = request.mw_rkey & !OWN_PART | request.new_rkey & OWN_PART;
    if request.length == 0 {
        // IBTA 11.4.1.1: this unbinds a window of type 1; one of type 2 is invalidated.
        if window.mw_type == MwType::Type2 {
            return Err(AccessError);
        }
        window.set(key, None);
        return Ok(());
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
    region.window_bound();
    let bound = Bound {
        region,
        addr: request.addr,
        length: request.length,
        access: request.access,
        qpn: qp.number(),
    };
    window.set(key, Some(bound));
    Ok(())
}
