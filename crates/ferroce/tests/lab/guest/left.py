# SPDX-License-Identifier: MIT OR Apache-2.0
"""That what is posted is done, though the program does not look for its completions: no longer than a
moment later, in order, and across a fork.

    left.py DEVICE
"""

import os
import sys

import pyverbs.enums as e

from rig import *

# More than are ever left in a send queue.
COUNT = 200


def write(qp, number, local, lkey, remote, rkey, flags):
    wr = send_wr(e.IBV_WR_RDMA_WRITE, [(local, 8, lkey)], wr_id=number, flags=flags)
    wr.set_wr_rdma(rkey, remote)
    qp.qp.post_send(wr)


def main():
    device = Device(sys.argv[1])
    sender, peer = Qp(device, RC, max_send_wr=COUNT), Qp(device, RC)
    connect(sender, peer)
    own, theirs = Memory(PAGE), Memory(PAGE)
    mr, their_mr = own.region(device.pd), theirs.region(device.pd)

    def post(first, count, flags):
        """Each has its number in its memory, and writes it to the same place."""
        for number in range(first, first + count):
            at = number % COUNT * 8
            own.put(at, number.to_bytes(8, "little"))
            write(sender, number, own.address + at, mr.lkey, theirs.address, their_mr.rkey, flags)

    def arrived(number):
        until(f"{number} has arrived", lambda: theirs.view[:8] == number.to_bytes(8, "little") or None)

    # With none that has a completion, again and again; the next look at the queue is for one that has.
    for first in range(0, 10 * COUNT, COUNT):
        post(first, COUNT - 1, 0)
        arrived(first + COUNT - 2)
        post(first + COUNT - 1, 1, e.IBV_SEND_SIGNALED)
        (wc,) = sender.sent()
        assert (wc.wr_id, wc.status) == (first + COUNT - 1, e.IBV_WC_SUCCESS), wc
        arrived(first + COUNT - 1)
    # Each time that the program looks, fewer of the next posts are executed at once.
    for round in range(50):
        post(0, 40, e.IBV_SEND_SIGNALED)
        done = sender.sent(40)
        assert [wc.wr_id for wc in done] == list(range(40))
        assert all(wc.status == e.IBV_WC_SUCCESS for wc in done)
        assert theirs.view[:8] == (39).to_bytes(8, "little")
    # Then the last of these are left, for the parent.
    post(100, 40, 0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    arrived(139)
    assert os.waitpid(child, 0)[1] == 0
    # What follows a SEND's way finds it done.
    post(140, 40, 0)
    receive = theirs.address + 64
    peer.post_recv([(1, [(receive, 8, their_mr.lkey)])])
    sender.qp.post_send(send_wr(e.IBV_WR_SEND, [(own.address, 8, mr.lkey)]))
    (wc,) = peer.received()
    assert wc.status == e.IBV_WC_SUCCESS
    assert theirs.view[:8] == (179).to_bytes(8, "little")
    print("all that was posted has arrived")


main()
