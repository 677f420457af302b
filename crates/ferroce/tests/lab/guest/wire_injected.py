# SPDX-License-Identifier: MIT OR Apache-2.0
"""Valid packets from programs without privileges reach no connection and no queue pair of others.

    wire_injected.py VICTIM NAMESPACE PEER NAMESPACE STRANGER_V4 STRANGER_V6 COUNT

VICTIM and PEER are devices of two hosts, network namespaces of theirs. Of COUNT packets the first half comes
from the victim's own host, by ordinary UDP sockets of a user that is nobody, the other half from the peer's
host: from two addresses of that which are not the peer's, and from the victim's own, which IPv6 allows. Each has what it takes: the right queue pair numbers,
PSNs, keys and ICRC. Only the Q_Keys of the second half are wrong, since whoever knows the Q_Key of a queue pair
may send to it from any other host.
"""

import ctypes
import errno
import ipaddress
import os
import socket
import struct
import sys
import traceback
import zlib

import pyverbs.enums as e

from rig import *

ROCE, NOBODY = 4791, 65534
RC_SEND, RC_WRITE, RC_READ, RC_ACKNOWLEDGE = 0x04, 0x0A, 0x0C, 0x11
UC_SEND, UC_WRITE, UD_SEND = 0x24, 0x2A, 0x64
GSI_QPN, GSI_QKEY = 1, 0x80010000
PSN, PKEY = 0x123456, 0xFFFF
# AETH: an acknowledgement, and a NAK of a remote operational error (IBTA 9.7.5.2.4), which ends a connection.
ACK, NAK = 0x1F000000, 0x64000000
DATA = b"x" * 16
RECEIVES = 8
# Of <netinet/in.h>, <netinet/udp.h>.
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IPV6_FREEBIND, UDP_SEGMENT = 10, 2, 78, 103
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Mmsghdr(ctypes.Structure):
    _fields_ = [("header", Msghdr), ("len", ctypes.c_uint)]


def with_icrc(source, destination, port, transport):
    """IBTA 7.8.1, annex A17.3.3: what routers change counts as ones. IPv4 headers of UDP sockets that are not
    connected have an identification of zero, and forbid fragments."""
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    length = 8 + len(transport) + 4
    if source.version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0xFF, 20 + length, 0, 0x4000, 0xFF, 17, 0xFFFF)
    else:
        ip = struct.pack(">IHBB", 0x6FFFFFFF, length, 17, 0xFF)
    udp = struct.pack(">HHHH", port, ROCE, length, 0xFFFF)
    masked = b"\xff" * 8 + ip + source.packed + destination.packed + udp
    masked += transport[:4] + b"\xff" + transport[5:]
    return transport + struct.pack("<I", zlib.crc32(masked))


class Attacker:
    """A socket at an address of the host, or at one that IPv6 lets anybody send from, and what it sends."""

    def __init__(self, source, destination, transports):
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        self.socket.bind((source, 0))
        port = self.socket.getsockname()[1]
        packets = [with_icrc(source, destination, port, transport) for transport in transports]
        if family == socket.AF_INET:
            name = struct.pack("=H", family) + struct.pack(">H", ROCE) + socket.inet_aton(destination) + bytes(8)
        else:
            name = struct.pack("=H", family) + struct.pack(">HI", ROCE, 0)
            name += socket.inet_pton(family, destination) + bytes(4)
        self.kept = [ctypes.create_string_buffer(data, len(data)) for data in packets]
        self.name = ctypes.create_string_buffer(name, len(name))
        self.iovs = (Iovec * len(packets))(*(Iovec(ctypes.addressof(b), len(b)) for b in self.kept))
        self.messages = (Mmsghdr * len(packets))()
        for message, iov in zip(self.messages, self.iovs):
            header = message.header
            header.name, header.namelen = ctypes.addressof(self.name), len(name)
            header.iov, header.iovlen = ctypes.pointer(iov), 1

    def send(self, count):
        """Sends some of the packets. Returns how many."""
        count = min(count, len(self.messages))
        sent = libc.sendmmsg(self.socket.fileno(), self.messages, count, 0)
        if sent < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        return sent


def segments(source, destination, transport, count):
    """Several packets in one (UDP segmentation offload), of IPv6, which has them all with the same header."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.bind((source, 0))
        packet = with_icrc(source, destination, out.getsockname()[1], transport)
        out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(packet))
        out.sendto(packet * count, (destination, ROCE))
    return count


def as_nobody(namespace, work):
    """What `work` returns, a number, in a process that is nobody's, in a network namespace."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(f"/run/netns/{namespace}") as file:
                assert libc.setns(file.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, str(work()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as result:
        text = result.read()
    assert os.waitpid(child, 0)[1] == 0, "the attacker failed"
    return int(text)


def flood(attackers, count):
    """`attackers` are functions that make one each. Sends so many packets of all of them, in turn."""
    attackers = [make() for make in attackers]
    sent = 0
    while sent < count:
        for attacker in attackers:
            sent += attacker.send(count - sent)
    return sent


def counters(device):
    base = f"/sys/class/infiniband/{device}"
    found = {}
    for where in f"{base}/ports/1/hw_counters", f"{base}/hw_counters":
        for name in os.listdir(where):
            if name != "lifespan":
                found[name] = int(open(f"{where}/{name}").read())
    return found


class Pair:
    """Two connected queue pairs, of which the first is attacked."""

    def __init__(self, victim, peer, qp_type, memory, region):
        self.victim, self.peer, self.type = victim, peer, qp_type
        self.one, self.other = Qp(victim, qp_type), Qp(peer, qp_type)
        connect(self.one, self.other, psn=PSN)
        self.one.post_recv([(n, [(memory.address, 64, region.lkey)]) for n in range(RECEIVES)])
        self.source = str(ipaddress.ip_address(peer.gid).ipv4_mapped or ipaddress.ip_address(peer.gid))

    def packets(self, reth):
        bth = lambda opcode, psn=PSN: struct.pack(">BBHII", opcode, 0, PKEY, self.one.number, 1 << 31 | psn)
        if self.type == UC:
            return [bth(UC_SEND) + DATA, bth(UC_WRITE) + reth + DATA]
        answers = [struct.pack(">II", syndrome, 0)[:4] for syndrome in (ACK | PSN, NAK | PSN)]
        return [
            bth(RC_SEND) + DATA,
            bth(RC_WRITE) + reth + DATA,
            bth(RC_READ) + reth,
            bth(RC_SEND, PSN - 1) + DATA,
            bth(RC_SEND, PSN + 1) + DATA,
            *(bth(RC_ACKNOWLEDGE) + answer for answer in answers),
        ]

    def check(self):
        """That nothing has become of an attack."""
        for end in self.one, self.other:
            assert end.state() == RTS, f"{TRANSPORTS[self.type]} from {self.source}: {end.state()}"
            none(end.send_cq)
            none(end.recv_cq)

    def works(self, memory, source, lkey):
        """That it is what it was."""
        self.other.qp.post_send(send_wr(e.IBV_WR_SEND, [(source.address, len(DATA), lkey)]))
        (sent,), (received,) = self.other.sent(), self.one.received()
        assert (sent.status, received.status) == (e.IBV_WC_SUCCESS, e.IBV_WC_SUCCESS), f"{sent} {received}"
        memory.expect(0, bytes(source.view[: len(DATA)]))
        assert not memory.difference(), memory.difference()


def datagrams(qps, qkeys):
    """To queue pairs, each with a Q_Key."""
    numbers = zip(qps, qkeys)
    return [struct.pack(">BBHIIII", UD_SEND, 0, PKEY, qpn, PSN, qkey, 5) + DATA for qpn, qkey in numbers]


def main():
    victim_name, here, peer_name, there, stranger_v4, stranger_v6, count = sys.argv[1:]
    count = int(count) // 2
    victims, peers = ([Device(name, gid_index) for gid_index in (1, 2)] for name in (victim_name, peer_name))
    ips = [ipaddress.ip_address(device.gid) for device in victims]
    v4, v6 = str(ips[0].ipv4_mapped), str(ips[1])
    memory = Memory(PAGE)
    memory.put(0, os.urandom(PAGE))
    pairs, uds, qps, regions = [], [], [], []
    for victim, peer in zip(victims, peers):
        region = memory.region(victim.pd, LOCAL_WRITE | REMOTE)
        regions.append(region)
        reth = struct.pack(">QII", memory.address + 256, region.rkey, len(DATA))
        # The second peer is on the same host.
        for other in peer, victim:
            for qp_type in RC, UC:
                pair = Pair(victim, other, qp_type, memory, region)
                pairs.append((pair, reth))
        ud = Qp(victim, UD)
        connect(ud, ud)
        ud.post_recv([(n, [(memory.address, 128, region.lkey)]) for n in range(RECEIVES)])
        uds.append(ud)
    source = Memory(PAGE)
    source.put(0, os.urandom(PAGE))
    numbers = [ud.number for ud in uds] + [GSI_QPN]
    connected = [packet for pair, reth in pairs for packet in pair.packets(reth)]
    right = connected + datagrams(numbers, [QKEY] * len(uds) + [GSI_QKEY])
    wrong = connected + datagrams(numbers, [QKEY ^ 1] * len(uds) + [GSI_QKEY ^ 1])

    def check(before, changed):
        """That nothing has changed but these counters. They are read every 10 ms at most."""
        def changes():
            after = counters(victim_name)
            # Times are no counts.
            counts = {name: n for name, n in before.items() if not name.startswith("longest")}
            return {name: after[name] - n for name, n in counts.items() if after[name] != n}

        try:
            until("the counters", lambda: changes() == changed)
        except InVain as error:
            raise AssertionError(f"{changes()}, not {changed}") from error
        for pair, _ in pairs:
            pair.check()
        for ud in uds:
            assert ud.state() == RTS
            none(ud.recv_cq)
        assert not memory.difference(), memory.difference()
        assert not [event for device in victims for event in device.events()]

    # From the same host: with its own addresses, which are those of the peers here, and over IPv6 with that of
    # the peer elsewhere.
    sources = [(v4, v4), ("127.0.0.1", v4), (v6, v6), ("::1", v6), (pairs[4][0].source, v6)]
    attackers = [lambda source=s, to=d: Attacker(source, to, right) for s, d in sources]
    before = counters(victim_name)
    sent = as_nobody(here, lambda: flood(attackers, count))
    sent += as_nobody(here, lambda: segments(v6, v6, connected[0], 10))
    check(before, {"rcvd_pkts": sent, "rcvd_from_this_host": sent})
    print(f"{sent} packets of this host", flush=True)

    # From the peer's host.
    sources = [(stranger_v4, v4), (stranger_v6, v6), (v6, v6)]
    attackers = [lambda source=s, to=d: Attacker(source, to, wrong) for s, d in sources]
    before = counters(victim_name)
    sent = as_nobody(there, lambda: flood(attackers, count))
    after = counters(victim_name)
    reasons = "rcvd_wrong_source", "rcvd_wrong_qkey", "rcvd_from_this_host"
    refused = {name: after[name] - before[name] for name in reasons}
    check(before, {"rcvd_pkts": sent, **refused})
    assert sum(refused.values()) == sent and all(refused.values()), f"{refused}, not {sent}"
    print(f"{sent} packets of another host", flush=True)

    # With the right Q_Key one is taken: the packets are what they should be.
    for ud, source_ip, to in (uds[0], stranger_v4, v4), (uds[1], stranger_v6, v6):
        packet = datagrams([ud.number], [QKEY])
        assert as_nobody(there, lambda: Attacker(source_ip, to, packet).send(1)) == 1
        (received,) = ud.received()
        assert received.status == e.IBV_WC_SUCCESS and received.byte_len == GRH + len(DATA), str(received)
        memory.expect(0, bytes(memory.view[:128]))
    lkeys = {id(device): source.region(device.pd) for device in victims + peers}
    for pair, _ in pairs:
        pair.works(memory, source, lkeys[id(pair.peer)].lkey)
    print(f"{len(pairs)} connections and {len(numbers)} queue pairs for datagrams are what they were")


main()
