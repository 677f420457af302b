// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of `/dev/infiniband/rdma_cm` and their answers (`rdma/rdma_user_cm.h`, `rdma/ib_user_verbs.h`,
//! `rdma/ib_user_sa.h`), as they are in memory.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Declares structures that are read from commands, or written into answers.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
            #[repr(C)]
            pub struct $name { $(pub $field: $type,)* }
        )*
    };
}

pub(super) use structures;

/// `struct sockaddr_in6`, or a shorter address.
pub type ShortAddress = [u8; 28];
/// `struct __kernel_sockaddr_storage`.
pub type LongAddress = [u8; 128];

structures! {
    Header { cmd: u32, input: u16, output: u16, }
    CreateId { uid: u64, response: u64, ps: u16, qp_type: u8, reserved: [u8; 5], }
    /// Destroy ID, Leave Multicast.
    DestroyId { response: u64, id: u32, reserved: u32, }
    BindIp { response: u64, addr: ShortAddress, id: u32, }
    Bind { id: u32, addr_size: u16, reserved: u16, addr: LongAddress, }
    ResolveIp { src_addr: ShortAddress, dst_addr: ShortAddress, id: u32, timeout_ms: u32, }
    ResolveAddr {
        id: u32, timeout_ms: u32, src_size: u16, dst_size: u16, reserved: u32,
        src_addr: LongAddress, dst_addr: LongAddress,
    }
    ResolveRoute { id: u32, timeout_ms: u32, }
    /// Query, Query Route.
    Query { response: u64, id: u32, option: u32, }
    PathRecord {
        dgid: [u8; 16], sgid: [u8; 16], dlid: u16, slid: u16, raw_traffic: u32, flow_label: u32,
        reversible: u32, mtu: u32, pkey: u16, hop_limit: u8, traffic_class: u8, numb_path: u8, sl: u8,
        mtu_selector: u8, rate_selector: u8, rate: u8, packet_life_time_selector: u8,
        packet_life_time: u8, preference: u8,
    }
    QueryRouteAnswer {
        node_guid: u64, ib_route: [PathRecord; 2], src_addr: ShortAddress, dst_addr: ShortAddress,
        num_paths: u32, port_num: u8, reserved: [u8; 3], ibdev_index: u32, reserved1: u32,
    }
    QueryAddrAnswer {
        node_guid: u64, port_num: u8, reserved: u8, pkey: u16, src_size: u16, dst_size: u16,
        src_addr: LongAddress, dst_addr: LongAddress, ibdev_index: u32, reserved1: u32,
    }
    /// With one `struct ib_path_rec_data`, whose path is as in packets (IBTA 15.2.5.16).
    QueryPathAnswer { num_paths: u32, reserved: u32, flags: u32, reserved1: u32, path: [u8; 64], }
    ConnParam {
        qp_num: u32, qkey: u32, private_data: [u8; 256], private_data_len: u8, srq: u8,
        responder_resources: u8, initiator_depth: u8, flow_control: u8, retry_count: u8,
        rnr_retry_count: u8, valid: u8,
    }
    AhAttr {
        dgid: [u8; 16], flow_label: u32, sgid_index: u8, hop_limit: u8, traffic_class: u8,
        reserved: u8, dlid: u16, sl: u8, src_path_bits: u8, static_rate: u8, is_global: u8,
        port_num: u8, reserved1: u8,
    }
    UdParam {
        qp_num: u32, qkey: u32, ah_attr: AhAttr, private_data: [u8; 256], private_data_len: u8,
        reserved: [u8; 7],
    }
    Ece { vendor_id: u32, attr_mod: u32, }
    /// The last field is missing in commands of older librdmacm.
    Connect { conn_param: ConnParam, id: u32, reserved: u32, ece: Ece, }
    Listen { id: u32, backlog: u32, }
    /// As [`Connect`].
    Accept { uid: u64, conn_param: ConnParam, id: u32, reserved: u32, ece: Ece, }
    Reject { id: u32, private_data_len: u8, reason: u8, reserved: [u8; 2], private_data: [u8; 256], }
    Disconnect { id: u32, }
    InitQpAttr { response: u64, id: u32, qp_state: u32, }
    QpAttr {
        qp_attr_mask: u32, qp_state: u32, cur_qp_state: u32, path_mtu: u32, path_mig_state: u32,
        qkey: u32, rq_psn: u32, sq_psn: u32, dest_qp_num: u32, qp_access_flags: u32,
        ah_attr: AhAttr, alt_ah_attr: AhAttr, cap: [u32; 5], pkey_index: u16, alt_pkey_index: u16,
        en_sqd_async_notify: u8, sq_draining: u8, max_rd_atomic: u8, max_dest_rd_atomic: u8,
        min_rnr_timer: u8, port_num: u8, timeout: u8, retry_cnt: u8, rnr_retry: u8,
        alt_port_num: u8, alt_timeout: u8, reserved: [u8; 5],
    }
    Notify { id: u32, event: u32, }
    JoinIpMulticast { response: u64, uid: u64, addr: ShortAddress, id: u32, }
    JoinMulticast {
        response: u64, uid: u64, id: u32, addr_size: u16, join_flags: u16, addr: LongAddress,
    }
    GetEvent { response: u64, }
    /// `param` is a [`ConnParam`] or a [`UdParam`].
    EventAnswer {
        uid: u64, id: u32, event: u32, status: u32, param: [u8; 304], reserved: u32, ece: Ece,
    }
    SetOption { optval: u64, id: u32, level: u32, optname: u32, optlen: u32, }
    MigrateId { response: u64, id: u32, fd: u32, }
    ResolveIbService { id: u32, reserved: u32, service: [u8; 80], }
    WriteCmEvent { id: u32, reserved: u32, event: u32, status: u32, param: [u8; 304], }
}

const _: () = {
    assert!(size_of::<PathRecord>() == 64 && size_of::<QueryRouteAnswer>() == 208);
    assert!(size_of::<QueryAddrAnswer>() == 280 && size_of::<ConnParam>() == 272);
    assert!(size_of::<AhAttr>() == 32 && size_of::<UdParam>() == 304);
    assert!(size_of::<Connect>() == 288 && size_of::<Accept>() == 296);
    assert!(size_of::<QpAttr>() == 144 && size_of::<EventAnswer>() == 336);
    assert!(size_of::<ResolveAddr>() == 272 && size_of::<JoinMulticast>() == 152);
    assert!(core::mem::offset_of!(EventAnswer, ece) == 328);
};

/// A structure at the beginning of a command's bytes; what is missing at the end is zero.
pub fn parse<T: FromBytes + IntoBytes>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    let room = value.as_mut_bytes();
    let length = room.len().min(bytes.len());
    room[..length].copy_from_slice(&bytes[..length]);
    value
}

/// What goes to the program of an answer, with so much room.
pub fn emit(answer: &(impl IntoBytes + Immutable), room: usize) -> Vec<u8> {
    let bytes = answer.as_bytes();
    bytes[..bytes.len().min(room)].to_vec()
}

/// All zero.
pub fn zeroed<T: FromZeros>() -> T {
    T::new_zeroed()
}

/// `RDMA_USER_CM_CMD_..`.
pub mod command {
    pub use ferroce_core::user::command::{GET_EVENT, MIGRATE_ID, SET_OPTION};

    pub const CREATE_ID: u32 = 0;
    pub const DESTROY_ID: u32 = 1;
    pub const BIND_IP: u32 = 2;
    pub const RESOLVE_IP: u32 = 3;
    pub const RESOLVE_ROUTE: u32 = 4;
    pub const QUERY_ROUTE: u32 = 5;
    pub const CONNECT: u32 = 6;
    pub const LISTEN: u32 = 7;
    pub const ACCEPT: u32 = 8;
    pub const REJECT: u32 = 9;
    pub const DISCONNECT: u32 = 10;
    pub const INIT_QP_ATTR: u32 = 11;
    pub const NOTIFY: u32 = 15;
    pub const JOIN_IP_MCAST: u32 = 16;
    pub const LEAVE_MCAST: u32 = 17;
    pub const QUERY: u32 = 19;
    pub const BIND: u32 = 20;
    pub const RESOLVE_ADDR: u32 = 21;
    pub const JOIN_MCAST: u32 = 22;
    pub const RESOLVE_IB_SERVICE: u32 = 23;
    pub const WRITE_CM_EVENT: u32 = 24;
}

/// `RDMA_CM_EVENT_..`.
pub mod event {
    pub const ADDR_RESOLVED: u32 = 0;
    pub const ADDR_ERROR: u32 = 1;
    pub const ROUTE_RESOLVED: u32 = 2;
    pub const CONNECT_REQUEST: u32 = 4;
    pub const CONNECT_RESPONSE: u32 = 5;
    pub const UNREACHABLE: u32 = 7;
    pub const REJECTED: u32 = 8;
    pub const ESTABLISHED: u32 = 9;
    pub const DISCONNECTED: u32 = 10;
    pub const MULTICAST_JOIN: u32 = 12;
    pub const TIMEWAIT_EXIT: u32 = 15;
    pub const USER: u32 = 18;
    pub const INTERNAL: u32 = 19;
}

/// `enum rdma_ucm_port_space`.
pub mod ps {
    pub const IPOIB: u16 = 0x0002;
    pub const TCP: u16 = 0x0106;
    pub const UDP: u16 = 0x0111;
    pub const IB: u16 = 0x013f;
}

/// `enum ib_qp_type`.
pub mod qp_type {
    pub const RC: u8 = 2;
    pub const UC: u8 = 3;
    pub const UD: u8 = 4;
    pub const XRC_INI: u8 = 9;
}

/// `enum ib_cm_rej_reason` (IBTA 12.6.7.2).
pub mod rej {
    pub const TIMEOUT: u8 = 4;
    pub const INVALID_SERVICE_ID: u8 = 8;
    pub const CONSUMER_DEFINED: u8 = 28;
    pub const VENDOR_OPTION_NOT_SUPPORTED: u8 = 35;
}

/// `enum ib_cm_sidr_status` (IBTA 12.11.2).
pub mod sidr {
    pub const SUCCESS: u32 = 0;
    pub const UNSUPPORTED: u32 = 1;
    pub const REJECT: u32 = 2;
}

/// How many bytes of private data a message has room for (`enum ib_cm_data_size`; IBTA 12.6).
pub mod room {
    pub const REQ: usize = 92;
    pub const REP: usize = 196;
    pub const REJ: usize = 148;
    pub const SIDR_REQ: usize = 216;
    pub const SIDR_REP: usize = 136;
    /// What of a request's is the addresses' (IBTA annex A11).
    pub const ADDRESSES: usize = 36;
}

/// Levels and names of Set Option.
pub mod option {
    pub const LEVEL_ID: u32 = 0;
    pub const LEVEL_IB: u32 = 1;
    pub const ID_TOS: u32 = 0;
    pub const ID_REUSEADDR: u32 = 1;
    pub const ID_AFONLY: u32 = 2;
    pub const ID_ACK_TIMEOUT: u32 = 3;
    pub const IB_PATH: u32 = 1;
}
