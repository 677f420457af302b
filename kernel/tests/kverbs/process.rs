// SPDX-License-Identifier: GPL-2.0

//! The kernel on one side, a process on the other.
//!
//! The process is `kverbs.py` of the lab's tests.

use crate::{
    bindings::*,
    datagram::{self, GRH, QKEY},
    memory::REMOTE,
    verbs::{extra, pattern, Ah, Buffer, Cq, Device, Mr, Op, Pd, Qp, QpParts},
};
use kernel::prelude::*;

/// How many bytes the process writes.
const LENGTH: usize = 5000;

/// Tells a process, by its UD queue pair, of a reliable connection. The process writes to memory that
/// it is lent, and gives it back.
pub(crate) fn lend(device: &Device, peer: u32) -> Result {
    let pd = Pd::new(device)?;
    let cq = Cq::new(device, 32)?;
    let lent = Buffer::new(&pd, LENGTH + 100, 1)?;
    let (from, to) = (Buffer::new(&pd, 16, 2)?, Buffer::new(&pd, GRH + 8, 3)?);
    let mut mr = Mr::new(&pd, 3)?;
    let parts = QpParts {
        send_cq: cq.raw(),
        recv_cq: cq.raw(),
        srq: None,
    };
    let qp = Qp::new(&pd, ib_qp_type_IB_QPT_RC, parts)?;
    {
        let hello = datagram::make(&pd, &cq)?;
        let ah = Ah::new(&pd)?;
        hello.receive(1, &[to.sge(0, GRH + 8)])?;
        from.set_word(0, qp.number().into());
        let op = Op::Datagram(&ah, peer, QKEY);
        hello.send(2, op, &[from.sge(0, 8)])?;
        cq.success(&hello, 2, ib_wc_opcode_IB_WC_SEND)?;
        let wc = cq.success(&hello, 1, ib_wc_opcode_IB_WC_RECV)?;
        check_eq!(wc.src_qp, peer);
    }
    qp.connect(to.word(GRH) as u32)?;

    check_eq!(mr.map(&[(&lent, 50, LENGTH)])?, 1);
    qp.send(3, Op::Register(&mr, REMOTE), &[])?;
    cq.success(&qp, 3, ib_wc_opcode_IB_WC_REG_MR)?;
    let remote = mr.remote(0);
    from.set_word(0, remote.addr);
    from.set_word(8, remote.rkey.into());
    qp.receive(4, &[to.sge(0, 8)])?;
    qp.send(5, Op::Send, &[from.sge(0, 16)])?;
    cq.success(&qp, 5, ib_wc_opcode_IB_WC_SEND)?;
    let wc = cq.success(&qp, 4, ib_wc_opcode_IB_WC_RECV)?;
    check_eq!(extra(&wc), ib_wc_flags_IB_WC_WITH_INVALIDATE);
    // SAFETY: Plain numbers in all fields of the union.
    check_eq!(unsafe { wc.ex.invalidate_rkey }, remote.rkey);
    let must = |i: usize| match i.checked_sub(50) {
        Some(at) if at < LENGTH => (at * 5) as u8,
        _ => pattern(1, i),
    };
    lent.check(must)?;
    // The process tries once more, and fails, and so does the connection.
    qp.receive(6, &[to.sge(0, 8)])?;
    cq.expect(&qp, 6, ib_wc_status_IB_WC_WR_FLUSH_ERR)?;
    lent.check(must)
}
