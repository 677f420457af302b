// SPDX-License-Identifier: GPL-2.0

//! Objects that a driver does not have.

use super::{
    ah, cq, dm, eopnotsupp, mr, mw, ops, pd, qp,
    qp_attr::{QpAttr, QpAttrOut, QpInitAttr},
    srq, ucontext,
    udata::{Udata, UserCall},
    verbs::{AccessFlags, MrType, MwType, QpAttrMask, SrqAttrMask},
    wr::{RecvWrs, SendWrs},
    Pd,
};
use core::marker::PhantomData;
use kernel::{alloc::Flags, prelude::*};

/// Stands for the data of objects that the driver `D` does not have. Calls that would make one
/// fail with `EOPNOTSUPP`.
pub struct Unsupported<D>(PhantomData<fn() -> D>);

type New<D> = Result<Unsupported<D>>;

#[vtable]
impl<D: ops::Operations<Ucontext = Self>> ucontext::Operations for Unsupported<D> {
    type Device = D;

    fn alloc(
        _ucontext: &ucontext::NewUcontext<'_, Self>,
        _udata: &Udata<'_>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Pd = Self>> pd::Operations for Unsupported<D> {
    type Device = D;

    fn alloc(
        _pd: &pd::NewPd<'_, Self>,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Ah = Self>> ah::Operations for Unsupported<D> {
    type Device = D;

    fn create(
        _ah: &ah::NewAh<'_, Self>,
        _attr: &ah::AhAttr,
        _flags: Flags,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Cq = Self>> cq::Operations for Unsupported<D> {
    type Device = D;
    const SUPPORTED: bool = false;

    fn create(
        _cq: &mut cq::NewCq<'_, Self>,
        _attr: &cq::CqInitAttr,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Srq = Self>> srq::Operations for Unsupported<D> {
    type Device = D;
    const SUPPORTED: bool = false;

    fn create(
        _srq: &mut srq::NewSrq<'_, Self>,
        _attr: &mut srq::SrqAttr,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }

    fn modify(
        _srq: &srq::Srq<Self>,
        _attr: &srq::SrqAttr,
        _mask: SrqAttrMask,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result {
        Err(eopnotsupp())
    }

    fn query(_srq: &srq::Srq<Self>, _attr: &mut srq::SrqAttr) -> Result {
        Err(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Qp = Self>> qp::Operations for Unsupported<D> {
    type Device = D;
    const SUPPORTED: bool = false;

    fn create(
        _qp: &mut qp::NewQp<'_, Self>,
        _attr: &mut QpInitAttr,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }

    fn modify(_qp: &qp::Qp<Self>, _attr: &QpAttr<'_>, _call: Option<&UserCall<'_, D>>) -> Result {
        Err(eopnotsupp())
    }

    fn query(_qp: &qp::Qp<Self>, _attr: &mut QpAttrOut<'_>, _mask: QpAttrMask) -> Result {
        Err(eopnotsupp())
    }

    fn post_send(_qp: &qp::Qp<Self>, _wrs: &mut SendWrs<'_, D>) -> Result {
        Err(eopnotsupp())
    }

    fn post_recv(_qp: &qp::Qp<Self>, _wrs: &mut RecvWrs<'_, D>) -> Result {
        Err(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Mr = Self>> mr::Operations for Unsupported<D> {
    type Device = D;
    const SUPPORTED: bool = false;

    fn reg_user(
        _mr: &mut mr::NewMr<'_, Self>,
        _pd: &Pd<D::Pd>,
        _memory: mr::UserMemory,
        _access: AccessFlags,
        _call: Option<&UserCall<'_, D>>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }

    fn get_dma(
        _mr: &mut mr::NewMr<'_, Self>,
        _pd: &Pd<D::Pd>,
        _access: AccessFlags,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }

    fn alloc(
        _mr: &mut mr::NewMr<'_, Self>,
        _pd: &Pd<D::Pd>,
        _mr_type: MrType,
        _max_pages: u32,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }

    fn reg_dm(
        _mr: &mut mr::NewMr<'_, Self>,
        _pd: &Pd<D::Pd>,
        _part: &mr::DmPart<'_, dm::Dm<D::Dm>>,
        _access: AccessFlags,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Mw = Self>> mw::Operations for Unsupported<D> {
    type Device = D;
    const SUPPORTED: bool = false;

    fn alloc(
        _mw: &mut mw::NewMw<'_, Self>,
        _mw_type: MwType,
        _call: &UserCall<'_, D>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }
}

#[vtable]
impl<D: ops::Operations<Dm = Self>> dm::Operations for Unsupported<D> {
    type Device = D;
    const SUPPORTED: bool = false;

    fn alloc(
        _dm: &dm::NewDm<'_, Self>,
        _length: u64,
        _alignment: u32,
        _call: &UserCall<'_, D>,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<New<D>, _>(eopnotsupp())
    }

    fn offset(&self) -> u64 {
        0
    }
}
