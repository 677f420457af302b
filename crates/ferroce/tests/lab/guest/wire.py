# SPDX-License-Identifier: MIT OR Apache-2.0
"""Work requests between two hosts, every byte of which is looked at.

    wire.py sizes DEVICE DEVICE GID_INDEX
    wire.py many DEVICE DEVICE GID_INDEX COUNT TIMEOUT READERS SHORTEST [SEED]

`sizes`: each opcode of each transport, both ways, of all path MTUs and of lengths from 0 to 8 MiB.
`many`: random requests over reliable connections, both ways at once and many under way, on a network
of which nothing is expected. TIMEOUT is the local ACK timeout, 4.096 µs · 2^TIMEOUT. READERS are the
devices that read, with commas between; their requests have SHORTEST bytes at least.

The devices may be in network namespaces of their own, and of different drivers.
"""

import random
import sys
import time

import pyverbs.enums as e

from rig import *

MTUS = {256: e.IBV_MTU_256, 512: e.IBV_MTU_512, 1024: e.IBV_MTU_1024, 2048: e.IBV_MTU_2048, 4096: e.IBV_MTU_4096}
SEND, SEND_IMM = e.IBV_WR_SEND, e.IBV_WR_SEND_WITH_IMM
WRITE_IMM, READ = e.IBV_WR_RDMA_WRITE_WITH_IMM, e.IBV_WR_RDMA_READ
RDMA_WRITE = e.IBV_WR_RDMA_WRITE
CMP_SWAP, FETCH_ADD = e.IBV_WR_ATOMIC_CMP_AND_SWP, e.IBV_WR_ATOMIC_FETCH_AND_ADD
ATOMICS = CMP_SWAP, FETCH_ADD
OPCODES = {
    RC: (SEND, SEND_IMM, RDMA_WRITE, WRITE_IMM, READ) + ATOMICS,
    UC: (SEND, SEND_IMM, RDMA_WRITE, WRITE_IMM),
    UD: (SEND, SEND_IMM),
}
# What every driver's provider has of the extended verbs; they are not used here.
SEND_OPS_OF_ALL = e.IBV_QP_EX_WITH_SEND

LONGEST = 8 << 20
GUARD = 64


class Side:
    """A device and its memory."""

    def __init__(self, device, length):
        self.device = device
        self.memory = Memory(length + 2 * GUARD + GRH)
        self.mr = self.memory.region(device.pd, LOCAL_WRITE | REMOTE)

    def sge(self, at, length):
        return [(self.memory.address + at, length, self.mr.lkey)] if length else []


class Lane:
    """One direction of a connection: requests, and what has to come of them."""

    def __init__(self, sender, receiver, sides, rng):
        self.sender, self.receiver, self.rng = sender, receiver, rng
        self.source, self.target = sides[sender.device], sides[receiver.device]
        self.posted, self.sent, self.received = [], [], []

    def request(self, opcode, at, length, wr_id):
        """Posts a request of bytes of the source at `at`."""
        sender, rng, to, mine = self.sender, self.rng, self.target.memory, self.source.memory
        address = to.address + at
        imm = rng.getrandbits(32)
        data = rng.randbytes(length)
        if opcode == READ:
            to.put(at, data)
        else:
            mine.put(at, data)
        wr = send_wr(opcode, self.source.sge(at, length), wr_id, imm=imm)
        received = None
        if opcode in (SEND, SEND_IMM, WRITE_IMM):
            grh = GRH if sender.type == UD else 0
            room = length + grh if opcode != WRITE_IMM else 0
            self.receiver.post_recv([(wr_id, self.target.sge(at - grh, room))])
            received = room if opcode != WRITE_IMM else length
        if opcode in (RDMA_WRITE, WRITE_IMM, READ):
            wr.set_wr_rdma(self.target.mr.rkey, address)
        before = bytes(to.view[at : at + 8])
        operands = rng.getrandbits(64), rng.getrandbits(64)
        if opcode == CMP_SWAP and rng.random() < 0.5:
            operands = int.from_bytes(before, sys.byteorder), operands[1]
        if opcode in ATOMICS:
            wr.set_wr_atomic(self.target.mr.rkey, address, *operands)
        if sender.type == UD:
            wr.set_wr_ud(sender.ah, self.receiver.number, QKEY)
        sender.qp.post_send(wr)

        def check():
            if opcode in ATOMICS:
                old, (first, swap) = int.from_bytes(before, sys.byteorder), operands
                new = old + first if opcode == FETCH_ADD else swap if old == first else old
                to.expect(at, (new % (1 << 64)).to_bytes(8, sys.byteorder))
                mine.expect(at, before)
            elif opcode == READ:
                mine.expect(at, data)
            else:
                to.expect(at, data)
            if sender.type == UD:
                # The GRH is none of what was sent.
                to.expect(at - GRH, bytes(to.view[at - GRH : at]))
            part = slice(at - GUARD, at + length + GUARD)
            if (sender.type, opcode) == (UC, RDMA_WRITE):
                # Nobody tells when it has arrived.
                until("a write to arrive", lambda: to.view[part] == to.expected[part])
            for memory in (to, mine):
                assert bytes(memory.view[part]) == memory.expected[part], memory.difference()

        self.posted.append((wr_id, received, imm if opcode in (SEND_IMM, WRITE_IMM) else None, check))

    def __str__(self):
        ends = " to ".join(f"{end.device.name} QP {end.number}" for end in (self.sender, self.receiver))
        return f"{ends}, {len(self.sent)} sent of {len(self.posted)}, {len(self.received)} received"

    def is_done(self):
        """Whether there are all completions."""
        taken = sum(received is not None for _, received, _, _ in self.posted)
        for end, found, count in (
            (self.sender.send_cq, self.sent, len(self.posted)),
            (self.receiver.recv_cq, self.received, taken),
        ):
            if len(found) < count:
                found.extend(end.poll(16)[1])
        return len(self.sent) >= len(self.posted) and len(self.received) >= taken

    def check(self):
        """Checks what has become of the requests."""
        posted, sent, received = self.posted, self.sent, self.received
        self.posted, self.sent, self.received = [], [], []
        for wc, (wr_id, *_) in zip(sent, posted, strict=True):
            assert wc.status == e.IBV_WC_SUCCESS and wc.wr_id == wr_id, str(wc)
        taken = [request for request in posted if request[1] is not None]
        for wc, (wr_id, length, imm, _) in zip(received, taken, strict=True):
            assert wc.status == e.IBV_WC_SUCCESS and wc.wr_id == wr_id, str(wc)
            assert wc.byte_len == length, f"{wc}, not {length} bytes"
            assert imm is None or wc.imm_data == imm, str(wc)
        for *_, check in posted:
            check()


def lengths(qp_type, mtu):
    around = (0, 1, 3, mtu - 1, mtu)
    if qp_type == UD:
        return around
    longer = (mtu + 1, 2 * mtu, 5 * mtu + 7, 65536, (1 << 20) + 3)
    # Nobody sends again what an unreliable connection loses.
    return around + longer + ((LONGEST,) if qp_type == RC and mtu == 4096 else ())


# How many messages an unreliable connection may lose, of more than 300: they are sent again, on others. When
# IP hands a packet to rdma_rxe it no longer counts as being on its way, and if the host stops a processor just
# then, another may bring the next packet first.
MAY_BE_LOST = 5


def sizes(one, other, rng):
    sides = {device: Side(device, LONGEST) for device in (one, other)}
    done, lost = 0, 0
    for mtu, number in MTUS.items():
        for qp_type, opcodes in OPCODES.items():

            def connected():
                ends = [Qp(device, qp_type, send_ops=SEND_OPS_OF_ALL) for device in (one, other)]
                # So that PSNs begin anew on the way.
                connect(*ends, mtu=number, psn=0xFFFFF0)
                return ends

            ends = connected()
            for sender, receiver in ((0, 1), (1, 0)):
                lane = Lane(ends[sender], ends[receiver], sides, rng)
                requests = [(o, n) for o in opcodes for n in ((8,) if o in ATOMICS else lengths(qp_type, mtu))]
                while requests:
                    opcode, length = requests[0]
                    lane.request(opcode, GUARD + (GRH if qp_type == UD else 0), length, done)
                    try:
                        until("a request to be done", lane.is_done)
                        lane.check()
                        requests.pop(0)
                        done += 1
                    except Exception as error:
                        names = lane.sender.device.name, lane.receiver.device.name
                        print(f"{TRANSPORTS[qp_type]} {opcode} of {length} bytes, MTU {mtu}, {names}: {lane}", flush=True)
                        if qp_type != UC or not isinstance(error, InVain) or lost == MAY_BE_LOST:
                            raise
                        lost += 1
                        for end in ends:
                            end.close()
                        ends = connected()
                        lane = Lane(ends[sender], ends[receiver], sides, rng)
            for end in ends:
                end.close()
    print(f"{done} requests, and {lost} lost")


CONNECTIONS, AT_ONCE, SLOT = 16, 8, 20_000
# How long a lane may take, in seconds: requests are lost again and again, on a busy machine.
LONG_PATIENCE = 6 * PATIENCE
# What a lane has of the memory of both sides.
SHARE = AT_ONCE * (SLOT + 2 * GUARD)


def post(lane, base, readers, shortest):
    """Posts some random requests. Returns how many."""
    rng, reads = lane.rng, lane.sender.device.name in readers
    count = rng.randint(1, AT_ONCE)
    for slot in range(count):
        opcode = rng.choice(OPCODES[RC])
        if opcode == READ and not reads:
            opcode = RDMA_WRITE
        length = rng.choice((shortest if reads else 0, 8, rng.randint(1, 300), rng.randint(1, SLOT)))
        if opcode in ATOMICS:
            length = 8
        lane.request(opcode, base + GUARD + slot * (SLOT + 2 * GUARD), length, slot)
    return count


def many(one, other, count, timeout, readers, shortest, rng):
    sides = {device: Side(device, 2 * CONNECTIONS * SHARE) for device in (one, other)}
    ends, lanes = [], []
    for _ in range(CONNECTIONS):
        pair = [Qp(device, RC, send_ops=SEND_OPS_OF_ALL) for device in (one, other)]
        connect(*pair, psn=rng.getrandbits(24), timeout=timeout)
        for sender, receiver in (pair, pair[::-1]):
            lanes.append(Lane(sender, receiver, sides, random.Random(rng.getrandbits(32))))
        ends += pair
    done = 0
    # When each lane's requests were posted.
    since = {}
    while done < count or since:
        for number, lane in enumerate(lanes):
            if number in since:
                if not lane.is_done():
                    assert time.monotonic() < since[number] + LONG_PATIENCE, f"{done} requests, then in vain: {lane}"
                    continue
                lane.check()
                del since[number]
            if done < count:
                since[number] = time.monotonic()
                done += post(lane, number * SHARE, readers, shortest)
    for side in sides.values():
        assert not side.memory.difference(), side.memory.difference()
    assert all(end.state() == RTS for end in ends)
    print(f"{done} requests")


def main():
    what, names, gid_index = sys.argv[1], sys.argv[2:4], int(sys.argv[4])
    seed = int(sys.argv[9]) if len(sys.argv) > 9 else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    devices = [Device(name, gid_index) for name in names]
    if what == "sizes":
        sizes(*devices, rng)
    else:
        count, timeout, shortest = int(sys.argv[5]), int(sys.argv[6]), int(sys.argv[8])
        many(*devices, count, timeout, sys.argv[7].split(","), shortest, rng)


main()
