# SPDX-License-Identifier: MIT OR Apache-2.0
"""Programs that do to the device what no program should.

    hostile.py ATTACK DEVICE ROUNDS [SEED]

What an attack gets back does not matter, as long as it is the attacker's own: that the kernel reports
nothing, that nothing is left behind and that the module can go is seen by who runs this. Most run
beside a program that knows nothing of it, and whose traffic has to come through.
"""

import ctypes
import errno
import fcntl
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import time

import pyverbs.enums as e
from pyverbs.device import DM, AllocDmAttr
from pyverbs.mr import DMMR, MR, MW, MWBind, MWBindInfo
from pyverbs.pd import PD
from pyverbs.qp import QP, QPCap, QPInitAttr
from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError

from rig import *

rng = random.Random()

SEND, RDMA_WRITE, RDMA_READ = e.IBV_WR_SEND, e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_READ


class Child:
    """A process that runs a function; it gets its end of a socket-like pair of pipes."""

    def __init__(self, function, *args):
        self.read, theirs_write = os.pipe()
        theirs_read, self.write = os.pipe()
        # Asked for here: the child may come to ask only when its parent is gone.
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.read)
                os.close(self.write)
                rng.seed(os.getpid() ^ rng.getrandbits(32))
                function(Ends(theirs_read, theirs_write, parent), *args)
                status = 0
            except BaseException as err:
                print(f"{function.__name__}: {type(err).__name__} {err}", flush=True)
            finally:
                os._exit(status)
        os.close(theirs_read)
        os.close(theirs_write)
        self.ends = Ends(self.read, self.write, None)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self):
        """Its exit status, or the signal that ended it as a negative number."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.read)
        os.close(self.write)
        return status


class Ends:
    """Two ends of two pipes, by which numbers go."""

    def __init__(self, read, write, parent):
        self.read, self.write, self.parent = read, write, parent

    def has_parent(self):
        return os.getppid() == self.parent

    def tell(self, number):
        os.write(self.write, struct.pack("Q", number))

    def hear(self):
        data = os.read(self.read, 8)
        if len(data) < 8:
            raise EOFError("the other side is gone")
        return struct.unpack("Q", data)[0]


def ignored(function, *args, **kwargs):
    """Calls it, whatever comes of that."""
    try:
        return function(*args, **kwargs)
    except (PyverbsError, OSError, OverflowError, ValueError):
        return None


def for_rounds(rounds, what):
    for number in range(rounds):
        what()


# Shared memory.


def rings():
    """The rings that this process has mapped, as the kernel lists them."""
    found = []
    for line in open("/proc/self/maps"):
        if "infiniband/uverbs" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            found.append(memoryview((ctypes.c_char * (end - start)).from_address(start)).cast("B"))
    return found


def scribble(ends, views):
    """Writes to rings as long as its parent lives: to the indexes mostly, and there numbers near those that were there."""
    while ends.has_parent():
        for _ in range(200):
            view = rng.choice(views)
            word = rng.choice((0, 64, 128, 132)) if rng.random() < 0.5 else rng.randrange(0, len(view), 4)
            before = struct.unpack_from("I", view, word)[0]
            kind = rng.randrange(5)
            if kind == 0:
                after = before + rng.randint(-3, 3)
            elif kind == 1:
                after = rng.getrandbits(32)
            elif kind == 2:
                after = rng.choice((0, 1, 0xFFFFFFFF, 0x80000000, 2, 64, 65))
            elif kind == 3:
                after = before ^ 1 << rng.randrange(32)
            else:
                # What is somewhere else in a ring.
                other = rng.choice(views)
                after = struct.unpack_from("I", other, rng.randrange(0, len(other), 4))[0]
            struct.pack_into("I", view, word, after & 0xFFFFFFFF)
        # So that there is something that makes sense between times.
        time.sleep(rng.random() / 1000)


def doorbell(fd, command, handle):
    """POST_SEND, POST_RECV or POST_SRQ_RECV with no work request (struct ib_uverbs_post_send)."""
    response = ctypes.c_uint32()
    size = 72 if command == POST_SEND else 16
    call = struct.pack("IHHQIIII", command, 8, 1, ctypes.addressof(response), handle, 0, 0, size)
    ignored(os.write, fd, call)


def scribbled(device, rounds):
    """Two processes write to the rings of a third, which goes on as if nothing were."""

    def posts(ends):
        mine = Device(device)
        memory = Memory(16 * PAGE)
        mr = memory.region(mine.pd)
        srq = mine.srq(64, 4)
        pairs = []
        for qp_type in TRANSPORTS:
            for shared in (None, srq):
                pair = Qp(mine, qp_type, srq=shared), Qp(mine, qp_type, srq=shared)
                connect(*pair, timeout=1, retry_cnt=1, rnr_retry=1)
                pairs.append(pair)
        views = rings()
        writers = [Child(scribble, views) for _ in range(2)]

        def once():
            one, other = rng.sample(rng.choice(pairs), 2)
            sges = [(memory.address + rng.randrange(PAGE), rng.randrange(9000), mr.lkey)]
            wr = send_wr(rng.choice((SEND, SEND, RDMA_WRITE, RDMA_READ)), sges)
            if one.type == UD:
                wr.set_wr_ud(one.ah, other.number, QKEY)
            elif wr.opcode != SEND:
                wr.set_wr_rdma(mr.rkey, memory.address + 8 * PAGE)
            ignored(other.post_recv, [(1, sges)])
            ignored(one.qp.post_send, wr)
            doorbell(mine.context.cmd_fd, rng.choice((POST_SEND, POST_RECV, POST_SRQ_RECV)), rng.randrange(40))
            mine.events()
            if rng.random() < 0.2:
                ignored(one.send_cq.resize, rng.randint(1, 400))
                ignored(srq.modify, SrqAttr(max_wr=rng.randint(1, 400)), e.IBV_SRQ_MAX_WR)
                # The new ring is mapped here, and not in those that write.
            if rng.random() < 0.2:
                ignored(one.to, rng.choice((RESET, ERR, SQD, RTS)))
            if rng.random() < 0.2:
                for qp in (one, other):
                    ignored(qp.to, RESET)
                ignored(connect, one, other, timeout=1, retry_cnt=1, rnr_retry=1)

        for_rounds(rounds, once)
        for writer in writers:
            writer.kill()

    attacker = Child(posts)
    # Whatever becomes of it: what it reads in its rings can well kill it.
    attacker.wait()


def feed(ends, headers, entries):
    """Posts for ever: says that rings are full, as fast as they are emptied."""
    while ends.has_parent():
        for _ in range(10_000):
            for view, at in headers:
                struct.pack_into("I", view, at, struct.unpack_from("I", view, at + 64)[0] + entries & 0xFFFFFFFF)


def headers_of(*counts):
    """Where the indexes of rings are, by how much was posted to each, and nothing of that executed."""
    headers = [
        (view, at)
        for view in rings()
        for at in range(0, len(view) - 128, 64)
        if struct.unpack_from("I", view, at)[0] in counts and not any(view[at + 64 : at + 68])
    ]
    assert len(headers) == len(counts), f"{len(headers)} rings found"
    return headers


def fed(device, rounds):
    """A child posts as fast as the kernel executes or flushes: neither calls of its parent, nor its
    end, nor those of a peer take for ever."""

    def attacker(ends, state):
        mine = Device(device)
        # Large queues: so much a child may be late without a ring making no sense.
        entries = mine.context.query_device().max_qp_wr
        qp = Qp(mine, RC, max_send_wr=entries, max_recv_wr=entries, max_send_sge=1, max_recv_sge=1, max_inline_data=0)
        peer_number = ends.hear()
        ends.tell(qp.number)
        qp.to_init()
        qp.to_rtr(mine, peer_number)
        qp.to_rts()
        qp.to(SQD)
        qp.post_recv([(1, [])] * 11)
        qp.qp.post_send(chain([send_wr(RDMA_WRITE, []) for _ in range(13)]))
        Child(feed, headers_of(11, 13), entries)
        ends.tell(1)
        ends.hear()
        ends.tell(1)
        qp.to(state)
        qp.to(ERR)
        signal.pause()

    for number in range(rounds):
        mine = Device(device)
        peer = Qp(mine, RC)
        child = Child(attacker, RTS if number % 2 else ERR)
        child.ends.tell(peer.number)
        peer.to_init()
        peer.to_rtr(mine, child.ends.hear())
        peer.to_rts(timeout=1, retry_cnt=1, rnr_retry=1)
        child.ends.hear()
        # A request that makes it fail, and have its receives flushed, by this thread.
        wr = send_wr(RDMA_WRITE, [])
        wr.set_wr_rdma(1, 1)
        for _ in range(3):
            ignored(peer.qp.post_send, send_wr(SEND, []))
        child.ends.tell(1)
        child.ends.hear()
        time.sleep(rng.random() / 10)
        ignored(peer.qp.post_send, wr)
        child.kill()
        mine.context.close()
        until("the end of the one that fed", lambda: f"{device}: pd 1 cq 1 qp 1 " in resources())


# Commands.

GET_CONTEXT, CREATE_COMP_CHANNEL, POST_SEND, POST_RECV, POST_SRQ_RECV = 0, 17, 28, 29, 36
VERBS_IOCTL = 0xC0181B01
# Bodies of commands after the address for the response, with sound numbers: the handles are those of
# a context's first objects. (command, words of response, body)
COMMANDS = [
    (3, 1, b""),
    (3, 1, b""),
    (18, 10, struct.pack("QIIiI", 1, 16, 0, -1, 0)),
    (18, 10, struct.pack("QIIiI", 2, 300, 0, -1, 0)),
    (24, 16, struct.pack("QIIIIIIIIIBBBB", 3, 0, 2, 2, 0, 10, 10, 2, 2, 64, 0, 2, 0, 0)),
    (24, 16, struct.pack("QIIIIIIIIIBBBB", 4, 0, 2, 2, 0, 10, 10, 2, 2, 64, 0, 4, 0, 0)),
    (32, 12, struct.pack("QIIII", 5, 0, 10, 2, 0)),
    (9, 3, struct.pack("QQQII", 0x400000, PAGE, 0x400000, 0, 0)),
    (14, 2, struct.pack("IBBBB", 0, 1, 0, 0, 0)),
    (14, 2, struct.pack("IBBBB", 0, 2, 0, 0, 0)),
    (5, 2, struct.pack("QII", 6, 0, 0) + bytes(10) + b"\xff\xff\x0a\0\0\1" + bytes([0] * 4 + [1, 64, 0, 0]) + bytes([0] * 6 + [1, 1])),
    (11, 2, struct.pack("IIQQQII", 7, 4, 0, 0, 0, 0, 1)),
    (19, 12, struct.pack("II", 2, 500)),
    (25, 32, struct.pack("II", 4, 0xFFFF)),
    (33, 0, struct.pack("IIII", 6, 2, 0, 5)),
    (34, 4, struct.pack("II", 6, 0)),
    (2, 10, struct.pack("B7x", 1)),
    (1, 46, b""),
    (30, 0, bytes.fromhex("ff0e") + bytes(14) + struct.pack("IHH", 5, 0, 0)),
    (31, 0, bytes.fromhex("ff0e") + bytes(14) + struct.pack("IHH", 5, 0, 0)),
    (28, 1, struct.pack("IIII", 4, 0, 0, 72)),
    (28, 1, struct.pack("IIII", 4, 1, 0, 72) + bytes(72)),
    (29, 1, struct.pack("IIII", 4, 0, 0, 16)),
    (36, 1, struct.pack("IIII", 6, 0, 0, 16)),
    (17, 1, b""),
    *((number, 2, struct.pack("II", handle, 0)) for number in (4, 8, 13, 16, 20, 27, 35) for handle in range(12)),
]


def modify_command(handle, state):
    body = bytearray(112)
    struct.pack_into("II", body, 64, handle, rng.getrandbits(21) if rng.random() < 0.3 else 0x71)
    body[96], body[104] = state, 1
    return 26, 0, bytes(body)


def file_of(device):
    return os.readlink(f"/proc/self/fd/{device.context.cmd_fd}")


def command(fd, number, body, response_words):
    """struct ib_uverbs_cmd_hdr, and what belongs to it."""
    os.write(fd, struct.pack("IHH", number, (8 + len(body)) // 4, response_words) + body)


def mangled(body):
    """Some bits, a few bytes, or the end of it."""
    body = bytearray(body)
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        if body:
            at = rng.randrange(len(body))
            body[at] = rng.choice((rng.getrandbits(8), body[at] ^ 1 << rng.randrange(8), 0, 0xFF, 1))
    if rng.random() < 0.15:
        body = body[: rng.randrange(len(body) + 1)]
    if rng.random() < 0.1:
        body += rng.randbytes(rng.randrange(64))
    return bytes(body) + bytes(-len(body) % 4)


def commands(device, rounds):
    """Random and truncated commands, by write and by ioctl."""
    room = ctypes.create_string_buffer(PAGE)
    path = file_of(Device(device))

    def send(fd, number, words, body, sound):
        address = ctypes.addressof(room) if sound or rng.random() < 0.95 else rng.getrandbits(48)
        if words:
            body = struct.pack("Q", address) + body
        length = (8 + len(body)) // 4
        if not sound:
            number = rng.randrange(1 << 8) if rng.random() < 0.05 else number
            number |= rng.choice((0, 0, 0, 0, 1 << 31, rng.getrandbits(32) if rng.random() < 0.1 else 0))
            length = length if rng.random() < 0.95 else rng.getrandbits(16)
            words = words if rng.random() < 0.9 else rng.randrange(100)
        ignored(os.write, fd, struct.pack("IHH", number, length & 0xFFFF, words) + body)

    def call(fd):
        """struct ib_uverbs_ioctl_hdr, and attributes."""
        count = rng.randrange(8)
        attributes = b""
        for _ in range(count):
            ident = rng.choice((rng.randrange(20), 0x1000 + rng.randrange(4), rng.getrandbits(16)))
            size = rng.choice((0, 4, 8, 16, rng.randrange(200), rng.getrandbits(16)))
            value = rng.choice((rng.randrange(20), ctypes.addressof(room), rng.getrandbits(64)))
            attributes += struct.pack("HHHHQ", ident, size, rng.choice((0, 1, 1, rng.getrandbits(16))), 0, value)
        length = 24 + len(attributes) if rng.random() < 0.95 else rng.getrandbits(16)
        ident, method = rng.choice((rng.randrange(25), rng.getrandbits(16))), rng.randrange(14)
        if (ident, method) == (0, 3):
            # UVERBS_METHOD_GET_CONTEXT: if that fails, Linux itself (7.2) leaks the process.
            return
        head = struct.pack("HHHHQII", length, ident, method, count, 0, 0x46455252, 0)
        ignored(fcntl.ioctl, fd, VERBS_IOCTL, bytearray(head + attributes))

    def once():
        fd = os.open(path, os.O_RDWR)
        if rng.random() < 0.95:
            send(fd, GET_CONTEXT, 16, b"", True)
        for number, words, body in COMMANDS[: rng.randrange(12)]:
            send(fd, number, words, body, True)
        for _ in range(100):
            number, words, body = rng.choice(COMMANDS)
            if rng.random() < 0.1:
                number, words, body = modify_command(rng.randrange(8), rng.randrange(8))
            if rng.random() < 0.3:
                call(fd)
            else:
                send(fd, number, words, mangled(body), False)
        # The events and channels that came of it.
        os.close(fd)
        for name in os.listdir("/proc/self/fd"):
            if ignored(os.readlink, f"/proc/self/fd/{name}") in ("anon_inode:[infinibandevent]",):
                os.close(int(name))

    def attack(ends):
        for_rounds(rounds, once)

    status = Child(attack).wait()
    assert status == 0, f"ended with {status}"


def handles(device, rounds):
    """All handles that another process has, and has not: none of its objects is harmed."""
    before = resources()
    child = Child(holds, device)
    child.ends.hear()
    held = resources()
    mine = Device(device)
    fd = os.open(file_of(mine), os.O_RDWR)
    response = ctypes.create_string_buffer(64)
    command(fd, GET_CONTEXT, struct.pack("Q", ctypes.addressof(response)), 16)
    for handle in range(80):
        for number in (4, 8, 13, 16, 20, 27, 35):
            for form in (struct.pack("QII", ctypes.addressof(response), handle, 0), struct.pack("II", handle, 0)):
                ignored(command, fd, number, form, 2)
        for number in (POST_SEND, POST_RECV, POST_SRQ_RECV):
            doorbell(fd, number, handle)
        ignored(MR, mine.pd, 0, 0, handle=handle)
        ignored(PD, mine.context, handle=handle)
    os.close(fd)
    # Keys are the whole device's, and of another protection domain.
    keys = Memory(PAGE)
    mr = keys.region(mine.pd)
    for key in range(0, 40 << 8, 1 << 8):
        pair = Qp(mine, RC), Qp(mine, RC)
        connect(*pair)
        if key not in (mr.lkey, mr.rkey):
            wr = send_wr(RDMA_WRITE, [(keys.address, 8, mr.lkey)])
            wr.set_wr_rdma(key, 0)
            pair[0].qp.post_send(wr)
            assert pair[0].sent()[0].status == e.IBV_WC_REM_ACCESS_ERR
        for qp in pair:
            qp.close()
    mine.context.close()
    assert resources() == held != before, f"{held}, then {resources()}"
    child.ends.tell(1)
    assert child.wait() == 0


def holds(ends, device):
    """Has some objects, and uses them when told to."""
    mine = Device(device)
    memory = Memory(PAGE)
    mr = memory.region(mine.pd)
    pair = Qp(mine, RC), Qp(mine, RC, srq=mine.srq())
    connect(*pair)
    ends.tell(1)
    ends.hear()
    pair[1].post_recv([(1, [(memory.address, 64, mr.lkey)])])
    pair[0].qp.post_send(send_wr(SEND, [(memory.address + 64, 8, mr.lkey)]))
    assert pair[0].sent()[0].status == pair[1].received()[0].status == e.IBV_WC_SUCCESS


def resources():
    return subprocess.run(["rdma", "resource", "show"], check=True, stdout=subprocess.PIPE, text=True).stdout


# Processes that end.


def churns(ends, device):
    """Makes, connects, uses and destroys, for ever, with a peer that does the same."""
    while True:
        mine = Device(device)
        memory = Memory(64 * PAGE)
        mr = memory.region(mine.pd)
        qp_type = RC
        shared = mine.srq() if rng.random() < 0.5 else None
        qp = Qp(mine, qp_type, srq=shared)
        ends.tell(qp.number)
        other = ends.hear()
        qp.to_init()
        qp.to_rtr(mine, other)
        qp.to_rts(timeout=1, retry_cnt=3, rnr_retry=rng.choice((3, 7)))
        dm = DM(mine.context, AllocDmAttr(length=PAGE))
        dm_mr = DMMR(mine.pd, PAGE, LOCAL_WRITE | ZERO_BASED, dm, 0)
        mw = MW(mine.pd, e.IBV_MW_TYPE_1)
        info = MWBindInfo(mr, memory.address, PAGE, REMOTE_WRITE)
        qp.qp.bind_mw(mw, MWBind(info, e.IBV_SEND_SIGNALED))
        for _ in range(rng.randrange(30)):
            ignored(qp.post_recv, [(1, [(memory.address, 32 * PAGE, mr.lkey)])])
            ignored(qp.qp.post_send, send_wr(SEND, [(memory.address, rng.randrange(32 * PAGE), mr.lkey)]))
            ignored(qp.qp.post_send, send_wr(SEND, [(0, rng.randrange(PAGE), dm_mr.lkey)]))
            qp.send_cq.poll(8)
            qp.recv_cq.poll(8)
        if rng.random() < 0.5:
            mw.close()
            qp.close()
            mr.close()
            dm.close()
        mine.context.close()


def relay(one, other):
    """Numbers from each process to the other, as long as both are there."""
    poll = {one.ends.read: other.ends, other.ends.read: one.ends}
    while True:
        for fd in select.select(list(poll), [], [], 5)[0]:
            data = os.read(fd, 8)
            if len(data) < 8:
                return
            try:
                os.write(poll[fd].write, data)
            except BrokenPipeError:
                return


def killed(device, rounds):
    """Processes are killed at any moment, with a peer attached; the peer is told no more, and goes on."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for _ in range(rounds):
        one, other = Child(churns, device), Child(churns, device)
        middle = Child(lambda ends: relay(one, other))
        time.sleep(rng.random() / 4)
        for child in rng.sample((one, other), 2):
            child.kill()
            time.sleep(rng.choice((0, rng.random() / 50)))
        middle.kill()


def forked(device, rounds):
    """Children of a process with live objects: one that goes on with them, one that ends, one that
    becomes another program; and the parent is killed while they live."""

    def parent(ends):
        mine = Device(device)
        memory = Memory(4 * PAGE, flags=0x21)  # MAP_SHARED | MAP_ANONYMOUS
        mr = memory.region(mine.pd)
        pair = Qp(mine, RC), Qp(mine, RC)
        connect(*pair)

        def use():
            pair[1].post_recv([(1, [(memory.address, 64, mr.lkey)])])
            pair[0].qp.post_send(send_wr(SEND, [(memory.address + 64, 8, mr.lkey)]))
            assert pair[0].sent()[0].status == pair[1].received()[0].status == e.IBV_WC_SUCCESS

        def child(ends):
            # By the same file, in the memory that both have.
            use()
            ends.tell(1)
            signal.pause()

        def becomes_another(ends):
            os.execv("/bin/true", ["true"])

        use()
        assert Child(becomes_another).wait() == 0
        assert Child(lambda ends: None).wait() == 0
        lives = Child(child)
        lives.ends.hear()
        ends.tell(lives.pid)
        signal.pause()

    for _ in range(rounds):
        parent_process = Child(parent)
        orphan = parent_process.ends.hear()
        parent_process.kill()
        os.kill(orphan, signal.SIGKILL)
        until("the orphan's end", lambda: "qp 1 " in resources())


def link_goes(device, rounds):
    """`rdma link delete`, and an attempt to remove the module, while processes use the device."""
    for _ in range(rounds):
        one, other = Child(churns, device), Child(churns, device)
        middle = Child(lambda ends: relay(one, other))
        # Who has a context open for certain: without one the module may go.
        holder = Child(holds, device)
        holder.ends.hear()
        time.sleep(rng.random() / 4)
        assert subprocess.run(["rmmod", "ferroce"], stderr=subprocess.DEVNULL).returncode != 0
        subprocess.run(["rdma", "link", "delete", device], check=True)
        for child in (one, other, middle, holder):
            child.kill()
        add = ["rdma", "link", "add", device, "type", "ferroce", "netdev", "eth0"]
        subprocess.run(add, check=True)
        until("the device", lambda: ignored(Device, device))


def fed_goes(device, rounds):
    """`rdma link delete` while a child posts as fast as the kernel executes: neither the call that does so nor
    what is flushed in the end takes for ever."""

    def attacker(ends):
        mine = Device(device)
        memory = Memory(256 * PAGE)
        mr = memory.region(mine.pd)
        entries = mine.context.query_device().max_qp_wr
        qp = Qp(mine, RC, max_send_wr=entries, max_send_sge=1, max_recv_wr=1, max_recv_sge=1, max_inline_data=0)
        connect(qp, qp)
        qp.to(SQD)
        wr = send_wr(RDMA_WRITE, [(memory.address, memory.length // 2, mr.lkey)], flags=0)
        wr.set_wr_rdma(mr.rkey, memory.address + memory.length // 2)
        for _ in range(entries):
            qp.qp.post_send(wr)
        # What was posted stays in the ring, and is posted again.
        Child(feed, headers_of(entries), entries)
        ends.tell(1)
        qp.to(RTS)
        signal.pause()

    for _ in range(rounds):
        child = Child(attacker)
        child.ends.hear()
        time.sleep(0.5)
        deleting = subprocess.Popen(["rdma", "link", "delete", device])
        until("the end of the device", lambda: deleting.poll() is not None)
        assert deleting.returncode == 0
        child.kill()
        add = ["rdma", "link", "add", device, "type", "ferroce", "netdev", "eth0"]
        subprocess.run(add, check=True)
        until("the device", lambda: ignored(Device, device))


def module_goes(device, rounds):
    """The module is removed while processes open the device and close it again."""

    def opens(ends):
        while True:
            ignored(Device, device)
            # Or else one of them always has it open, and it cannot be removed.
            time.sleep(0.02 * rng.random())

    openers = [Child(opens) for _ in range(2)]
    for _ in range(rounds):
        removed = lambda: subprocess.run(["rmmod", "ferroce"], stderr=subprocess.DEVNULL).returncode == 0
        until("the module's end", removed)
        subprocess.run(["modprobe", "ferroce"], check=True)
        for link, netdev in ((device, "eth0"), ("fr1", "eth1")):
            subprocess.run(["rdma", "link", "add", link, "type", "ferroce", "netdev", netdev], check=True)
        until("the device", lambda: ignored(Device, device))
    for opener in openers:
        opener.kill()


# Memory.


def unmapped(device, rounds):
    """Registered memory that is no longer the process's: its pages stay until it is deregistered."""
    for _ in range(rounds):
        mine = Device(device)
        gone, stays = Memory(8 * PAGE), Memory(8 * PAGE)
        gone.put(0, rng.randbytes(8 * PAGE))
        source, target = gone.region(mine.pd), stays.region(mine.pd)
        content = bytes(gone.expected)
        address = gone.address
        gone.unmap()
        pair = Qp(mine, RC), Qp(mine, RC)
        connect(*pair)
        for opcode, key in ((RDMA_WRITE, source), (RDMA_READ, target)):
            wr = send_wr(opcode, [(address, 8 * PAGE, source.lkey)] if key is source else [(stays.address, 8 * PAGE, target.lkey)])
            wr.set_wr_rdma(*((target.rkey, stays.address) if key is source else (source.rkey, address)))
            pair[0].qp.post_send(wr)
            assert pair[0].sent()[0].status == e.IBV_WC_SUCCESS
            assert bytes(stays.view) == content
        mine.context.close()


def memlock(device, rounds):
    """RLIMIT_MEMLOCK holds for a user, and what is deregistered counts no more."""

    def user(ends):
        os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 * PAGE, 64 * PAGE))
        mine = Device(device)
        memory = Memory(65 * PAGE)
        for _ in range(rounds):
            try:
                memory.region(mine.pd)
            except PyverbsRDMAError as err:
                assert f"Errno: {errno.ENOMEM}" in str(err), str(err)
            else:
                raise AssertionError("registered more than the limit")
            regions = [memory.region(mine.pd, length=16 * PAGE) for _ in range(4)]
            assert ignored(memory.region, mine.pd, length=PAGE) is None
            for region in regions:
                region.close()

    assert Child(user).wait() == 0


# Allocations that fail (Documentation/fault-injection).


def starved(device, rounds):
    """Each allocation of each call fails in turn, once."""
    for name in ("failslab", "fail_page_alloc"):
        folder = f"/sys/kernel/debug/{name}"
        for file, value in (("ignore-gfp-wait", "N"), ("verbose", "0"), ("min-order", "0")):
            if os.path.exists(f"{folder}/{file}"):
                open(f"{folder}/{file}", "w").write(value)
    mine = Device(device)
    memory = Memory(64 * PAGE)
    memory.put(0, bytes(64 * PAGE))
    mr = memory.region(mine.pd)
    pair = Qp(mine, RC), Qp(mine, RC)
    connect(*pair)
    cq = mine.cq(16)

    def post():
        pair[1].post_recv([(1, [(memory.address, 64, mr.lkey)])])
        wr = send_wr(SEND, [(memory.address + 64, 8, mr.lkey)])
        return lambda: pair[0].qp.post_send(wr), lambda result: (pair[0].sent(), pair[1].received())

    def reconnect():
        for qp in pair:
            qp.to(RESET)
        return lambda: connect(*pair), None

    def bind():
        mw = MW(mine.pd, e.IBV_MW_TYPE_1)
        request = MWBind(MWBindInfo(mr, memory.address, PAGE, REMOTE_READ), e.IBV_SEND_SIGNALED)
        return lambda: pair[0].qp.bind_mw(mw, request), lambda result: (pair[0].sent(), mw.close())

    srq = mine.srq(16, 1)
    srq.post_recv(chain([recv_wr(number, []) for number in range(11)]))

    def resize_srq():
        before = srq.query().max_wr
        try:
            srq.modify(SrqAttr(max_wr=before ^ 16 ^ 2048), e.IBV_SRQ_MAX_WR)
        except PyverbsError:
            assert srq.query().max_wr == before
            raise

    close = lambda thing: thing.close()
    calls = {
        "open": lambda: (lambda: Context(name=device), close),
        "pd": lambda: (lambda: PD(mine.context), close),
        "cq": lambda: (lambda: mine.cq(1000), close),
        "resize": lambda: (lambda: cq.resize(rng.randint(1, 2000)), None),
        "srq": lambda: (lambda: mine.srq(500), close),
        "resize srq": lambda: (resize_srq, None),
        "qp": lambda: (lambda: Qp(mine, RC), close),
        "mr": lambda: (lambda: memory.region(mine.pd), close),
        "mw": lambda: (lambda: MW(mine.pd, e.IBV_MW_TYPE_2), close),
        "ah": lambda: (lambda: mine.ah(mine), close),
        "connect": reconnect,
        "post": post,
        "bind": bind,
    }
    fail = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
    failures = 0
    for name, prepare in calls.items():
        for _ in range(rounds):
            nth = 0
            left = b"0"
            while left == b"0":
                nth += 1
                call, undo = prepare()
                os.pwrite(fail, str(nth).encode(), 0)
                try:
                    result = call()
                except (PyverbsError, OSError, MemoryError):
                    result = None
                # What is left of it: none, if the allocation failed.
                left = os.pread(fail, 20, 0).strip(b"\n\0")
                os.pwrite(fail, b"0", 0)
                failures += left == b"0"
                if result is not None or name in ("post", "bind"):
                    if undo:
                        ignored(undo, result)
                assert nth < 2000, f"{name}: no end of allocations"
            print(f"{name}: {nth - 1} allocations failed", flush=True)
    assert failures > 100, f"only {failures} allocations failed: is there fault injection?"
    for qp in pair:
        qp.to(RESET)
    connect(*pair)
    post_again, check = post()
    post_again()
    check(None)
    numbers(mine, fail)


def numbers(mine, fail):
    """A queue pair that could not be made has given its number up, which comes again when 1024 others were
    used."""
    cq = mine.cq()

    def number(nth=0):
        """That of a queue pair, unless the nth allocation fails. Whether it did."""
        os.pwrite(fail, str(nth).encode(), 0)
        qp = ignored(QP, mine.pd, QPInitAttr(qp_type=RC, scq=cq, rcq=cq, cap=QPCap(8, 8, 1, 1, 0)))
        left = os.pread(fail, 20, 0).strip(b"\n\0")
        os.pwrite(fail, b"0", 0)
        found = qp.qp_num if qp else None
        if qp:
            qp.close()
        return found, left == b"0"

    def since(before):
        return (number()[0] - before) % (1 << 24)

    # Those allocations that fail when there is a number already.
    late, nth, failed = [], 0, True
    while failed:
        nth += 1
        before, _ = number()
        made, failed = number(nth)
        if made is None and since(before) == 2:
            late.append(nth)
    times = 1500
    for nth in late:
        before, _ = number()
        for _ in range(times):
            number(nth)
        assert not times // 2 < since(before) < 1 << 23, f"numbers are lost when allocation {nth} fails"
    print(f"numbers: {len(late)} allocations failed {times} times", flush=True)


ATTACKS = [
    scribbled,
    fed,
    commands,
    handles,
    killed,
    forked,
    link_goes,
    fed_goes,
    module_goes,
    unmapped,
    memlock,
    starved,
]


def main():
    attack = next(a for a in ATTACKS if a.__name__ == sys.argv[1])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", flush=True)
    rng.seed(seed)
    # By a process that has had nothing to do with the device before and has nothing of it after.
    child = Child(lambda ends: attack(sys.argv[2], int(sys.argv[3])))
    assert child.wait() == 0, f"{attack.__name__} of seed {seed} failed"
    print(f"{attack.__name__} done")


if __name__ == "__main__":
    main()
