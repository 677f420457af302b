# SPDX-License-Identifier: MIT OR Apache-2.0
"""That a process is charged for what the driver allocates for it, and gets no more objects than
query_device tells of.

    limits.py DEVICE local|wire
"""

import ctypes
import errno
import ipaddress
import os
import signal
import struct
import sys

import pyverbs.enums as e
from pyverbs.device import DM, AllocDmAttr
from pyverbs.mr import MR
from pyverbs.pyverbs_error import PyverbsRDMAError

from rig import *

MIB = 1 << 20
ROOT = "/sys/fs/cgroup"
ON_DEMAND = e.IBV_ACCESS_ON_DEMAND
# The largest queues there are: 36 MiB.
LARGE = dict(max_send_wr=1 << 15, max_recv_wr=1 << 15)


class Group:
    """A memory control group, and children that run in it."""

    def __init__(self, name):
        self.path = f"{ROOT}/{name}"
        os.mkdir(self.path)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(f"{self.path}/{name}") as file:
            return file.read()

    def used(self):
        return int(self.read("memory.current"))

    def run(self, function):
        """Runs a function in a process in the group; how it ended."""
        child = os.fork()
        if child == 0:
            try:
                self.write("cgroup.procs", os.getpid())
                function()
                os._exit(0)
            except (PyverbsRDMAError, MemoryError) as err:
                code = err.error_code if isinstance(err, PyverbsRDMAError) else errno.ENOMEM
                os._exit(code if 0 < code < 100 else 100)
            except BaseException as err:
                print(f"{type(err).__name__}: {err}", file=sys.stderr, flush=True)
                os._exit(101)
        _, status = os.waitpid(child, 0)
        return status

    def close(self):
        os.rmdir(self.path)


def succeeds(status):
    assert status == 0, f"ended with {status:#x}"


def is_refused(what, status):
    """Out of memory: the call says so, or the process is killed for it."""
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    refused = os.WIFEXITED(status) and os.WEXITSTATUS(status) == errno.ENOMEM
    assert killed or refused, f"{what} ended with {status:#x}"
    print(f"{what}: {'killed' if killed else 'refused'}")


def rises(group, name, what, least, make):
    """That the group is charged with so much while what `make` makes is there, and not afterwards."""

    def child():
        device = Device(name)
        before = group.used()
        made = make(device)
        during = group.used() - before
        print(f"{what}: {during / MIB:.1f} MiB", flush=True)
        assert least <= during, f"{what}: {during}, not {least}"
        for thing in made:
            thing.close()
        until(f"{what} is charged no longer", lambda: group.used() - before < least // 4)

    succeeds(group.run(child))


def on_demand(device, pages):
    """A region whose memory is not there, and need not be."""
    return MR(device.pd, pages * PAGE, LOCAL_WRITE | ON_DEMAND, address=1 << 40)


def are_too_large(name):
    """On-demand regions whose lists of pages take more memory than there is: no process is killed for them."""

    def available():
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))

    before, device, regions = available(), Device(name), []
    # An entry is of eight bytes, and there are two lists: first one region that one list alone has room for,
    # and then as many as there may be.
    for pages in before * 3 // 4 // 8, before // 16 // 16:
        try:
            for _ in range(32):
                regions.append(on_demand(device, pages))
        except PyverbsRDMAError as err:
            assert err.error_code == errno.ENOMEM, err
        else:
            assert False, "there is no room for the lists of their pages"
    assert regions, "there is room for none"
    assert available() > before // 3, (before, available())
    for region in regions:
        region.close()


def sent(device):
    """Two queue pairs that have sent something to each other."""
    pair = Qp(device, RC, **LARGE), Qp(device, RC)
    connect(*pair)
    pair[0].qp.post_send(send_wr(e.IBV_WR_RDMA_WRITE, []))
    pair[0].sent()
    return pair


def charged(name, by_wire):
    os.makedirs(ROOT, exist_ok=True)
    os.system(f"mountpoint -q {ROOT} || mount -t cgroup2 none {ROOT}")
    with open(f"{ROOT}/cgroup.subtree_control", "w") as file:
        file.write("+memory")
    group = Group("ferroce")
    for what, least, make in [
        ("the queues of a queue pair", 30 * MIB, lambda d: [Qp(d, RC, **LARGE)]),
        ("a completion queue", 15 * MIB, lambda d: [d.cq((1 << 18) - 1)]),
        ("a shared receive queue", 15 * MIB, lambda d: [d.srq(1 << 15)]),
        ("device memory", 15 * MIB, lambda d: [DM(d.context, AllocDmAttr(length=MIB)) for _ in range(16)]),
        ("an on-demand region of 2^34 bytes", 30 * MIB, lambda d: [on_demand(d, 1 << 22)]),
    ]:
        rises(group, name, what, least, make)
    if by_wire:
        # And copies of the requests.
        rises(group, name, "queues whose requests go by the wire", 50 * MIB, sent)
    group.write("memory.max", 48 * MIB)

    def queue_pairs():
        device = Device(name)
        return [Qp(device, RC, **LARGE) for _ in range(4)]

    is_refused("queue pairs beyond the limit", group.run(queue_pairs))
    region = lambda: on_demand(Device(name), 1 << 23)
    is_refused("an on-demand region beyond the limit", group.run(region))
    are_too_large(name)
    # It has nothing to do with who is outside.
    outside = Qp(Device(name), RC, **LARGE)
    outside.close()
    until("all is given back", lambda: group.used() < 20 * MIB)
    group.close()


class Commands:
    """The commands of <rdma/ib_user_verbs.h>, for more objects than pyverbs takes."""

    ALLOC_PD, DEALLOC_PD, CREATE_AH, DESTROY_AH = 3, 4, 5, 8

    def __init__(self, device):
        self.file = device.file
        self.answer = (ctypes.c_uint32 * 2)()
        dgid = ipaddress.ip_address(device.gid).packed
        # struct ib_uverbs_ah_attr.
        self.attr = struct.pack("16sIBBBxHBBBBBx", dgid, 0, device.gid_index, 64, 0, 0, 0, 0, 0, 1, 1)

    def call(self, command, body, answer=0):
        """The handle of what it makes, if there is an answer; what follows the answer is the driver's."""
        words = (8 + len(body)) // 4
        call = struct.pack("IHH", command, words, answer) + body
        assert os.write(self.file, call) == len(call)
        return self.answer[0]

    def alloc_pd(self):
        return self.call(self.ALLOC_PD, struct.pack("Q", ctypes.addressof(self.answer)), 1)

    def dealloc_pd(self, handle):
        self.call(self.DEALLOC_PD, struct.pack("I", handle))

    def create_ah(self, pd):
        body = struct.pack("QQII", ctypes.addressof(self.answer), 0, pd, 0) + self.attr
        return self.call(self.CREATE_AH, body, 2)

    def destroy_ah(self, handle):
        self.call(self.DESTROY_AH, struct.pack("I", handle))


def is_limit(what, limit, make, destroy, others):
    """That there can be `limit` of these, some of them `others`', and then ENOMEM; and one more for each
    that goes."""
    made = []

    def one_more():
        try:
            made.append(make())
            return True
        except OSError as err:
            assert err.errno == errno.ENOMEM, f"{what}: {err}"
            return False

    while len(made) <= limit and one_more():
        pass
    assert limit - others <= len(made) <= limit, f"{len(made)} {what}, not {limit}"
    destroy(made.pop())
    assert one_more() and not one_more(), f"another number of {what} than {limit}"
    for handle in made:
        destroy(handle)
    destroy(make())
    print(f"{limit} {what}", flush=True)


def threads():
    """How many threads of the kernel's belong to our work queues."""
    return sum("-ferro" in open(f"/proc/{pid}/comm").read() for pid in os.listdir("/proc") if pid.isdigit())


def opened(name):
    """A process that opens a device gets no thread of the kernel's: those are charged to nobody, and
    none can be made for a process that is being killed (where an open fails half-way, Linux 7.2
    forgets the process)."""
    before = threads()
    devices = [Device(name) for _ in range(8)]
    assert threads() == before > 0, f"{threads() - before} threads for {len(devices)} open devices"


def main():
    name, how = sys.argv[1:]
    opened(name)
    charged(name, how == "wire")
    device = Device(name)
    commands = Commands(device)
    limits = device.context.query_device()
    is_limit("protection domains", limits.max_pd, commands.alloc_pd, commands.dealloc_pd, 100)
    pd = commands.alloc_pd()
    is_limit("address handles", limits.max_ah, lambda: commands.create_ah(pd), commands.destroy_ah, 100)
    commands.dealloc_pd(pd)
    print("limits hold")


main()
