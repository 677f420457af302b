# SPDX-License-Identifier: MIT OR Apache-2.0
"""Posts one request after the other, and sees whether a thread of the kernel's executes them without doorbells.

    polled.py DEVICE some|none
"""

import sys
import time

import pyverbs.enums as e

from rig import *

LENGTH = 64
# How long to look for what should not be, in seconds.
A_WHILE = 3


def main():
    name, expected = sys.argv[1:]
    device = Device(name)
    memory = Memory(PAGE)
    region = memory.region(device.pd)
    qp = Qp(device, RC)
    connect(qp, qp)

    def drained():
        return int(open(f"/sys/class/infiniband/{name}/hw_counters/polled_requests").read())

    def work():
        """Some messages, from the queue pair to itself, one at a time."""
        for _ in range(500):
            wr = send_wr(e.IBV_WR_RDMA_WRITE, [(memory.address, LENGTH, region.lkey)])
            wr.set_wr_rdma(region.rkey, memory.address + LENGTH)
            qp.qp.post_send(wr)
            (wc,) = qp.sent()
            assert wc.status == e.IBV_WC_SUCCESS, str(wc)

    before = drained()

    def is_polled():
        work()
        return drained() > before

    if expected == "some":
        until("the thread that polls", is_polled)
    else:
        end = time.monotonic() + A_WHILE
        while time.monotonic() < end:
            assert not is_polled(), f"{drained() - before} requests were executed by another CPU"
    print(f"polled: {expected}")


main()
