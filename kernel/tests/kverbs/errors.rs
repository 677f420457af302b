// SPDX-License-Identifier: GPL-2.0

//! What must fail, and how.

use crate::{
    bindings::*,
    memory::REMOTE,
    verbs::{wait, Buffer, Cq, Device, Mr, Op, Pair, Pd, Qp, QpParts, Remote, DEPTH, MAX_SGE},
};
use kernel::prelude::*;

/// A list is posted up to the request for which there is no room.
pub(crate) fn full_queues(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 100)?, Cq::new(device, 100)?);
    let buffer = Buffer::new(&pd, 64, 1)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    // Nobody receives, so they stay where they are.
    let sges = [buffer.sge(0, 8)];
    let (result, bad) = pair.a.send_list(0..u64::from(DEPTH) * 3, &sges);
    check_eq!(result, Err(ENOMEM));
    check!(bad >= u64::from(DEPTH), "only {bad} requests fit");
    let mut receives = 0;
    while pair.b.receive(receives, &sges).is_ok() {
        receives += 1;
        check!(receives < 1000, "any number of receives");
    }
    check!(receives >= u64::from(DEPTH), "only {receives} receives fit");
    for id in 0..bad.min(receives) {
        a_cq.success(&pair.a, id, ib_wc_opcode_IB_WC_SEND)?;
        b_cq.success(&pair.b, id, ib_wc_opcode_IB_WC_RECV)?;
    }
    // There is room again.
    pair.b.receive(500, &sges)?;
    pair.a.send(600, Op::Send, &sges)?;
    let many = [buffer.sge(0, 0); MAX_SGE as usize + 30];
    check_eq!(pair.a.send(1, Op::Send, &many), Err(EINVAL));
    check_eq!(pair.b.receive(1, &many), Err(EINVAL));
    Ok(())
}

/// Nothing can be sent before the queue pair is ready to.
pub(crate) fn states(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let cq = Cq::new(device, 100)?;
    let buffer = Buffer::new(&pd, 64, 1)?;
    let parts = QpParts {
        send_cq: cq.raw(),
        recv_cq: cq.raw(),
        srq: None,
    };
    let qp = Qp::new(&pd, ib_qp_type_IB_QPT_RC, parts)?;
    check_eq!(qp.send(1, Op::Send, &[buffer.sge(0, 8)]), Err(EINVAL));
    qp.connect(qp.number())?;
    // To itself, before and after it begins anew.
    for _ in 0..2 {
        qp.receive(1, &[buffer.sge(0, 8)])?;
        qp.send(2, Op::Send, &[buffer.sge(16, 8)])?;
        wait(|| {
            cq.arm(ib_cq_notify_flags_IB_CQ_REPORT_MISSED_EVENTS)
                .ok()?
                .then_some(())
        })?;
        qp.to(ib_qp_state_IB_QPS_RESET)?;
        check!(cq.poll()?.is_none(), "a completion of before the reset");
        check_eq!(qp.send(1, Op::Send, &[buffer.sge(0, 8)]), Err(EINVAL));
        qp.connect(qp.number())?;
    }
    Ok(())
}

/// Keys that do not allow what they are used for.
pub(crate) fn bad_keys(device: &Device) -> Result {
    let (pd, other_pd) = (Pd::new(device)?, Pd::new(device)?);
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let (own, far) = (Buffer::new(&pd, 100, 1)?, Buffer::new(&pd, 100, 2)?);
    let foreign = Buffer::new(&other_pd, 100, 3)?;
    let mut mr = Mr::new(&pd, 1)?;
    mr.map(&[(&far, 10, 80)])?;
    {
        let pair = Pair::new(&pd, &a_cq, &b_cq)?;
        pair.a.send(
            1,
            Op::Register(&mr, REMOTE & !ib_access_flags_IB_ACCESS_REMOTE_READ),
            &[],
        )?;
        a_cq.success(&pair.a, 1, ib_wc_opcode_IB_WC_REG_MR)?;
    }
    let lkey = own.sge(0, 1).lkey;
    let by_lkey = Remote {
        addr: far.address(0),
        rkey: lkey,
    };
    let failure = ib_wc_status_IB_WC_REM_ACCESS_ERR;
    let protection = ib_wc_status_IB_WC_LOC_PROT_ERR;
    let good = own.sge(0, 8);
    type Case = (fn(Remote) -> Op<'static>, Remote, ib_sge, ib_wc_status);
    let cases: &[Case] = &[
        // The key for all memory is for nobody from afar.
        (Op::Write, by_lkey, good, failure),
        (Op::Read, by_lkey, good, failure),
        // What the region does not allow, before it and behind it.
        (Op::Read, mr.remote(0), good, failure),
        (Op::Write, mr.remote(u64::MAX), good, failure),
        (Op::Write, mr.remote(73), good, failure),
        // A key of no region, and one of another domain.
        (
            Op::Write,
            mr.remote(0),
            own.sge_by(lkey ^ 0x55_0000, 0, 8),
            protection,
        ),
        (Op::Write, mr.remote(0), foreign.sge(0, 8), protection),
        // The end of a region.
        (Op::Write, mr.remote(0), mr.sge(76, 5), protection),
    ];
    for (i, (op, remote, sge, status)) in cases.iter().enumerate() {
        let pair = Pair::new(&pd, &a_cq, &b_cq)?;
        pair.a.send(i as u64, op(*remote), &[*sge])?;
        a_cq.expect(&pair.a, i as u64, *status)?;
    }
    far.check(|i| crate::verbs::pattern(2, i))?;
    // A receive that is too short: both sides learn of it.
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    pair.b.receive(1, &[far.sge(0, 7)])?;
    pair.a.send(2, Op::Send, &[good])?;
    a_cq.expect(&pair.a, 2, ib_wc_status_IB_WC_REM_INV_REQ_ERR)?;
    b_cq.expect(&pair.b, 1, ib_wc_status_IB_WC_LOC_LEN_ERR)?;
    Ok(())
}

/// All that is posted when a queue pair fails is flushed, in order, and so is what is posted later.
pub(crate) fn flushing(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 64)?, Cq::new(device, 64)?);
    let buffer = Buffer::new(&pd, 64, 1)?;
    let sges = [buffer.sge(0, 8)];
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    for id in 0..5 {
        pair.a.receive(id, &sges)?;
        pair.b.receive(id, &sges)?;
    }
    let bad = buffer.sge_by(0, 0, 8);
    pair.a.send(10, Op::Send, &[bad])?;
    for id in 11..15 {
        pair.a.send_with(id, Op::Send, &sges, 0)?;
    }
    a_cq.expect(&pair.a, 10, ib_wc_status_IB_WC_LOC_PROT_ERR)?;
    let mut received = 0;
    let mut sent = 11;
    for _ in 0..9 {
        let wc = a_cq.next()?;
        check_eq!(wc.status, ib_wc_status_IB_WC_WR_FLUSH_ERR);
        // SAFETY: All of the union's fields are 64 bits, or are used as such.
        let id = unsafe { wc.__bindgen_anon_1.wr_id };
        let next = if id < 10 { &mut received } else { &mut sent };
        check_eq!(id, *next);
        *next += 1;
    }
    check_eq!((received, sent), (5, 15));
    pair.a.send(20, Op::Send, &sges)?;
    a_cq.expect(&pair.a, 20, ib_wc_status_IB_WC_WR_FLUSH_ERR)?;
    pair.a.receive(21, &sges)?;
    a_cq.expect(&pair.a, 21, ib_wc_status_IB_WC_WR_FLUSH_ERR)?;
    check!(b_cq.poll()?.is_none(), "the peer has heard of it");
    Ok(())
}

/// The completions of a queue pair go with it.
pub(crate) fn gone(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let cq = Cq::new(device, 64)?;
    let nowhere = Remote { addr: 0, rkey: 0 };
    let stays = Pair::new(&pd, &cq, &cq)?;
    for round in 0..20 {
        {
            let goes = Pair::new(&pd, &cq, &cq)?;
            goes.a.send(1, Op::Write(nowhere), &[])?;
            wait(|| {
                cq.arm(ib_cq_notify_flags_IB_CQ_REPORT_MISSED_EVENTS)
                    .ok()?
                    .then_some(())
            })?;
        }
        check!(cq.poll()?.is_none(), "a completion of nobody's");
        stays.a.send(round, Op::Write(nowhere), &[])?;
        cq.success(&stays.a, round, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
    }
    Ok(())
}
