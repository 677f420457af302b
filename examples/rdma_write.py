#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Two reliable connected queue pairs of one device, and an RDMA WRITE from one to the other.

    /usr/bin/python3 rdma_write.py fr0 1    # the device, and the index of one of its GIDs

It needs pyverbs (Debian: python3-pyverbs). rdma_write.c is the same in C.
"""

import sys

import pyverbs.enums as e
from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

TEXT = b"written by RDMA"
LENGTH = 4096


def make_qp(pd, cq):
    cap = QPCap(max_send_wr=16, max_recv_wr=16)
    init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, cap=cap)
    attr = QPAttr(port_num=1)
    attr.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE
    # With an attribute it is taken to INIT at once.
    return QP(pd, init, attr)


def connect(qp, peer, gid, gid_index):
    """Takes a queue pair by way of RTR to RTS, connected to another (IBTA 10.3.1)."""
    attr = QPAttr(port_num=1)
    attr.path_mtu = e.IBV_MTU_1024
    attr.dest_qp_num = peer.qp_num
    attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
    attr.min_rnr_timer = 12  # 0.64 ms
    attr.timeout = 14  # 4.096 us * 2^14 = 67 ms
    attr.retry_cnt = attr.rnr_retry = 7
    # RoCE has no other addresses than GIDs.
    route = GlobalRoute(dgid=gid, sgid_index=gid_index, hop_limit=64)
    attr.ah_attr = AHAttr(port_num=1, is_global=1, gr=route)
    qp.to_rts(attr)


def main(device, gid_index="1"):
    gid_index = int(gid_index)
    context = Context(name=device)
    gid = context.query_gid(1, gid_index)
    pd = PD(context)
    cq = CQ(context, 16)
    source = MR(pd, LENGTH, e.IBV_ACCESS_LOCAL_WRITE)
    target = MR(pd, LENGTH, e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE)
    source.write(TEXT, len(TEXT))
    one, other = make_qp(pd, cq), make_qp(pd, cq)
    connect(one, other, gid, gid_index)
    connect(other, one, gid, gid_index)

    sge = SGE(source.buf, LENGTH, source.lkey)
    write = SendWR(num_sge=1, sg=[sge], opcode=e.IBV_WR_RDMA_WRITE, send_flags=e.IBV_SEND_SIGNALED)
    write.set_wr_rdma(target.rkey, target.buf)
    one.post_send(write)

    # The target's side sees no completion; ours comes when all has been written there.
    count = 0
    while count == 0:
        count, completions = cq.poll()
    if completions[0].status != e.IBV_WC_SUCCESS:
        sys.exit(f"the write failed with status {completions[0].status}")
    if target.read(LENGTH, 0) != source.read(LENGTH, 0):
        sys.exit("what arrived is not what was sent")
    print(f"{device}: {LENGTH} bytes {target.read(len(TEXT), 0).decode()}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} DEVICE [GID-INDEX]")
    main(*sys.argv[1:])
