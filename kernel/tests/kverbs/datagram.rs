// SPDX-License-Identifier: GPL-2.0

//! What datagram queue pairs do.

use crate::{
    bindings::*,
    verbs::{pattern, Ah, Buffer, Cq, Device, Op, Pd, Qp, QpParts},
};
use kernel::prelude::*;

/// The key that all queue pairs of the tests have.
pub(crate) const QKEY: u32 = 0x1234;

/// Room for the network's header before each datagram.
pub(crate) const GRH: usize = 40;

pub(crate) fn make<'a>(pd: &'a Pd<'a>, cq: &Cq<'_>) -> Result<Qp<'a>> {
    let parts = QpParts {
        send_cq: cq.raw(),
        recv_cq: cq.raw(),
        srq: None,
    };
    let qp = Qp::new(pd, ib_qp_type_IB_QPT_UD, parts)?;
    qp.open(QKEY)?;
    Ok(qp)
}

/// There and back, and to a queue pair with another key.
pub(crate) fn datagrams(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let (from, to) = (Buffer::new(&pd, 1000, 1)?, Buffer::new(&pd, 1100, 2)?);
    let (a, b) = (make(&pd, &a_cq)?, make(&pd, &b_cq)?);
    let ah = Ah::new(&pd)?;
    for (round, (sender, receiver, send_cq, recv_cq)) in
        [(&a, &b, &a_cq, &b_cq), (&b, &a, &b_cq, &a_cq)]
            .into_iter()
            .enumerate()
    {
        // The first has the wrong key, and is lost.
        receiver.receive(1, &[to.sge(20, GRH), to.sge(100, 900)])?;
        sender.send(
            2,
            Op::Datagram(&ah, receiver.number(), QKEY + 1),
            &[from.sge(0, 9)],
        )?;
        let at = 30 * round;
        let op = Op::Datagram(&ah, receiver.number(), QKEY);
        sender.send(3, op, &[from.sge(at, 500), from.sge(at + 500, 100)])?;
        send_cq.success(sender, 2, ib_wc_opcode_IB_WC_SEND)?;
        send_cq.success(sender, 3, ib_wc_opcode_IB_WC_SEND)?;
        let wc = recv_cq.success(receiver, 1, ib_wc_opcode_IB_WC_RECV)?;
        check_eq!(wc.byte_len as usize, GRH + 600);
        check!(wc.wc_flags & ib_wc_flags_IB_WC_GRH as i32 != 0, "no GRH");
        check_eq!(wc.src_qp, sender.number());
        for i in 0..600 {
            check_eq!(to.get(100 + i), Some(pattern(1, at + i)));
        }
    }
    Ok(())
}

/// More address handles than a table begins with.
pub(crate) fn many_handles(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    for _ in 0..2 {
        let mut handles = KVec::new();
        for _ in 0..300 {
            handles.push(Ah::new(&pd)?, GFP_KERNEL)?;
        }
    }
    Ok(())
}
