#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""RDS over RDMA between two hosts: messages of many lengths come back as they were.

    rds.py serve ADDRESS
    rds.py use SERVER ADDRESS

Python's own sockets know the family, but not its addresses, which are sockaddr_in (Documentation/networking/rds.rst).
"""

import ctypes
import hashlib
import os
import socket
import struct
import sys
import time

AF_RDS = 21
SOL_RDS = 276
SO_RDS_TRANSPORT = 8
RDS_TRANS_IB = 0
PORT = 4000
# The longest is half of a socket's buffer (rds_sk_sndbuf() in net/rds/rds.h).
LENGTHS = [0, 1, 8, 100, 4096, 4097, 65536, 100_000]
ROUNDS = 20
# What is sent to a port that nobody has bound yet is dropped (rds_recv_incoming() in net/rds/recv.c), so this is sent
# until it comes back.
FIRST = b"first"
LAST = b"last"

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def sockaddr(address, port):
    return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(address))


class Rds:
    def __init__(self, address, port):
        self.fd = checked(libc.socket(AF_RDS, socket.SOCK_SEQPACKET, 0))
        transport = ctypes.c_int(RDS_TRANS_IB)
        checked(libc.setsockopt(self.fd, SOL_RDS, SO_RDS_TRANSPORT, ctypes.byref(transport), 4))
        checked(libc.bind(self.fd, sockaddr(address, port), 16))

    def send(self, message, address, port):
        checked(libc.sendto(self.fd, message, len(message), 0, sockaddr(address, port), 16))

    def receive(self):
        """A message, and who it is from."""
        message = ctypes.create_string_buffer(1 << 20)
        source = ctypes.create_string_buffer(16)
        size = ctypes.c_uint32(16)
        count = checked(libc.recvfrom(self.fd, message, len(message), 0, source, ctypes.byref(size)))
        _, port, address = struct.unpack_from("=HH4s", source)
        return message.raw[:count], socket.inet_ntoa(address), socket.ntohs(port)


def serve(address):
    rds = Rds(address, PORT)
    while True:
        message, source, port = rds.receive()
        rds.send(message, source, port)
        if message == LAST:
            # What is under way to the client is to arrive before this host ends; its close waits for that.
            time.sleep(1)
            return


def begin(rds, server):
    """Waits until the server has its port."""
    checked(libc.setsockopt(rds.fd, socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 1, 0), 16))
    for _ in range(60):
        rds.send(FIRST, server, PORT)
        try:
            rds.receive()
        except TimeoutError:
            continue
        checked(libc.setsockopt(rds.fd, socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16), 16))
        return
    sys.exit("rds: the server has not answered in a minute")


def answer(rds):
    """What comes back, but for the first message, which may have been sent more than once."""
    while (received := rds.receive())[0] == FIRST:
        pass
    return received


def use(server, address):
    rds = Rds(address, PORT + 1)
    begin(rds, server)
    messages = [hashlib.shake_128(bytes([n, r])).digest(LENGTHS[n]) for n in range(len(LENGTHS)) for r in range(ROUNDS)]
    started = time.monotonic()
    for place, message in enumerate(messages):
        rds.send(message, server, PORT)
        back, source, port = answer(rds)
        assert (source, port) == (server, PORT), (source, port)
        assert back == message, f"message {place}, of {len(message)} bytes, came back as {len(back)}"
    took = time.monotonic() - started
    rds.send(LAST, server, PORT)
    assert answer(rds)[0] == LAST
    print(f"rds: {len(messages)} messages of up to {max(LENGTHS)} bytes came back, {len(messages) / took:.0f} a second")


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    use(sys.argv[2], sys.argv[3])
