# SPDX-License-Identifier: MIT OR Apache-2.0
"""What becomes of a work request that breaks a rule, and of the two queue pairs.

    statuses.py DEVICE

A table: what is done, and what both sides then see. Sources: IBTA 9.9 and 11.6.2 (errors of requester
and responder, and the statuses that tell of them), 10.3.1 (states), 10.6 (memory), as far as the
manual pages are silent; and rdma_rxe, which numbers the rules of 10.6 (C10-72 to 75, o10-36 and 37).
"""

import errno
import os
import subprocess
import sys

import pyverbs.enums as e
from pyverbs.base import inc_rkey
from pyverbs.mr import MW, MWBind, MWBindInfo
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.srq import SrqAttr

from rig import *

OK, FLUSHED = e.IBV_WC_SUCCESS, e.IBV_WC_WR_FLUSH_ERR
LOC_LEN, LOC_QP_OP, LOC_PROT = e.IBV_WC_LOC_LEN_ERR, e.IBV_WC_LOC_QP_OP_ERR, e.IBV_WC_LOC_PROT_ERR
MW_BIND_ERR, LOC_ACCESS = e.IBV_WC_MW_BIND_ERR, e.IBV_WC_LOC_ACCESS_ERR
REM_INV_REQ, REM_ACCESS = e.IBV_WC_REM_INV_REQ_ERR, e.IBV_WC_REM_ACCESS_ERR
REM_OP, RETRY_EXC, RNR_EXC = e.IBV_WC_REM_OP_ERR, e.IBV_WC_RETRY_EXC_ERR, e.IBV_WC_RNR_RETRY_EXC_ERR
QP_REQ, QP_ACCESS = e.IBV_EVENT_QP_REQ_ERR, e.IBV_EVENT_QP_ACCESS_ERR
COMM_EST = e.IBV_EVENT_COMM_EST
LAST_WQE, SRQ_LIMIT = e.IBV_EVENT_QP_LAST_WQE_REACHED, e.IBV_EVENT_SRQ_LIMIT_REACHED
CQ_ERR = e.IBV_EVENT_CQ_ERR

SEND, SEND_IMM, SEND_INV = e.IBV_WR_SEND, e.IBV_WR_SEND_WITH_IMM, e.IBV_WR_SEND_WITH_INV
RDMA_WRITE, RDMA_WRITE_IMM = e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_WRITE_WITH_IMM
RDMA_READ = e.IBV_WR_RDMA_READ
CMP_SWAP, FETCH_ADD = e.IBV_WR_ATOMIC_CMP_AND_SWP, e.IBV_WR_ATOMIC_FETCH_AND_ADD
BIND, INVALIDATE = e.IBV_WR_BIND_MW, e.IBV_WR_LOCAL_INV

LENGTH = 4 * PAGE


class Pair:
    """Two connected queue pairs on one device, and memory of each side."""

    def __init__(self, device, qp_type=RC, shared=False, access=REMOTE, memory_access=ALL, **attributes):
        self.device, self.type = device, qp_type
        peer_state = attributes.pop("peer_state", RTS)
        caps = {k: attributes.pop(k) for k in ("cqe", "max_send_wr", "sq_sig_all") if k in attributes}
        # Those of the peer are for receives.
        peer_caps = {k: attributes.pop(k) for k in ("max_recv_wr",) if k in attributes}
        if peer_caps:
            peer_caps["cqe"] = caps["cqe"]
        self.srq = device.srq() if shared else None
        self.own, self.theirs = Memory(LENGTH), Memory(LENGTH)
        self.has_grh = False
        self.own.put(0, os.urandom(LENGTH))
        self.local = self.own.region(device.pd)
        self.remote = self.theirs.region(device.pd, memory_access)
        self.sender, self.peer = Qp(device, qp_type, **caps), Qp(device, qp_type, srq=self.srq, **peer_caps)
        # The peer's rights: its own queue pair's.
        self.sender.to_init()
        self.peer.to_init(access=access)
        for qp, other in ((self.sender, self.peer), (self.peer, self.sender)):
            rtr = {k: attributes[k] for k in ("rnr_timer", "reads") if k in attributes}
            rts = {k: attributes[k] for k in ("timeout", "retry_cnt", "rnr_retry") if k in attributes}
            if "initiator_depth" in attributes:
                rts["reads"] = attributes["initiator_depth"]
            qp.to_rtr(device, other.number, **rtr)
            if qp is self.sender or peer_state == RTS:
                qp.to_rts(**rts)

    def sge(self, at=0, length=16, lkey=None):
        return self.own.address + at, length, self.local.lkey if lkey is None else lkey

    def their_sge(self, at=0, length=64, lkey=None):
        return self.theirs.address + at, length, self.remote.lkey if lkey is None else lkey

    def wr(self, opcode, sges=None, at=0, rkey=None, address=None, flags=e.IBV_SEND_SIGNALED, imm=0, wr_id=1):
        none = opcode in (BIND, INVALIDATE)
        sges = sges if sges is not None else [] if none else [self.sge(length=8)]
        wr = send_wr(opcode, sges, wr_id, flags, imm)
        rkey = self.remote.rkey if rkey is None else rkey
        address = self.theirs.address + at if address is None else address
        if opcode in (CMP_SWAP, FETCH_ADD):
            wr.set_wr_atomic(rkey, address, 1, 2)
        elif opcode in (RDMA_WRITE, RDMA_WRITE_IMM, RDMA_READ):
            wr.set_wr_rdma(rkey, address)
        if self.type == UD:
            wr.set_wr_ud(self.sender.ah, self.peer.number, QKEY)
        return wr

    def post(self, *args, **kwargs):
        self.sender.qp.post_send(self.wr(*args, **kwargs))

    def expect_grh(self):
        """At the beginning of the peer's memory, whatever it is: when its completion was polled."""
        self.has_grh = True

    def bound(self, mw_type, first, length, access, qp=None, mr=None):
        """A window of the peer's memory; its key."""
        qp = qp or self.peer
        self.mw = MW(qp.pd, mw_type)
        self.info = MWBindInfo(mr or self.remote, self.theirs.address + first, length, access)
        if mw_type == e.IBV_MW_TYPE_1:
            qp.qp.bind_mw(self.mw, MWBind(self.info, e.IBV_SEND_SIGNALED))
            rkey = self.mw.rkey
        else:
            wr = send_wr(BIND, [])
            wr.set_bind_wr(self.mw, self.info)
            qp.qp.post_send(wr)
            rkey = wr.rkey
        (wc,) = qp.sent()
        assert wc.status == OK and wc.opcode == e.IBV_WC_BIND_MW, str(wc)
        return rkey

    def close(self):
        """With a look at the memory: none of it was written to but what a row says."""
        if self.has_grh:
            self.theirs.expect(0, bytes(self.theirs.view[:GRH]))
        for memory in (self.own, self.theirs):
            assert not memory.difference(), memory.difference()
        if hasattr(self, "mw"):
            self.mw.close()
        for thing in (self.sender, self.peer, self.local, self.remote):
            thing.close()
        if self.srq:
            self.srq.close()
        self.own.unmap()
        self.theirs.unmap()


ROWS = []


def row(name, sent, state, received=None, peer=RTS, events=(), **setup):
    """What a function that breaks a rule leads to.

    sent, received: the statuses of the completions on both sides, in order; state, peer: the states
    of the queue pairs, the peer's is RTS unless given; events: the asynchronous events.
    """

    def add(function):
        ROWS.append((name, function, sent, state, received or [], peer, list(events), setup))
        return function

    return add


# Requester, local errors: the peer never hears of them (IBTA 9.9.2.1; 11.6.2: local length, QP
# operation and protection errors).


def at_least_one_bad_lkey(opcode):
    def run(pair):
        pair.post(opcode, [pair.sge(length=4), pair.sge(at=4, length=4, lkey=0x12345)])

    return run


for opcode in (SEND, RDMA_WRITE, RDMA_READ, CMP_SWAP):
    row(f"opcode {opcode}: an lkey of nobody", [LOC_PROT], ERR)(at_least_one_bad_lkey(opcode))


@row("an lkey whose low byte is another", [LOC_PROT], ERR)
def _(pair):
    pair.post(SEND, [pair.sge(lkey=inc_rkey(pair.local.lkey))])


@row("an lkey of another protection domain", [LOC_PROT], ERR)
def _(pair):
    pd = PD(pair.device.context)
    mr = pair.own.region(pd)
    pair.post(SEND, [pair.sge(lkey=mr.lkey)])
    mr.close()
    pd.close()


@row("an lkey that is no more", [LOC_PROT], ERR)
def _(pair):
    mr = pair.own.region(pair.device.pd)
    lkey = mr.lkey
    mr.close()
    pair.post(SEND, [pair.sge(lkey=lkey)])


@row("one byte before the region", [LOC_PROT], ERR)
def _(pair):
    pair.post(SEND, [pair.sge(at=-1)])


@row("one byte beyond the region", [LOC_PROT], ERR)
def _(pair):
    pair.post(SEND, [pair.sge(at=LENGTH - 15)])


@row("around the end of all addresses", [LOC_PROT], ERR)
def _(pair):
    pair.post(SEND, [((1 << 64) - 8, 16, pair.local.lkey)])


@row("a read into memory without local write", [LOC_PROT], ERR)
def _(pair):
    mr = pair.own.region(pair.device.pd, REMOTE_READ)
    pair.post(RDMA_READ, [pair.sge(lkey=mr.lkey)])
    mr.close()


@row("an atomic into less than 8 bytes", [LOC_LEN], ERR)
def _(pair):
    pair.post(FETCH_ADD, [pair.sge(length=7)])


for opcode in (RDMA_READ, CMP_SWAP, FETCH_ADD):
    row(f"opcode {opcode}: none may be under way", [LOC_QP_OP], ERR, initiator_depth=0)(
        lambda pair, opcode=opcode: pair.post(opcode)
    )


@row("a message of more than 2^31 bytes", [LOC_LEN], ERR)
def _(pair):
    pair.post(RDMA_WRITE, [pair.sge(length=1 << 31), pair.sge(length=1)])


@row("to invalidate a key of nobody", [LOC_QP_OP], ERR)
def _(pair):
    pair.post(INVALIDATE, imm=0x4711)


@row("to invalidate the key of a region (no fast registration)", [LOC_QP_OP], ERR)
def _(pair):
    pair.post(INVALIDATE, imm=pair.local.rkey)


@row("UC: an lkey of nobody stops the send queue alone", [LOC_PROT], SQE, qp_type=UC)
def _(pair):
    pair.post(SEND, [pair.sge(lkey=0x12345)])


@row("UD: an lkey of nobody stops the send queue alone", [LOC_PROT], SQE, qp_type=UD)
def _(pair):
    pair.post(SEND, [pair.sge(lkey=0x12345)])


@row("UD: longer than a packet", [LOC_LEN], SQE, qp_type=UD)
def _(pair):
    pair.post(SEND, [pair.sge(length=MTU + 1)])


@row("UD: an address handle of another protection domain", [LOC_QP_OP], SQE, qp_type=UD)
def _(pair):
    pd = PD(pair.device.context)
    pair.sender.ah = pair.device.ah(pair.device, pd)
    pair.post(SEND)
    pair.sender.ah.close()
    pd.close()


@row("after an error all are flushed, in order, signalled or not", [OK, LOC_PROT, FLUSHED, FLUSHED], ERR)
def _(pair):
    wrs = [
        pair.wr(RDMA_WRITE, [], wr_id=1),
        pair.wr(SEND, [pair.sge(lkey=1)], wr_id=2, flags=0),
        pair.wr(SEND, wr_id=3, flags=0),
        pair.wr(RDMA_READ, wr_id=4),
    ]
    pair.sender.qp.post_send(chain(wrs))
    pair.ids = [1, 2, 3, 4]


@row("the same, if one fails that had to wait for an answer", [OK, LOC_PROT, FLUSHED], ERR)
def _(pair):
    fenced = e.IBV_SEND_FENCE | e.IBV_SEND_SIGNALED
    wrs = [
        pair.wr(RDMA_READ, wr_id=1),
        pair.wr(SEND, [pair.sge(lkey=1)], wr_id=2, flags=fenced),
        pair.wr(SEND, wr_id=3),
    ]
    pair.own.expect(0, bytes(pair.theirs.view[:8]))
    pair.sender.qp.post_send(chain(wrs))
    pair.ids = [1, 2, 3]


@row("and those posted later", [LOC_PROT, FLUSHED], ERR)
def _(pair):
    pair.post(SEND, [pair.sge(lkey=1)])
    pair.post(RDMA_WRITE, flags=0)


@row("and the receives", [LOC_PROT], ERR, peer=RTS)
def _(pair):
    pair.sender.post_recv([(7, []), (8, [])])
    pair.post(SEND, [pair.sge(lkey=1)])
    pair.sender.post_recv([(9, [])])
    assert [(wc.wr_id, wc.status) for wc in pair.sender.received(3)] == [(i, FLUSHED) for i in (7, 8, 9)]


MANY = 1000


@row(
    "a long queue is flushed in order",
    [REM_ACCESS] + [FLUSHED] * MANY,
    ERR,
    received=[FLUSHED] * MANY,
    peer=ERR,
    events=[QP_ACCESS],
    max_send_wr=MANY + 1,
    max_recv_wr=MANY,
    cqe=MANY + 1,
)
def _(pair):
    pair.peer.post_recv([(number, []) for number in range(MANY)])
    bad = pair.wr(RDMA_WRITE, rkey=0x4711, wr_id=0)
    pair.sender.qp.post_send(chain([bad] + [pair.wr(SEND, [], wr_id=1 + number) for number in range(MANY)]))
    pair.ids = list(range(MANY + 1))
    pair.received_ids = list(range(MANY))


@row("in SQE the receives stay", [LOC_PROT, FLUSHED], SQE, qp_type=UC)
def _(pair):
    pair.sender.post_recv([(7, [])])
    pair.post(SEND, [pair.sge(lkey=1)])
    pair.post(SEND)
    none(pair.sender.recv_cq)


# Responder, RDMA (IBTA 9.7.4.1.5 to 9.7.4.1.8, 9.7.5.2.5 and 9.7.5.2.6, table 61): the requester
# learns by a NAK, the responder by an asynchronous event (11.6.3.3).

INVALID = dict(sent=[REM_INV_REQ], state=ERR, peer=ERR, events=[QP_REQ])
VIOLATION = dict(sent=[REM_ACCESS], state=ERR, peer=ERR, events=[QP_ACCESS])

for opcode, right in (
    (RDMA_WRITE, REMOTE_WRITE),
    (RDMA_READ, REMOTE_READ),
    (CMP_SWAP, REMOTE_ATOMIC),
    (FETCH_ADD, REMOTE_ATOMIC),
):
    row(f"opcode {opcode}: not a right of the QP", access=REMOTE & ~right, **INVALID)(
        lambda pair, opcode=opcode: pair.post(opcode)
    )
    row(f"opcode {opcode}: not a right of the region", memory_access=ALL & ~right, **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode)
    )
    row(f"opcode {opcode}: an rkey of nobody", **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode, rkey=0x4711)
    )
    row(f"opcode {opcode}: an rkey whose low byte is another", **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode, rkey=inc_rkey(pair.remote.rkey))
    )
    row(f"opcode {opcode}: beyond the region", **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode, at=LENGTH)
    )
    row(f"opcode {opcode}: before the region", **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode, at=-8)
    )

for opcode in (RDMA_WRITE, RDMA_READ):
    row(f"opcode {opcode}: one byte beyond the region", **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode, at=LENGTH - 7)
    )
    row(f"opcode {opcode}: around the end of all addresses", **VIOLATION)(
        lambda pair, opcode=opcode: pair.post(opcode, address=(1 << 64) - 4)
    )
    row(f"opcode {opcode}: no bytes, wherever it is (C9-88)", [OK], RTS)(
        lambda pair, opcode=opcode: pair.post(opcode, [], rkey=0x4711)
    )

for opcode in (CMP_SWAP, FETCH_ADD):
    row(f"opcode {opcode}: not aligned", **INVALID)(
        lambda pair, opcode=opcode: pair.post(opcode, at=4)
    )


@row("a region of another protection domain", **VIOLATION)
def _(pair):
    pd = PD(pair.device.context)
    mr = pair.theirs.region(pd)
    pair.post(RDMA_WRITE, rkey=mr.rkey)
    mr.close()
    pd.close()


@row("a region that is no more", **VIOLATION)
def _(pair):
    mr = pair.theirs.region(pair.device.pd)
    rkey = mr.rkey
    mr.close()
    pair.post(RDMA_WRITE, rkey=rkey)


@row("a write with immediate data that may not be: the receive is flushed", received=[FLUSHED], **VIOLATION)
def _(pair):
    pair.peer.post_recv([(5, [])])
    pair.post(RDMA_WRITE_IMM, rkey=0x4711)


@row("a read to a responder that has room for none", reads=0, **INVALID)
def _(pair):
    pair.post(RDMA_READ)


for opcode in (RDMA_WRITE, RDMA_WRITE_IMM):
    row(f"UC, opcode {opcode}: what may not be is dropped without a word", [OK], RTS, qp_type=UC)(
        lambda pair, opcode=opcode: (
            pair.post(opcode, rkey=0x4711),
            none(pair.peer.recv_cq),
        )
    )


# Responder, in RTR: the connection manager's last message may be lost, so the first request tells that the
# connection is established, once (IBTA 11.6.3.2).

IN_RTR = {"peer_state": RTR, "peer": RTR, "events": [COMM_EST]}

for opcode, result in ((SEND, [OK, OK]), (RDMA_WRITE, []), (RDMA_WRITE_IMM, [OK, OK])):
    for qp_type in (RC, UC):
        row(f"{TRANSPORTS[qp_type]}, opcode {opcode}: to RTR", [OK, OK], RTS, result, qp_type=qp_type, **IN_RTR)(
            lambda pair, opcode=opcode: (
                pair.peer.post_recv([(5, []), (6, [])]),
                pair.post(opcode, []),
                pair.post(opcode, []),
            )
        )


@row("a read of a responder in RTR", [OK], RTS, **IN_RTR)
def _(pair):
    pair.post(RDMA_READ, [])


@row("a message to RTR that finds no receive", [OK], RTS, received=[OK], **IN_RTR)
def _(pair):
    pair.post(SEND, [])
    none(pair.sender.send_cq)
    pair.peer.post_recv([(5, [])])


# Responder, receives (IBTA 9.7.4.1.7, 9.9.3, 11.6.2). On unreliable transports what does not fit is
# dropped, and the receive is there for the next message.


@row("a receive that is too short", [REM_INV_REQ], ERR, received=[LOC_LEN, FLUSHED], peer=ERR)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(length=7)]), (6, [])])
    pair.post(SEND)


@row("a shared receive that is too short", [REM_INV_REQ], ERR, received=[LOC_LEN], peer=ERR, events=[LAST_WQE], shared=True)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(length=7)]), (6, [])])
    pair.post(SEND)


@row("a receive into memory that may not be written", [REM_OP], ERR, received=[LOC_PROT], peer=ERR)
def _(pair):
    mr = pair.theirs.region(pair.device.pd, REMOTE_READ)
    pair.peer.post_recv([(5, [pair.their_sge(lkey=mr.lkey)])])
    pair.post(SEND)
    mr.close()


@row("a receive of which only the part that is not needed is wrong", [OK], RTS, received=[OK])
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(length=8), pair.their_sge(lkey=0x4711)])])
    pair.post(SEND)
    pair.theirs.expect(0, bytes(pair.own.view[:8]))


@row("a receive that ends beyond its memory, behind the message", [OK], RTS, received=[OK])
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(at=LENGTH - 16, length=64)])])
    pair.post(SEND)
    pair.theirs.expect(LENGTH - 16, bytes(pair.own.view[:8]))


@row("UC: a receive that is too short is not taken", [OK, OK], RTS, received=[OK], qp_type=UC)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(length=7)])])
    pair.post(SEND)
    pair.post(SEND, [pair.sge(length=3)])
    pair.theirs.expect(0, bytes(pair.own.view[:3]))


@row("UD: a receive that is too short is not taken", [OK, OK], RTS, received=[OK], qp_type=UD)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(length=GRH + 7)])])
    pair.post(SEND)
    pair.post(SEND, [])
    pair.expect_grh()


@row("UC: a receive into memory that may not be written", [OK], RTS, received=[LOC_PROT], peer=ERR, qp_type=UC)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(lkey=0x4711)])])
    pair.post(SEND)


@row("UD: a receive into memory that may not be written", [OK], RTS, received=[LOC_PROT], peer=ERR, qp_type=UD)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge(lkey=0x4711)])])
    pair.post(SEND)


for qp_type in (UC, UD):
    row(f"{TRANSPORTS[qp_type]}: no receive, no message", [OK], RTS, qp_type=qp_type)(
        lambda pair: (pair.post(SEND), none(pair.peer.recv_cq))
    )


@row("UD: another Q_Key (C9-42)", [OK], RTS, qp_type=UD)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge()])])
    wr = pair.wr(SEND)
    wr.set_wr_ud(pair.sender.ah, pair.peer.number, QKEY + 1)
    pair.sender.qp.post_send(wr)
    none(pair.peer.recv_cq)


@row("UD: a Q_Key with the highest bit is that of the sender's QP", [OK], RTS, received=[OK], qp_type=UD)
def _(pair):
    pair.peer.post_recv([(5, [pair.their_sge()])])
    wr = pair.wr(SEND, [])
    wr.set_wr_ud(pair.sender.ah, pair.peer.number, 0x80000000)
    pair.sender.qp.post_send(wr)
    pair.expect_grh()


@row("UD: to nobody", [OK], RTS, qp_type=UD)
def _(pair):
    wr = pair.wr(SEND)
    wr.set_wr_ud(pair.sender.ah, 0x345678, QKEY)
    pair.sender.qp.post_send(wr)


@row("a message that invalidates a key of nobody", [REM_ACCESS], ERR, received=[LOC_ACCESS], peer=ERR)
def _(pair):
    pair.peer.post_recv([(5, [])])
    pair.post(SEND_INV, [], imm=0x4711)


# Retries (IBTA 9.7.5.2.8, 9.9.2.4.1; 9.7.6.1.3).


@row("no receive, often enough", [RNR_EXC, FLUSHED], ERR, rnr_retry=2)
def _(pair):
    pair.sender.qp.post_send(chain([pair.wr(SEND), pair.wr(SEND)]))


@row("no receive, and none is waited for", [RNR_EXC], ERR, rnr_retry=0)
def _(pair):
    pair.post(RDMA_WRITE_IMM)


@row("a receive that comes late", [OK], RTS, received=[OK])
def _(pair):
    pair.post(SEND, [])
    none(pair.sender.send_cq)
    pair.peer.post_recv([(5, [])])


# timeout 1: 8 µs.
@row("nobody answers", [RETRY_EXC, FLUSHED], ERR, peer=RESET, timeout=1, retry_cnt=2)
def _(pair):
    pair.peer.to(RESET)
    pair.sender.qp.post_send(chain([pair.wr(SEND), pair.wr(RDMA_READ)]))


@row("an lkey of nobody, and nobody answers", [LOC_PROT], ERR, peer=RESET, timeout=1, retry_cnt=2)
def _(pair):
    pair.peer.to(RESET)
    pair.post(SEND, [pair.sge(lkey=0x12345)])


@row("one that is connected to another does not answer", [RETRY_EXC], ERR, peer=INIT, timeout=1, retry_cnt=1)
def _(pair):
    pair.peer.to(RESET)
    pair.peer.to_init()
    pair.post(SEND)


@row("UC: nobody is there", [OK], RTS, peer=RESET, qp_type=UC)
def _(pair):
    pair.peer.to(RESET)
    pair.post(SEND)


# Windows (IBTA 10.6.7.2, C10-72 to C10-75, o10-36, o10-37).

BAD_BIND = dict(sent=[MW_BIND_ERR], state=ERR)


def bind(pair, mw_type=2, first=0, length=64, access=REMOTE_READ, mr=None, pd=None):
    """Binds a window of the sender's; its completion is for the row to check."""
    pair.mw = MW(pd or pair.sender.pd, mw_type)
    info = MWBindInfo(mr or pair.local, pair.own.address + first, length, access)
    if mw_type == e.IBV_MW_TYPE_1:
        pair.sender.qp.bind_mw(pair.mw, MWBind(info, e.IBV_SEND_SIGNALED))
        return
    wr = send_wr(BIND, [])
    wr.set_bind_wr(pair.mw, info)
    pair.sender.qp.post_send(wr)


for mw_type in (1, 2):
    row(f"type {mw_type}: before the region", **BAD_BIND)(lambda p, t=mw_type: bind(p, t, -1))
    row(f"type {mw_type}: beyond the region", **BAD_BIND)(lambda p, t=mw_type: bind(p, t, LENGTH - 63))
    row(f"type {mw_type}: longer than anything", **BAD_BIND)(
        lambda p, t=mw_type: bind(p, t, 8, (1 << 64) - 8)
    )

    @row(f"type {mw_type}: a region that may not be bound to (C10-73)", **BAD_BIND)
    def _(pair, mw_type=mw_type):
        mr = pair.own.region(pair.device.pd, ALL & ~MW_BIND)
        bind(pair, mw_type, mr=mr)
        mr.close()

    @row(f"type {mw_type}: to be written by, of a region that is not (C10-74)", **BAD_BIND)
    def _(pair, mw_type=mw_type):
        mr = pair.own.region(pair.device.pd, MW_BIND | REMOTE_READ)
        bind(pair, mw_type, access=REMOTE_WRITE, mr=mr)
        mr.close()

    @row(f"type {mw_type}: may do less than its region", **VIOLATION)
    def _(pair, mw_type=mw_type):
        pair.post(RDMA_WRITE, rkey=pair.bound(mw_type, 0, 64, REMOTE_READ))

    @row(f"type {mw_type}: one byte before it", **VIOLATION)
    def _(pair, mw_type=mw_type):
        pair.post(RDMA_WRITE, at=7, rkey=pair.bound(mw_type, 8, 64, REMOTE_WRITE))

    @row(f"type {mw_type}: one byte beyond it", **VIOLATION)
    def _(pair, mw_type=mw_type):
        pair.post(RDMA_WRITE, at=65, rkey=pair.bound(mw_type, 8, 64, REMOTE_WRITE))

    @row(f"type {mw_type}: the key that it had before", **VIOLATION)
    def _(pair, mw_type=mw_type):
        before = pair.bound(mw_type, 0, 64, REMOTE_WRITE) - 1
        pair.post(RDMA_WRITE, rkey=before)

    @row(f"type {mw_type}: a window that is no more", **VIOLATION)
    def _(pair, mw_type=mw_type):
        rkey = pair.bound(mw_type, 0, 64, REMOTE_WRITE)
        pair.mw.close()
        pair.post(RDMA_WRITE, rkey=rkey)


# The same of type 1 is refused by libibverbs.
@row("type 2: a region of another protection domain (C10-72)", **BAD_BIND)
def _(pair):
    pd = PD(pair.device.context)
    mr = pair.own.region(pd)
    bind(pair, mr=mr)
    mr.close()
    pd.close()


@row("type 2: a window of another protection domain (C10-72)", **BAD_BIND)
def _(pair):
    pd = PD(pair.device.context)
    bind(pair, pd=pd)
    pair.mw.close()
    pd.close()


@row("type 2: bound already (o10-37.2.30)", [OK, MW_BIND_ERR], ERR)
def _(pair):
    bind(pair)
    wr = send_wr(BIND, [])
    wr.set_bind_wr(pair.mw, MWBindInfo(pair.local, pair.own.address, 32, REMOTE_READ))
    pair.sender.qp.post_send(wr)


@row("type 2: no bytes (o10-37.2.40)", **BAD_BIND)
def _(pair):
    bind(pair, length=0)


@row("type 2: from zero on, its last byte", [OK], RTS)
def _(pair):
    rkey = pair.bound(2, 8, 64, REMOTE_WRITE | ZERO_BASED)
    pair.post(RDMA_WRITE, address=56, rkey=rkey)
    pair.theirs.expect(64, bytes(pair.own.view[:8]))


@row("type 2: from zero on, one byte beyond it", **VIOLATION)
def _(pair):
    pair.post(RDMA_WRITE, address=57, rkey=pair.bound(2, 8, 64, REMOTE_WRITE | ZERO_BASED))


@row("type 1: not from zero on (o10-36.2.2)", [], RTS)
def _(pair):
    try:
        bind(pair, 1, access=REMOTE_READ | ZERO_BASED)
    except PyverbsRDMAError as err:
        assert err.error_code == errno.EINVAL
    else:
        raise AssertionError("accepted")


@row("a region with a window can be neither deregistered nor registered anew (11.2.8.5 and 7)", [], RTS)
def _(pair):
    pair.bound(2, 0, 64, REMOTE_WRITE)
    for refused in (pair.remote.close, lambda: pair.remote.rereg(e.IBV_REREG_MR_CHANGE_ACCESS, access=ALL)):
        try:
            refused()
        except PyverbsRDMAError as err:
            assert "busy" in str(err), str(err)
        else:
            raise AssertionError("done")


@row("type 2: by a QP that has not bound it", **VIOLATION)
def _(pair):
    third = Qp(pair.device, RC)
    third.to_init()
    third.to_rtr(pair.device, third.number)
    third.to_rts()
    pair.post(RDMA_WRITE, rkey=pair.bound(2, 0, 64, REMOTE_WRITE, qp=third))
    pair.sent_before_close = pair.sender.sent()
    pair.mw.close()
    third.close()


@row("type 2: invalidated, by its owner", **VIOLATION)
def _(pair):
    rkey = pair.bound(2, 0, 64, REMOTE_WRITE)
    pair.peer.qp.post_send(send_wr(INVALIDATE, [], imm=rkey))
    assert pair.peer.sent()[0].status == OK
    pair.post(RDMA_WRITE, rkey=rkey)


@row("type 2: invalidated, by its peer", [OK, REM_ACCESS], ERR, received=[OK], peer=ERR, events=[QP_ACCESS])
def _(pair):
    rkey = pair.bound(2, 0, 64, REMOTE_WRITE)
    pair.peer.post_recv([(5, [])])
    pair.post(SEND_INV, [], imm=rkey)
    pair.post(RDMA_WRITE, rkey=rkey)


@row("type 1: cannot be invalidated (o10-37.2.26)", [LOC_QP_OP], ERR)
def _(pair):
    pair.post(INVALIDATE, imm=pair.bound(1, 0, 64, REMOTE_READ, qp=pair.peer))


# States (IBTA 10.3.1).


@row("SQD: what is posted waits, and goes on", [OK], RTS, received=[OK], events=[e.IBV_EVENT_SQ_DRAINED])
def _(pair):
    attr = QPAttr(qp_state=SQD)
    attr.en_sqd_async_notify = 1
    pair.sender.qp.modify(attr, e.IBV_QP_STATE | e.IBV_QP_EN_SQD_ASYNC_NOTIFY)
    pair.peer.post_recv([(5, [])])
    pair.post(SEND, [])
    none(pair.sender.send_cq)
    none(pair.peer.recv_cq)
    pair.sender.to(RTS)


@row("SQE: back to RTS", [LOC_PROT, OK], RTS, received=[OK], qp_type=UC)
def _(pair):
    pair.peer.post_recv([(5, [])])
    pair.post(SEND, [pair.sge(lkey=1)])
    assert pair.sender.state() == SQE
    pair.sender.to(RTS)
    pair.post(SEND, [])


@row("to ERR: all is flushed", [FLUSHED], ERR, events=[])
def _(pair):
    pair.post(SEND)
    pair.sender.post_recv([(7, [])])
    pair.sender.to(ERR)
    assert pair.sender.received()[0].status == FLUSHED


@row("to ERR: a long queue is flushed before the call returns", [], RTS, peer=ERR, max_recv_wr=MANY, cqe=MANY)
def _(pair):
    pair.peer.post_recv([(number, []) for number in range(MANY)])
    pair.peer.to(ERR)
    _, found = pair.peer.recv_cq.poll(MANY + 1)
    assert [wc.wr_id for wc in found] == list(range(MANY))
    assert all(wc.status == FLUSHED for wc in found)


@row("to RESET: all is forgotten", [], RESET)
def _(pair):
    pair.post(SEND)
    pair.sender.post_recv([(7, [])])
    pair.sender.to(RESET)
    none(pair.sender.recv_cq)


@row("the last of a shared queue (C11-45)", [], RTS, peer=ERR, events=[LAST_WQE], shared=True)
def _(pair):
    pair.peer.to(ERR)


@row("the last of a shared queue, by an error of the send queue", [], RTS, peer=ERR, events=[LAST_WQE], shared=True)
def _(pair):
    pair.peer.qp.post_send(send_wr(SEND, [pair.their_sge(lkey=1)]))
    assert pair.peer.sent()[0].status == LOC_PROT


@row("the limit of a shared queue, told of once (10.2.9.3)", [OK] * 3, RTS, received=[OK] * 3, events=[SRQ_LIMIT], shared=True)
def _(pair):
    pair.peer.post_recv([(i, []) for i in range(5)])
    pair.srq.modify(SrqAttr(srq_limit=4), e.IBV_SRQ_LIMIT)
    for _ in range(3):
        pair.post(SEND, [])
    assert pair.srq.query().srq_limit == 0


def check(device, name, function, sent, state, received, peer, events, setup):
    pair = Pair(device, **setup)
    pair.ids = pair.received_ids = None
    function(pair)
    found = getattr(pair, "sent_before_close", None) or (pair.sender.sent(len(sent)) if sent else [])
    assert [wc.status for wc in found] == sent, f"sent: {list(map(str, found))}"
    assert all(wc.qp_num == pair.sender.number for wc in found)
    if pair.ids:
        assert [wc.wr_id for wc in found] == pair.ids, list(map(str, found))
    none(pair.sender.send_cq)
    found = pair.peer.received(len(received)) if received else []
    assert [wc.status for wc in found] == received, f"received: {list(map(str, found))}"
    if pair.received_ids:
        assert [wc.wr_id for wc in found] == pair.received_ids
    none(pair.peer.recv_cq)
    states = pair.sender.state(), pair.peer.state()
    assert states == (state, peer), f"states {states}, not {(state, peer)}"
    found = device.events()
    assert sorted(found) == sorted(events), f"events {found}, not {events}"
    pair.close()


def overrun(device):
    """A CQ that overruns (IBTA 11.6.3.1): its error is told of once, and what was in it is there."""
    pair = Pair(device, cqe=4, max_send_wr=64)
    room = pair.sender.send_cq.cqe
    for _ in range(room + 3):
        pair.post(RDMA_WRITE, [])
    assert device.events() == [CQ_ERR]
    assert all(wc.status == OK for wc in pair.sender.sent(room))
    pair.close()
    # The second one is that all queues of a QP lead to are told when the CQ goes; there is none.
    assert device.events() == []
    logged(f"a completion queue of {room} entries has overrun")


def logged(text):
    """The kernel's log says so of this process. It takes ten lines in five seconds."""
    if not NO_KERNEL:
        log = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout
        with open("/proc/self/comm") as file:
            process = f"{file.read().strip()}[{os.getpid()}]: "
        assert any(process in line and text in line for line in log.splitlines()), log


def address_goes(device):
    """Whoever is connected to an address that goes reaches nobody any more: a port's GIDs are its
    addresses (IBTA A17.4.5.1)."""
    port = f"/sys/class/infiniband/{device.name}/ports/1"
    with open(f"{port}/gid_attrs/ndevs/{device.gid_index}") as file:
        netdev = file.read().strip()
    gids = lambda: open(f"{port}/gids/{device.gid_index}").read()
    own = gids()
    address = ["10.0.0.1/24", "dev", netdev]
    pair = Pair(device, timeout=1, retry_cnt=1)
    for _ in range(2):
        pair.post(RDMA_WRITE, [])
        (wc,) = pair.sender.sent()
        assert wc.status == OK, str(wc)
    subprocess.run(["ip", "address", "delete", *address], check=True)
    until("the GID's going", lambda: gids() != own)
    pair.post(RDMA_WRITE, [])
    (wc,) = pair.sender.sent()
    assert wc.status == RETRY_EXC, str(wc)
    pair.close()
    device.events()
    subprocess.run(["ip", "address", "add", *address], check=True)


def main():
    device = Device(sys.argv[1])
    failed = 0
    wanted = sys.argv[2:]
    overrun(device)
    for name, function, *rest in ROWS:
        if wanted and not any(w in name for w in wanted):
            continue
        try:
            check(device, name, function, *rest)
            print(f"ok {name}", flush=True)
        except Exception as err:
            failed += 1
            print(f"FAILED {name}: {type(err).__name__} {err}", flush=True)
            device.events()
    if not wanted:
        logged("is in error by a request of its peer's")
    if not NO_KERNEL:
        address_goes(device)
    print(f"{len(ROWS)} rows, {failed} failed")
    sys.exit(failed > 0)


main()
