#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""On-demand paging: a registration follows its process's address space, whatever happens to it.

In the guest: odp.py DEVICE GID_INDEX. Two connected queue pairs of this process; one side's memory
is pinned, the other's is had on demand, or both are.
"""

import ctypes
import errno
import mmap
import os
import resource
import signal
import sys
import tempfile
import threading

from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR
import pyverbs.enums as e

PAGE = mmap.PAGESIZE
ALL = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_ATOMIC

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
MAP_FIXED, MREMAP_MAYMOVE, MREMAP_FIXED = 0x10, 1, 2


def check(result):
    """What a C function returned, unless that is a failure."""
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "system call")
    return result


def map_at(addr, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, fd=-1):
    flags |= MAP_FIXED if addr else 0
    return check(libc.mmap(addr, length, READ_WRITE, flags, fd, 0))


def get(addr, length):
    return ctypes.string_at(addr, length)


def put(addr, data):
    ctypes.memmove(addr, data, len(data))


class Pair:
    """Two connected RC queue pairs and their completion queue."""

    def __init__(self, device, gid_index):
        self.context = Context(name=device)
        self.pd = PD(self.context)
        self.gid_index = gid_index
        self.regions = []
        self.connect()

    def connect(self):
        self.cq = CQ(self.context, 64)
        init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=QPCap(16, 16, 4, 4, 0))
        self.qps = [QP(self.pd, init) for _ in range(2)]
        gid = self.context.query_gid(1, self.gid_index)
        for qp, peer in zip(self.qps, reversed(self.qps)):
            route = GlobalRoute(dgid=gid, sgid_index=self.gid_index)
            attr = QPAttr(port_num=1)
            attr.qp_access_flags = ALL
            attr.ah_attr = AHAttr(port_num=1, is_global=1, gr=route, dlid=0)
            attr.dest_qp_num = peer.qp_num
            attr.path_mtu = e.IBV_MTU_1024
            attr.max_rd_atomic = attr.max_dest_rd_atomic = 1
            # 1 s, for a busy machine.
            attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 1, 18, 7, 7
            qp.to_rts(attr)

    def region(self, addr, length, on_demand):
        access = ALL | (e.IBV_ACCESS_ON_DEMAND if on_demand else 0)
        region = MR(self.pd, length, access, address=addr)
        self.regions.append(region)
        return region

    def do(self, opcode, local, addr, length, remote, remote_addr):
        """One RDMA operation; returns how it completed, and connects anew if that was bad."""
        wr = SendWR(opcode=opcode, num_sge=1, sg=[SGE(addr, length, local.lkey)], send_flags=e.IBV_SEND_SIGNALED)
        wr.set_wr_rdma(remote.rkey, remote_addr)
        self.qps[0].post_send(wr)
        status = self.completed()
        if status != e.IBV_WC_SUCCESS:
            for qp in self.qps:
                qp.close()
            self.cq.close()
            self.connect()
        return status

    def write(self, *args):
        return self.do(e.IBV_WR_RDMA_WRITE, *args)

    def read(self, *args):
        return self.do(e.IBV_WR_RDMA_READ, *args)

    def completed(self):
        while True:
            count, wcs = self.cq.poll(1)
            if count:
                return wcs[0].status


def main(device, gid_index):
    pair = Pair(device, gid_index)
    length = 600 * PAGE
    pattern = os.urandom(length)
    for on_demand in (False, True):
        # The side that stays as it is.
        fixed = map_at(None, length)
        put(fixed, pattern)
        here = pair.region(fixed, length, on_demand)
        addr = map_at(None, length)
        there = pair.region(addr, length, True)
        for name, test in TESTS.items():
            map_at(addr, length)
            test(pair, here, fixed, there, addr, length, pattern)
            put(fixed, pattern)
            print(f"ok: {name}, {'both sides' if on_demand else 'one side'} on demand", flush=True)
    for region in pair.regions:
        region.close()


OK = e.IBV_WC_SUCCESS
FAILED = (e.IBV_WC_REM_OP_ERR, e.IBV_WC_REM_ACCESS_ERR)


def untouched(pair, here, fixed, there, addr, length, pattern):
    """Pages that the process never touched are faulted in, at odd places too, and no others."""
    assert pair.write(here, fixed, length, there, addr) == OK
    assert get(addr, length) == pattern
    map_at(addr, length)
    assert pair.write(here, fixed + 1, 3 * PAGE, there, addr + 5 * PAGE - 7) == OK
    assert get(addr + 5 * PAGE - 7, 3 * PAGE) == pattern[1 : 3 * PAGE + 1]
    assert get(addr, 5 * PAGE - 7) == bytes(5 * PAGE - 7)
    map_at(addr, length)
    assert pair.read(here, fixed, length, there, addr) == OK
    assert get(fixed, length) == bytes(length)


def taken_away(pair, here, fixed, there, addr, length, pattern):
    """What was there once is not any more when the process gives it back or maps something else."""
    assert pair.write(here, fixed, length, there, addr) == OK
    check(libc.madvise(addr, length, mmap.MADV_DONTNEED))
    assert pair.write(here, fixed, PAGE, there, addr + PAGE) == OK
    assert get(addr, 3 * PAGE) == bytes(PAGE) + pattern[:PAGE] + bytes(PAGE)
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * length)
        file.flush()
        map_at(addr, length, mmap.MAP_SHARED, file.fileno())
        assert pair.read(here, fixed, 4 * PAGE, there, addr) == OK
        assert get(fixed, 4 * PAGE) == b"x" * 4 * PAGE
        put(fixed, pattern)
        assert pair.write(here, fixed + 3, length - 3, there, addr) == OK
        # The file has it, by way of the page cache.
        assert os.pread(file.fileno(), length - 3, 0) == pattern[3:]
        map_at(addr, length)
    assert pair.read(here, fixed, length, there, addr) == OK
    assert get(fixed, length) == bytes(length)


def unmapped(pair, here, fixed, there, addr, length, pattern):
    """Where nothing is mapped, or nothing may be written, the operation fails and nothing else does."""
    check(libc.munmap(addr + 4 * PAGE, PAGE))
    assert pair.write(here, fixed, PAGE, there, addr + 4 * PAGE) in FAILED
    assert pair.read(here, fixed, 8 * PAGE, there, addr) in FAILED
    # By the wire some of it has come.
    put(fixed, pattern)
    assert pair.write(here, fixed, PAGE, there, addr + 5 * PAGE) == OK
    map_at(addr + 4 * PAGE, PAGE)
    assert pair.write(here, fixed, 8 * PAGE, there, addr) == OK
    assert get(addr, 8 * PAGE) == pattern[: 8 * PAGE]
    check(libc.mprotect(addr, PAGE, mmap.PROT_READ))
    assert pair.read(here, fixed, PAGE, there, addr) == OK
    assert pair.write(here, fixed + PAGE, PAGE, there, addr) in FAILED
    assert get(addr, PAGE) == pattern[:PAGE]
    check(libc.mprotect(addr, PAGE, READ_WRITE))
    assert pair.write(here, fixed + PAGE, PAGE, there, addr) == OK


def moved(pair, here, fixed, there, addr, length, pattern):
    """Pages that move away take their content with them."""
    put(addr, pattern)
    assert pair.read(here, fixed, length, there, addr) == OK
    elsewhere = map_at(None, length)
    check(libc.mremap(addr, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere))
    assert pair.write(here, fixed, PAGE, there, addr) in FAILED
    map_at(addr, length)
    assert pair.write(here, fixed + PAGE, PAGE, there, addr) == OK
    assert get(elsewhere, length) == pattern
    assert get(addr, 2 * PAGE) == pattern[PAGE : 2 * PAGE] + bytes(PAGE)
    check(libc.munmap(elsewhere, length))


def forked(pair, here, fixed, there, addr, length, pattern):
    """After a fork the registration is of the parent's pages, and the child's stay as they were."""
    put(addr, b"p" * length)
    assert pair.write(here, fixed, PAGE, there, addr) == OK
    there_and_back, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(there_and_back[0], 1)
        seen = get(addr, 2 * PAGE)
        os.write(back[1], b"y" if seen == pattern[:PAGE] + b"p" * PAGE else b"n")
        os._exit(0)
    assert pair.write(here, fixed + PAGE, 2 * PAGE, there, addr) == OK
    assert get(addr, 2 * PAGE) == pattern[PAGE : 3 * PAGE]
    os.write(there_and_back[1], b"g")
    assert os.read(back[0], 1) == b"y"
    os.waitpid(child, 0)
    for fd in there_and_back + back:
        os.close(fd)


def raced(pair, here, fixed, there, addr, length, pattern):
    """While another process of the same memory takes pages away all the time, nothing is lost: what
    is written last, with nobody at it, is there."""
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            libc.madvise(addr, length, mmap.MADV_DONTNEED)

    thread = threading.Thread(target=disturb)
    thread.start()
    for i in range(100):
        at = (i * 7919) % (length - 40 * PAGE)
        assert pair.write(here, fixed, 40 * PAGE, there, addr + at) == OK
        assert pair.read(here, fixed, 40 * PAGE, there, addr + at) == OK
        put(fixed, pattern)
    stop.set()
    thread.join()
    assert pair.write(here, fixed, length, there, addr) == OK
    assert get(addr, length) == pattern


def not_pinned(pair, here, fixed, there, addr, length, pattern):
    """Nothing is charged to the limit of locked memory, as it is for what is pinned."""
    size = 1 << 28
    large = map_at(None, size)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
        os.chmod("/dev/infiniband/uverbs0", 0o666)
        os.setuid(65534)
        pd = PD(Context(name=pair.context.name))
        MR(pd, size, ALL | e.IBV_ACCESS_ON_DEMAND, address=large).close()
        try:
            MR(pd, size, ALL, address=large)
        except PyverbsRDMAError as error:
            os._exit(0 if error.error_code == errno.ENOMEM else 2)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    check(libc.munmap(large, size))


TESTS = {
    f.__name__.replace("_", " "): f for f in (untouched, taken_away, unmapped, moved, forked, raced, not_pinned)
}

if "FERROCE_RUN" in os.environ:
    # Without a kernel module nothing is pinned.
    del TESTS["not pinned"]

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
