# SPDX-License-Identifier: MIT OR Apache-2.0
"""What one process does takes neither another's time nor, for ever, its own.

    bounded.py TEST DEVICE

`absent`, `interrupted`, `reset` and `window` are about delivery on one host, `not_ready` and `removed` about both
paths.
"""

import ctypes
import hashlib
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time

import pyverbs.enums as e
from pyverbs.cq import CompChannel
from pyverbs.mr import MW, MWBind, MWBindInfo
from pyverbs.pyverbs_error import PyverbsRDMAError

from rig import *
from hostile import Child

WRITE_OP, READ_OP, SEND_OP = e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_READ, e.IBV_WR_SEND
ON_DEMAND = e.IBV_ACCESS_ON_DEMAND


# A file system in user space that never answers a READ (include/uapi/linux/fuse.h).

LOOKUP, FORGET, GETATTR, OPEN, READ_FILE, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 26, 36, 42
FILE_SIZE = 64 * PAGE


def attributes(node):
    """struct fuse_attr"""
    mode, size = (0o040755, 0) if node == 1 else (0o100666, FILE_SIZE)
    return struct.pack("6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(fd):
    while True:
        try:
            request = os.read(fd, 1 << 20)
        except OSError:
            return
        _, opcode, unique, node = struct.unpack_from("IIQQ", request)
        if opcode == INIT:
            _, _, readahead, _ = struct.unpack_from("4I", request, 40)
            body = struct.pack("4I2H6I", 7, 31, readahead, 0, 12, 12, 1 << 17, 1, 0, 0, 0, 0) + bytes(16)
        elif opcode == LOOKUP:
            body = struct.pack("4Q2I", 2, 0, 3600, 3600, 0, 0) + attributes(2)
        elif opcode == GETATTR:
            body = struct.pack("Q2I", 3600, 0, 0) + attributes(node)
        elif opcode == OPEN:
            body = struct.pack("Q2I", 1, 0, 0)
        elif opcode in (READ_FILE, FORGET, INTERRUPT, BATCH_FORGET):
            continue
        else:
            body = b""
        os.write(fd, struct.pack("IiQ", 16 + len(body), 0, unique) + body)


class Silent:
    """A mounted file whose pages nobody ever gets."""

    def __init__(self):
        self.mountpoint = "/tmp/silent"
        os.makedirs(self.mountpoint, exist_ok=True)
        fd = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"silent", self.mountpoint.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        self.server = os.fork()
        if self.server == 0:
            serve(fd)
            os._exit(0)
        os.close(fd)

    def map(self):
        fd = os.open(f"{self.mountpoint}/file", os.O_RDWR)
        try:
            return Silent.Mapped(fd)
        finally:
            os.close(fd)

    class Mapped:
        """As `Memory`, but never looked at."""

        def __init__(self, fd):
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
            self.address = libc.mmap(None, FILE_SIZE, READ | WRITE, mmap.MAP_PRIVATE, fd, 0)
            assert self.address != ctypes.c_void_p(-1).value

        def region(self, pd):
            return MR(pd, FILE_SIZE, LOCAL_WRITE | REMOTE | ON_DEMAND, address=self.address)

    def end(self):
        """What waits for pages is told that there are none."""
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)
        ctypes.CDLL(None).umount2(self.mountpoint.encode(), 2)


def gone_at_once(pid):
    """A killed process has nothing left to wait for."""
    os.kill(pid, signal.SIGKILL)
    until(f"the end of {pid}", lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)


def absent(name):
    """Memory of a peer that never comes: its sender sees that it is not ready, and can go."""
    silent = Silent()

    def owner(ends):
        device = Device(name)
        memory = silent.map()
        region = memory.region(device.pd)
        qp = Qp(device, RC)
        while True:
            number = ends.hear()
            qp.to(RESET)
            ends.tell(qp.number)
            ends.tell(region.rkey)
            ends.tell(memory.address)
            qp.to_init()
            qp.to_rtr(device, number)
            qp.to_rts()
            qp.post_recv([(1, [(memory.address, PAGE, region.lkey)])])
            ends.tell(0)

    child = Child(owner)
    device = Device(name)
    mine = Memory(PAGE)
    region = mine.region(device.pd)

    def pair(**attributes):
        qp = Qp(device, RC)
        child.ends.tell(qp.number)
        number, rkey, address, _ = (child.ends.hear() for _ in range(4))
        qp.to_init()
        qp.to_rtr(device, number)
        qp.to_rts(**attributes)
        return qp, rkey, address

    operations = (WRITE_OP, READ_OP, SEND_OP, e.IBV_WR_ATOMIC_FETCH_AND_ADD, e.IBV_WR_RDMA_WRITE_WITH_IMM)

    def post(qp, opcode, rkey, address, key=region.lkey):
        length = 8 if opcode == e.IBV_WR_ATOMIC_FETCH_AND_ADD else 100
        wr = send_wr(opcode, [(mine.address, length, key)])
        if opcode == e.IBV_WR_ATOMIC_FETCH_AND_ADD:
            wr.set_wr_atomic(rkey, address, 1, 0)
        elif opcode != SEND_OP:
            wr.set_wr_rdma(rkey, address)
        qp.qp.post_send(wr)

    for opcode in operations:
        qp, rkey, address = pair(rnr_retry=3)
        # In a thread of its own, so that one that hangs is noticed.
        posting = threading.Thread(target=post, args=(qp, opcode, rkey, address), daemon=True)
        posting.start()
        posting.join(PATIENCE)
        assert not posting.is_alive(), f"{opcode}: the sender hangs"
        (sent,) = qp.sent()
        assert sent.status == e.IBV_WC_RNR_RETRY_EXC_ERR, f"{opcode}: {sent}"
        qp.close()

    # One that would try for ever is killed.
    def sender(ends):
        another = Device(name)
        key = mine.region(another.pd).lkey
        qp = Qp(another, RC)
        ends.tell(qp.number)
        number, rkey, address = (ends.hear() for _ in range(3))
        qp.to_init()
        qp.to_rtr(another, number)
        qp.to_rts(rnr_retry=7)
        ends.tell(0)
        post(qp, WRITE_OP, rkey, address, key)
        signal.pause()

    other = Child(sender)
    child.ends.tell(other.ends.hear())
    number, rkey, address, _ = (child.ends.hear() for _ in range(4))
    for value in (number, rkey, address):
        other.ends.tell(value)
    other.ends.hear()
    time.sleep(0.2)
    gone_at_once(other.pid)

    # What is one's own is one's own affair: but nobody else's calls wait for it.
    region.close()
    silent.end()
    child.kill()
    print(f"{len(operations)} operations on memory that never comes")


class Long:
    """Memory of 1 GiB in address space, and of 16 MiB in pages: what is written is written many times."""

    LENGTH, PART = 1 << 30, 1 << 24

    def __init__(self, pd):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        fd = os.memfd_create("long")
        os.ftruncate(fd, self.PART)
        self.address = libc.mmap(None, self.LENGTH, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        for at in range(0, self.LENGTH, self.PART):
            libc.mmap(self.address + at, self.PART, READ | WRITE, mmap.MAP_SHARED | 0x10, fd, 0)
        os.close(fd)
        self.region = MR(pd, self.LENGTH, ALL, address=self.address)

    def first(self):
        return ctypes.string_at(self.address, 1)

    def digest(self):
        return hashlib.sha1(ctypes.string_at(self.address, self.PART)).digest()

    def write_to(self, qp, to, rkey=None):
        wr = send_wr(WRITE_OP, [(self.address, self.LENGTH, self.region.lkey)])
        wr.set_wr_rdma(rkey or to.region.rkey, to.address)
        qp.qp.post_send(wr)


def interrupted(name):
    """A signal ends the call that executes a long message, and the message goes on."""
    device = Device(name)
    one, other = Qp(device, RC), Qp(device, RC)
    connect(one, other)
    source, target = Long(device.pd), Long(device.pd)
    early = 0
    signal.signal(signal.SIGALRM, lambda *_: None)
    for number in range(10):
        ctypes.memset(source.address, number + 1, source.PART)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        source.write_to(one, target)
        signal.setitimer(signal.ITIMER_REAL, 0)
        count, found = one.send_cq.poll(1)
        if count == 0:
            early += 1
            found = one.sent()
        assert found[0].status == e.IBV_WC_SUCCESS, str(found[0])
        assert target.digest() == source.digest(), "what was sent has not arrived"
    assert early > 0, "no signal was heard in the middle of a message"
    print(f"{early} of 10 messages interrupted")


# So many that the first is hardly ever the last.
MESSAGES = 4


def in_time(attempt):
    """Until an attempt comes before the messages are done: on a busy machine this process may come too late."""
    if not any(attempt() for _ in range(10)):
        raise InVain("waited in vain for a message that was not done yet")


def reset(name):
    """After Modify QP to RESET or ERR has returned, nothing is written any more."""
    device = Device(name)
    source, target = Long(device.pd), Long(device.pd)
    for state in (RESET, ERR):
        in_time(lambda: reset_in_time(device, source, target, state))
    print("nothing is written after RESET and ERR")


def reset_in_time(device, source, target, state):
    """Whether the messages were not done yet."""
    one, other = Qp(device, RC), Qp(device, RC)
    connect(one, other, timeout=8, retry_cnt=1)
    status = written_until(one, source, target, target.region.rkey, MESSAGES, lambda: other.to(state))
    for qp in (one, other):
        qp.close()
    assert status in (e.IBV_WC_SUCCESS, e.IBV_WC_RETRY_EXC_ERR), status
    return status != e.IBV_WC_SUCCESS


def written_until(qp, source, target, rkey, messages, end):
    """Another process posts messages, and this one ends the access that they have, after which nothing is
    written any more. Returns how they have ended."""
    # So that each part of a message changes something.
    noise = b"\x01" + os.urandom(source.PART - 1)
    ctypes.memmove(source.address, noise, len(noise))
    ctypes.memset(target.address, 0, target.PART)
    pid = os.fork()
    if pid == 0:
        # This process's interpreter would be stopped while it posts.
        for _ in range(messages):
            source.write_to(qp, target, rkey)
        os._exit(0)
    until("the first byte", lambda: target.first() != b"\0")
    end()
    ctypes.memset(target.address, 0, target.PART)
    os.waitpid(pid, 0)
    found = []
    until("all completions", lambda: found.extend(qp.send_cq.poll(messages)[1]) or len(found) == messages)
    assert ctypes.string_at(target.address, target.PART) == bytes(target.PART), "written after the end"
    failed = [wc.status for wc in found if wc.status != e.IBV_WC_SUCCESS]
    return failed[0] if failed else e.IBV_WC_SUCCESS


def window(name):
    """After a window has been deallocated, unbound or invalidated, nothing is written by it any more."""
    device = Device(name)
    source, target = Long(device.pd), Long(device.pd)
    for how in ("deallocated", "unbound", "invalidated"):
        in_time(lambda: window_in_time(device, source, target, how))
    print("nothing is written by a window that is gone")


def window_in_time(device, source, target, how):
    """Whether the message was not done yet."""
    one, other = Qp(device, RC), Qp(device, RC)
    connect(one, other)
    mw = MW(device.pd, e.IBV_MW_TYPE_2 if how == "invalidated" else e.IBV_MW_TYPE_1)

    def bind(length):
        info = MWBindInfo(target.region, target.address, length, REMOTE_WRITE if length else 0)
        other.qp.bind_mw(mw, MWBind(info, e.IBV_SEND_SIGNALED))

    if how == "invalidated":
        wr = send_wr(e.IBV_WR_BIND_MW, [])
        wr.set_bind_wr(mw, MWBindInfo(target.region, target.address, target.LENGTH, REMOTE_WRITE))
        other.qp.post_send(wr)
        rkey = wr.rkey
        end = lambda: other.qp.post_send(send_wr(e.IBV_WR_LOCAL_INV, [], imm=rkey))
    else:
        bind(target.LENGTH)
        rkey = mw.rkey
        end = mw.close if how == "deallocated" else lambda: bind(0)

    def has_succeeded():
        (sent,) = other.sent()
        assert sent.status == e.IBV_WC_SUCCESS, str(sent)

    def end_access():
        end()
        if how != "deallocated":
            has_succeeded()

    has_succeeded()

    status = written_until(one, source, target, rkey, 1, end_access)
    if how != "deallocated":
        mw.close()
    for qp in (one, other):
        qp.close()
    assert status in (e.IBV_WC_SUCCESS, e.IBV_WC_REM_ACCESS_ERR), status
    return status != e.IBV_WC_SUCCESS


def counter(name, what):
    return int(open(f"/sys/class/infiniband/{name}/ports/1/hw_counters/{what}").read())


def not_ready(name):
    """A peer without a receive is asked less and less often, and gets its messages all the same."""
    device = Device(name)
    memory = Memory(PAGE)
    region = memory.region(device.pd)
    pairs = [(Qp(device, RC), Qp(device, RC)) for _ in range(8)]
    for pair in pairs:
        connect(*pair, rnr_timer=1)
    before = counter(name, "rcvd_rnr_err")
    for one, _ in pairs:
        one.qp.post_send(send_wr(SEND_OP, [(memory.address, 8, region.lkey)]))
    time.sleep(2)
    # By a sixteenth of the time waited, up to 10 ms: 16 · (1 + ln(160 ms / 160 µs)) in the first 160 ms, and
    # 184 after that.
    most = 16 * 8 + 184
    times = (counter(name, "rcvd_rnr_err") - before) / len(pairs)
    for _, other in pairs:
        other.post_recv([(1, [(memory.address + 64, 8, region.lkey)])])
    for one, other in pairs:
        (sent,), (received,) = one.sent(), other.received()
        assert (sent.status, received.status) == (e.IBV_WC_SUCCESS, e.IBV_WC_SUCCESS)
    assert 20 < times < 1.2 * most, f"a peer that is not ready was asked {times} times in 2 s"
    print(f"asked {times:.0f} times in 2 s")


def removed(name):
    """A device that goes leaves no request without a completion, and who sleeps is woken."""
    for goes in "rdma link delete gone", "ip link delete gone0":
        # Each in a process of its own, which ends with objects of a device that is gone.
        child = os.fork()
        if not child:
            flushed(goes)
        assert os.waitpid(child, 0)[1] == 0, goes
        subprocess.run("ip link delete gone0 2>/dev/null", shell=True)


def flushed(goes):
    subprocess.run(
        "ip link add gone0 type dummy; ip addr add 10.0.9.1/24 dev gone0; ip link set gone0 up; "
        "rdma link add gone type ferroce netdev gone0",
        shell=True,
        check=True,
    )
    device = Device("gone")
    memory = Memory(PAGE)
    region = memory.region(device.pd)
    channel = CompChannel(device.context)
    one, other = Qp(device, RC, cq=device.cq(64, channel)), Qp(device, RC)
    lone = Qp(device, UD)
    connect(one, other)
    lone.to_init()
    lone.to_rtr(device)
    lone.to_rts()
    sge = (memory.address, 8, region.lkey)
    one.post_recv([(n, [sge]) for n in range(5)])
    lone.post_recv([(n, [sge]) for n in range(3)])
    one.send_cq.req_notify()
    for number in range(4):
        # There is no receive for them.
        one.qp.post_send(send_wr(SEND_OP, [sge], wr_id=number))
    time.sleep(0.2)
    none(one.send_cq)
    subprocess.run(goes, shell=True, check=True)
    # With the event, or with an error, for the channel has gone too.
    signal.alarm(PATIENCE)
    try:
        channel.get_cq_event(one.send_cq)
    except PyverbsRDMAError:
        pass
    signal.alarm(0)
    for cq, count in ((one.send_cq, 4), (one.recv_cq, 5), (lone.recv_cq, 3)):
        found = completions(cq, count)
        assert [wc.wr_id for wc in found] == list(range(count)), list(map(str, found))
        assert all(wc.status == e.IBV_WC_WR_FLUSH_ERR for wc in found), list(map(str, found))
    print("12 requests flushed")
    # Objects of a device that is gone: pyverbs would complain.
    sys.stdout.flush()
    os._exit(0)


def too_long(name):
    """A datagram that is too long, however long it is, has a status and goes nowhere."""
    lengths = [*range(65470, 65545), MTU + 1, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 31 << 28]
    memory = Memory(PAGE)
    for gid_index in (0, 1):
        device = Device(name, gid_index)
        # Its keys are not looked at: it is too long.
        key = memory.region(device.pd).lkey
        one, other = Qp(device, UD), Qp(device, UD)
        for qp in (one, other):
            qp.to_init()
            qp.to_rtr(device)
            qp.to_rts()
        other.post_recv([(1, [(memory.address, PAGE, key)])])
        for length in lengths:
            sges, left = [], length
            while left:
                part = min(left, (1 << 28) if length > 1 << 30 else left)
                sges.append((memory.address, part, key))
                left -= part
            wr = send_wr(SEND_OP, sges)
            wr.set_wr_ud(one.ah, other.number, QKEY)
            one.qp.post_send(wr)
            (sent,) = one.sent()
            assert sent.status == e.IBV_WC_LOC_LEN_ERR, f"{length} bytes: {sent}"
            attr = QPAttr(qp_state=RTS, cur_qp_state=SQE)
            one.qp.modify(attr, e.IBV_QP_STATE | e.IBV_QP_CUR_STATE)
        none(other.recv_cq)
    print(f"{len(lengths)} lengths")


def longest(name):
    """How long a bottom half and a turn of the work queue of the device's have taken at most."""
    where = f"/sys/class/infiniband/{name}/hw_counters"
    times = (open(f"{where}/{what}").read().strip() for what in ("longest_bh_us", "longest_turn_us"))
    print("longest: bottom half {} µs, turn {} µs".format(*times))


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
    longest(sys.argv[2])
