# SPDX-License-Identifier: MIT OR Apache-2.0
"""Has two devices of rdma_rxe exchange one of everything; see rxe.sh."""

import time

import pyverbs.enums as e

import rig
from rig import PAGE, RC, UC, UD, Device, Memory, Qp, connect, send_wr

# Short packets make a short file.
rig.e.IBV_MTU_1024 = e.IBV_MTU_256
MTU = 256
# rdma-core's provider of rxe has no memory windows on UC.
rig.SEND_OPS[UC] &= ~(e.IBV_QP_EX_WITH_LOCAL_INV | e.IBV_QP_EX_WITH_BIND_MW)
CELL = 2048


class Side(Device):
    def __init__(self, name, gid_index):
        super().__init__(name, gid_index)
        self.memory = Memory(4 * PAGE)
        self.memory.put(0, bytes(i * 7 & 0xFF for i in range(4 * PAGE)))
        self.mr = self.memory.region(self.pd, access=rig.ALL)


def find_gid(name, address):
    context = Device(name, 0).context
    for index in range(16):
        if context.query_gid(1, index).gid.endswith(address):
            return index
    raise SystemExit(f"{name} has no GID {address}")


def post(qp, opcode, length, to=None, imm=0, key=None, at=0, compare=None, swap=None):
    side = qp.device
    sges = [(side.memory.address + at, length, side.mr.lkey)] if length else []
    wr = send_wr(opcode, sges, imm=imm, flags=e.IBV_SEND_SIGNALED | e.IBV_SEND_SOLICITED)
    if compare is not None:
        wr.set_wr_atomic(key or to.mr.rkey, to.memory.address + CELL, compare, swap)
    elif to is not None:
        wr.set_wr_rdma(key or to.mr.rkey, to.memory.address + 3 * PAGE)
    if qp.type == UD:
        wr.set_wr_ud(qp.ah, qp.peer_number, rig.QKEY)
    qp.qp.post_send(wr)
    return qp.sent()[0]


def receive(qp, count=1, length=PAGE):
    side = qp.device
    address = side.memory.address + PAGE
    qp.post_recv([(1, [(address, length, side.mr.lkey)])] * count)


def pair(one, other, qp_type, **attributes):
    qps = Qp(one, qp_type), Qp(other, qp_type)
    connect(*qps, **attributes)
    qps[0].peer_number, qps[1].peer_number = qps[1].number, qps[0].number
    return qps


def reliable(one, other):
    qp, peer = pair(one, other, RC)
    receive(peer, 6)
    for length in (0, 3, 600):
        post(qp, e.IBV_WR_SEND, length)
    post(qp, e.IBV_WR_SEND_WITH_IMM, 5, imm=0x01020304)
    post(qp, e.IBV_WR_SEND_WITH_IMM, MTU + 1, imm=0x01020304)
    for length in (0, 1, 3 * MTU):
        post(qp, e.IBV_WR_RDMA_WRITE, length, other)
    post(qp, e.IBV_WR_RDMA_WRITE_WITH_IMM, 2 * MTU, other, imm=0x0A0B0C0D)
    receive(peer, 1)
    post(qp, e.IBV_WR_RDMA_WRITE_WITH_IMM, 7, other, imm=0x0A0B0C0D)
    for length in (0, 2, 3 * MTU - 1):
        post(qp, e.IBV_WR_RDMA_READ, length, other)
    post(qp, e.IBV_WR_ATOMIC_CMP_AND_SWP, 8, other, compare=1, swap=2)
    post(qp, e.IBV_WR_ATOMIC_FETCH_AND_ADD, 8, other, compare=3, swap=0)
    # The peer has no receive, and then it has one.
    side = qp.device
    wr = send_wr(e.IBV_WR_SEND, [(side.memory.address, 4, side.mr.lkey)])
    qp.qp.post_send(wr)
    time.sleep(0.02)
    receive(peer, 1)
    qp.sent()


def refused(one, other):
    qp, _ = pair(one, other, RC)
    post(qp, e.IBV_WR_RDMA_WRITE, 8, other, key=0x7777)
    qp, peer = pair(one, other, RC)
    receive(peer, 1)
    post(qp, e.IBV_WR_SEND_WITH_INV, 8, imm=0x7777)
    qp, peer = pair(one, other, RC)
    receive(peer, 1)
    post(qp, e.IBV_WR_SEND_WITH_INV, 300, imm=0x7777)
    qp, peer = pair(one, other, RC, access=0)
    post(qp, e.IBV_WR_RDMA_READ, 8, other)


def atomic_write(one, other):
    """Beside it, FLUSH is what this pyverbs does not have."""
    rig.SEND_OPS[RC] |= e.IBV_QP_EX_WITH_ATOMIC_WRITE
    qp, _ = pair(one, other, RC)
    qp.qp.wr_start()
    qp.qp.wr_id, qp.qp.wr_flags = 1, e.IBV_SEND_SIGNALED
    qp.qp.wr_atomic_write(other.mr.rkey, other.memory.address + CELL, b"8 bytes!")
    qp.qp.wr_complete()
    qp.sent()


def unreliable(one, other):
    qp, peer = pair(one, other, UC)
    receive(peer, 6)
    for length in (2, 3 * MTU):
        post(qp, e.IBV_WR_SEND, length)
    for length in (1, MTU + 2):
        post(qp, e.IBV_WR_SEND_WITH_IMM, length, imm=0x01020304)
    for length in (4, 2 * MTU + 2):
        post(qp, e.IBV_WR_RDMA_WRITE, length, other)
    for length in (9, MTU + 9):
        post(qp, e.IBV_WR_RDMA_WRITE_WITH_IMM, length, other, imm=0x01020304)
    peer.received(6)
    qp, peer = pair(one, other, UD)
    receive(peer, 2)
    post(qp, e.IBV_WR_SEND, 11)
    post(qp, e.IBV_WR_SEND_WITH_IMM, 0, imm=0x01020304)
    peer.received(2)


for network in "ffff:0a00:000", "fd00:0000:0000:0000:0000:0000:0000:000":
    names = ("rxe0", "1"), ("rxe1", "2")
    one, other = (Side(name, find_gid(name, network + host)) for name, host in names)
    reliable(one, other)
    unreliable(one, other)
    refused(one, other)
    atomic_write(one, other)
