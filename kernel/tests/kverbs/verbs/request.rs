// SPDX-License-Identifier: GPL-2.0

//! Work requests.

use super::{Ah, Mr};
use crate::bindings::*;
use kernel::prelude::*;

/// A place in the peer's memory.
#[derive(Clone, Copy)]
pub(crate) struct Remote {
    pub(crate) addr: u64,
    pub(crate) rkey: u32,
}

/// What a send work request asks for.
pub(crate) enum Op<'a> {
    Send,
    SendImm([u8; 4]),
    SendInv(u32),
    Write(Remote),
    WriteImm(Remote, [u8; 4]),
    Read(Remote),
    CompareSwap(Remote, u64, u64),
    FetchAdd(Remote, u64),
    Register(&'a Mr<'a>, u32),
    LocalInv(u32),
    Datagram(&'a Ah<'a>, u32, u32),
}

/// A send work request of any kind. Each has the `ib_send_wr` first.
#[repr(C)]
pub(crate) union Wr {
    pub(crate) plain: ib_send_wr,
    rdma: ib_rdma_wr,
    atomic: ib_atomic_wr,
    datagram: ib_ud_wr,
    register: ib_reg_wr,
}

impl Op<'_> {
    pub(crate) fn wr(self, id: u64, sges: &[ib_sge], flags: ib_send_flags) -> Wr {
        let mut plain = ib_send_wr {
            sg_list: sges.as_ptr().cast_mut(),
            num_sge: sges.len() as c_int,
            send_flags: flags as c_int,
            ..Default::default()
        };
        plain.__bindgen_anon_1.wr_id = id;
        let rdma = |plain, remote: Remote| Wr {
            rdma: ib_rdma_wr {
                wr: plain,
                remote_addr: remote.addr,
                rkey: remote.rkey,
            },
        };
        let atomic = |plain, remote: Remote, compare_add, swap| Wr {
            atomic: ib_atomic_wr {
                wr: plain,
                remote_addr: remote.addr,
                compare_add,
                swap,
                rkey: remote.rkey,
                ..Default::default()
            },
        };
        match self {
            Self::Send => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND;
                Wr { plain }
            }
            Self::SendImm(data) => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND_WITH_IMM;
                plain.ex.imm_data = u32::from_ne_bytes(data);
                Wr { plain }
            }
            Self::SendInv(rkey) => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND_WITH_INV;
                plain.ex.invalidate_rkey = rkey;
                Wr { plain }
            }
            Self::LocalInv(rkey) => {
                plain.opcode = ib_wr_opcode_IB_WR_LOCAL_INV;
                plain.ex.invalidate_rkey = rkey;
                Wr { plain }
            }
            Self::Write(remote) => {
                plain.opcode = ib_wr_opcode_IB_WR_RDMA_WRITE;
                rdma(plain, remote)
            }
            Self::WriteImm(remote, data) => {
                plain.opcode = ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM;
                plain.ex.imm_data = u32::from_ne_bytes(data);
                rdma(plain, remote)
            }
            Self::Read(remote) => {
                plain.opcode = ib_wr_opcode_IB_WR_RDMA_READ;
                rdma(plain, remote)
            }
            Self::CompareSwap(remote, compare, swap) => {
                plain.opcode = ib_wr_opcode_IB_WR_ATOMIC_CMP_AND_SWP;
                atomic(plain, remote, compare, swap)
            }
            Self::FetchAdd(remote, add) => {
                plain.opcode = ib_wr_opcode_IB_WR_ATOMIC_FETCH_AND_ADD;
                atomic(plain, remote, add, 0)
            }
            Self::Register(mr, access) => {
                plain.opcode = ib_wr_opcode_IB_WR_REG_MR;
                Wr {
                    register: ib_reg_wr {
                        wr: plain,
                        mr: mr.raw,
                        key: mr.key(),
                        access: access as c_int,
                    },
                }
            }
            Self::Datagram(ah, remote_qpn, remote_qkey) => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND;
                Wr {
                    datagram: ib_ud_wr {
                        wr: plain,
                        ah: ah.raw,
                        remote_qpn,
                        remote_qkey,
                        ..Default::default()
                    },
                }
            }
        }
    }
}

/// A receive work request. It is valid as long as `sges`.
pub(crate) fn receive_wr(id: u64, sges: &[ib_sge]) -> ib_recv_wr {
    let mut wr = ib_recv_wr {
        sg_list: sges.as_ptr().cast_mut(),
        num_sge: sges.len() as c_int,
        ..Default::default()
    };
    wr.__bindgen_anon_1.wr_id = id;
    wr
}
