// SPDX-License-Identifier: GPL-2.0

//! What reliable connections do.

use crate::{
    bindings::*,
    events::Handlers,
    memory::REMOTE,
    verbs::{extra, pattern, Buffer, Cq, Device, Mr, Op, Pair, Pd, Qp, QpParts, Srq, MAX_INLINE},
};
use kernel::prelude::*;

/// Sends from several pieces into several others, with immediate data and without.
pub(crate) fn sends(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let from = Buffer::new(&pd, 10000, 1)?;
    let to = Buffer::new(&pd, 10000, 2)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;

    // 1 + 4100 + 899 bytes, to 3000, none, and 2500, of which the last 500 stay as they are.
    let gather = [from.sge(9999, 1), from.sge(7, 4100), from.sge(5000, 899)];
    let scatter = [to.sge(4000, 3000), to.sge(3, 0), to.sge(1, 2500)];
    let message = |i: usize| match i {
        0 => pattern(1, 9999),
        1..=4100 => pattern(1, 7 + i - 1),
        _ => pattern(1, 5000 + i - 4101),
    };
    for (round, immediate) in [None, Some([1, 2, 3, 4])].into_iter().enumerate() {
        pair.b.receive(10 + round as u64, &scatter)?;
        let op = immediate.map_or(Op::Send, Op::SendImm);
        pair.a.send(20 + round as u64, op, &gather)?;
        pair.a_cq
            .success(&pair.a, 20 + round as u64, ib_wc_opcode_IB_WC_SEND)?;
        let wc = pair
            .b_cq
            .success(&pair.b, 10 + round as u64, ib_wc_opcode_IB_WC_RECV)?;
        check_eq!(wc.byte_len, 5000);
        match immediate {
            Some(data) => {
                check_eq!(extra(&wc), ib_wc_flags_IB_WC_WITH_IMM);
                // SAFETY: Plain numbers in all fields of the union.
                check_eq!(unsafe { wc.ex.imm_data }.to_ne_bytes(), data);
            }
            None => check_eq!(extra(&wc), 0),
        }
        to.check(|i| match i {
            4000..7000 => message(i - 4000),
            1..2001 => message(3000 + i - 1),
            _ => pattern(2, i),
        })?;
    }
    // Without a receive it waits for one.
    pair.a.send(30, Op::Send, &[from.sge(0, 8)])?;
    pair.b.receive(31, &[to.sge(0, 8)])?;
    pair.a_cq.success(&pair.a, 30, ib_wc_opcode_IB_WC_SEND)?;
    pair.b_cq.success(&pair.b, 31, ib_wc_opcode_IB_WC_RECV)?;
    // An unsignaled one completes at the receiver alone.
    pair.b.receive(32, &[to.sge(0, 8)])?;
    pair.a.send_with(33, Op::Send, &[from.sge(0, 8)], 0)?;
    pair.b_cq.success(&pair.b, 32, ib_wc_opcode_IB_WC_RECV)?;
    check!(
        pair.a_cq.poll()?.is_none(),
        "an unsignaled request has a completion"
    );
    Ok(())
}

/// Inline data are taken when they are posted, from any memory.
pub(crate) fn inline_data(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let to = Buffer::new(&pd, 256, 2)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    let flags = ib_send_flags_IB_SEND_SIGNALED | ib_send_flags_IB_SEND_INLINE;
    pair.b.receive(1, &[to.sge(10, 246)])?;
    {
        let mut text = *b"on the stack, and gone as soon as it is posted";
        let piece = |at: usize, length| ib_sge {
            addr: text.as_ptr() as u64 + at as u64,
            length,
            lkey: 0xdead,
        };
        let pieces = [piece(13, 33), piece(0, 13)];
        pair.a.send_with(2, Op::Send, &pieces, flags)?;
        core::hint::black_box(&mut text).fill(0);
    }
    pair.a_cq.success(&pair.a, 2, ib_wc_opcode_IB_WC_SEND)?;
    check_eq!(
        pair.b_cq
            .success(&pair.b, 1, ib_wc_opcode_IB_WC_RECV)?
            .byte_len,
        46
    );
    let text = b" and gone as soon as it is postedon the stack,";
    to.check(|i| match i.checked_sub(10).and_then(|i| text.get(i)) {
        Some(byte) => *byte,
        None => pattern(2, i),
    })?;
    let long = Buffer::new(&pd, 4096, 3)?;
    let long = [long.sge(0, 4096)];
    check!(MAX_INLINE < 4096, "");
    check!(
        pair.a.send_with(3, Op::Send, &long, flags).is_err(),
        "more inline data than there is room for"
    );
    Ok(())
}

/// Writes and reads.
pub(crate) fn rdma(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let own = Buffer::new(&pd, 9000, 1)?;
    let far = Buffer::new(&pd, 9000, 2)?;
    let mut mr = Mr::new(&pd, 4)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    check_eq!(mr.map(&[(&far, 0, 9000)])?, 1);
    pair.b.send(1, Op::Register(&mr, REMOTE), &[])?;
    pair.b_cq.success(&pair.b, 1, ib_wc_opcode_IB_WC_REG_MR)?;

    pair.a.send(
        2,
        Op::Write(mr.remote(10)),
        &[own.sge(20, 5000), own.sge(0, 3)],
    )?;
    pair.a_cq
        .success(&pair.a, 2, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
    far.check(|i| match i {
        10..5010 => pattern(1, i + 10),
        5010..5013 => pattern(1, i - 5010),
        _ => pattern(2, i),
    })?;
    pair.a.send(
        3,
        Op::Read(mr.remote(6000)),
        &[own.sge(8000, 700), own.sge(1, 300)],
    )?;
    pair.a_cq
        .success(&pair.a, 3, ib_wc_opcode_IB_WC_RDMA_READ)?;
    own.check(|i| match i {
        8000..8700 => pattern(2, i - 2000),
        1..301 => pattern(2, i + 6699),
        _ => pattern(1, i),
    })?;
    pair.b.receive(4, &[])?;
    pair.a.send(
        5,
        Op::WriteImm(mr.remote(0), [4, 3, 2, 1]),
        &[own.sge(1000, 1)],
    )?;
    pair.a_cq
        .success(&pair.a, 5, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
    let wc = pair
        .b_cq
        .success(&pair.b, 4, ib_wc_opcode_IB_WC_RECV_RDMA_WITH_IMM)?;
    // SAFETY: Plain numbers in all fields of the union.
    check_eq!(unsafe { wc.ex.imm_data }.to_ne_bytes(), [4, 3, 2, 1]);
    check_eq!(far.get(0), Some(pattern(1, 1000)));
    Ok(())
}

/// Compare and swap, fetch and add.
pub(crate) fn atomics(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let own = Buffer::new(&pd, 64, 1)?;
    let far = Buffer::new(&pd, 64, 2)?;
    let mut mr = Mr::new(&pd, 1)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    mr.map(&[(&far, 0, 64)])?;
    pair.b.send(1, Op::Register(&mr, REMOTE), &[])?;
    pair.b_cq.success(&pair.b, 1, ib_wc_opcode_IB_WC_REG_MR)?;
    far.set_word(8, 40);
    let at = mr.remote(8);
    for (op, opcode, after) in [
        (Op::FetchAdd(at, 2), ib_wc_opcode_IB_WC_FETCH_ADD, 42),
        (Op::CompareSwap(at, 41, 7), ib_wc_opcode_IB_WC_COMP_SWAP, 42),
        (Op::CompareSwap(at, 42, 7), ib_wc_opcode_IB_WC_COMP_SWAP, 7),
    ] {
        let before = far.word(8);
        pair.a.send(2, op, &[own.sge(16, 8)])?;
        pair.a_cq.success(&pair.a, 2, opcode)?;
        check_eq!(own.word(16), before);
        check_eq!(far.word(8), after);
    }
    Ok(())
}

/// Two queue pairs that share a receive queue, and its limit.
pub(crate) fn shared_receives(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let from = Buffer::new(&pd, 64, 1)?;
    let to = Buffer::new(&pd, 512, 2)?;
    let limit = Handlers::new()?;
    let (handler, context) = limit.event();
    // SAFETY: `limit` goes after the queue.
    let srq = unsafe { Srq::new(&pd, 8, handler, context)? };
    let make = |cq: &Cq<'_>, srq| {
        let parts = QpParts {
            send_cq: cq.raw(),
            recv_cq: cq.raw(),
            srq,
        };
        Qp::new(&pd, ib_qp_type_IB_QPT_RC, parts)
    };
    let senders = [make(&a_cq, None)?, make(&a_cq, None)?];
    let receivers = [make(&b_cq, Some(&srq))?, make(&b_cq, Some(&srq))?];
    for (sender, receiver) in senders.iter().zip(&receivers) {
        sender.connect(receiver.number())?;
        receiver.connect(sender.number())?;
    }
    for i in 0..4 {
        srq.receive(
            i,
            &[
                to.sge(i as usize * 64, 32),
                to.sge(i as usize * 64 + 32, 32),
            ],
        )?;
    }
    // What is posted is moved to another ring, or stays where it is.
    check_eq!(srq.resize(2), Err(EINVAL));
    srq.resize(64)?;
    srq.resize(4)?;
    srq.set_limit(3)?;
    for i in 0..4 {
        let (sender, receiver) = (&senders[i % 2], &receivers[i % 2]);
        sender.send(i as u64, Op::Send, &[from.sge(0, 64)])?;
        a_cq.success(sender, i as u64, ib_wc_opcode_IB_WC_SEND)?;
        b_cq.success(receiver, i as u64, ib_wc_opcode_IB_WC_RECV)?;
    }
    to.check(|i| match i {
        0..256 => pattern(1, i % 64),
        _ => pattern(2, i),
    })?;
    limit.wait_for_events(1)?;
    Ok(())
}
