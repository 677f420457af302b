# SPDX-License-Identifier: MIT OR Apache-2.0
"""Packets that nobody should send are dropped and counted, and touch nothing.

    wire_hostile.py VICTIM TO PEER FROM NAMESPACE

VICTIM is a device at the address TO; PEER is one at FROM, in another network namespace, where the packets
come from.
"""

import ctypes
import os
import random
import socket
import struct
import sys
import zlib

import pyverbs.enums as e

from rig import *

ROCE = 4791
SEND_ONLY, WRITE_ONLY, WRITE_FIRST, READ_REQUEST, ACKNOWLEDGE = 0x04, 0x0A, 0x06, 0x0C, 0x11
UC_SEND_ONLY, UD_SEND_ONLY, RESERVED, RESERVED_SERVICE = 0x24, 0x64, 0x1F, 0xA4
PKEY = 0xFFFF


def ip_header(source, destination, length, ident):
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack(">BBHHHBBH", 0x45, 0, length, ident, 0x4000, 64, socket.IPPROTO_UDP, 0) + addresses


def bth(opcode, qpn, psn, pkey=PKEY, pad=0, ack_req=0):
    return struct.pack(">BBHII", opcode, pad << 4, pkey, qpn, ack_req << 31 | psn)


def icrc(ip, udp, transport):
    """IBTA 7.8.1, annex A17.3.3: what routers change counts as ones."""
    ip = ip[:1] + b"\xff" + ip[2:8] + b"\xff" + ip[9:10] + b"\xff\xff" + ip[12:]
    masked = b"\xff" * 8 + ip + udp[:6] + b"\xff\xff" + transport[:4] + b"\xff" + transport[5:]
    return struct.pack("<I", zlib.crc32(masked))


def in_namespace(name, make):
    """What `make` makes in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path):
        with open(path) as file:
            if libc.setns(file.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), "setns", path)

    with open("/proc/self/ns/net") as home:
        enter(f"/run/netns/{name}")
        try:
            return make()
        finally:
            enter(f"/proc/self/fd/{home.fileno()}")


class Attacker:
    def __init__(self, namespace, source, destination):
        def make():
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

        self.socket = in_namespace(namespace, make)
        self.source, self.destination, self.ident = source, destination, 0

    def send(self, transport, source=None, wrong_icrc=False):
        self.ident = (self.ident + 1) % 65536
        length = 20 + 8 + len(transport) + 4
        ip = ip_header(source or self.source, self.destination, length, self.ident)
        udp = struct.pack(">HHHH", 0xC123, ROCE, length - 20, 0)
        check = icrc(ip, udp, transport)
        if wrong_icrc:
            check = bytes([check[0] ^ 1]) + check[1:]
        self.socket.sendto(ip + udp + transport + check, (self.destination, 0))

    def send_raw(self, payload):
        """A datagram that is no packet at all."""
        self.ident = (self.ident + 1) % 65536
        length = 20 + 8 + len(payload)
        ip = ip_header(self.source, self.destination, length, self.ident)
        udp = struct.pack(">HHHH", 0xC123, ROCE, length - 20, 0)
        self.socket.sendto(ip + udp + payload, (self.destination, 0))


def counters(device):
    where = f"/sys/class/infiniband/{device}/ports/1/hw_counters"
    return {name: int(open(f"{where}/{name}").read()) for name in os.listdir(where) if name != "lifespan"}


def main():
    name, destination, peer_name, source, namespace = sys.argv[1:]
    rng = random.Random(1)
    victim, peer = Device(name), Device(peer_name)
    memory = Memory(64 * 1024)
    memory.put(0, rng.randbytes(memory.length))
    region = memory.region(victim.pd, LOCAL_WRITE | REMOTE)
    mine = Memory(PAGE)
    own = mine.region(peer.pd, LOCAL_WRITE | REMOTE)

    def pair(qp_type):
        ends = Qp(victim, qp_type), Qp(peer, qp_type)
        connect(*ends)
        ends[0].post_recv([(7, [(memory.address, 4096, region.lkey)])])
        return ends

    rc, uc, ud = (pair(t) for t in (RC, UC, UD))
    attacker = Attacker(namespace, source, destination)
    psn = 0x123456
    reth = struct.pack(">QII", memory.address, region.rkey, 16)
    deth = struct.pack(">II", QKEY ^ 1, 5)
    data = b"x" * 16
    number = rc[0].number
    packets = [
        # What, the counter that tells of it, the packet.
        ("a wrong ICRC", "rx_icrc_encapsulated", bth(WRITE_ONLY, number, psn) + reth + data, {"wrong_icrc": True}),
        ("nothing behind an opcode", "rcvd_malformed", bth(WRITE_ONLY, number, psn), {}),
        ("half a RETH", "rcvd_malformed", bth(WRITE_ONLY, number, psn) + reth[:8], {}),
        ("more padding than payload", "rcvd_malformed", bth(SEND_ONLY, number, psn, pad=3), {}),
        ("payload of an odd length", "rcvd_malformed", bth(SEND_ONLY, number, psn) + b"xyz", {}),
        ("payload where there is none", "rcvd_malformed", bth(READ_REQUEST, number, psn) + reth + data, {}),
        ("a reserved opcode", "rcvd_malformed", bth(RESERVED, number, psn) + reth + data, {}),
        ("a reserved service", "rcvd_malformed", bth(RESERVED_SERVICE, number, psn) + data, {}),
        ("another partition", "rcvd_wrong_pkey", bth(WRITE_ONLY, number, psn, pkey=0x8001) + reth + data, {}),
        ("no such queue pair", "rcvd_unknown_qp", bth(WRITE_ONLY, 0xABCDEF, psn) + reth + data, {}),
        ("another transport", "rcvd_unknown_qp", bth(UC_SEND_ONLY, number, psn) + data, {}),
        ("a datagram to a connection", "rcvd_unknown_qp", bth(UD_SEND_ONLY, number, psn) + deth + data, {}),
        ("a connection's to a UD QP", "rcvd_unknown_qp", bth(SEND_ONLY, ud[0].number, psn) + data, {}),
        ("another Q_Key", "rcvd_wrong_qkey", bth(UD_SEND_ONLY, ud[0].number, psn) + deth + data, {}),
        ("another host", "rcvd_wrong_source", bth(WRITE_ONLY, number, psn) + reth + data, {"source": "10.0.0.77"}),
        ("another host, to UC", "rcvd_wrong_source", bth(UC_SEND_ONLY, uc[0].number, psn) + data, {"source": "10.0.0.77"}),
        ("a PSN far ahead", "out_of_seq_request", bth(WRITE_ONLY, number, psn + 1000) + reth + data, {}),
        ("an answer to nothing", "rcvd_ghost_ack", bth(ACKNOWLEDGE, number, psn) + b"\0\0\0\0", {}),
    ]
    for what, counter, packet, how in packets:
        before = counters(victim.name)[counter]
        attacker.send(packet, **how)
        until(f"{what} to be counted", lambda: counters(victim.name)[counter] == before + 1)
        assert not memory.difference(), f"{what}: {memory.difference()}"
    port, counted = victim.context.query_port(1), counters(victim.name)
    assert port.bad_pkey_cntr == counted["rcvd_wrong_pkey"] == 1, str(port)
    assert port.qkey_viol_cntr == counted["rcvd_wrong_qkey"] == 1, str(port)
    # Too short for an ICRC.
    for length in range(16):
        before = counters(victim.name)["rcvd_malformed"]
        attacker.send_raw(bytes(length))
        until("a stub to be counted", lambda: counters(victim.name)["rcvd_malformed"] == before + 1)

    # A flood of garbage, and of almost good packets.
    # But for the one whose Q_Key a single bit makes right.
    good = [packet for what, _, packet, how in packets if not how and what != "another Q_Key"]
    for _ in range(3000):
        attacker.send_raw(rng.randbytes(rng.randint(0, 1400)))
        packet = bytearray(rng.choice(good))
        packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
        attacker.send(bytes(packet), wrong_icrc=rng.random() < 0.5, source="10.0.0.77")
    assert not memory.difference(), memory.difference()

    # After all that the connections are what they were.
    mine.put(0, rng.randbytes(PAGE))
    for ends in (rc, uc):
        assert [end.state() for end in ends] == [RTS, RTS]
        wr = send_wr(e.IBV_WR_RDMA_WRITE_WITH_IMM, [(mine.address, PAGE, own.lkey)])
        wr.set_wr_rdma(region.rkey, memory.address + PAGE)
        ends[1].qp.post_send(wr)
        (sent,), (received,) = ends[1].sent(), ends[0].received()
        assert (sent.status, received.status) == (e.IBV_WC_SUCCESS, e.IBV_WC_SUCCESS), f"{sent} {received}"
        memory.expect(PAGE, bytes(mine.view))
        assert not memory.difference(), memory.difference()
    none(ud[0].recv_cq)

    # Lengths that lie, in packets that the peer itself could have sent: the connection ends, and not a
    # byte is touched.
    lies = [
        ("a RETH for more than there is", bth(WRITE_ONLY, 0, psn) + struct.pack(">QII", memory.address, region.rkey, 4096) + data),
        ("a RETH for less than there is", bth(WRITE_ONLY, 0, psn) + struct.pack(">QII", memory.address, region.rkey, 4) + data),
        ("a RETH beyond the region", bth(WRITE_ONLY, 0, psn) + struct.pack(">QII", memory.address + memory.length - 8, region.rkey, 16) + data),
        ("a key that is none", bth(WRITE_ONLY, 0, psn) + struct.pack(">QII", memory.address, region.rkey ^ 0x100, 16) + data),
        ("a first packet that is not full", bth(WRITE_FIRST, 0, psn) + struct.pack(">QII", memory.address, region.rkey, 4096) + data),
        ("more than the path MTU", bth(WRITE_ONLY, 0, psn) + struct.pack(">QII", memory.address, region.rkey, 1028) + bytes(1028)),
    ]
    for what, packet in lies:
        ends = pair(RC)
        packet = packet[:4] + struct.pack(">I", ends[0].number) + packet[8:]
        attacker.send(packet)
        until(f"{what} to end the connection", lambda: ends[0].state() == ERR)
        assert not memory.difference(), f"{what}: {memory.difference()}"
        for end in ends:
            end.close()
    print(f"{len(packets)} kinds of packets dropped, {len(lies)} lies")


main()
