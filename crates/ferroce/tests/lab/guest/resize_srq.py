# SPDX-License-Identifier: MIT OR Apache-2.0
"""A shared receive queue changes its size, at rest and while messages take its receives.

    resize_srq.py DEVICE MESSAGES [SEED]

MESSAGES of them come to each of two connected queue pairs, from another process. No receive is lost, none
is taken twice, and each queue pair's messages come in their order.
"""

import errno
import random
import resource
import struct
import sys
import threading
import time

import pyverbs.enums as e
from pyverbs.pyverbs_error import PyverbsRDMAError

from hostile import Child
from rig import *

MAX_WR, LIMIT = e.IBV_SRQ_MAX_WR, e.IBV_SRQ_LIMIT
EINVAL, ENOMEM = errno.EINVAL, errno.ENOMEM
# Bytes of a message and of a receive's memory; more receives than are ever posted at the same time.
LENGTH, SLOTS = 8, 4096


def errno_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except PyverbsRDMAError as err:
        return err.error_code
    return 0


class Receiver:
    """A shared receive queue, and memory for what comes."""

    def __init__(self, device, max_wr):
        self.device, self.srq = device, device.srq(max_wr, 1)
        self.memory = Memory(SLOTS * LENGTH)
        self.mr = self.memory.region(device.pd)
        self.posted = 0

    def post(self):
        """The errno."""
        at = self.memory.address + self.posted % SLOTS * LENGTH
        error = errno_of(self.srq.post_recv, recv_wr(self.posted, [(at, LENGTH, self.mr.lkey)]))
        self.posted += error == 0
        return error

    def fill(self):
        """Posts until the queue is full, and returns how many."""
        before = self.posted
        while self.post() == 0:
            pass
        return self.posted - before

    def resize(self, max_wr, limit=None):
        mask = MAX_WR if limit is None else MAX_WR | LIMIT
        return errno_of(self.srq.modify, SrqAttr(max_wr=max_wr, srq_limit=limit or 0), mask)

    def size(self):
        return self.srq.query().max_wr

    def message(self, wr_id):
        return struct.unpack_from("Q", self.memory.view, wr_id % SLOTS * LENGTH)[0]


class Sender:
    def __init__(self):
        self.memory = Memory(PAGE)

    def send(self, qp, number):
        struct.pack_into("Q", self.memory.view, 0, number)
        flags = e.IBV_SEND_SIGNALED | e.IBV_SEND_INLINE
        qp.qp.post_send(send_wr(e.IBV_WR_SEND, [(self.memory.address, LENGTH, 0)], flags=flags))


def at_rest(device):
    info = device.context.query_device()
    assert info.device_cap_flags & e.IBV_DEVICE_SRQ_RESIZE
    to = Receiver(device, 8)
    one, other = Qp(device, RC), Qp(device, RC, srq=to.srq)
    connect(one, other)
    source, arrived = Sender(), 0

    def deliver(count):
        nonlocal arrived
        for number in range(arrived, arrived + count):
            source.send(one, number)
            (sent,), (received,) = one.sent(), other.received()
            assert (sent.status, received.status) == (0, 0)
            assert received.wr_id == to.message(received.wr_id) == number, f"{received.wr_id}, not {number}"
        arrived += count

    for _ in range(5):
        assert to.post() == 0
    # rdma_rxe: rxe_srq_chk_attr(), resize_finish().
    for refused in (4, 0, info.max_srq_wr + 1, (1 << 32) - 1):
        assert to.resize(refused) == EINVAL, refused
    assert to.size() == 8
    deliver(2)
    assert to.resize(4) == 0 and to.size() == 4
    assert to.fill() == 1
    assert to.resize(8, limit=9) == EINVAL and to.size() == 4
    assert to.resize(100, limit=3) == 0 and to.size() == 128
    assert to.srq.query().srq_limit == 3
    assert to.resize(2) == EINVAL
    deliver(2)
    assert device.events() == [e.IBV_EVENT_SRQ_LIMIT_REACHED]
    assert to.fill() == 126

    if not NO_KERNEL:
        # The process has no room to map the new ring.
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, hard))
        error = to.resize(info.max_srq_wr)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert error == ENOMEM and to.size() == 128, (error, to.size())
    assert to.fill() == 0
    deliver(100)
    assert to.resize(info.max_srq_wr) == 0
    assert to.fill() == info.max_srq_wr - 28
    one.close()
    other.close()


def sender(ends, device, messages):
    mine = Device(device)
    source = Sender()
    cq = mine.cq(256)
    qps = [Qp(mine, RC, cq=cq) for _ in range(2)]
    for qp in qps:
        ends.tell(qp.number)
        qp.to_init()
        qp.to_rtr(mine, ends.hear())
        # 1 s: a busy machine may not run the receiver for longer than retries last.
        qp.to_rts(timeout=18)
    ends.hear()
    outstanding = 0
    for number in range(messages):
        for qp in qps:
            source.send(qp, number)
            outstanding += 1
        while outstanding > 60 or outstanding and number == messages - 1:
            _, found = cq.poll(16)
            assert all(wc.status == 0 for wc in found), list(map(str, found))
            outstanding -= len(found)
    ends.hear()


def with_traffic(device_name, messages, rng):
    child = Child(sender, device_name, messages)
    device = Device(device_name)
    to = Receiver(device, 64)
    qps = {}
    for _ in range(2):
        qp = Qp(device, RC, srq=to.srq, cqe=SLOTS)
        qp_number = child.ends.hear()
        child.ends.tell(qp.number)
        qps[qp.number] = qp, qp_number
        qp.to_init()
        qp.to_rtr(device, qp_number)
        qp.to_rts()
    done = threading.Event()
    failures = []

    def guarded(function):
        def run():
            try:
                function()
            except BaseException as err:
                failures.append(err)
                done.set()

        return threading.Thread(target=run, daemon=True)

    def posts():
        while not done.is_set():
            if to.posted - len(taken) > SLOTS - 1000:
                # There is no room for more completions.
                time.sleep(0.001)
                continue
            error = to.post()
            assert error in (0, ENOMEM), error

    resized = refused = 0

    def resizes():
        nonlocal resized, refused
        while not done.is_set():
            error = to.resize(1 << rng.randrange(9))
            assert error in (0, EINVAL), error
            resized += error == 0
            refused += error == EINVAL

    next_of, taken = dict.fromkeys(qps, 0), set()
    threads = [guarded(posts), guarded(resizes)]
    # Python changes threads more often than it would.
    sys.setswitchinterval(0.0002)
    for thread in threads:
        thread.start()
    child.ends.tell(1)
    # A sender that fails tells of it, and sends no more.
    end = time.monotonic() + 2 * PATIENCE
    while min(next_of.values()) < messages and not failures:
        assert time.monotonic() < end, f"waited in vain for messages after {next_of}"
        for number, (qp, _) in qps.items():
            for wc in qp.recv_cq.poll(16)[1]:
                assert wc.status == 0, str(wc)
                assert wc.wr_id not in taken, f"the receive {wc.wr_id} is taken twice"
                taken.add(wc.wr_id)
                assert to.message(wc.wr_id) == next_of[number], (to.message(wc.wr_id), next_of[number])
                next_of[number] += 1
    done.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert len(taken) == 2 * messages
    # They are taken in the order in which they are posted.
    assert taken == set(range(2 * messages)), "receives are lost"
    assert to.resize(512) == 0
    to.fill()
    assert to.posted == 2 * messages + 512, to.posted
    child.ends.tell(1)
    assert child.wait() == 0
    print(f"{resized} times resized and {refused} times not, with {2 * messages} messages")
    assert resized > 20 and refused > 0


def main(name, messages, seed=0):
    at_rest(Device(name))
    with_traffic(name, int(messages), random.Random(int(seed)))
    print("all that was posted was taken once")


if __name__ == "__main__":
    main(*sys.argv[1:])
