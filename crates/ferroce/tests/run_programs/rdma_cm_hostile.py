# SPDX-License-Identifier: MIT OR Apache-2.0
"""Programs that harm the connection manager of `ferroce run`, or end where they should not.

    rdma_cm_hostile.py ADDRESS SEED

After each of them two others connect as ever.
"""

import array
import ctypes
import os
import random
import signal
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lab/guest"))

from rdma_cm import *

LIBC = ctypes.CDLL(None)
SYS_WRITE, SYS_READ = {"x86_64": (1, 0), "aarch64": (64, 63)}[os.uname().machine]
RANDOM = random.Random(int(sys.argv[2]))


def works(what):
    pair = Pair()
    client, server = pair.connected()
    assert pair.client.disconnect(client) == 0
    pair.server.expect("DISCONNECTED")
    for channel in (pair.client, pair.server):
        channel.close()
    print("ok:", what, flush=True)


def noise(most):
    return RANDOM.randbytes(RANDOM.randrange(most))


def commands():
    """Commands by chance, of ids that there may be."""
    channel = Channel(os.O_NONBLOCK)
    room = ctypes.create_string_buffer(1024)
    for _ in range(3000):
        body = bytearray(noise(400))
        if RANDOM.random() < 0.8:
            # An address that may be written to, where most commands have it, and the number of an id.
            for at in (0, 8):
                body[at:at + 8] = struct.pack("=Q", ctypes.addressof(room))
        if RANDOM.random() < 0.8:
            body[16:20] = struct.pack("=I", RANDOM.randrange(4))
        if RANDOM.random() < 0.3:
            channel.create(RANDOM.choice([TCP, UDP, IB]), RANDOM.randrange(3))
        channel.write(RANDOM.randrange(27), bytes(body), RANDOM.randrange(600))
    channel.close()


def by_system_calls():
    """What the shim does not see: no command, as it has no socket for the answer; and tokens read away."""
    channel = Channel()
    for _ in range(500):
        bytes_ = noise(3000) or b"x"
        LIBC.syscall(SYS_WRITE, channel.fd, bytes_, len(bytes_))
    number = channel.create()
    assert channel.resolve(number, address(HOST, 1)) == 0
    LIBC.syscall(SYS_READ, channel.fd, ctypes.create_string_buffer(9), 9)
    assert channel.destroy(number) == 0
    channel.close()


def names():
    """The abstract names that somebody listens at for these programs."""
    group = os.environ.get("FERROCE_GROUP", "")
    found = [line.split()[-1][1:] for line in open("/proc/net/unix") if "@ferroce" in line]
    return {name for name in found if name.endswith("/" + group)}


def sockets():
    """Noise for the broker, with descriptors that are not what they should be."""
    assert len(names()) == 2, names()
    for name in sorted(names()) * 50:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
            broker.connect("\0" + name)
            for _ in range(RANDOM.randrange(5)):
                files = [os.open(path, os.O_RDONLY)
                         for path in RANDOM.choices(["/", "/dev/null", "/proc/self/mem", "/etc/passwd"],
                                                    k=RANDOM.randrange(4))]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
                try:
                    broker.sendmsg([noise(3000) or b"x"], rights if files else [])
                except OSError:
                    # It has been closed.
                    pass
                for file in files:
                    os.close(file)


def unread_answers():
    """Commands whose answers nobody reads, and whose sockets for them are full or closed."""
    channel = Channel()
    for _ in range(500):
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with own, other, socket.socket(fileno=os.dup(channel.fd)) as raw:
            if RANDOM.random() < 0.5:
                own.setblocking(False)
                other.setblocking(False)
                try:
                    while True:
                        other.send(bytes(1000))
                except BlockingIOError:
                    pass
            command = struct.pack("=IHHQ", GET_EVENT, 8, 336, 0)
            header = struct.pack("=QQII", 0, len(command), len(command), 0)
            rights = array.array("i", [other.fileno()])
            raw.sendmsg([header + command], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            raw.detach()
    channel.close()


def killed(state):
    """A process that is killed: its peer is told as when it goes by itself."""
    pair = Pair()
    own, other = os.pipe()
    child = os.fork()
    if child == 0:
        # All of the other end is made here, where nobody else has its channel.
        pair.server.close()
        pair.client.close()
        second = Pair()
        os.write(other, struct.pack("=I", second.port))
        if state == "listening":
            signal.pause()
        request = second.server.expect("CONNECT_REQUEST").id
        if state != "asked":
            assert second.server.accept(request) == 0
        if state == "connected":
            second.server.expect("ESTABLISHED")
        os.write(other, b"x")
        signal.pause()
    used = struct.unpack("=I", os.read(own, 4))[0]
    number = routed(pair.client, pair.client.create(), used)
    if state != "listening":
        assert pair.client.connect(number) == 0
    if state in ("answered", "connected"):
        pair.client.expect("CONNECT_RESPONSE")
    if state == "connected":
        assert pair.client.accept(number, valid=0) == 0
    if state != "listening":
        os.read(own, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if state == "listening":
        # Its port is free as soon as that is known.
        while pair.client.bind(pair.client.create(), address(HOST, used)):
            pass
    else:
        event = pair.client.expect("DISCONNECTED" if state == "connected" else "REJECTED")
        assert event.status == (0 if state == "connected" else 28), event.status
    for channel in (pair.client, pair.server):
        channel.close()
    for end in (own, other):
        os.close(end)


def many():
    """Thousands of ids, of a channel and with a channel each, with connections."""
    pair = Pair(backlog=1024)
    for _ in range(500):
        pair.connected()
    ids = [pair.client.create() for _ in range(5000)]
    assert len(set(ids)) == 5000
    for channel in (pair.client, pair.server):
        channel.close()
    channels = [Channel() for _ in range(400)]
    for channel in channels:
        routed(channel, channel.create(), 1)
    for channel in channels:
        channel.close()


def main():
    works("nothing")
    for harm in (commands, by_system_calls, sockets, unread_answers, many):
        harm()
        works(harm.__name__)
    for state in ("listening", "asked", "answered", "connected"):
        killed(state)
        works(f"killed, {state}")


main()
