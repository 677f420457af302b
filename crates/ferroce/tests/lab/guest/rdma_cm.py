# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the connection manager answers to commands, written to its file as librdmacm writes them.

    rdma_cm.py ADDRESS

ADDRESS is one of a device's. A table: a name, what is done, and what comes of it: an errno (0 if it works), or
events with their statuses. It is Linux' manager that the table was made with (drivers/infiniband/core/ucma.c,
cma.c, cm.c); under `ferroce run` the answers are the same.
"""

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import threading
import time

FILE = "/dev/infiniband/rdma_cm"
TCP, UDP, IB, IPOIB = 0x106, 0x111, 0x13F, 2
RC, UD = 2, 4

(CREATE, DESTROY, BIND_IP, RESOLVE_IP, ROUTE, QUERY_ROUTE, CONNECT, LISTEN, ACCEPT, REJECT, DISCONNECT,
 INIT_QP, GET_EVENT, GET_OPTION, SET_OPTION, NOTIFY, JOIN_IP, LEAVE, MIGRATE, QUERY, BIND, RESOLVE,
 JOIN) = range(23)
EVENTS = ["ADDR_RESOLVED", "ADDR_ERROR", "ROUTE_RESOLVED", "ROUTE_ERROR", "CONNECT_REQUEST", "CONNECT_RESPONSE",
          "CONNECT_ERROR", "UNREACHABLE", "REJECTED", "ESTABLISHED", "DISCONNECTED", "DEVICE_REMOVAL",
          "MULTICAST_JOIN", "MULTICAST_ERROR", "ADDR_CHANGE", "TIMEWAIT_EXIT"]

HOST = sys.argv[1]


def address(host, port=0):
    if ":" in host:
        return struct.pack("=H", socket.AF_INET6) + struct.pack(">H", port) + bytes(4) + \
            socket.inet_pton(socket.AF_INET6, host) + bytes(4)
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)


# A number of a queue pair is that of one connection: the kernel's manager looks at it.
QP_NUM = [0x100]


def conn_param(qp_num=None, data=b"", length=None, valid=1, responder=4, initiator=7, retry=5, rnr=6):
    length = len(data) if length is None else length
    QP_NUM[0] += 1
    return struct.pack("=II256s8B", qp_num or QP_NUM[0], 0, data, length, 0, responder, initiator, 0, retry, rnr, valid)


class Event:
    def __init__(self, answer):
        self.uid, self.id, kind, self.status = struct.unpack_from("=QIIi", answer)
        self.kind = EVENTS[kind]
        self.param = answer[20:324]

    @property
    def conn(self):
        """Number, private data, and the rest."""
        number, _, data, length, *rest = struct.unpack_from("=II256s8B", self.param)
        return number, data[:length], rest

    @property
    def ud(self):
        number, qkey, ah, data, length = struct.unpack_from("=II32s256sB", self.param)
        return number, qkey, ah, data[:length]


class Channel:
    def __init__(self, flags=os.O_CLOEXEC):
        self.fd = os.open(FILE, os.O_RDWR | flags)

    def close(self):
        os.close(self.fd)

    def write(self, command, body=b"", room=0, length=None):
        """Writes a command. Returns its errno."""
        length = len(body) if length is None else length
        try:
            os.write(self.fd, struct.pack("=IHH", command, length, room) + body)
            return 0
        except OSError as error:
            return error.errno

    def ask(self, command, before, after, size):
        """A command with an address for its answer. Returns errno and answer."""
        answer = ctypes.create_string_buffer(size)
        where = struct.pack("=Q", ctypes.addressof(answer))
        return self.write(command, before + where + after, size), answer.raw

    def create(self, ps=TCP, uid=77, qp_type=RC):
        error, answer = self.ask(CREATE, struct.pack("=Q", uid), struct.pack("=HB5x", ps, qp_type), 4)
        assert error == 0, os.strerror(error)
        return struct.unpack("=I", answer)[0]

    def destroy(self, number):
        error, answer = self.ask(DESTROY, b"", struct.pack("=II", number, 0), 4)
        return error or -struct.unpack("=I", answer)[0]

    def bind(self, number, to, size=None, reserved=0):
        size = len(to) if size is None else size
        return self.write(BIND, struct.pack("=IHH128s", number, size, reserved, to))

    def bind_ip(self, number, to):
        return self.write(BIND_IP, struct.pack("=Q28sI", 0, to, number))

    def resolve(self, number, to, source=b"", timeout=2000):
        sizes = struct.pack("=IIHHI", number, timeout, len(source), len(to), 0)
        return self.write(RESOLVE, sizes + struct.pack("=128s128s", source, to))

    def resolve_ip(self, number, to, source=b"", timeout=2000):
        return self.write(RESOLVE_IP, struct.pack("=28s28sII", source, to, number, timeout))

    def route(self, number, timeout=2000):
        return self.write(ROUTE, struct.pack("=II", number, timeout))

    def listen(self, number, backlog=10):
        return self.write(LISTEN, struct.pack("=II", number, backlog))

    def connect(self, number, **param):
        return self.write(CONNECT, conn_param(**param) + struct.pack("=IIII", number, 0, 0, 0))

    def accept(self, number, uid=78, **param):
        return self.write(ACCEPT, struct.pack("=Q", uid) + conn_param(**param)
                          + struct.pack("=IIII", number, 0, 0, 0))

    def reject(self, number, data=b"", length=None, reason=0):
        length = len(data) if length is None else length
        return self.write(REJECT, struct.pack("=IBBxx256s", number, length, reason, data))

    def disconnect(self, number):
        return self.write(DISCONNECT, struct.pack("=I", number))

    def notify(self, number, event):
        return self.write(NOTIFY, struct.pack("=II", number, event))

    def option(self, number, level, name, value):
        held = ctypes.create_string_buffer(value, max(len(value), 1))
        return self.write(SET_OPTION, struct.pack("=QIIII", ctypes.addressof(held), number, level, name,
                                                  len(value)))

    def join(self, number, to, flags=0):
        error, answer = self.ask(JOIN, b"", struct.pack("=QIHH128s", 79, number, len(to), flags, to), 4)
        return error, struct.unpack("=I", answer)[0]

    def leave(self, number):
        error, answer = self.ask(LEAVE, b"", struct.pack("=II", number, 0), 4)
        return error or -struct.unpack("=I", answer)[0]

    def migrate(self, number, other):
        error, answer = self.ask(MIGRATE, b"", struct.pack("=II", number, other), 4)
        return error or -struct.unpack("=I", answer)[0]

    def query(self, number, option, size=512):
        return self.ask(QUERY, b"", struct.pack("=II", number, option), size)

    def qp_attr(self, number, state):
        """Errno, mask, and the attributes that are looked at."""
        error, answer = self.ask(INIT_QP, b"", struct.pack("=II", number, state), 144)
        return error, answer

    def event(self, room=336):
        error, answer = self.ask(GET_EVENT, b"", b"", room)
        if error:
            raise OSError(error, os.strerror(error))
        return Event(answer)

    def expect(self, *kinds):
        """Takes events, and returns the last one. They come within seconds."""
        for kind in kinds:
            assert select.select([self.fd], [], [], 10)[0], f"no event, but {kind}"
            event = self.event()
            assert event.kind == kind, f"{event.kind} ({event.status}), not {kind}"
        return event

    def quiet(self):
        return not select.select([self.fd], [], [], 0.05)[0]


PORT = [7100]


def port():
    PORT[0] += 1
    return PORT[0]


class Pair:
    """Two channels, a listener, and whatever is made of them."""

    def __init__(self, ps=TCP, backlog=10):
        self.ps, self.port = ps, port()
        self.server, self.client = Channel(), Channel()
        self.listener = self.server.create(ps)
        assert self.server.bind(self.listener, address(HOST, self.port)) == 0
        assert self.server.listen(self.listener, backlog) == 0

    def asking(self, **param):
        number = self.routed()
        error = self.client.connect(number, **param)
        assert error == 0, os.strerror(error)
        return number

    def routed(self):
        number = self.client.create(self.ps)
        return routed(self.client, number, self.port)

    def asked(self, **param):
        number = self.asking(**param)
        return number, self.server.expect("CONNECT_REQUEST").id

    def answered(self):
        client, server = self.asked()
        self.asking_qp = QP_NUM[0]
        assert self.server.accept(server, data=b"welcome") == 0
        self.answering_qp = QP_NUM[0]
        return client, server

    def connected(self):
        client, server = self.answered()
        self.client.expect("CONNECT_RESPONSE")
        assert self.client.accept(client, valid=0) == 0
        self.server.expect("ESTABLISHED")
        return client, server


def routed(channel, number, to):
    assert channel.resolve(number, address(HOST, to)) == 0
    channel.expect("ADDR_RESOLVED")
    assert channel.route(number) == 0
    channel.expect("ROUTE_RESOLVED")
    return number


ROWS = []


def row(name, expected):
    def add(function):
        ROWS.append((name, function, expected))
        return function
    return add


def with_id(ps=TCP):
    channel = Channel()
    return channel, channel.create(ps)


# What is no command.

@row("write: too short for a header", errno.EINVAL)
def _():
    channel = Channel()
    try:
        os.write(channel.fd, b"1234")
    except OSError as error:
        return error.errno


row("write: a command that there is not", errno.EINVAL)(lambda: Channel().write(99))
row("write: longer than what was written", errno.EINVAL)(lambda: Channel().write(CREATE, b"", 4, 8))
row("get_option", errno.ENOSYS)(lambda: Channel().write(GET_OPTION, bytes(64)))
row("create: no room for the answer", errno.ENOSPC)(lambda: Channel().write(CREATE, bytes(24), 3))
row("create: a port space that there is not", errno.EINVAL)(
    lambda: Channel().ask(CREATE, bytes(8), struct.pack("=HB5x", 7, RC), 4)[0])
row("create: an address where nothing is", errno.EFAULT)(
    lambda: Channel().write(CREATE, struct.pack("=QQHB5x", 1, 64, TCP, RC), 4))
row("destroy: an id that there is not", errno.ENOENT)(lambda: Channel().destroy(99999))


@row("destroy: another channel's", errno.EINVAL)
def _():
    channel, number = with_id()
    return Channel().destroy(number)


@row("get_event: nothing, without waiting", errno.EAGAIN)
def _():
    channel = Channel()
    fcntl.fcntl(channel.fd, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        channel.event()
    except OSError as error:
        return error.errno


@row("get_event: no room", errno.ENOSPC)
def _():
    try:
        Channel().event(100)
    except OSError as error:
        return error.errno


# Addresses.

@row("bind: twice", errno.EINVAL)
def _():
    channel, number = with_id()
    assert channel.bind(number, address(HOST)) == 0
    return channel.bind(number, address(HOST))


row("bind: a length that is not the address's", errno.EINVAL)(
    lambda: (lambda c, n: c.bind(n, address(HOST), 28))(*with_id()))
row("bind: a family that there is not", errno.EINVAL)(
    lambda: (lambda c, n: c.bind(n, struct.pack("=H", 1) + bytes(14)))(*with_id()))
row("bind: nobody's address", errno.EADDRNOTAVAIL)(
    lambda: (lambda c, n: c.bind(n, address("192.0.2.254", 7000)))(*with_id()))
row("bind: a link-local one without a link", errno.EINVAL)(
    lambda: (lambda c, n: c.bind(n, address("fe80::1", 7000)))(*with_id()))
row("bind: IPoIB", errno.EINVAL)(lambda: (lambda c, n: c.bind(n, address(HOST)))(*with_id(IPOIB)))
row("bind: the wildcard", 0)(lambda: (lambda c, n: c.bind(n, address("0.0.0.0")))(*with_id()))
row("bind: the wildcard of InfiniBand", 0)(
    lambda: (lambda c, n: c.bind(n, struct.pack("=H30s", 27, b"")[:24] + struct.pack(">QQQ", 0x1060000,
                                                                               2**64 - 2**16, 0)))(*with_id(IB)))
row("bind_ip", 0)(lambda: (lambda c, n: c.bind_ip(n, address(HOST)))(*with_id()))


def taken(first, second, before=lambda c, n: None):
    def run():
        channel = Channel()
        numbers = channel.create(), channel.create()
        used = port()
        for number in numbers:
            before(channel, number)
        assert channel.bind(numbers[0], address(first, used)) == 0
        return channel.bind(numbers[1], address(second, used))
    return run


row("bind: a port that is taken", errno.EADDRINUSE)(taken(HOST, HOST))
row("bind: a port that is taken on all", errno.EADDRNOTAVAIL)(taken("0.0.0.0", HOST))
row("bind: a port that is taken on one", errno.EADDRNOTAVAIL)(taken(HOST, "::"))
row("bind: both reuse it", 0)(taken(HOST, HOST, lambda c, n: c.option(n, 0, 1, struct.pack("=i", 1))))
row("bind: wildcards of one family each", 0)(
    taken("0.0.0.0", "::", lambda c, n: c.option(n, 0, 2, struct.pack("=i", 1))))


@row("bind: a port that was given up", 0)
def _():
    channel, number = with_id()
    used = port()
    assert channel.bind(number, address(HOST, used)) == 0
    assert channel.destroy(number) == 0
    return channel.bind(channel.create(), address(HOST, used))


@row("bind: a port of another port space", 0)
def _():
    channel, number = with_id()
    used = port()
    assert channel.bind(number, address(HOST, used)) == 0
    return channel.bind(channel.create(UDP), address(HOST, used))


@row("bind: a port is chosen", True)
def _():
    channel, number = with_id()
    assert channel.bind(number, address(HOST)) == 0
    error, answer = channel.query(number, 0, 280)
    assert error == 0
    return struct.unpack_from(">H", answer, 16 + 2)[0] >= 1024


@row("resolve: the families differ", errno.EINVAL)
def _():
    channel, number = with_id()
    assert channel.bind(number, address(HOST)) == 0
    return channel.resolve(number, address("::2", 1))


row("resolve: a length that is not the address's", errno.EINVAL)(
    lambda: (lambda c, n: c.resolve(n, address(HOST)[:10]))(*with_id()))
row("resolve_ip", 0)(lambda: (lambda c, n: c.resolve_ip(n, address(HOST, 1)))(*with_id()))


@row("resolve: twice", errno.EINVAL)
def _():
    channel, number = with_id()
    assert channel.resolve(number, address(HOST, 1)) == 0
    channel.expect("ADDR_RESOLVED")
    return channel.resolve(number, address(HOST, 1))


row("route: too early", errno.EINVAL)(lambda: (lambda c, n: c.route(n))(*with_id()))


@row("route: no time", errno.EINVAL)
def _():
    channel, number = with_id()
    assert channel.resolve(number, address(HOST, 1)) == 0
    channel.expect("ADDR_RESOLVED")
    return channel.route(number, 0)


@row("query: address, GID and path", (0, 16, 0xFFFF, 0, 1, 43))
def _():
    channel, number = with_id()
    routed(channel, number, 7000)
    error, answer = channel.query(number, 0, 280)
    size = struct.unpack_from("=H", answer, 12)[0]
    error_gid, gid = channel.query(number, 2, 280)
    mapped = struct.unpack_from(">H", gid, 16 + 8 + 10)[0]
    error_path, path = channel.query(number, 1, 512)
    return error | error_gid, size, mapped, error_path, *struct.unpack_from("=IxxxxI", path)


row("query: something else", errno.ENOSYS)(lambda: (lambda c, n: c.query(n, 9)[0])(*with_id()))
row("query: no room", errno.ENOSPC)(lambda: (lambda c, n: c.query(n, 0, 100)[0])(*with_id()))


@row("query_route", (0, 1))
def _():
    channel, number = with_id()
    routed(channel, number, 7000)
    error, answer = channel.ask(QUERY_ROUTE, b"", struct.pack("=II", number, 0), 208)
    return error, struct.unpack_from("=I", answer, 8 + 128 + 56)[0]


# Options.

def option(level, name, value, ps=TCP, before=None):
    def run():
        channel, number = with_id(ps)
        if before:
            before(channel, number)
        return channel.option(number, level, name, value)
    return run


def bound(channel, number):
    assert channel.bind(number, address(HOST, port())) == 0


def listening(channel, number):
    bound(channel, number)
    assert channel.listen(number) == 0


ONE = struct.pack("=i", 1)
row("option: type of service", 0)(option(0, 0, b"\x08"))
row("option: type of service of two bytes", errno.EINVAL)(option(0, 0, b"\x08\x08"))
row("option: reuse, of a listener", errno.EINVAL)(option(0, 1, ONE, before=listening))
row("option: reuse", 0)(option(0, 1, ONE, before=bound))
row("option: one family, of a listener", errno.EINVAL)(option(0, 2, ONE, before=listening))
row("option: timeout", 0)(option(0, 3, b"\x10"))
row("option: timeout of datagrams", errno.EINVAL)(option(0, 3, b"\x10", UDP))
row("option: one that there is not", errno.ENOSYS)(option(0, 9, b"\x10"))
row("option: a level that there is not", errno.ENOSYS)(option(9, 0, b"\x10"))
row("option: a path that is none", errno.EINVAL)(option(1, 1, bytes(71)))


@row("option: a timeout counts", (0, 18))
def _():
    pair = Pair()
    number = pair.client.create()
    assert pair.client.option(number, 0, 3, b"\x12") == 0
    routed(pair.client, number, pair.port)
    assert pair.client.connect(number) == 0
    server = pair.server.expect("CONNECT_REQUEST").id
    assert pair.server.accept(server) == 0
    pair.client.expect("CONNECT_RESPONSE")
    error, attr = pair.client.qp_attr(number, 3)
    return error, attr[134]


# Connections.

row("listen: unbound, on all", 0)(lambda: (lambda c, n: c.listen(n))(*with_id()))


@row("listen: twice", errno.EINVAL)
def _():
    channel, number = with_id()
    listening(channel, number)
    return channel.listen(number)


row("connect: too early", errno.EINVAL)(lambda: (lambda c, n: c.connect(n))(*with_id()))


@row("connect: too early, with a device", errno.EINVAL)
def _():
    channel, number = with_id()
    bound(channel, number)
    return channel.connect(number)


@row("connect: parameters that do not count", errno.EINVAL)
def _():
    pair = Pair()
    return pair.client.connect(pair.routed(), valid=0)


@row("connect: more private data than there is room for", errno.EINVAL)
def _():
    pair = Pair()
    return pair.client.connect(pair.routed(), data=bytes(57))


@row("connect: nobody listens", ("REJECTED", 8, 148))
def _():
    channel, number = with_id()
    routed(channel, number, port())
    assert channel.connect(number) == 0
    event = channel.expect("REJECTED")
    return event.kind, event.status, len(event.conn[1])


@row("connect: what is asked for arrives", (True, 56, b"hello", [0, 7, 4, 0, 5, 6, 0]))
def _():
    pair = Pair()
    pair.asking(data=b"hello")
    number, data, rest = pair.server.expect("CONNECT_REQUEST").conn
    return number == QP_NUM[0], len(data), data.rstrip(b"\0"), rest


@row("accept: what is answered arrives", (True, 196, b"welcome", [0, 7, 4, 0, 0, 6, 0]))
def _():
    pair = Pair()
    pair.answered()
    number, data, rest = pair.client.expect("CONNECT_RESPONSE").conn
    return number == pair.answering_qp, len(data), data.rstrip(b"\0"), rest


@row("accept: what was not asked for", errno.EINVAL)
def _():
    channel, number = with_id()
    bound(channel, number)
    return channel.accept(number)


@row("accept: twice", errno.EINVAL)
def _():
    pair = Pair()
    _, server = pair.answered()
    return pair.server.accept(server)


@row("accept: more private data than there is room for", (errno.EINVAL, "REJECTED", 28))
def _():
    pair = Pair()
    _, server = pair.asked()
    error = pair.server.accept(server, data=bytes(197))
    event = pair.client.expect("REJECTED")
    return error, event.kind, event.status


@row("accept: who has asked is gone", errno.EINVAL)
def _():
    pair = Pair()
    client, server = pair.asked()
    pair.client.destroy(client)
    time.sleep(0.1)
    return pair.server.accept(server)


@row("reject: with data", ("REJECTED", 28, b"no"))
def _():
    pair = Pair()
    _, server = pair.asked()
    assert pair.server.reject(server, b"no") == 0
    event = pair.client.expect("REJECTED")
    return event.kind, event.status, event.conn[1].rstrip(b"\0")


@row("reject: a reason that is not a program's", errno.EINVAL)
def _():
    pair = Pair()
    _, server = pair.asked()
    return pair.server.reject(server, reason=5)


@row("reject: more data than there is room for", errno.EINVAL)
def _():
    pair = Pair()
    _, server = pair.asked()
    return pair.server.reject(server, bytes(149))


@row("reject: what was not asked for", errno.EINVAL)
def _():
    channel, number = with_id()
    bound(channel, number)
    return channel.reject(number)


@row("disconnect: what has no connection", errno.EINVAL)
def _():
    channel, number = with_id()
    bound(channel, number)
    return channel.disconnect(number)


@row("disconnect: too early", 0)
def _():
    pair = Pair()
    client, _ = pair.asked()
    return pair.client.disconnect(client)


@row("disconnect: both are told, and then it is over", [("DISCONNECTED", 0), ("TIMEWAIT_EXIT", 0)] * 2)
def _():
    pair = Pair()
    client, server = pair.connected()
    assert pair.client.disconnect(client) == 0
    told = [pair.server.expect("DISCONNECTED")]
    assert pair.server.disconnect(server) == 0
    told.append(pair.server.expect("TIMEWAIT_EXIT"))
    told += [pair.client.expect("DISCONNECTED"), pair.client.expect("TIMEWAIT_EXIT")]
    return [(event.kind, event.status) for event in told]


def gone(state, whose, expected):
    """An id, or its channel, goes: what the other end is told."""
    def add(close):
        def run():
            pair = Pair()
            client, server = getattr(pair, state)()
            if state == "answered":
                # Until the answer has come the end has another reason, a time-out's.
                pair.client.expect("CONNECT_RESPONSE")
            leaving, number, left = {"client": (pair.client, client, pair.server),
                                     "server": (pair.server, server, pair.client)}[whose]
            leaving.close() if close else leaving.destroy(number)
            event = left.expect(expected[0])
            return event.kind, event.status
        how = "its channel is closed" if close else "it is destroyed"
        ROWS.append((f"{state}, the {whose}'s id: {how}", run, expected))
    add(False)
    add(True)


gone("asked", "server", ("REJECTED", 28))
gone("answered", "client", ("REJECTED", 28))
gone("answered", "server", ("REJECTED", 28))
gone("connected", "client", ("DISCONNECTED", 0))
gone("connected", "server", ("DISCONNECTED", 0))


@row("a listener goes with what it was asked", ("REJECTED", 28))
def _():
    pair = Pair()
    pair.asking()
    assert select.select([pair.server.fd], [], [], 10)[0]
    assert pair.server.destroy(pair.listener) == 0
    event = pair.client.expect("REJECTED")
    assert pair.server.quiet()
    return event.kind, event.status


@row("notify: that a connection is made", (0, "ESTABLISHED", errno.EISCONN))
def _():
    pair = Pair()
    _, server = pair.answered()
    error = pair.server.notify(server, 4)
    return error, pair.server.expect("ESTABLISHED").kind, pair.server.notify(server, 4)


@row("notify: something else", errno.EINVAL)
def _():
    pair = Pair()
    _, server = pair.answered()
    return pair.server.notify(server, 3)


@row("destroy: how many events there were", (-2, -3, -1))
def _():
    pair = Pair()
    client, server = pair.asked()
    third = pair.routed()
    return pair.client.destroy(third), pair.client.destroy(client) - 1, pair.server.destroy(pair.listener)


# Attributes of queue pairs.

@row("attributes: without a device", errno.EINVAL)
def _():
    channel, number = with_id()
    return channel.qp_attr(number, 1)[0]


@row("attributes: a state that there is not", errno.EINVAL)
def _():
    channel, number = with_id()
    bound(channel, number)
    return channel.qp_attr(number, 7)[0]


@row("attributes: before a connection", (0, 0x39))
def _():
    channel, number = with_id()
    bound(channel, number)
    error, attr = channel.qp_attr(number, 1)
    return error, struct.unpack_from("=I", attr)[0]


@row("attributes: of datagrams", (0, 0x71, 0x1234567))
def _():
    channel, number = with_id(UDP)
    bound(channel, number)
    error, attr = channel.qp_attr(number, 1)
    return error, struct.unpack_from("=I", attr)[0], struct.unpack_from("=I", attr, 20)[0]


@row("attributes: too early for RTR", errno.EINVAL)
def _():
    pair = Pair()
    client, _ = pair.asked()
    return pair.client.qp_attr(client, 2)[0]


@row("attributes: of a connection", [[0x39, 0x129181, 7, 4, 1, 5, 6, 17], [0x39, 0x129181, 4, 7, 1, 5, 6, 17]])
def _():
    pair = Pair()
    ends = pair.connected()
    said = []
    for channel, number, peer, other in [(pair.client, ends[0], pair.server, ends[1]),
                                         (pair.server, ends[1], pair.client, ends[0])]:
        init, rtr, rts = [channel.qp_attr(number, state)[1] for state in (1, 2, 3)]
        peer_rtr = peer.qp_attr(other, 2)[1]
        assert struct.unpack_from("=I", rts, 28) == struct.unpack_from("=I", peer_rtr, 24), "PSNs differ"
        masks = [struct.unpack_from("=I", attr)[0] for attr in (init, rtr)]
        # The number of the peer's queue pair, and its address.
        numbers = {pair.client: pair.answering_qp, pair.server: pair.asking_qp}
        assert struct.unpack_from("=I", rtr, 32)[0] == numbers[channel]
        assert rtr[40 + 12:40 + 16] == socket.inet_aton(HOST)
        # What it answers and starts, that there is a GRH, retries, and the timeout.
        said.append(masks + [rtr[131], rts[130], rtr[40 + 29], rts[135], rts[136], rts[134]])
    return said


# Datagrams and groups.

@row("datagrams: nobody listens", ("UNREACHABLE", 1))
def _():
    channel, number = with_id(UDP)
    routed(channel, number, port())
    assert channel.connect(number) == 0
    event = channel.expect("UNREACHABLE")
    return event.kind, event.status


@row("datagrams: a queue pair is found", (180, b"hello", 0x456, 0x1234567, 136, b"welcome"))
def _():
    pair = Pair(UDP)
    pair.asking(data=b"hello")
    request = pair.server.expect("CONNECT_REQUEST")
    assert pair.server.accept(request.id, qp_num=0x456, data=b"welcome") == 0
    number, qkey, _, data = pair.client.expect("ESTABLISHED").ud
    asked = request.ud[3]
    return len(asked), asked.rstrip(b"\0"), number, qkey, len(data), data.rstrip(b"\0")


@row("datagrams: refused", ("UNREACHABLE", 2, b"no"))
def _():
    pair = Pair(UDP)
    _, server = pair.asked()
    assert pair.server.reject(server, b"no") == 0
    event = pair.client.expect("UNREACHABLE")
    return event.kind, event.status, event.ud[3].rstrip(b"\0")


@row("datagrams: more private data than there is room for", errno.EINVAL)
def _():
    pair = Pair(UDP)
    return pair.client.connect(pair.routed(), data=bytes(181))


GROUP = address("239.1.2.3")


@row("groups: joined and left", (0, "MULTICAST_JOIN", 0xFFFFFF, 0x1234567, b"\xef\x01\x02\x03", -1, errno.ENOENT))
def _():
    channel, number = with_id(UDP)
    bound(channel, number)
    error, group = channel.join(number, GROUP)
    event = channel.expect("MULTICAST_JOIN")
    qpn, qkey, ah, _ = event.ud
    assert event.uid == 79 and event.id == group
    return error, event.kind, qpn, qkey, ah[12:16], channel.leave(group), channel.leave(group)


row("groups: without a device", errno.EINVAL)(lambda: (lambda c, n: c.join(n, GROUP)[0])(*with_id(UDP)))


@row("groups: for connections", errno.EINVAL)
def _():
    channel, number = with_id()
    bound(channel, number)
    return channel.join(number, GROUP)[0]


@row("groups: a flag that there is not", errno.EINVAL)
def _():
    channel, number = with_id(UDP)
    bound(channel, number)
    return channel.join(number, GROUP, 5)[0]


# Channels.

@row("migrate: events go along", (0, 0, True, "ROUTE_RESOLVED"))
def _():
    channel, number = with_id()
    assert channel.resolve(number, address(HOST, 1)) == 0
    channel.expect("ADDR_RESOLVED")
    assert channel.route(number) == 0
    assert select.select([channel.fd], [], [], 10)[0]
    other = Channel()
    moved = other.migrate(number, channel.fd)
    return moved + 1, channel.destroy(number) - errno.EINVAL, channel.quiet(), other.expect("ROUTE_RESOLVED").kind


row("migrate: from no descriptor", errno.ENOENT)(lambda: Channel().migrate(0, 12345))
row("migrate: from another file", errno.EINVAL)(
    lambda: Channel().migrate(0, os.open("/dev/null", os.O_RDONLY)))


@row("events of an id go with it", True)
def _():
    channel, number = with_id()
    assert channel.resolve(number, address(HOST, 1)) == 0
    assert select.select([channel.fd], [], [], 10)[0]
    assert channel.destroy(number) == 0
    return channel.quiet()


@row("a duplicate of a descriptor is the channel too", "ADDR_RESOLVED")
def _():
    channel, number = with_id()
    other = Channel.__new__(Channel)
    other.fd = os.dup(channel.fd)
    channel.close()
    assert other.resolve(number, address(HOST, 1)) == 0
    return other.expect("ADDR_RESOLVED").kind


@row("a child's copy keeps a channel open", (True, "DISCONNECTED"))
def _():
    pair = Pair()
    pair.connected()
    wait, done = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    pair.client.close()
    quiet = pair.server.quiet()
    os.close(done)
    os.waitpid(child, 0)
    return quiet, pair.server.expect("DISCONNECTED").kind


@row("get_event waits for another thread", "ADDR_RESOLVED")
def _():
    channel, number = with_id()
    told = []
    thread = threading.Thread(target=lambda: told.append(channel.event().kind))
    thread.start()
    time.sleep(0.05)
    assert not told and channel.resolve(number, address(HOST, 1)) == 0
    thread.join(10)
    return told[0]


@row("many threads take each event once", 100)
def _():
    channel = Channel()
    numbers = [channel.create() for _ in range(100)]
    taken = []

    def take():
        for _ in range(25):
            taken.append(channel.event().id)
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in numbers:
        assert channel.resolve(number, address(HOST, 1)) == 0
    for thread in threads:
        thread.join(30)
    assert sorted(taken) == sorted(numbers) and channel.quiet()
    return len(taken)


@row("epoll tells of each event once", [1] * 3)
def _():
    channel = Channel()
    poll = select.epoll()
    poll.register(channel.fd, select.EPOLLIN | select.EPOLLET)
    seen = []
    for _ in range(3):
        assert channel.resolve(channel.create(), address(HOST, 1)) == 0
        seen.append(len(poll.poll(5)))
    return seen


@row("hundreds of events wait", 300)
def _():
    channel = Channel()
    for _ in range(300):
        assert channel.resolve(channel.create(), address(HOST, 1)) == 0
    count = 0
    while select.select([channel.fd], [], [], 0.3)[0]:
        assert channel.event().kind == "ADDR_RESOLVED"
        count += 1
    return count


def main():
    failed = 0
    for name, function, expected in ROWS:
        try:
            found = function()
        except (AssertionError, OSError) as error:
            found = f"{type(error).__name__}: {error}"
        if found != expected:
            failed += 1
            print(f"{name}: {found!r}, not {expected!r}", flush=True)
    print(f"{len(ROWS)} rows, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
