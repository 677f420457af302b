# SPDX-License-Identifier: MIT OR Apache-2.0
"""How many queue pairs can be in multicast groups, and how many of them can be one user's.

    members.py DEVICE
"""

import errno
import ipaddress
import os
import struct
import sys
import traceback

from rig import *

# enum ib_uverbs_write_cmds.
ATTACH_MCAST, DETACH_MCAST = 30, 31


def group(number):
    return ipaddress.ip_address(f"::ffff:239.1.{number >> 8}.{number & 0xFF}").packed


class Members:
    """Queue pairs of one context."""

    def __init__(self, name, count):
        self.device = Device(name)
        cq = self.device.cq()
        self.made = [self.queue_pair(cq) for _ in range(count)]
        self.handles = [h for h in range(count + 64) if self.is_queue_pair(h)]
        assert len(self.handles) == count, self.handles

    def queue_pair(self, cq):
        init = QPInitAttrEx(
            qp_type=UD, scq=cq, rcq=cq, cap=QPCap(max_send_wr=1, max_recv_wr=1), pd=self.device.pd,
            comp_mask=e.IBV_QP_INIT_ATTR_PD,
        )
        return QPEx(self.device.context, init)

    def call(self, command, handle, number):
        """struct ib_uverbs_attach_mcast, since pyverbs does not have it; the errno."""
        call = struct.pack("IHH16sIHH", command, 8, 0, group(number), handle, 0, 0)
        try:
            assert os.write(self.device.file, call) == len(call)
            return 0
        except OSError as err:
            return err.errno

    def is_queue_pair(self, handle):
        # A group that nobody else is in.
        number = 0xFF00
        if self.call(ATTACH_MCAST, handle, number) != 0:
            return False
        assert self.call(DETACH_MCAST, handle, number) == 0
        return True

    def attach(self, number):
        """How many can be attached to a group, of all."""
        for count, handle in enumerate(self.handles):
            error = self.call(ATTACH_MCAST, handle, number)
            if error:
                assert error == errno.ENOMEM, errno.errorcode[error]
                return count
        return len(self.handles)

    def detach(self, number, count):
        for handle in self.handles[:count]:
            assert self.call(DETACH_MCAST, handle, number) == 0


class User:
    """A process of a user, that does what it is told."""

    def __init__(self, uid, name, count):
        self.commands, self.answers = os.pipe(), os.pipe()
        if os.fork() == 0:
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                for fd in self.commands[1], self.answers[0]:
                    os.close(fd)
                self.serve(Members(name, count))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        for fd in self.commands[0], self.answers[1]:
            os.close(fd)

    def serve(self, members):
        while True:
            number = int.from_bytes(os.read(self.commands[0], 4), "little")
            if number == 0:
                # With all that it has left to the kernel.
                os._exit(0)
            os.write(self.answers[1], members.attach(number).to_bytes(4, "little"))

    def attach(self, number):
        os.write(self.commands[1], number.to_bytes(4, "little"))
        answer = os.read(self.answers[0], 4)
        assert len(answer) == 4, "the process has ended"
        return int.from_bytes(answer, "little")

    def end(self):
        os.write(self.commands[1], bytes(4))
        _, status = os.wait()
        assert status == 0, status


def main():
    name = sys.argv[1]
    root = Members(name, 80)
    limits = root.device.context.query_device()
    most, total = limits.max_mcast_qp_attach, limits.max_mcast_grp
    assert most <= 256, f"{most} copies of a datagram, in one bottom half"
    assert root.attach(1) == most
    root.detach(1, most)

    # One user has no more than a part of the places in a group, of however many processes, and another
    # has room.
    first, again = User(65534, name, most), User(65534, name, most)
    second, third = User(65533, name, most), User(65532, name, most)
    share = first.attach(2)
    assert 0 < share < most, share
    assert again.attach(2) == 0
    assert second.attach(2) == share
    # It is full now, for everybody.
    assert 2 * share == most
    assert third.attach(2) == 0
    assert root.attach(2) == 0
    print(f"{most} in a group, {share} of one user")

    # Nor of all places.
    taken, number = share, 3
    while (count := first.attach(number)) > 0:
        taken, number = taken + count, number + 1
        assert taken < total, "one user has all places"
    assert again.attach(number) == 0
    assert second.attach(number) == share
    count = root.attach(number + 1)
    assert count == most, count
    root.detach(number + 1, count)
    print(f"{total} in all, {taken} of one user")
    for user in first, again, second, third:
        user.end()
    assert root.attach(2) == most
    root.detach(2, most)
    print("places are given back")


main()
