#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The kernel lends memory to a process, which writes to it and gives it back.

In the guest: kverbs.py DEVICE GID_INDEX. The other side is process.rs of the module kverbs, which
finds this one by the number of a UD queue pair.
"""

import struct
import subprocess
import sys

from pyverbs.addr import AH, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPEx, QPInitAttr, QPInitAttrEx
from pyverbs.wr import SGE, RecvWR, SendWR
import pyverbs.enums as e

QKEY = 0x1234
GRH = 40
LENGTH = 5000


def main(device, gid_index):
    context = Context(name=device)
    pd, cq = PD(context), CQ(context, 64)
    own = MR(pd, LENGTH + 100, e.IBV_ACCESS_LOCAL_WRITE)
    route = GlobalRoute(dgid=context.query_gid(1, gid_index), sgid_index=gid_index)
    address = AHAttr(gr=route, is_global=1, port_num=1)

    def completion(status=e.IBV_WC_SUCCESS):
        while not (completions := cq.poll(1)[1]):
            pass
        assert completions[0].status == status, completions[0]
        return completions[0]

    def sge(at, length):
        return SGE(own.buf + at, length, own.lkey)

    attr = QPAttr(port_num=1)
    attr.qkey = QKEY
    ud = QP(pd, QPInitAttr(qp_type=e.IBV_QPT_UD, scq=cq, rcq=cq, cap=QPCap(4, 4, 1, 1, 0)), attr)
    ops = e.IBV_QP_EX_WITH_RDMA_WRITE | e.IBV_QP_EX_WITH_SEND_WITH_INV
    rc = QPEx(
        context,
        QPInitAttrEx(
            qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, cap=QPCap(4, 4, 1, 1, 0), pd=pd, send_ops_flags=ops,
            comp_mask=e.IBV_QP_INIT_ATTR_PD | e.IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
        ),
    )
    ud.post_recv(RecvWR(sg=[sge(0, GRH + 8)], num_sge=1))
    kernel = subprocess.Popen(["modprobe", "kverbs", f"device={device}", f"gid={gid_index}", f"peer={ud.qp_num}"])

    hello = completion()
    peer = struct.unpack("Q", own.read(8, GRH))[0]
    attr = QPAttr(port_num=1)
    attr.path_mtu, attr.dest_qp_num, attr.ah_attr = e.IBV_MTU_1024, peer, address
    attr.max_rd_atomic = attr.max_dest_rd_atomic = 1
    attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 1, 14, 7, 7
    rc.to_rts(attr)
    rc.post_recv(RecvWR(sg=[sge(0, 16)], num_sge=1))
    own.write(struct.pack("Q", rc.qp_num), 8, 64)
    answer = SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge(64, 8)])
    answer.set_wr_ud(AH(pd, attr=address), hello.src_qp, QKEY)
    ud.post_send(answer)
    # The one of the datagram, and the memory that is lent.
    completions = [completion(), completion()]
    assert {c.opcode for c in completions} == {e.IBV_WC_SEND, e.IBV_WC_RECV}
    addr, rkey = struct.unpack("QQ", own.read(16, 0))

    def write(at, length):
        rc.wr_id, rc.wr_flags = 1, e.IBV_SEND_SIGNALED
        rc.wr_rdma_write(rkey, addr + at)
        rc.wr_set_sge(sge(at, length))

    own.write(bytes(i * 5 & 0xFF for i in range(LENGTH)), LENGTH, 0)
    rc.wr_start()
    write(0, LENGTH)
    rc.wr_id, rc.wr_flags = 2, e.IBV_SEND_SIGNALED
    rc.wr_send_inv(rkey)
    rc.wr_set_sge(sge(0, 8))
    rc.wr_complete()
    completion()
    completion()
    rc.wr_start()
    write(100, 1)
    rc.wr_complete()
    completion(e.IBV_WC_REM_ACCESS_ERR)
    sys.exit(kernel.wait())


main(sys.argv[1], int(sys.argv[2]))
