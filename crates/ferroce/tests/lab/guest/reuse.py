# SPDX-License-Identifier: MIT OR Apache-2.0
"""That a key or a number of a queue pair that was given up names nothing for long.

    reuse.py DEVICE
"""

import sys

import pyverbs.enums as e
from pyverbs.mr import MW, MWBind, MWBindInfo

from rig import *

# So many others come between two uses of a number.
LATE = 1000


def check(what, numbers):
    """That none of these, in the order in which they were given, comes again too early."""
    seen = {}
    for at, number in enumerate(numbers):
        before = seen.get(number)
        assert before is None or at - before > LATE, f"{what} {number:#x} again after {at - before}"
        seen[number] = at


def regions(device, memory, count):
    """Registers and deregisters so often; the keys."""
    for _ in range(count):
        with memory.region(device.pd) as mr:
            assert mr.lkey == mr.rkey
            yield mr.rkey


def windows(device, mw_type, count):
    for _ in range(count):
        with MW(device.pd, mw_type) as mw:
            yield mw.rkey


def keys(what, found):
    """That keys differ, and in the low byte as well."""
    found = list(found)
    check(f"the key of {what}", found)
    check(f"the number of {what}", [key >> 8 for key in found])
    for key in found:
        assert key >> 8, f"{key:#x} has the number that is nobody's"
    assert len({key & 0xFF for key in found}) > 200, f"{what}: low bytes are few"
    # A number's keys differ from each other.
    assert len(set(found)) == len(found), f"{what}: a key came again"
    print(f"{what}: {len(found)} keys")


def stale(device, memory):
    """A WRITE with a key of before is refused, however many regions there were since."""
    sender, peer = Qp(device, RC), Qp(device, RC)
    own = Memory(PAGE)
    local = own.region(device.pd)
    # Nothing may be written to it.
    theirs = memory.region(device.pd)
    old, since = theirs.rkey, 0
    theirs.close()
    for wanted in (1, 2, 14, 15, 16, 17, 18, 63, 64, 65, 255, 256, 257, 500, 1000, 2047, 2048, 2049, 2050):
        for _ in regions(device, memory, wanted - since - 1):
            pass
        since = wanted
        with memory.region(device.pd):
            connect(sender, peer)
            wr = send_wr(e.IBV_WR_RDMA_WRITE, [(own.address, 8, local.lkey)])
            wr.set_wr_rdma(old, memory.address)
            sender.qp.post_send(wr)
            (wc,) = sender.sent()
            assert wc.status == e.IBV_WC_REM_ACCESS_ERR, f"after {wanted}: {wc}"
        for qp in (sender, peer):
            qp.to(RESET)
        device.events()
    assert not memory.difference(), memory.difference()
    local.close()
    sender.close()
    peer.close()
    print("stale keys are refused")


def bound(device, memory):
    """The key of a window that was bound differs from that of the number's next use."""
    qp = Qp(device, RC)
    connect(qp, qp)
    mr = memory.region(device.pd)
    found = []
    for _ in range(3 * 1024):
        with MW(device.pd, e.IBV_MW_TYPE_1) as mw:
            qp.qp.bind_mw(mw, MWBind(MWBindInfo(mr, memory.address, 8, REMOTE_WRITE), e.IBV_SEND_SIGNALED))
            (wc,) = qp.sent()
            assert wc.status == e.IBV_WC_SUCCESS, str(wc)
            found.append(mw.rkey)
    assert len(set(found)) == len(found), "the key of a bound window came again"
    mr.close()
    qp.close()
    print(f"bound windows: {len(found)} keys")


def held(device, memory):
    """The same where many are given up at once."""
    mrs = [memory.region(device.pd) for _ in range(1500)]
    old = [mr.rkey for mr in mrs]
    for mr in mrs:
        mr.close()
    for at, key in enumerate(regions(device, memory, LATE)):
        assert key >> 8 not in {k >> 8 for k in old}, f"the {at}th of {LATE} has a number of before"
    print("those that were given up together come late as well")


def queue_pairs(device, count):
    cq = device.cq()
    found = []
    for _ in range(count):
        init = QPInitAttrEx(
            qp_type=UD, scq=cq, rcq=cq, cap=QPCap(max_send_wr=1, max_recv_wr=1), pd=device.pd,
            comp_mask=e.IBV_QP_INIT_ATTR_PD,
        )
        with QPEx(device.context, init) as qp:
            found.append(qp.qp_num)
    check("the number of a queue pair", found)
    assert all(1 < number < 0xFFFFFF for number in found)
    cq.close()
    print(f"queue pairs: {len(found)} numbers")


def main():
    device = Device(sys.argv[1])
    memory = Memory(PAGE)
    first = next(regions(device, memory, 1))
    keys("regions", [first, *regions(device, memory, 5000)])
    keys("windows of type 1", windows(device, e.IBV_MW_TYPE_1, 5000))
    keys("windows of type 2", windows(device, e.IBV_MW_TYPE_2, 3000))
    bound(device, memory)
    held(device, memory)
    stale(device, memory)
    queue_pairs(device, 3000)
    # For who compares devices.
    print(f"the first key is {first:#x}")


main()
