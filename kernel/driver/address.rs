// SPDX-License-Identifier: GPL-2.0

//! Addresses: handles for datagrams, and the attributes of queue pairs that name one.

use super::{
    device::Ferroce,
    mr,
    quota::{Counted, Kind},
};
use crate::{
    key::PdId,
    net::route::UDP,
    qp::{AddressVector, AttrMask, QpAttr, RequestedAttr},
    rdma::{
        self, ah, qp_attr::QpAttrOut, AccessFlags, AhAttr, MigState, Mtu, NetworkType, NewAh,
        QpState, UserCall,
    },
    roce, uapi,
    verbs::limits::GRH_LENGTH,
};
use kernel::{alloc::Flags, prelude::*};

/// Where a datagram goes to, as an address handle has it.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) pd: PdId,
    pub(crate) dgid: [u8; 16],
    pub(crate) sgid: [u8; 16],
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
    pub(crate) hop_limit: u8,
}

impl Address {
    /// Where packets of a queue pair go.
    pub(crate) fn way(&self, qpn: u32) -> roce::Address {
        roce::Address {
            sgid: self.sgid,
            dgid: self.dgid,
            traffic_class: self.traffic_class,
            flow_label: self.flow_label,
            hop_limit: self.hop_limit,
            entropy: qpn,
        }
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
        let number = reserved.keep();
        let address = Address {
            pd: mr::pd_id(ah.pd()),
            dgid: attr.dgid().0,
            sgid: sgid.gid().0,
            traffic_class: attr.traffic_class(),
            flow_label: attr.flow_label(),
            hop_limit: attr.hop_limit(),
        };
        device.ahs.put(number, address);
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

/// The first 40 bytes of a received datagram: the GRH, which for RoCE is the IP header, for IPv4 in
/// the last 20 bytes (IBTA annex A17, A17.4.5.2).
pub(crate) fn grh(address: &Address, length: u64) -> [u8; GRH_LENGTH as usize] {
    /// UDP, BTH, DETH, ICRC.
    const HEADERS: u64 = 8 + 12 + 8 + 4;
    let mut grh = [0; GRH_LENGTH as usize];
    // One that is too long for an IP packet goes nowhere, but its length is only checked later.
    let length = u16::try_from(length.saturating_add(HEADERS)).unwrap_or(u16::MAX);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    if address.dgid.starts_with(&mapped) {
        let ip = &mut grh[20..];
        ip[0] = 0x45;
        ip[1] = address.traffic_class;
        ip[2..4].copy_from_slice(&length.saturating_add(20).to_be_bytes());
        ip[8] = address.hop_limit;
        ip[9] = UDP;
        ip[12..16].copy_from_slice(&address.sgid[12..]);
        ip[16..20].copy_from_slice(&address.dgid[12..]);
        let checksum = checksum(ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let first = 6 << 28 | u32::from(address.traffic_class) << 20 | address.flow_label;
        grh[..4].copy_from_slice(&first.to_be_bytes());
        grh[4..6].copy_from_slice(&length.to_be_bytes());
        grh[6] = UDP;
        grh[7] = address.hop_limit;
        grh[8..24].copy_from_slice(&address.sgid);
        grh[24..40].copy_from_slice(&address.dgid);
    }
    grh
}

/// The checksum of an IPv4 header whose checksum is zero (RFC 1071). Programs tell by it whether there
/// is one (`ibv_init_ah_from_wc(3)`).
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    // Each time the carry of a sum of ten words.
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// What network header the first 40 bytes of a datagram have.
pub(crate) fn network_type(grh: &[u8; GRH_LENGTH as usize]) -> NetworkType {
    // The first four bits are IPv6's version, or they are before the IPv4 header, where all are zero.
    match grh[0] >> 4 {
        6 => NetworkType::Ipv6,
        _ => NetworkType::Ipv4,
    }
}

/// What a received datagram has in place of a service level, which RoCE v2 has not: a ConnectX writes there
/// that there was a UDP header (bit 3), and before it one of IPv6 (1) or IPv4 (2). UCX looks there for where
/// in the first 40 bytes the header is. (Annex A17.4.5.1 asks for such a flag, and names no field.)
pub(crate) fn l3_type(network_type: NetworkType) -> u8 {
    const UDP_HEADER: u8 = 1 << 3;
    UDP_HEADER
        | match network_type {
            NetworkType::Ipv6 => 1,
            _ => 2,
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
