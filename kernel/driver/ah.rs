// SPDX-License-Identifier: GPL-2.0

//! Addresses: handles for datagrams, and the attributes of queue pairs that name one.

use super::{
    device::Ferroce,
    mr,
    quota::{Counted, Kind},
};
use crate::{
    address::Address,
    qp::{AddressVector, AttrMask, QpAttr, RequestedAttr},
    rdma::{
        self, ah, qp_attr::QpAttrOut, rcu::RcuArc, AccessFlags, AhAttr, MigState, Mtu, NewAh,
        QpState, UserCall,
    },
    roce, uapi,
};
use kernel::{alloc::Flags, prelude::*};

/// Where packets of a queue pair to an address go.
pub(crate) fn way(address: &Address, qpn: u32) -> roce::Address {
    roce::Address {
        sgid: address.sgid,
        dgid: address.dgid,
        traffic_class: address.traffic_class,
        flow_label: address.flow_label,
        hop_limit: address.hop_limit,
        entropy: qpn,
    }
}

/// The driver's data for address handles: a number in the device's table.
pub(crate) struct Ah {
    number: u32,
    _counted: Counted,
}

#[vtable]
impl ah::Operations for Ah {
    type Device = Ferroce;

    fn create(
        ah: &NewAh<'_, Self>,
        attr: &AhAttr,
        flags: Flags,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result<impl PinInit<Self, Error>> {
        let device = ah.device();
        let sgid = attr.sgid().ok_or(EINVAL)?;
        let counted = device.quota.add(Kind::Ah)?;
        let flags = match call {
            Some(_) => GFP_KERNEL_ACCOUNT,
            None => flags,
        };
        let reserved = device.ahs.reserve(flags)?;
        if let Some(call) = call {
            call.respond(&uapi::AhResponse {
                number: reserved.number(),
            })?;
        }
        let address = Address {
            pd: mr::pd_id(ah.pd()),
            dgid: attr.dgid().0,
            sgid: sgid.gid().0,
            traffic_class: attr.traffic_class(),
            flow_label: attr.flow_label(),
            hop_limit: attr.hop_limit(),
        };
        let (number, address) = (reserved.number(), RcuArc::new(address, flags)?);
        device.ahs.put(reserved.keep(), address);
        Ok(try_init!(Ah {
            number,
            _counted: counted,
        }))
    }

    fn destroy(ah: &rdma::Ah<Self>) {
        ah.device().ahs.remove(ah.number);
    }
}

impl Ah {
    /// Its number in the device's table.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

/// What a Modify QP asks for, in the core's terms: the numbers are Linux's in both.
pub(crate) struct Attributes {
    pub(crate) mask: AttrMask,
    pub(crate) requested: RequestedAttr,
    /// The GID that goes with the address vector.
    pub(crate) sgid: Option<[u8; 16]>,
    /// The address vector as `ib_core` has it.
    pub(crate) av: Option<ah::AddressVector>,
}

impl Attributes {
    pub(crate) fn of(attr: &rdma::QpAttr<'_>) -> Self {
        let av = attr.av();
        let requested = RequestedAttr {
            qp_state: attr.state().map_or(0, |s| s.as_raw()),
            cur_qp_state: attr.cur_state().map_or(0, |s| s.as_raw()),
            path_mtu: attr.path_mtu().map_or(0, |m| m.as_raw()),
            qkey: attr.qkey().unwrap_or(0),
            rq_psn: attr.rq_psn().unwrap_or(0),
            sq_psn: attr.sq_psn().unwrap_or(0),
            dest_qp_num: attr.dest_qpn().unwrap_or(0),
            qp_access_flags: attr.access().map_or(0, |a| a.bits()),
            ah_attr: av.map(vector).unwrap_or_default(),
            pkey_index: attr.pkey_index().unwrap_or(0),
            en_sqd_async_notify: attr.sqd_async_notify().unwrap_or(0) != 0,
            max_rd_atomic: attr.max_rd_atomic().unwrap_or(0),
            max_dest_rd_atomic: attr.max_dest_rd_atomic().unwrap_or(0),
            min_rnr_timer: attr.min_rnr_timer().unwrap_or(0).into(),
            port_num: attr.port().unwrap_or(0),
            timeout: attr.timeout().unwrap_or(0).into(),
            retry_cnt: attr.retry_cnt().unwrap_or(0),
            rnr_retry: attr.rnr_retry().unwrap_or(0),
        };
        Self {
            mask: AttrMask::from_bits_retain(attr.mask().bits()),
            requested,
            sgid: av.and_then(|a| a.sgid()).map(|g| g.gid().0),
            av: av.map(ah::AddressVector::from),
        }
    }
}

fn vector(av: &AhAttr) -> AddressVector {
    AddressVector {
        dgid: av.dgid().0,
        dmac: av.dmac().unwrap_or_default(),
        sgid_index: av.sgid_index().into(),
        flow_label: av.flow_label(),
        hop_limit: av.hop_limit(),
        traffic_class: av.traffic_class(),
        sl: av.sl(),
        port_num: av.port(),
    }
}

/// The answer to a Query QP.
pub(crate) fn fill(out: &mut QpAttrOut<'_>, attr: &QpAttr) {
    let state = QpState::try_from(u32::from(attr.state.number())).unwrap_or(QpState::Error);
    let mtu = Mtu::try_from(u32::from(attr.path_mtu.number())).unwrap_or(Mtu::Mtu256);
    out.state(state)
        .path_mtu(mtu)
        .path_mig_state(MigState::Migrated)
        .access(AccessFlags::from_bits(attr.qp_access_flags.bits()))
        .qkey(attr.qkey)
        .rq_psn(attr.rq_psn)
        .sq_psn(attr.sq_psn)
        .dest_qpn(attr.dest_qp_num)
        .pkey_index(attr.pkey_index)
        .max_rd_atomic(attr.max_rd_atomic)
        .max_dest_rd_atomic(attr.max_dest_rd_atomic)
        .min_rnr_timer(attr.min_rnr_timer.code())
        .port(attr.port_num)
        .timeout(attr.timeout.code())
        .retry_cnt(attr.retry_cnt)
        .rnr_retry(attr.rnr_retry);
}
