# SPDX-License-Identifier: MIT OR Apache-2.0
# Creates RC queue pairs on a device, by rdma-core's own binding for Python:
#     queue_pairs.py DEVICE COUNT
# and prints how many seconds it took, and how many bytes of memory it cost.
import sys
import time

from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.pd import PD
from pyverbs.qp import QP, QPCap, QPInitAttr


# Of <infiniband/verbs.h>; the module that has it has had two names.
IBV_QPT_RC = 2


def free():
    """Memory that is free, or would be if it was asked for, in bytes."""
    with open('/proc/meminfo') as file:
        sizes = {line.split(':')[0]: int(line.split()[1]) for line in file}
    return 1024 * sum(sizes[name] for name in ('MemFree', 'Buffers', 'Cached', 'SReclaimable'))


name, count = sys.argv[1], int(sys.argv[2])
context = Context(name=name)
pd = PD(context)
cq = CQ(context, 128)
cap = QPCap(max_send_wr=16, max_recv_wr=16, max_send_sge=1, max_recv_sge=1)
attributes = QPInitAttr(qp_type=IBV_QPT_RC, scq=cq, rcq=cq, cap=cap)
queue_pairs = [QP(pd, attributes)]

before, started = free(), time.monotonic()
queue_pairs += [QP(pd, attributes) for _ in range(count)]
print(time.monotonic() - started, before - free())
