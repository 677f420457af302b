// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program asks of an id.

use ferroce_core::qp::AttrMask;
use ferroce_core::verbs::{AccessFlags, QpState};

use super::abi::{
    qp_type, zeroed, AhAttr, QpAttr, QueryAddrAnswer, QueryPathAnswer, QueryRouteAnswer,
};
use super::address::Address;
use super::id::{Cm, Id};
use super::resolve::set_default_qkey;
use crate::{Errno, Result};

/// That a device's index is not told: librdmacm then goes by the GUID.
const NO_INDEX: u32 = u32::MAX;
/// `IB_PATH_GMP | IB_PATH_PRIMARY | IB_PATH_BIDIRECTIONAL`.
const PATH_FLAGS: u32 = 1 | 2 | 8 | 32;
const PKEY: u16 = 0xffff;

fn written<const N: usize>(address: Option<Address>) -> ([u8; N], u16) {
    address.map_or(([0; N], 0), |address| address.write())
}

impl Id {
    fn guid(&self) -> Option<u64> {
        self.device.as_ref().map(|(device, _)| device.guid)
    }

    /// Query Route.
    pub fn query_route(&self) -> QueryRouteAnswer {
        let mut answer = QueryRouteAnswer {
            src_addr: written(self.src).0,
            dst_addr: written(self.dst).0,
            ibdev_index: NO_INDEX,
            ..zeroed()
        };
        let Some(guid) = self.guid() else {
            return answer;
        };
        answer.node_guid = guid.to_be();
        answer.port_num = 1;
        match self.path {
            Some(path) => {
                answer.num_paths = 1;
                answer.ib_route[0] = path.record();
            }
            None => {
                let gid = |address: Option<Address>| address.map_or([0; 16], |a| a.gid());
                answer.ib_route[0].sgid = gid(self.src);
                answer.ib_route[0].dgid = gid(self.dst);
                answer.ib_route[0].pkey = PKEY.to_be();
            }
        }
        answer
    }

    fn query(&self, src: Option<Address>, dst: Option<Address>) -> QueryAddrAnswer {
        let ((src_addr, src_size), (dst_addr, dst_size)) = (written(src), written(dst));
        let guid = self.guid();
        QueryAddrAnswer {
            node_guid: guid.unwrap_or(0).to_be(),
            port_num: guid.is_some().into(),
            pkey: if guid.is_some() { PKEY.to_be() } else { 0 },
            src_size,
            dst_size,
            src_addr,
            dst_addr,
            ibdev_index: NO_INDEX,
            ..zeroed()
        }
    }

    /// Query Address.
    pub fn query_addr(&self) -> QueryAddrAnswer {
        self.query(self.src, self.dst)
    }

    /// Query GID: as addresses of InfiniBand.
    pub fn query_gid(&self) -> QueryAddrAnswer {
        let ib = |address: Option<Address>| {
            let address = address.unwrap_or_else(Address::any_v4);
            let gid = self.device.as_ref().map_or([0; 16], |_| address.gid());
            Some(address.to_ib(self.ps, gid))
        };
        self.query(ib(self.src), ib(self.dst))
    }

    /// Query Path.
    pub fn query_path(&self) -> QueryPathAnswer {
        let Some(path) = self.path else {
            return zeroed();
        };
        let service = self.dst.map_or([0; 8], |dst| dst.service_id(self.ps));
        QueryPathAnswer {
            num_paths: 1,
            flags: PATH_FLAGS,
            path: path.pack(service),
            ..zeroed()
        }
    }

    /// The attributes of a queue pair for its next state.
    pub fn qp_attr(&mut self, state: u32) -> Result<QpAttr> {
        let attr = QpAttr {
            qp_state: state,
            ..zeroed()
        };
        let (mask, attr) = match (self.cm, self.qp_type) {
            (_, qp_type::UD) => {
                set_default_qkey(self);
                let qkey = self.qkey;
                let mask = basic().union(AttrMask::QKEY);
                (
                    mask,
                    QpAttr {
                        qkey,
                        port_num: 1,
                        ..attr
                    },
                )
            }
            (None, _) => {
                let mask = basic().union(AttrMask::ACCESS_FLAGS);
                (
                    mask,
                    QpAttr {
                        port_num: 1,
                        ..attr
                    },
                )
            }
            (Some(cm), _) => self.connected_qp_attr(cm, state, attr)?,
        };
        let is_rtr = state == u32::from(QpState::Rtr);
        Ok(QpAttr {
            qp_attr_mask: mask.bits(),
            // What an end says in its message is what it wants to see first (IBTA 12.7.31).
            rq_psn: if is_rtr { self.psn } else { 0 },
            ..attr
        })
    }

    fn connected_qp_attr(&self, cm: Cm, state: u32, attr: QpAttr) -> Result<(AttrMask, QpAttr)> {
        let is_reliable = self.qp_type == qp_type::RC;
        let refused = Err(Errno(libc::EINVAL));
        let has_peer = matches!(
            cm,
            Cm::ReqRcvd | Cm::RepRcvd | Cm::RepSent | Cm::Established
        );
        if !has_peer && cm != Cm::ReqSent {
            return refused;
        }
        match QpState::try_from(state) {
            Ok(QpState::Init) => {
                let mut access = AccessFlags::REMOTE_WRITE;
                if self.terms.responder_resources != 0 {
                    access = access
                        .union(AccessFlags::REMOTE_READ)
                        .union(AccessFlags::REMOTE_ATOMIC)
                        .union(AccessFlags::FLUSH_GLOBAL)
                        .union(AccessFlags::FLUSH_PERSISTENT);
                }
                let mask = basic().union(AttrMask::ACCESS_FLAGS);
                let qp_access_flags = access.bits();
                Ok((
                    mask,
                    QpAttr {
                        qp_access_flags,
                        port_num: 1,
                        ..attr
                    },
                ))
            }
            Ok(QpState::Rtr) if has_peer => {
                let mut mask = AttrMask::STATE
                    .union(AttrMask::AV)
                    .union(AttrMask::PATH_MTU)
                    .union(AttrMask::DEST_QPN)
                    .union(AttrMask::RQ_PSN);
                let mut attr = QpAttr {
                    ah_attr: self.ah_attr(),
                    path_mtu: self.path.map_or(0, |path| path.mtu.into()),
                    dest_qp_num: self.remote_qpn,
                    ..attr
                };
                if is_reliable {
                    mask = mask
                        .union(AttrMask::MAX_DEST_RD_ATOMIC)
                        .union(AttrMask::MIN_RNR_TIMER);
                    attr.max_dest_rd_atomic = self.terms.responder_resources;
                }
                Ok((mask, attr))
            }
            Ok(QpState::Rts) if has_peer => {
                let mut mask = AttrMask::STATE.union(AttrMask::SQ_PSN);
                let mut attr = QpAttr {
                    sq_psn: self.remote_psn,
                    ..attr
                };
                if is_reliable {
                    mask = mask
                        .union(AttrMask::RETRY_CNT)
                        .union(AttrMask::RNR_RETRY)
                        .union(AttrMask::MAX_QP_RD_ATOMIC)
                        .union(AttrMask::TIMEOUT);
                    attr.retry_cnt = self.terms.retry_count;
                    attr.rnr_retry = self.terms.rnr_retry_count;
                    attr.max_rd_atomic = self.terms.initiator_depth;
                    attr.timeout = self.ack_timeout();
                }
                Ok((mask, attr))
            }
            _ => refused,
        }
    }

    fn ah_attr(&self) -> AhAttr {
        match (&self.path, &self.device) {
            (Some(path), Some((_, index))) => path.ah_attr(*index),
            _ => zeroed(),
        }
    }
}

/// What each first change of a queue pair names.
fn basic() -> AttrMask {
    AttrMask::STATE
        .union(AttrMask::PKEY_INDEX)
        .union(AttrMask::PORT)
}
