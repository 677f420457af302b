# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the guests' tests share: devices, queue pairs and memory, by pyverbs, which is rdma-core's own."""

import ctypes
import mmap
import os
import select
import time

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QPAttr, QPCap, QPEx, QPInitAttrEx
from pyverbs.srq import SRQ, SrqAttr, SrqInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

RC, UC, UD = e.IBV_QPT_RC, e.IBV_QPT_UC, e.IBV_QPT_UD
TRANSPORTS = {RC: "RC", UC: "UC", UD: "UD"}
RESET, INIT, RTR, RTS = e.IBV_QPS_RESET, e.IBV_QPS_INIT, e.IBV_QPS_RTR, e.IBV_QPS_RTS
SQD, SQE, ERR = e.IBV_QPS_SQD, e.IBV_QPS_SQE, e.IBV_QPS_ERR

LOCAL_WRITE = e.IBV_ACCESS_LOCAL_WRITE
REMOTE_WRITE, REMOTE_READ = e.IBV_ACCESS_REMOTE_WRITE, e.IBV_ACCESS_REMOTE_READ
REMOTE_ATOMIC, MW_BIND = e.IBV_ACCESS_REMOTE_ATOMIC, e.IBV_ACCESS_MW_BIND
ZERO_BASED = e.IBV_ACCESS_ZERO_BASED
REMOTE = REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC
ALL = LOCAL_WRITE | REMOTE | MW_BIND

PAGE = 4096
QKEY = 0x11111111
# The first bytes of a received datagram (IBTA 11.4.1.2).
GRH = 40
# How long to wait for what has to come at once.
PATIENCE = 20

MAX_SGE, MAX_INLINE = 32, 512
# Under `ferroce run`: the device is in the process.
NO_KERNEL = "FERROCE_RUN" in os.environ

# Packets of the dummy devices' MTU of 1500.
MTU = 4096 if NO_KERNEL else 1024

_SENDS = e.IBV_QP_EX_WITH_SEND | e.IBV_QP_EX_WITH_SEND_WITH_IMM
_WRITES = e.IBV_QP_EX_WITH_RDMA_WRITE | e.IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
_WINDOWS = e.IBV_QP_EX_WITH_LOCAL_INV | e.IBV_QP_EX_WITH_BIND_MW
_RELIABLE = (
    e.IBV_QP_EX_WITH_RDMA_READ
    | e.IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
    | e.IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD
    | e.IBV_QP_EX_WITH_SEND_WITH_INV
)
SEND_OPS = {UD: _SENDS, UC: _SENDS | _WRITES | _WINDOWS, RC: _SENDS | _WRITES | _WINDOWS | _RELIABLE}


class InVain(AssertionError):
    """What was waited for did not come."""


def until(what, probe):
    """Waits for what has to come, and comes at once."""
    end = time.monotonic() + PATIENCE
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > end:
            raise InVain(f"waited in vain for {what}")


class Device:
    """An open device, and a protection domain of it."""

    def __init__(self, name, gid_index=1):
        before, files = set(_event_files()), _device_files()
        self.context = Context(name=name)
        # Without a kernel module there are other sockets too, all of them made later.
        self.events_fd = min(set(_event_files()) - before)
        # For commands that pyverbs does not have.
        (self.file,) = _device_files() - files
        self.name, self.gid_index = name, gid_index
        self.gid = self.context.query_gid(1, gid_index)
        self.pd = PD(self.context)

    def address(self, peer):
        """How a queue pair of this device names another device."""
        route = GlobalRoute(dgid=peer.gid, sgid_index=self.gid_index, hop_limit=64)
        return AHAttr(port_num=1, is_global=1, gr=route)

    def ah(self, peer, pd=None):
        return AH(pd or self.pd, attr=self.address(peer))

    def cq(self, cqe=256, channel=None):
        return CQ(self.context, cqe, channel=channel)

    def srq(self, max_wr=256, max_sge=MAX_SGE, limit=0):
        return SRQ(self.pd, SrqInitAttr(SrqAttr(max_wr=max_wr, max_sge=max_sge, srq_limit=limit)))

    def event(self):
        """The type of the next asynchronous event, or None."""
        if not select.select([self.events_fd], [], [], 0)[0]:
            return None
        event = self.context.get_async_event()
        event.ack()
        return event.event_type

    def events(self):
        return list(iter(self.event, None))


def _event_files():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(("anon_inode:[infinibandevent", "socket:")):
                yield int(name)
        except FileNotFoundError:
            pass  # That of the listing itself.


def _device_files():
    paths = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    return {fd for fd, path in paths.items() if "/dev/infiniband/uverbs" in path}


class Qp:
    """A queue pair with completion queues of its own, on which plain and extended verbs both work."""

    def __init__(self, device, qp_type, srq=None, pd=None, cqe=256, cq=None, **caps):
        self.device, self.type, self.srq = device, qp_type, srq
        self.pd = pd or device.pd
        self.send_cq = cq or device.cq(cqe)
        self.recv_cq = device.cq(cqe)
        self.sq_sig_all = caps.pop("sq_sig_all", 0)
        send_ops = caps.pop("send_ops", SEND_OPS[qp_type])
        wanted = {
            "max_send_wr": 64,
            "max_recv_wr": 64,
            "max_send_sge": MAX_SGE,
            "max_recv_sge": MAX_SGE,
            "max_inline_data": MAX_INLINE,
        }
        wanted.update(caps)
        attr = QPInitAttrEx(
            qp_type=qp_type,
            scq=self.send_cq,
            rcq=self.recv_cq,
            srq=srq,
            cap=QPCap(**wanted),
            sq_sig_all=self.sq_sig_all,
            pd=self.pd,
            comp_mask=e.IBV_QP_INIT_ATTR_PD | e.IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
            send_ops_flags=send_ops,
        )
        self.qp = QPEx(device.context, attr)
        self.number = self.qp.qp_num
        self.ah = None

    def to_init(self, access=REMOTE, qkey=QKEY):
        attr = QPAttr(port_num=1, qp_state=INIT)
        attr.qp_access_flags, attr.qkey = access, qkey
        mask = e.IBV_QP_STATE | e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT
        mask |= e.IBV_QP_QKEY if self.type == UD else e.IBV_QP_ACCESS_FLAGS
        self.qp.modify(attr, mask)

    def to_rtr(self, peer, peer_number=None, rnr_timer=1, reads=16, mtu=e.IBV_MTU_1024, psn=0x123456):
        """rnr_timer: 1 is 10 µs (IBTA table 46)."""
        attr, mask = QPAttr(qp_state=RTR), e.IBV_QP_STATE
        if self.type == UD:
            self.ah = self.device.ah(peer)
        else:
            attr.path_mtu, attr.ah_attr = mtu, self.device.address(peer)
            attr.dest_qp_num, attr.rq_psn = peer_number, psn
            mask |= e.IBV_QP_AV | e.IBV_QP_PATH_MTU | e.IBV_QP_DEST_QPN | e.IBV_QP_RQ_PSN
        if self.type == RC:
            attr.max_dest_rd_atomic, attr.min_rnr_timer = reads, rnr_timer
            mask |= e.IBV_QP_MAX_DEST_RD_ATOMIC | e.IBV_QP_MIN_RNR_TIMER
        self.qp.modify(attr, mask)

    def to_rts(self, timeout=14, retry_cnt=7, rnr_retry=7, reads=16, psn=0x123456):
        attr, mask = QPAttr(qp_state=RTS), e.IBV_QP_STATE | e.IBV_QP_SQ_PSN
        attr.sq_psn = psn
        if self.type == RC:
            attr.timeout, attr.retry_cnt, attr.rnr_retry = timeout, retry_cnt, rnr_retry
            attr.max_rd_atomic = reads
            mask |= e.IBV_QP_TIMEOUT | e.IBV_QP_RETRY_CNT | e.IBV_QP_RNR_RETRY
            mask |= e.IBV_QP_MAX_QP_RD_ATOMIC
        self.qp.modify(attr, mask)

    def to(self, state):
        """To a state that needs no attributes."""
        self.qp.modify(QPAttr(qp_state=state), e.IBV_QP_STATE)

    def state(self):
        return self.qp.query(e.IBV_QP_STATE)[0].qp_state

    def post_recv(self, requests):
        """Each is (wr_id, [(address, length, lkey)])."""
        to = self.srq or self.qp
        to.post_recv(chain([recv_wr(wr_id, sges) for wr_id, sges in requests]))

    def sent(self, count=1):
        return completions(self.send_cq, count)

    def received(self, count=1):
        return completions(self.recv_cq, count)

    def close(self):
        self.qp.close()
        self.send_cq.close()
        self.recv_cq.close()


def connect(one, other, **attributes):
    """Brings two queue pairs to RTS, or one that is both."""
    init = {k: attributes.pop(k) for k in ("access", "qkey") if k in attributes}
    rtr = {k: attributes.pop(k) for k in ("rnr_timer", "mtu") if k in attributes}
    rtr.update({k: attributes[k] for k in ("psn", "reads") if k in attributes})
    for qp in {one, other}:
        qp.to_init(**init)
    for qp, peer in {(one, other), (other, one)}:
        qp.to_rtr(peer.device, peer.number, **rtr)
        qp.to_rts(**attributes)


def completions(cq, count):
    """The next completions, which have to come at once; and no more of them."""
    found = []

    def poll():
        found.extend(cq.poll(16)[1])
        return len(found) >= count

    until(f"{count} completions, of which there are {len(found)}", poll)
    assert len(found) == count, f"{len(found)} completions, not {count}: {list(map(str, found))}"
    return found


def none(cq):
    """That there is no completion."""
    _, found = cq.poll(16)
    assert not found, list(map(str, found))


def chain(requests):
    for request, following in zip(requests, requests[1:]):
        request.next_wr = following
    # Those that follow are kept as long as the list is.
    chain.kept = requests
    return requests[0]


def recv_wr(wr_id, sges):
    # pyverbs wants one SGE at least.
    wr = RecvWR(wr_id=wr_id, num_sge=len(sges) or 1, sg=[SGE(*sge) for sge in sges or [(0, 0, 0)]])
    wr.num_sge = len(sges)
    return wr


def send_wr(opcode, sges, wr_id=0, flags=e.IBV_SEND_SIGNALED, imm=0):
    """imm: in the byte order of the network, or a key to invalidate."""
    # As above.
    wr = SendWR(
        wr_id=wr_id,
        opcode=opcode,
        num_sge=len(sges) or 1,
        imm_data=imm,
        sg=[SGE(*sge) for sge in sges or [(0, 0, 0)]],
        send_flags=flags,
    )
    wr.num_sge = len(sges)
    return wr


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE


class Memory:
    """Mapped memory, and what should be in it."""

    def __init__(self, length, prot=READ | WRITE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, fd=-1):
        address = _libc.mmap(None, length, prot, flags, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self.address, self.length = address, length
        self.view = memoryview((ctypes.c_char * length).from_address(address)).cast("B")
        self.writable = bool(prot & WRITE)
        self.expected = bytearray(self.view)

    def put(self, at, data):
        """Writes, as the process."""
        self.view[at : at + len(data)] = data
        self.expected[at : at + len(data)] = data

    def expect(self, at, data):
        """What the device should have written."""
        self.expected[at : at + len(data)] = data

    def difference(self):
        """Where the memory is first not what it should be."""
        found = bytes(self.view)
        if found == self.expected:
            return None
        at = next(i for i, (a, b) in enumerate(zip(found, self.expected)) if a != b)
        return (
            f"at byte {at}: {found[at : at + 16].hex(' ')}, not {self.expected[at : at + 16].hex(' ')}"
        )

    def unmap(self):
        self.view.release()
        _libc.munmap(self.address, self.length)

    def region(self, pd, access=ALL, at=0, length=None):
        length = self.length - at if length is None else length
        return MR(pd, length, access, address=self.address + at)
