// SPDX-License-Identifier: MIT OR Apache-2.0
//! An id (`struct rdma_cm_id`), and what is sent from one to another.

use std::collections::VecDeque;
use std::sync::Arc;

use super::abi::{AhAttr, ConnParam, Ece, PathRecord};
use super::address::Address;
use super::devices::Device;
use super::Channel;

/// How far an id is (`enum rdma_cm_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Idle,
    AddrQuery,
    AddrResolved,
    RouteResolved,
    Connect,
    Disconnect,
    AddrBound,
    Listen,
}

/// How far its connection is (`enum ib_cm_state`; IBTA 12.9.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cm {
    Idle,
    ReqSent,
    ReqRcvd,
    RepSent,
    RepRcvd,
    Established,
    DreqSent,
    DreqRcvd,
    Timewait,
    SidrReqSent,
    SidrReqRcvd,
}

/// An id as others refer to it: its number, and a serial number, as the number may be another's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRef {
    pub number: usize,
    pub serial: u64,
}

/// What a message carries of private data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateData(pub Vec<u8>);

/// The attributes of a path that are not the same on all.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub dgid: [u8; 16],
    pub sgid: [u8; 16],
    pub flow_label: u32,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub sl: u8,
    pub mtu: u8,
    pub rate: u8,
    /// As 4.096 µs · 2^n.
    pub packet_life_time: u8,
}

/// The one partition.
const PKEY: u16 = 0xffff;
/// "Exactly", of MTU, rate and lifetime (`IB_SA_EQ`).
const EXACTLY: u8 = 2;

impl Path {
    /// As the other end has it.
    pub fn reversed(self) -> Self {
        Self {
            dgid: self.sgid,
            sgid: self.dgid,
            ..self
        }
    }

    /// `struct ib_user_path_rec`.
    pub fn record(&self) -> PathRecord {
        PathRecord {
            dgid: self.dgid,
            sgid: self.sgid,
            flow_label: self.flow_label.to_be(),
            reversible: 1,
            mtu: self.mtu.into(),
            pkey: PKEY.to_be(),
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
            sl: self.sl,
            mtu_selector: EXACTLY,
            rate_selector: EXACTLY,
            rate: self.rate,
            packet_life_time_selector: EXACTLY,
            packet_life_time: self.packet_life_time,
            ..super::abi::zeroed()
        }
    }

    /// As in packets (IBTA 15.2.5.16).
    pub fn pack(&self, service_id: [u8; 8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&service_id);
        bytes[8..24].copy_from_slice(&self.dgid);
        bytes[24..40].copy_from_slice(&self.sgid);
        let flow = self.flow_label << 8 | u32::from(self.hop_limit);
        bytes[44..48].copy_from_slice(&flow.to_be_bytes());
        bytes[48] = self.traffic_class;
        // It is reversible.
        bytes[49] = 1 << 7;
        bytes[50..52].copy_from_slice(&PKEY.to_be_bytes());
        bytes[53] = self.sl & 0xf;
        for (byte, value) in [(54, self.mtu), (55, self.rate), (56, self.packet_life_time)] {
            bytes[byte] = EXACTLY << 6 | value & 0x3f;
        }
        bytes
    }

    /// Reverses [`pack`](Self::pack).
    pub fn unpack(bytes: &[u8; 64]) -> Self {
        let array = |from: usize| core::array::from_fn(|i| bytes[from + i]);
        let flow = u32::from_be_bytes(core::array::from_fn(|i| bytes[44 + i]));
        Self {
            dgid: array(8),
            sgid: array(24),
            flow_label: flow >> 8 & 0xf_ffff,
            hop_limit: flow as u8,
            traffic_class: bytes[48],
            sl: bytes[53] & 0xf,
            mtu: bytes[54] & 0x3f,
            rate: bytes[55] & 0x3f,
            packet_life_time: bytes[56] & 0x3f,
        }
    }

    /// The address vector to send by.
    pub fn ah_attr(&self, sgid_index: u8) -> AhAttr {
        AhAttr {
            dgid: self.dgid,
            flow_label: self.flow_label,
            sgid_index,
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
            sl: self.sl,
            static_rate: self.rate,
            is_global: 1,
            port_num: 1,
            ..super::abi::zeroed()
        }
    }
}

/// What both ends agree on, of one of them (IBTA 12.7).
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    pub responder_resources: u8,
    pub initiator_depth: u8,
    pub flow_control: u8,
    pub retry_count: u8,
    pub rnr_retry_count: u8,
    pub srq: u8,
}

impl Terms {
    pub fn of(param: &ConnParam) -> Self {
        Self {
            responder_resources: param.responder_resources,
            initiator_depth: param.initiator_depth,
            // One bit, and three bits each (IBTA 12.7).
            flow_control: param.flow_control & 1,
            retry_count: param.retry_count.min(7),
            rnr_retry_count: param.rnr_retry_count.min(7),
            srq: u8::from(param.srq != 0),
        }
    }

    /// As the peer has it: what the one can start the other has to answer.
    pub fn of_peer(self) -> Self {
        Self {
            responder_resources: self.initiator_depth,
            initiator_depth: self.responder_resources,
            ..self
        }
    }
}

/// A request for a connection (REQ), or for a queue pair that takes datagrams (SIDR_REQ).
#[derive(Clone, Debug)]
pub struct Request {
    pub from: IdRef,
    pub ps: u16,
    pub qp_type: u8,
    pub src: Address,
    pub dst: Address,
    pub path: Path,
    pub qp_num: u32,
    pub psn: u32,
    pub terms: Terms,
    pub private_data: PrivateData,
    pub ece: Ece,
}

/// What an id sends to another (IBTA 12.6).
#[derive(Clone, Debug)]
pub enum Message {
    Rep {
        from: IdRef,
        qp_num: u32,
        psn: u32,
        terms: Terms,
        private_data: PrivateData,
        ece: Ece,
    },
    Rtu,
    Rej {
        reason: u8,
        private_data: PrivateData,
    },
    Dreq,
    Drep,
    SidrRep {
        status: u32,
        qp_num: u32,
        qkey: u32,
        private_data: PrivateData,
    },
}

/// An id.
#[derive(Debug)]
pub struct Id {
    pub serial: u64,
    pub channel: Channel,
    /// The program's name for it, in its events; zero until it has accepted what it was made of.
    pub uid: u64,
    pub events_reported: u32,
    pub ps: u16,
    pub qp_type: u8,
    pub state: State,

    pub src: Option<Address>,
    pub dst: Option<Address>,
    /// The device, and the index of the address there.
    pub device: Option<(Arc<Device>, u8)>,
    /// The interface, of a link-local address.
    pub link: u32,
    /// The port space that it has its port in.
    pub bound: Option<u16>,
    pub reuseaddr: bool,
    pub afonly: bool,
    pub afonly_set: bool,

    pub tos: Option<u8>,
    pub ack_timeout: Option<u8>,
    pub qkey: u32,
    pub path: Option<Path>,

    /// How many requests may be waiting for the program.
    pub backlog: u32,
    /// Those beyond.
    pub waiting: VecDeque<Request>,

    /// `None` until it connects, or has been made of a request.
    pub cm: Option<Cm>,
    pub peer: Option<IdRef>,
    pub qp_num: u32,
    /// The first PSN that comes to this end.
    pub psn: u32,
    /// The first PSN that comes to the other end.
    pub remote_psn: u32,
    pub remote_qpn: u32,
    pub terms: Terms,
    pub srq: u8,
    pub ece: Ece,

    pub groups: Vec<usize>,
}

/// An id's place in a multicast group.
#[derive(Debug)]
pub struct Group {
    pub id: usize,
    pub uid: u64,
    pub events_reported: u32,
}
