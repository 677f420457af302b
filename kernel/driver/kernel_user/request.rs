// SPDX-License-Identifier: GPL-2.0

//! Work requests and completions, from `ib_core`'s form to the rings' and back.

use super::post_error;
use crate::{
    device::Ferroce,
    queue_pair::Qp,
    rdma::{
        self,
        wr::{RecvWr, SendWr, Sge},
        NetworkType, Wc, WcOpcode, WcStatus, WrOpcode,
    },
    ring::{
        self, Cqe, Destination, Operation, Payload, Poster, RecvQueue, RecvRequest, RegMr, Remote,
        SendQueue, SendRequest,
    },
    verbs::{
        limits::{MAX_RECV_SGE, MAX_SEND_SGE},
        AccessFlags, ImmData, QpType, SendFlags, WcFlags,
    },
};
use kernel::prelude::*;

/// As many elements as any work request has.
const MAX_SGE: usize = MAX_SEND_SGE as usize;
const _: () = assert!(MAX_RECV_SGE <= MAX_SEND_SGE);

/// Stages a send work request.
pub(super) fn send(
    poster: &mut Poster<SendQueue>,
    qp_type: QpType,
    wr: &SendWr<'_, Ferroce>,
) -> Result {
    let operation = operation(wr)?;
    if !operation.opcode().permitted_on(qp_type) {
        return Err(EINVAL);
    }
    // As mlx5 and rdma_rxe, which ignore the rest.
    let flags = SendFlags::from_bits_truncate(wr.flags().bits());
    let destination = match qp_type.is_datagram() {
        true => Some(destination(wr).ok_or(EINVAL)?),
        false => None,
    };
    let request = SendRequest {
        wr_id: wr.id(),
        flags,
        operation,
        destination,
    };
    if flags.contains(SendFlags::INLINE) {
        let mut pieces: [&[u8]; MAX_SGE] = [&[]; MAX_SGE];
        let pieces = pieces.get_mut(..wr.sges().len()).ok_or(EINVAL)?;
        for (place, piece) in pieces.iter_mut().zip(wr.inline_data()) {
            *place = piece;
        }
        poster.push(&request, Payload::Inline(pieces))
    } else {
        let mut room = [ring::Sge::default(); MAX_SGE];
        let sges = match operation.opcode().has_no_data() {
            true => &[],
            false => sges(wr.sges(), &mut room)?,
        };
        poster.push(&request, Payload::Sges(sges))
    }
    .map_err(post_error)
}

/// Stages a receive work request.
pub(super) fn receive(poster: &mut Poster<RecvQueue>, wr: &RecvWr<'_, Ferroce>) -> Result {
    let mut room = [ring::Sge::default(); MAX_SGE];
    let sges = sges(wr.sges(), &mut room)?;
    poster
        .push(&RecvRequest { wr_id: wr.id() }, sges)
        .map_err(post_error)
}

fn sges<'a>(from: &[Sge], room: &'a mut [ring::Sge; MAX_SGE]) -> Result<&'a [ring::Sge]> {
    let sges = room.get_mut(..from.len()).ok_or(EINVAL)?;
    for (to, from) in sges.iter_mut().zip(from) {
        *to = ring::Sge {
            addr: from.addr,
            length: from.length,
            lkey: from.lkey,
        };
    }
    Ok(sges)
}

fn operation(wr: &SendWr<'_, Ferroce>) -> Result<Operation> {
    let imm = || ImmData(wr.immediate());
    let rkey = wr.invalidate_key();
    let remote = || {
        let (addr, rkey) = wr.remote().ok_or(EINVAL)?;
        Ok::<_, Error>(Remote { addr, rkey })
    };
    let atomic = || wr.atomic().ok_or(EINVAL);
    Ok(match wr.opcode()? {
        WrOpcode::Send => Operation::Send,
        WrOpcode::SendWithImm => Operation::SendImm(imm()),
        WrOpcode::SendWithInv => Operation::SendInvalidate { rkey },
        WrOpcode::RdmaWrite => Operation::RdmaWrite(remote()?),
        WrOpcode::RdmaWriteWithImm => Operation::RdmaWriteImm(remote()?, imm()),
        WrOpcode::RdmaRead => Operation::RdmaRead(remote()?),
        WrOpcode::AtomicWrite => Operation::AtomicWrite(remote()?),
        WrOpcode::CompareSwap => Operation::CompareSwap {
            remote: remote()?,
            compare: atomic()?.compare_add,
            swap: atomic()?.swap,
        },
        WrOpcode::FetchAdd => Operation::FetchAdd {
            remote: remote()?,
            add: atomic()?.compare_add,
        },
        WrOpcode::LocalInv => Operation::LocalInvalidate { rkey },
        WrOpcode::RegMr => {
            let registration = wr.registration().ok_or(EINVAL)?;
            let access = registration.access.bits() & !AccessFlags::OPTIONAL.bits();
            Operation::RegMr(RegMr {
                mr: registration.mr.number(),
                key: registration.key,
                access: AccessFlags::try_from(access).map_err(|_| EINVAL)?,
            })
        }
        // iWARP's; and those that have no form in the kernel's verbs.
        WrOpcode::RdmaReadWithInv | WrOpcode::BindMw | WrOpcode::Flush => return Err(EINVAL),
    })
}

fn destination(wr: &SendWr<'_, Ferroce>) -> Option<Destination> {
    let to = wr.destination()?;
    Some(Destination {
        ah: to.ah.number(),
        remote_qpn: to.qpn,
        remote_qkey: to.qkey,
        pkey_index: to.pkey_index,
    })
}

/// A completion as `ib_core` has it.
pub(super) fn completion<'a>(qp: &'a rdma::Qp<Qp>, cqe: &Cqe) -> Wc<'a, Ferroce> {
    // The numbers are the kernel's own, in both.
    let status = WcStatus::try_from(u32::from(cqe.status.number())).unwrap_or(WcStatus::General);
    let opcode = WcOpcode::try_from(u32::from(cqe.opcode.number())).unwrap_or(WcOpcode::Send);
    let mut wc = Wc::new(qp, cqe.wr_id, status)
        .opcode(opcode)
        .byte_len(cqe.byte_len)
        .vendor_error(cqe.vendor_err);
    if let Some(ImmData(data)) = cqe.imm_data() {
        wc = wc.immediate(data);
    }
    if let Some(rkey) = cqe.invalidated_rkey() {
        wc = wc.invalidated(rkey);
    }
    if cqe.flags.contains(WcFlags::GRH) {
        wc = wc.datagram(cqe.src_qp, 1, cqe.pkey_index, true);
        if let Ok(network_type) = NetworkType::try_from(u32::from(cqe.network_hdr_type)) {
            wc = wc.network_type(network_type);
        }
    }
    wc
}
