# SPDX-License-Identifier: MIT OR Apache-2.0
"""A path MTU above what the network takes: accepted, as by rdma_rxe, and packets that are too long are lost.

    wire_mtu.py DEVICE DEVICE
"""

import sys

import pyverbs.enums as e

from rig import *

for gid_index in (1, 2):
    one, other = (Device(name, gid_index) for name in sys.argv[1:])
    memory = Memory(16 * PAGE)
    mine, theirs = memory.region(one.pd), memory.region(other.pd)
    for size, status in ((64, e.IBV_WC_SUCCESS), (16 * PAGE, e.IBV_WC_RETRY_EXC_ERR)):
        sender, receiver = Qp(one, RC), Qp(other, RC)
        for qp in (sender, receiver):
            qp.to_init()
        sender.to_rtr(other, receiver.number, mtu=e.IBV_MTU_4096)
        receiver.to_rtr(one, sender.number, mtu=e.IBV_MTU_4096)
        for qp in (sender, receiver):
            qp.to_rts(timeout=8, retry_cnt=2)
        wr = send_wr(e.IBV_WR_RDMA_WRITE, [(memory.address, size, mine.lkey)])
        wr.set_wr_rdma(theirs.rkey, memory.address)
        sender.qp.post_send(wr)
        found = sender.sent()[0].status
        assert found == status, f"GID {gid_index}, {size} bytes: {found}"
print("what is too long is lost")
