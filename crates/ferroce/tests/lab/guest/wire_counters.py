# SPDX-License-Identifier: MIT OR Apache-2.0
"""What goes wrong between two hosts, and what both count of it.

    wire_counters.py DEVICE DEVICE
"""

import sys

import pyverbs.enums as e

from rig import *

LENGTH = 64
# Local ACK timeouts: 4 s, longer than any answer takes, and 4 ms.
LONG, SHORT = 20, 10


def counters(device):
    where = f"/sys/class/infiniband/{device.name}/ports/1/hw_counters"
    return {name: int(open(f"{where}/{name}").read()) for name in os.listdir(where) if name != "lifespan"}


def changes(before, after):
    # All packets are counted, also those that are right.
    return {name: after[name] - n for name, n in before.items() if after[name] != n and not name.endswith("_pkts")}


class Case:
    """Two connected queue pairs, and memory of both."""

    def __init__(self, one, other, **attributes):
        self.devices = one, other
        self.one, self.other = Qp(one, RC), Qp(other, RC)
        connect(self.one, self.other, **attributes)
        self.memory = Memory(2 * LENGTH)
        self.here, self.there = (self.memory.region(device.pd) for device in (one, other))
        self.before = [counters(device) for device in self.devices]

    def send(self, status, opcode=e.IBV_WR_SEND, rkey=0):
        wr = send_wr(opcode, [(self.memory.address, LENGTH, self.here.lkey)])
        if opcode == e.IBV_WR_RDMA_WRITE:
            wr.set_wr_rdma(rkey, self.memory.address)
        self.one.qp.post_send(wr)
        (wc,) = self.one.sent()
        assert wc.status == status, str(wc)

    def counted(self, here, there):
        for device, before, expected in zip(self.devices, self.before, (here, there)):
            # The RDMA core reads the counters every 10 ms at most.
            probe = lambda: changes(before, counters(device)) == expected
            try:
                until("the counters", probe)
            except AssertionError:
                raise AssertionError(f"{device.name}: {changes(before, counters(device))}, not {expected}")


def main():
    one, other = (Device(name) for name in sys.argv[1:])

    case = Case(one, other)
    case.other.post_recv([(0, [(case.memory.address + LENGTH, LENGTH, case.there.lkey)])])
    case.send(e.IBV_WC_SUCCESS)
    case.counted({"rdma_sends": 1, "sent_bytes": LENGTH}, {"rdma_recvs": 1, "rcvd_bytes": LENGTH})

    # Nobody answers: the request is sent three times in all.
    case = Case(one, other, timeout=SHORT, retry_cnt=2)
    case.other.close()
    case.send(e.IBV_WC_RETRY_EXC_ERR)
    case.counted({"local_ack_timeout_err": 2, "retry_exceeded_err": 1}, {"rcvd_unknown_qp": 3})

    # There is no receive request, and there will not be one.
    case = Case(one, other, timeout=LONG, rnr_retry=2)
    case.send(e.IBV_WC_RNR_RETRY_EXC_ERR)
    case.counted({"rcvd_rnr_err": 3, "retry_rnr_exceeded_err": 1}, {"send_rnr_err": 3})

    # One that is too small.
    case = Case(one, other, timeout=LONG)
    case.other.post_recv([(0, [(case.memory.address + LENGTH, LENGTH - 1, case.there.lkey)])])
    case.send(e.IBV_WC_REM_INV_REQ_ERR)
    case.counted({"req_remote_invalid_request": 1}, {"rdma_recvs": 1})

    # A key that there is not.
    case = Case(one, other, timeout=LONG)
    case.send(e.IBV_WC_REM_ACCESS_ERR, e.IBV_WR_RDMA_WRITE, case.there.rkey ^ 1)
    case.counted({"req_remote_access_errors": 1}, {"resp_remote_access_errors": 1})
    print("5 cases")


main()
