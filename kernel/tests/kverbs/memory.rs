// SPDX-License-Identifier: GPL-2.0

//! Memory that work requests register and invalidate.

use crate::{
    bindings::*,
    verbs::{extra, pattern, Buffer, Cq, Device, Mr, Op, Pair, Pd},
};
use kernel::prelude::*;

/// What a peer may do with the regions of the tests.
pub(crate) const REMOTE: u32 = ib_access_flags_IB_ACCESS_LOCAL_WRITE
    | ib_access_flags_IB_ACCESS_REMOTE_WRITE
    | ib_access_flags_IB_ACCESS_REMOTE_READ
    | ib_access_flags_IB_ACCESS_REMOTE_ATOMIC;

const PAGE: usize = 4096;

/// Pages that are not one after the other.
fn pages<'a>(pd: &'a Pd<'a>, seed: u8) -> Result<[Buffer<'a>; 4]> {
    let make = |i| Buffer::new(pd, PAGE, seed + i);
    let (first, _between, second, third) = (make(0)?, make(9)?, make(1)?, make(2)?);
    Ok([first, second, third, make(3)?])
}

/// What each of [`pages`] has to give to a region: an odd begin and an odd end.
const BEGIN: usize = 100;
const END: usize = 1001;
const LENGTH: usize = (PAGE - BEGIN) + 2 * PAGE + END;

fn pieces<'b, 'a>(pages: &'b [Buffer<'a>; 4]) -> [(&'b Buffer<'a>, usize, usize); 4] {
    let [first, second, third, last] = pages;
    [
        (last, BEGIN, PAGE - BEGIN),
        (second, 0, PAGE),
        (first, 0, PAGE),
        (third, 0, END),
    ]
}

/// Checks that the region of [`pieces`] has what `must` says, and the rest of the pages is untouched.
fn check(pages: &[Buffer<'_>; 4], seed: u8, must: impl Fn(usize) -> u8) -> Result {
    let [first, second, third, last] = pages;
    last.check(|i| match i {
        BEGIN.. => must(i - BEGIN),
        _ => pattern(seed + 3, i),
    })?;
    second.check(|i| must(PAGE - BEGIN + i))?;
    first.check(|i| must(2 * PAGE - BEGIN + i))?;
    third.check(|i| match i {
        ..END => must(3 * PAGE - BEGIN + i),
        _ => pattern(seed + 2, i),
    })
}

/// Registers pages, reaches them from afar and as local memory, and invalidates them.
pub(crate) fn registered(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let from = Buffer::new(&pd, LENGTH, 1)?;
    let far = pages(&pd, 20)?;
    let mut mr = Mr::new(&pd, 4)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    check_eq!(mr.map(&pieces(&far))?, 4);
    pair.b.send(1, Op::Register(&mr, REMOTE), &[])?;
    pair.b_cq.success(&pair.b, 1, ib_wc_opcode_IB_WC_REG_MR)?;

    pair.a
        .send(2, Op::Write(mr.remote(0)), &[from.sge(0, LENGTH)])?;
    pair.a_cq
        .success(&pair.a, 2, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
    check(&far, 20, |i| pattern(1, i))?;

    // As local memory: what it has goes out, and what comes goes there.
    let back = Buffer::new(&pd, LENGTH, 2)?;
    pair.a.receive(3, &[back.sge(0, LENGTH)])?;
    pair.b.send(4, Op::Send, &[mr.sge(0, LENGTH as u32)])?;
    pair.b_cq.success(&pair.b, 4, ib_wc_opcode_IB_WC_SEND)?;
    pair.a_cq.success(&pair.a, 3, ib_wc_opcode_IB_WC_RECV)?;
    back.check(|i| pattern(1, i))?;
    pair.b.receive(5, &[mr.sge(1, LENGTH as u32 - 1)])?;
    pair.a.send(6, Op::Send, &[back.sge(0, LENGTH - 1)])?;
    pair.a_cq.success(&pair.a, 6, ib_wc_opcode_IB_WC_SEND)?;
    pair.b_cq.success(&pair.b, 5, ib_wc_opcode_IB_WC_RECV)?;
    check(&far, 20, |i| pattern(1, i.saturating_sub(1)))?;

    // Not a byte further.
    pair.b.send(7, Op::LocalInv(mr.key()), &[])?;
    pair.b_cq
        .success(&pair.b, 7, ib_wc_opcode_IB_WC_LOCAL_INV)?;
    pair.a.send(8, Op::Write(mr.remote(0)), &[from.sge(0, 1)])?;
    pair.a_cq
        .expect(&pair.a, 8, ib_wc_status_IB_WC_REM_ACCESS_ERR)?;
    check(&far, 20, |i| pattern(1, i.saturating_sub(1)))
}

/// The same region with other pages and another key: the former key is of no use any more.
pub(crate) fn registered_anew(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let from = Buffer::new(&pd, LENGTH, 1)?;
    let (before, after) = (pages(&pd, 20)?, pages(&pd, 40)?);
    let mut mr = Mr::new(&pd, 4)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    mr.map(&pieces(&before))?;
    pair.b.send(1, Op::Register(&mr, REMOTE), &[])?;
    pair.b.send(2, Op::LocalInv(mr.key()), &[])?;
    pair.b_cq.success(&pair.b, 1, ib_wc_opcode_IB_WC_REG_MR)?;
    pair.b_cq
        .success(&pair.b, 2, ib_wc_opcode_IB_WC_LOCAL_INV)?;
    let former = mr.key();
    mr.set_key(former as u8 + 1);
    check_eq!(mr.map(&pieces(&after))?, 4);
    pair.b.send(3, Op::Register(&mr, REMOTE), &[])?;
    pair.b_cq.success(&pair.b, 3, ib_wc_opcode_IB_WC_REG_MR)?;
    pair.a
        .send(4, Op::Write(mr.remote(7)), &[from.sge(7, LENGTH - 7)])?;
    pair.a_cq
        .success(&pair.a, 4, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
    let kept: [u8; 7] = core::array::from_fn(|i| pattern(43, BEGIN + i));
    check(&after, 40, |i| {
        kept.get(i).copied().unwrap_or(pattern(1, i))
    })?;
    for (page, seed) in before.iter().zip(20..) {
        page.check(|i| pattern(seed, i))?;
    }
    let mut remote = mr.remote(0);
    remote.rkey = former;
    pair.a.send(5, Op::Write(remote), &[from.sge(0, 1)])?;
    pair.a_cq
        .expect(&pair.a, 5, ib_wc_status_IB_WC_REM_ACCESS_ERR)?;
    Ok(())
}

/// A send that has the peer's key invalidated.
pub(crate) fn remote_invalidation(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let (own, far) = (Buffer::new(&pd, 100, 1)?, Buffer::new(&pd, 100, 2)?);
    let to = Buffer::new(&pd, 100, 3)?;
    let mut mr = Mr::new(&pd, 1)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    mr.map(&[(&far, 0, 100)])?;
    pair.b.send(1, Op::Register(&mr, REMOTE), &[])?;
    pair.b_cq.success(&pair.b, 1, ib_wc_opcode_IB_WC_REG_MR)?;
    pair.b.receive(2, &[to.sge(0, 100)])?;
    pair.a
        .send_with(3, Op::Write(mr.remote(0)), &[own.sge(0, 100)], 0)?;
    pair.a.send(4, Op::SendInv(mr.key()), &[own.sge(0, 50)])?;
    pair.a_cq.success(&pair.a, 4, ib_wc_opcode_IB_WC_SEND)?;
    let wc = pair.b_cq.success(&pair.b, 2, ib_wc_opcode_IB_WC_RECV)?;
    check_eq!(extra(&wc), ib_wc_flags_IB_WC_WITH_INVALIDATE);
    // SAFETY: Plain numbers in all fields of the union.
    check_eq!(unsafe { wc.ex.invalidate_rkey }, mr.key());
    to.check(|i| pattern(if i < 50 { 1 } else { 3 }, i))?;
    far.check(|i| pattern(1, i))?;
    pair.a.send(5, Op::Read(mr.remote(0)), &[own.sge(0, 1)])?;
    pair.a_cq
        .expect(&pair.a, 5, ib_wc_status_IB_WC_REM_ACCESS_ERR)?;
    Ok(())
}

type MakeOp = for<'a> fn(&'a Mr<'a>) -> Op<'a>;

/// What cannot be registered or invalidated.
pub(crate) fn refused(device: &Device) -> Result {
    let (pd, other_pd) = (Pd::new(device)?, Pd::new(device)?);
    let (a_cq, b_cq) = (Cq::new(device, 32)?, Cq::new(device, 32)?);
    let far = Buffer::new(&pd, 2 * PAGE, 2)?;
    let mut mr = Mr::new(&pd, 1)?;
    let two_pages = mr.map(&[(&far, 0, 2 * PAGE)]);
    check!(two_pages != Ok(1), "two pages in a region of one");
    mr.map(&[(&far, 0, 100)])?;
    let max = device.attrs().max_fast_reg_page_list_len;
    check!(max >= 16, "{max} pages at most");
    Mr::new(&pd, max)?;
    check!(
        Mr::new(&pd, max + 1).is_err(),
        "more pages than there can be"
    );

    // Each of these ends its queue pair.
    let errors = |ops: &[MakeOp], pd| -> Result {
        let mr = &mr;
        let pair = Pair::new(pd, &a_cq, &b_cq)?;
        let Some((bad, good)) = ops.split_last() else {
            return Ok(());
        };
        for op in good {
            pair.a.send(1, op(mr), &[])?;
            a_cq.expect(&pair.a, 1, ib_wc_status_IB_WC_SUCCESS)?;
        }
        pair.a.send(2, bad(mr), &[])?;
        let wc = a_cq.next()?;
        check!(wc.status != ib_wc_status_IB_WC_SUCCESS, "a success");
        check!(wc.status != ib_wc_status_IB_WC_WR_FLUSH_ERR, "flushed");
        Ok(())
    };
    let register: MakeOp = |mr| Op::Register(mr, REMOTE);
    let invalidate: MakeOp = |mr| Op::LocalInv(mr.key());
    // Of another domain; what is not registered; twice; by another key.
    errors(&[register], &other_pd)?;
    errors(&[invalidate], &pd)?;
    errors(&[register, register], &pd)?;
    errors(
        &[invalidate, register, |mr| Op::LocalInv(mr.key() + 1)],
        &pd,
    )?;
    errors(&[invalidate], &other_pd)?;
    errors(&[invalidate, invalidate], &pd)
}
