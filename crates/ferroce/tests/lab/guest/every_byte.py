# SPDX-License-Identifier: MIT OR Apache-2.0
"""Random work requests of every opcode, and after each batch a look at every byte there is.

    every_byte.py DEVICE DEVICE BATCHES [SEED]

All memory is mirrored in what it should hold. A work request reads and writes random pieces of it,
of which no two of a batch overlap; what they should have done is done to the mirror, and then the two
have to be the same: the pieces, the bytes beside them, and all else.
"""

import mmap
import random
import socket
import sys
import tempfile

import pyverbs.enums as e
from pyverbs.base import inc_rkey
from pyverbs.mr import MW, MWBind, MWBindInfo
from pyverbs.qp import DataBuffer
from pyverbs.wr import SGE

from rig import *

LENGTH = 96 * 1024
MAP_HUGETLB, HUGE_PAGE = 0x40000, 2 << 20

SEND, SEND_IMM, SEND_INV = e.IBV_WR_SEND, e.IBV_WR_SEND_WITH_IMM, e.IBV_WR_SEND_WITH_INV
RDMA_WRITE, RDMA_WRITE_IMM = e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_WRITE_WITH_IMM
RDMA_READ = e.IBV_WR_RDMA_READ
CMP_SWAP, FETCH_ADD = e.IBV_WR_ATOMIC_CMP_AND_SWP, e.IBV_WR_ATOMIC_FETCH_AND_ADD
SENDS, WRITES, ATOMICS = (SEND, SEND_IMM, SEND_INV), (RDMA_WRITE, RDMA_WRITE_IMM), (CMP_SWAP, FETCH_ADD)

OPCODES = {
    RC: (SEND, SEND_IMM, RDMA_WRITE, RDMA_WRITE_IMM, RDMA_READ, CMP_SWAP, FETCH_ADD),
    UC: (SEND, SEND_IMM, RDMA_WRITE, RDMA_WRITE_IMM),
    UD: (SEND, SEND_IMM),
}
NEEDS = {RDMA_WRITE: REMOTE_WRITE, RDMA_WRITE_IMM: REMOTE_WRITE, RDMA_READ: REMOTE_READ}
NEEDS.update(dict.fromkeys(ATOMICS, REMOTE_ATOMIC))
COMPLETES_AS = {
    SEND: e.IBV_WC_SEND,
    SEND_IMM: e.IBV_WC_SEND,
    SEND_INV: e.IBV_WC_SEND,
    RDMA_WRITE: e.IBV_WC_RDMA_WRITE,
    RDMA_WRITE_IMM: e.IBV_WC_RDMA_WRITE,
    RDMA_READ: e.IBV_WC_RDMA_READ,
    CMP_SWAP: e.IBV_WC_COMP_SWAP,
    FETCH_ADD: e.IBV_WC_FETCH_ADD,
}

rng = random.Random()


class Region:
    """A part of a memory that is registered, and by which addresses."""

    def __init__(self, memory, device, access, at=0, length=None):
        self.memory, self.device, self.access, self.at = memory, device, access, at
        self.length = memory.length - at if length is None else length
        self.mr = memory.region(device.pd, access, at, self.length)
        self.base = 0 if access & ZERO_BASED else memory.address + at

    def address(self, at):
        return self.base + at - self.at


class Piece:
    """Bytes of a region."""

    def __init__(self, region, at, length):
        self.region, self.at, self.length = region, at, length

    def sge(self):
        return self.region.address(self.at), self.length, self.region.mr.lkey

    def data(self):
        return bytes(self.region.memory.expected[self.at : self.at + self.length])

    def found(self):
        return bytes(self.region.memory.view[self.at : self.at + self.length])

    def expect(self, data):
        self.region.memory.expect(self.at, data)


class Stock:
    """All memory, and what of it the current batch uses."""

    def __init__(self, devices):
        self.memories = self._memories()
        self.regions = {d: [r for m in self.memories for r in self._regions(m, d)] for d in devices}
        self.used = {}

    @staticmethod
    def _memories():
        shared, private = (tempfile.TemporaryFile() for _ in range(2))
        # One that is not even ours to write.
        foreign = open(sys.executable, "rb")
        for file in (shared, private):
            file.write(rng.randbytes(LENGTH))
            file.flush()
        memories = [
            Memory(LENGTH),
            Memory(LENGTH),
            Memory(LENGTH, flags=mmap.MAP_SHARED, fd=shared.fileno()),
            Memory(LENGTH, flags=mmap.MAP_PRIVATE, fd=private.fileno()),
            Memory(LENGTH, prot=READ, flags=mmap.MAP_PRIVATE, fd=foreign.fileno()),
        ]
        try:
            anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            memories.append(Memory(HUGE_PAGE, flags=anonymous | MAP_HUGETLB))
        except OSError:
            print("no huge pages here")
        for memory in memories:
            if memory.writable:
                memory.put(0, rng.randbytes(memory.length))
        return memories

    @staticmethod
    def _regions(memory, device):
        yield Region(memory, device, 0)
        yield Region(memory, device, REMOTE_READ, PAGE + 77, 5 * PAGE + 3)
        if memory.writable:
            yield Region(memory, device, REMOTE_READ | MW_BIND, 3, 4 * PAGE + 1)
            # The same memory several times over, and parts that begin and end anywhere.
            yield Region(memory, device, ALL)
            yield Region(memory, device, ALL, PAGE - 3, 9 * PAGE + 5)
            yield Region(memory, device, ALL | ZERO_BASED, 2 * PAGE + 8, 3 * PAGE + 1)
            yield Region(memory, device, LOCAL_WRITE, 1, 7 * PAGE)

    def take(self, device, access, length, alignment=1):
        """Some bytes that nobody else of the batch has; None if they are hard to find."""
        regions = [r for r in self.regions[device] if r.access & access == access]
        for _ in range(8):
            region = rng.choice(regions)
            room = region.length - length
            if room < 0:
                continue
            at = region.at + rng.choice((0, room, rng.randint(0, room)))
            if rng.random() < 0.5:
                # Across the boundary of two pages, or at one.
                at = at // PAGE * PAGE + PAGE - rng.randint(0, min(length, PAGE))
            at = at // alignment * alignment
            if region.at <= at <= region.at + room and self._claim(region.memory, at, length):
                return Piece(region, at, length)
        return None

    def _claim(self, memory, at, length):
        used = self.used.setdefault(memory, [])
        if any(at < b and a < at + length for a, b in used):
            return False
        used.append((at, at + length))
        return True

    def pieces(self, device, access, count, length=None):
        """Up to so many pieces, of `length` bytes in all if given."""
        pieces = []
        while len(pieces) < count:
            size = rng.choice((0, 1, rng.randint(1, 9), rng.randint(1, 200), rng.randint(1, 6000), PAGE))
            if length is not None:
                left = length - sum(p.length for p in pieces)
                if left == 0 and rng.random() < 0.9:
                    break
                size = left if len(pieces) == count - 1 else min(size, left)
            piece = self.take(device, access, size)
            if not piece:
                return None if length is not None else pieces
            pieces.append(piece)
        return pieces

    def refresh(self, piece):
        """New bytes, where they may be written."""
        if piece.region.memory.writable:
            piece.region.memory.put(piece.at, rng.randbytes(piece.length))

    def differences(self):
        return [f"memory {i}, {d}" for i, m in enumerate(self.memories) if (d := m.difference())]


def scatter(pieces, data):
    for piece in pieces:
        now, data = data[: piece.length], data[piece.length :]
        piece.expect(now)


class Window:
    """A memory window around some bytes, bound and unbound by the queue pair that they belong to."""

    def __init__(self, qp, piece, access):
        self.qp, self.type = qp, rng.choice((e.IBV_MW_TYPE_1, e.IBV_MW_TYPE_2))
        region = piece.region
        self.mw, self.mr = MW(qp.pd, self.type), region.mr
        first = rng.randint(region.at, piece.at)
        last = rng.randint(piece.at + piece.length, region.at + region.length)
        self.address = region.address(piece.at)
        if self.type == e.IBV_MW_TYPE_2 and rng.random() < 0.5:
            # Its first byte is at zero.
            self.address, access = piece.at - first, access | ZERO_BASED
        self.info = MWBindInfo(region.mr, region.address(first), last - first, access)
        if self.type == e.IBV_MW_TYPE_1:
            qp.qp.bind_mw(self.mw, MWBind(self.info, e.IBV_SEND_SIGNALED))
            self.rkey = self.mw.rkey
        elif rng.random() < 0.5:
            wr = send_wr(e.IBV_WR_BIND_MW, [])
            wr.set_bind_wr(self.mw, self.info)
            qp.qp.post_send(wr)
            self.rkey = wr.rkey
        else:
            self.rkey = inc_rkey(self.mw.rkey)
            qp.qp.wr_start()
            qp.qp.wr_flags = e.IBV_SEND_SIGNALED
            qp.qp.wr_bind_mw(self.mw, self.rkey, self.info)
            qp.qp.wr_complete()
        self.completes_as(e.IBV_WC_BIND_MW)

    def completes_as(self, opcode):
        (wc,) = self.qp.sent()
        assert (wc.status, wc.opcode) == (e.IBV_WC_SUCCESS, opcode), str(wc)

    def end(self, peer):
        if self.type == e.IBV_MW_TYPE_1:
            # One that is bound anew has another key, one of no bytes is bound no more.
            info = MWBindInfo(self.mr, self.info.addr, 0, 0)
            self.qp.qp.bind_mw(self.mw, MWBind(info, e.IBV_SEND_SIGNALED))
            self.completes_as(e.IBV_WC_BIND_MW)
        elif peer.type == RC and rng.random() < 0.5:
            self.qp.post_recv([(17, [])])
            if rng.random() < 0.5:
                peer.qp.post_send(send_wr(SEND_INV, [], imm=self.rkey))
            else:
                peer.qp.wr_start()
                peer.qp.wr_flags = e.IBV_SEND_SIGNALED
                peer.qp.wr_send_inv(self.rkey)
                peer.qp.wr_complete()
            (sent,), (received,) = peer.sent(), self.qp.received()
            assert (sent.status, sent.opcode) == (e.IBV_WC_SUCCESS, e.IBV_WC_SEND), str(sent)
            assert received.status == e.IBV_WC_SUCCESS and received.wr_id == 17, str(received)
            assert received.wc_flags == e.IBV_WC_WITH_INV, str(received)
            assert received.imm_data == self.rkey, str(received)
        else:
            if rng.random() < 0.5:
                self.qp.qp.post_send(send_wr(e.IBV_WR_LOCAL_INV, [], imm=self.rkey))
            else:
                self.qp.qp.wr_start()
                self.qp.qp.wr_flags = e.IBV_SEND_SIGNALED
                self.qp.qp.wr_local_inv(self.rkey)
                self.qp.qp.wr_complete()
            self.completes_as(e.IBV_WC_LOCAL_INV)
        self.mw.close()


class Request:
    """A work request and the receive that goes with it, if one does."""

    def __init__(self, stock, sender, receiver):
        self.sender, self.receiver = sender, receiver
        self.opcode = rng.choice(OPCODES[sender.type])
        self.wr_id, self.recv_id = rng.getrandbits(64), rng.getrandbits(64)
        self.imm, self.recv, self.remote, self.window = rng.getrandbits(32), None, None, None
        self.flags = 0
        for flag, chance in (
            (e.IBV_SEND_SIGNALED, 0.7),
            (e.IBV_SEND_FENCE, 0.1),
            (e.IBV_SEND_SOLICITED, 0.2),
        ):
            self.flags |= flag if rng.random() < chance else 0
        self.inline = self.opcode in SENDS + WRITES and rng.random() < 0.3
        self.operands = rng.getrandbits(64), rng.getrandbits(64)
        while not self._choose(stock):
            pass

    def _choose(self, stock):
        sender, receiver = self.sender, self.receiver
        count = rng.choice((0, 1, 1, 2, rng.randint(0, MAX_SGE), MAX_SGE))
        if self.opcode in ATOMICS:
            self.length = 8
            self.local = stock.pieces(sender.device, LOCAL_WRITE, max(count, 1), 8)
        elif self.opcode == RDMA_READ:
            self.local = stock.pieces(sender.device, LOCAL_WRITE, count)
        else:
            limit = MAX_INLINE if self.inline else MTU if sender.type == UD else None
            self.local = stock.pieces(sender.device, 0, count)
            while limit and sum(p.length for p in self.local) > limit:
                self.local.pop()
        if self.local is None:
            return False
        self.length = sum(p.length for p in self.local)
        if self.opcode in NEEDS:
            access = NEEDS[self.opcode]
            alignment = 8 if self.opcode in ATOMICS else 1
            windowed = rng.random() < 0.3 and self.length
            wanted = access | (MW_BIND if windowed else 0)
            self.remote = stock.take(receiver.device, wanted, self.length, alignment)
            if not self.remote:
                return False
            if self.opcode in ATOMICS and self.remote.region.address(self.remote.at) % 8:
                return False
            if windowed:
                self.window = Window(receiver, self.remote, access)
                if self.opcode in ATOMICS and self.window.address % 8:
                    self._end_window()
        if self.opcode in SENDS or self.opcode == RDMA_WRITE_IMM:
            self.grh = GRH if receiver.type == UD else 0
            need = self.length + self.grh if self.opcode in SENDS else 0
            self.recv = stock.pieces(receiver.device, LOCAL_WRITE, rng.randint(1, MAX_SGE), need)
            if self.recv is None:
                if self.window:
                    # It is around other bytes than the next choice will be.
                    self._end_window()
                return False
            # Room that is left over, and has to stay as it is.
            if len(self.recv) < MAX_SGE and rng.random() < 0.3:
                self.recv += stock.pieces(receiver.device, LOCAL_WRITE, 1)
        return True

    def _end_window(self):
        self.window.end(self.sender)
        self.window = None

    def remote_key(self):
        """Of no bytes, neither the address nor the key is looked at (IBTA C9-88)."""
        if self.length == 0:
            return rng.getrandbits(32), rng.getrandbits(64)
        if self.window:
            return self.window.rkey, self.window.address
        return self.remote.region.mr.rkey, self.remote.region.address(self.remote.at)

    def sges(self):
        if self.inline:
            # The process' own addresses, and no key.
            return [(p.region.memory.address + p.at, p.length, 0) for p in self.local]
        return [p.sge() for p in self.local]

    def plain(self):
        flags = self.flags | (e.IBV_SEND_INLINE if self.inline else 0)
        wr = send_wr(self.opcode, self.sges(), self.wr_id, flags, self.imm)
        if self.opcode in ATOMICS:
            wr.set_wr_atomic(*self.remote_key(), *self.operands)
        elif self.remote:
            wr.set_wr_rdma(*self.remote_key())
        if self.sender.type == UD:
            wr.set_wr_ud(self.sender.ah, self.receiver.number, QKEY)
        return wr

    def extended(self):
        qp = self.sender.qp
        qp.wr_id, qp.wr_flags = self.wr_id, self.flags
        # pyverbs takes it in the order of the host here.
        imm = socket.ntohl(self.imm)
        if self.opcode == SEND:
            qp.wr_send()
        elif self.opcode == SEND_IMM:
            qp.wr_send_imm(imm)
        elif self.opcode == RDMA_WRITE:
            qp.wr_rdma_write(*self.remote_key())
        elif self.opcode == RDMA_WRITE_IMM:
            qp.wr_rdma_write_imm(*self.remote_key(), imm)
        elif self.opcode == RDMA_READ:
            qp.wr_rdma_read(*self.remote_key())
        elif self.opcode == CMP_SWAP:
            qp.wr_atomic_cmp_swp(*self.remote_key(), *self.operands)
        elif self.opcode == FETCH_ADD:
            qp.wr_atomic_fetch_add(*self.remote_key(), self.operands[0])
        if self.sender.type == UD:
            qp.wr_set_ud_addr(self.sender.ah, self.receiver.number, QKEY)
        sges = self.sges()
        if self.inline and len(sges) == 1:
            qp.wr_set_inline_data(*sges[0][:2])
        elif self.inline:
            qp.wr_set_inline_data_list(len(sges), [DataBuffer(a, n) for a, n, _ in sges])
        elif len(sges) == 1:
            qp.wr_set_sge(SGE(*sges[0]))
        elif sges:
            qp.wr_set_sge_list(len(sges), [SGE(*s) for s in sges])

    def refresh(self, stock):
        """The bytes that are read are new ones, or one that is compared with is sometimes the same."""
        reads_remote = self.opcode == RDMA_READ or self.opcode in ATOMICS
        for piece in [self.remote] if reads_remote else self.local:
            stock.refresh(piece)
        if self.opcode == CMP_SWAP and rng.random() < 0.5:
            self.operands = int.from_bytes(self.remote.data(), sys.byteorder), self.operands[1]

    def model(self):
        """Does to the mirror what should have been done to the memory."""
        if self.opcode in ATOMICS:
            before = int.from_bytes(self.remote.data(), sys.byteorder)
            first, swap = self.operands
            after = before + first if self.opcode == FETCH_ADD else swap if before == first else before
            self.remote.expect((after % (1 << 64)).to_bytes(8, sys.byteorder))
            scatter(self.local, before.to_bytes(8, sys.byteorder))
        elif self.opcode == RDMA_READ:
            scatter(self.local, self.remote.data())
        else:
            data = b"".join(p.data() for p in self.local)
            if self.opcode in SENDS:
                if self.grh:
                    data = self.check_grh() + data
                scatter(self.recv, data)
            else:
                self.remote.expect(data)

    def check_grh(self):
        """The header that came, of which the last 20 bytes are that of IPv4 (IBTA A17.4.5.2)."""
        grh = b"".join(p.found() for p in self.recv)[:GRH]
        ends = ipv4(self.sender.device), ipv4(self.receiver.device)
        assert grh[20] == 0x45 and grh[29] == socket.IPPROTO_UDP, grh.hex(" ")
        assert (grh[32:36], grh[36:40]) == ends, grh.hex(" ")
        return grh

    def check_sent(self, wc):
        assert wc.status == e.IBV_WC_SUCCESS, f"{wc}"
        assert wc.wr_id == self.wr_id and wc.opcode == COMPLETES_AS[self.opcode], f"{wc}"
        assert wc.qp_num == self.sender.number, f"{wc}"
        if self.opcode == RDMA_READ or self.opcode in ATOMICS:
            assert wc.byte_len == self.length, f"{wc}"

    def check_received(self, wc):
        assert wc.status == e.IBV_WC_SUCCESS, f"{wc}"
        assert wc.wr_id == self.recv_id and wc.qp_num == self.receiver.number, f"{wc}"
        flags = 0
        if self.opcode == RDMA_WRITE_IMM:
            assert wc.opcode == e.IBV_WC_RECV_RDMA_WITH_IMM and wc.byte_len == self.length, f"{wc}"
        else:
            assert wc.opcode == e.IBV_WC_RECV and wc.byte_len == self.length + self.grh, f"{wc}"
        if self.opcode in (SEND_IMM, RDMA_WRITE_IMM):
            flags |= e.IBV_WC_WITH_IMM
            assert wc.imm_data == self.imm, f"{wc}"
        if self.receiver.type == UD:
            flags |= e.IBV_WC_GRH
            assert wc.src_qp == self.sender.number, f"{wc}"
        # A UDP header behind one of IPv4, as a ConnectX tells it.
        assert wc.sl == (0b1010 if self.receiver.type == UD else 0), f"{wc}"
        assert wc.wc_flags == flags, f"{wc}"

    def __str__(self):
        def list_of(pieces):
            return [(p.region.memory.address + p.at, p.length) for p in pieces or []]

        names = [n for n in dir(e) if n.startswith("IBV_WR_") and getattr(e, n) == self.opcode]
        return (
            f"{TRANSPORTS[self.sender.type]} {names[0][7:]} inline={self.inline} local={list_of(self.local)}"
            f" remote={list_of([self.remote] if self.remote else [])} recv={list_of(self.recv)}"
            f" window={bool(self.window)}"
        )


def ipv4(device):
    """The last 4 bytes of the GID: it is that of an IPv4 address."""
    return bytes.fromhex(str(device.gid).replace(":", ""))[12:]


def pairs(one, other):
    """Queue pairs of each transport, to themselves, on one device and on two, with and without SRQ."""
    for qp_type in TRANSPORTS:
        for a, b in ((one, one), (one, other)):
            for shared in (False, True):
                queues = {d: d.srq() if shared else None for d in (a, b)}
                ends = Qp(a, qp_type, srq=queues[a]), Qp(b, qp_type, srq=queues[b])
                connect(*ends)
                yield ends
        alone = Qp(one, qp_type)
        connect(alone, alone)
        yield alone, alone


def batch(stock, ends):
    sender, receiver = rng.sample(ends, 2)
    stock.used.clear()
    requests = [Request(stock, sender, receiver) for _ in range(rng.choice((1, 1, 2, rng.randint(1, 8))))]
    # So that all are known to be done.
    requests[-1].flags |= e.IBV_SEND_SIGNALED
    for request in requests:
        request.refresh(stock)
    extended = rng.random() < 0.5
    try:
        receives = [r for r in requests if r.recv is not None]
        if receives:
            receiver.post_recv([(r.recv_id, [p.sge() for p in r.recv]) for r in receives])
        if extended:
            sender.qp.wr_start()
            for request in requests:
                request.extended()
            sender.qp.wr_complete()
        else:
            sender.qp.post_send(chain([r.plain() for r in requests]))
        signaled = [r for r in requests if r.flags & e.IBV_SEND_SIGNALED]
        for request, wc in zip(signaled, sender.sent(len(signaled))):
            request.check_sent(wc)
        for request, wc in zip(receives, receiver.received(len(receives)) if receives else []):
            request.check_received(wc)
        for request in requests:
            request.model()
        differences = stock.differences()
        assert not differences, "; ".join(differences)
        for request in requests:
            if request.window:
                request.window.end(sender)
    except Exception:
        print(f"by {'ibv_wr_*' if extended else 'ibv_post_send'}, from QP {sender.number}", end=" ")
        print(f"of {sender.device.name} to {receiver.number} of {receiver.device.name}:")
        print("\n".join(map(str, requests)), flush=True)
        raise
    return {(sender.type, r.opcode, r.inline) for r in requests}


def main():
    names, count = sys.argv[1:3], int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", flush=True)
    rng.seed(seed)
    devices = [Device(name) for name in names]
    stock = Stock(devices)
    ends = list(pairs(*devices))
    done = set()
    for number in range(count):
        try:
            done |= batch(stock, rng.choice(ends))
        except Exception:
            print(f"batch {number} of seed {seed} failed", flush=True)
            raise
    assert not any(event for device in devices for event in device.events())
    print(f"{count} batches, {len(done)} kinds of work requests")


main()
