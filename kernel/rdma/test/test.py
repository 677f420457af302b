#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests the RDMA abstractions from user space, by the system calls of ib_uverbs alone.

Run it in the guest, as root, with ib_uverbs, and with rdmatest.ko loaded:

    test.py           all tests
    test.py hold      opens a device, makes one of each object, and waits to be killed
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time

# enum ib_uverbs_write_cmds
GET_CONTEXT, ALLOC_PD, DEALLOC_PD, CREATE_AH, DESTROY_AH = 0, 3, 4, 5, 8
REG_MR, REREG_MR, DEREG_MR, ALLOC_MW, DEALLOC_MW = 9, 11, 13, 14, 16
CREATE_COMP_CHANNEL, CREATE_CQ, RESIZE_CQ, DESTROY_CQ = 17, 18, 19, 20
CREATE_QP, QUERY_QP, MODIFY_QP, DESTROY_QP, POST_SEND, POST_RECV = 24, 25, 26, 27, 28, 29
CREATE_SRQ, MODIFY_SRQ, QUERY_SRQ, DESTROY_SRQ, POST_SRQ_RECV = 32, 33, 34, 35, 36

RC, UC, UD = 2, 3, 4
RESET, INIT, RTR, RTS = 0, 1, 2, 3
STATE, ACCESS_FLAGS, PKEY_INDEX, PORT = 1, 1 << 3, 1 << 4, 1 << 5
RDMA_WRITE, SEND, SEND_WITH_INV = 0, 2, 9
LOCAL_WRITE, REMOTE_WRITE = 1, 2


class Device:
    """An open device."""

    def __init__(self, udata=b""):
        self.fd = os.open("/dev/infiniband/uverbs0", os.O_RDWR)
        resp = self.call(GET_CONTEXT, udata, 8 + 5 + 3)
        self.async_fd = struct.unpack_from("I", resp)[0]
        self.hello = resp[8:]

    def close(self):
        os.close(self.async_fd)
        os.close(self.fd)

    def call(self, command, body, resp_len=0):
        """One command; `body` goes after the pointer to the response, if there is one."""
        resp = ctypes.create_string_buffer(resp_len or 1)
        # 0xff, to see what the kernel writes.
        ctypes.memset(resp, 0xFF, resp_len)
        if resp_len:
            body = struct.pack("Q", ctypes.addressof(resp)) + body
        body += bytes(-len(body) % 4)
        head = struct.pack("IHH", command, (8 + len(body)) // 4, resp_len // 4)
        os.write(self.fd, head + body)
        return resp.raw[:resp_len]

    def pd(self, udata=b""):
        return struct.unpack("I", self.call(ALLOC_PD, udata, 4))[0]

    def channel(self):
        return struct.unpack("I", self.call(CREATE_COMP_CHANNEL, b"", 4))[0]

    def cq(self, cqe=10, channel=-1):
        resp = self.call(CREATE_CQ, struct.pack("QIIiI", 0xC0, cqe, 0, channel, 0), 8 + 16)
        handle, cqe, offset, length = struct.unpack("IIQQ", resp)
        return handle, cqe, mmap.mmap(self.fd, length, offset=offset)

    def srq(self, pd):
        resp = self.call(CREATE_SRQ, struct.pack("QIIII", 0x50, pd, 10, 2, 0), 16)
        handle, max_wr, _, _ = struct.unpack("IIII", resp)
        assert max_wr == 11
        return handle

    def qp(self, pd, cq, qp_type=RC, srq=None):
        body = struct.pack(
            "QIIIIIIIIIBBBB", 0x99, pd, cq, cq, srq or 0, 10, 10, 2, 2, 0, 0, qp_type, srq is not None, 0
        )
        handle, qpn, max_send_wr = struct.unpack_from("III", self.call(CREATE_QP, body, 32))
        assert max_send_wr == 11
        return handle, qpn

    def mr(self, pd, buffer, access=LOCAL_WRITE | REMOTE_WRITE, length=None):
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        length = len(buffer) if length is None else length
        resp = self.call(REG_MR, struct.pack("QQQII", address, length, address, pd, access), 12)
        return struct.unpack("III", resp)[:2]

    def mw(self, pd, mw_type=1):
        resp = self.call(ALLOC_MW, struct.pack("IBBBB", pd, mw_type, 0, 0, 0), 8)
        return struct.unpack("II", resp)

    def modify_qp(self, qp, mask, state=0):
        """Of the attributes only the state, and port 1."""
        body = bytearray(112)
        struct.pack_into("II", body, 64, qp, mask)
        body[96], body[104] = state, 1
        self.call(MODIFY_QP, bytes(body))

    def post_send(self, qp, wrs):
        """Each is (id, opcode, [(address, length, key)], remote address, rkey)."""
        requests, sges = b"", b""
        for number, opcode, list_, remote, rkey in wrs:
            request = struct.pack("QIIIIQI", number, len(list_), opcode, 2, 0, remote, rkey)
            requests += request + bytes(72 - len(request))
            sges += b"".join(struct.pack("QII", *sge) for sge in list_)
        body = struct.pack("IIII", qp, len(wrs), len(sges) // 16, 72) + requests + sges
        return self.call(POST_SEND, body, 4)

    def post_recv(self, command, queue, ids):
        body = struct.pack("IIII", queue, len(ids), 0, 16)
        return self.call(command, body + b"".join(struct.pack("QII", i, 0, 0) for i in ids), 4)

    def destroy(self, command, handle, resp_len=0):
        body = struct.pack("I", handle)
        self.call(command, body + bytes(4) if resp_len else body, resp_len)


def words(page):
    return struct.unpack_from("III", page)


def fails(code, function, *args):
    try:
        function(*args)
    except OSError as err:
        assert err.errno == code, f"{errno.errorcode[err.errno]}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"did not fail with {errno.errorcode[code]}")


def test_udata():
    device = Device(b"long and unknown")
    assert device.hello == b"hello\0\0\0", device.hello
    device.pd()
    device.pd(struct.pack("I", 7))
    device.pd(struct.pack("II", 7, 0))
    fails(errno.EINVAL, device.pd, struct.pack("II", 7, 1))
    device.pd(struct.pack("IIII", 7, 0, 0, 0))
    fails(errno.EOPNOTSUPP, device.pd, struct.pack("IIII", 7, 0, 0, 1))
    device.close()


def test_objects_go_with_the_file():
    for _ in range(3):
        everything()[0].close()


def everything():
    device = Device()
    pd = device.pd()
    channel = device.channel()
    cq, cqe, page = device.cq(channel=channel)
    assert cqe == 11
    srq = device.srq(pd)
    qp, _ = device.qp(pd, cq, srq=srq)
    buffer = bytearray(3 * 4096)
    mr = device.mr(pd, buffer)
    mw = device.mw(pd)
    return device, pd, channel, (cq, page), srq, qp, (mr, buffer), mw


def test_objects_go_one_by_one():
    device, pd, channel, (cq, page), srq, qp, ((mr, _), _), (mw, _) = everything()
    # Not while they are in use.
    fails(errno.EBUSY, device.destroy, DESTROY_CQ, cq, 8)
    fails(errno.EBUSY, device.destroy, DESTROY_SRQ, srq, 4)
    fails(errno.EBUSY, device.destroy, DEALLOC_PD, pd)
    device.destroy(DEALLOC_MW, mw)
    device.destroy(DEREG_MR, mr)
    device.destroy(DESTROY_QP, qp, 4)
    device.destroy(DESTROY_SRQ, srq, 4)
    device.destroy(DESTROY_CQ, cq, 8)
    # What is mapped stays mapped.
    assert words(page) == (0, 0, 0)
    page[0:4] = b"mine"
    device.destroy(DEALLOC_PD, pd)
    os.close(channel)
    device.close()
    assert page[0:4] == b"mine"


def test_mmap():
    device = Device()
    _, _, page = device.cq(cqe=2000)
    assert len(page) == 8192
    fails(errno.EINVAL, mmap.mmap, device.fd, 4096, mmap.MAP_SHARED)
    fails(errno.EINVAL, mmap.mmap, device.fd, 8192, mmap.MAP_PRIVATE)
    try:
        mmap.mmap(device.fd, 8192, offset=1 << 30)
    except OSError as err:
        assert err.errno == errno.EINVAL
    else:
        raise AssertionError("maps what is not there")
    # A child has the same page.
    child = os.fork()
    if child == 0:
        page[8191:8192] = b"!"
        os._exit(0)
    os.waitpid(child, 0)
    assert page[8191:8192] == b"!"
    device.close()


def test_resize():
    device = Device()
    cq, _, _ = device.cq()
    resp = device.call(RESIZE_CQ, struct.pack("II", cq, 100), 8)
    assert struct.unpack_from("I", resp)[0] == 102, resp
    device.close()


def test_srq():
    device = Device()
    srq = device.srq(device.pd())
    device.call(MODIFY_SRQ, struct.pack("IIII", srq, 2, 0, 5))
    resp = device.call(QUERY_SRQ, struct.pack("II", srq, 0), 16)
    assert struct.unpack("IIII", resp) == (11, 2, 5, 0), resp
    device.post_recv(POST_SRQ_RECV, srq, [1, 2])
    # The event that this makes: IB_EVENT_SRQ_LIMIT_REACHED
    assert struct.unpack("QII", os.read(device.async_fd, 16)) == (0x50, 15, 0)
    fails(errno.ENOMEM, device.post_recv, POST_SRQ_RECV, srq, [1, 0xBAD, 3])
    device.close()


def test_qp_states():
    device = Device()
    pd = device.pd()
    cq, _, _ = device.cq()
    qp, qpn = device.qp(pd, cq)
    assert qpn
    assert device.qp(pd, cq)[1] != qpn
    fails(errno.EINVAL, device.modify_qp, qp, STATE, RTS)
    fails(errno.EINVAL, device.modify_qp, qp, STATE, INIT)
    device.modify_qp(qp, STATE | PKEY_INDEX | PORT | ACCESS_FLAGS, INIT)
    resp = device.call(QUERY_QP, struct.pack("II", qp, 0), 128)
    assert (resp[108], resp[116], resp[122]) == (INIT, 1, 1), resp
    # Those that fail after they were published.
    fails(errno.EDOM, device.qp, pd, cq, UC)
    fails(errno.EOPNOTSUPP, device.qp, pd, cq, 0xFF)
    device.close()


def test_qp_events():
    device = Device()
    cq, _, _ = device.cq()
    qp, _ = device.qp(device.pd(), cq)
    device.post_recv(POST_RECV, qp, [1])
    # IB_EVENT_COMM_EST, IB_EVENT_CQ_ERR
    assert struct.unpack("QII", os.read(device.async_fd, 16)) == (0x99, 4, 0)
    assert struct.unpack("QII", os.read(device.async_fd, 16)) == (0xC0, 0, 0)
    device.close()


def test_doorbell():
    device = Device()
    cq, _, page = device.cq()
    qp, _ = device.qp(device.pd(), cq)
    device.post_send(qp, [])
    device.post_send(qp, [])
    assert words(page) == (0, 0, 2)
    device.close()


def test_notify():
    device = Device()
    channel = device.channel()
    cq, _, page = device.cq(channel=channel)
    qp, _ = device.qp(device.pd(), cq)
    flags = fcntl.fcntl(channel, fcntl.F_GETFL)
    fcntl.fcntl(channel, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    fails(errno.EAGAIN, os.read, channel, 8)
    device.post_send(qp, [(1, SEND, [], 0, 0)])
    assert struct.unpack("Q", os.read(channel, 8)) == (0xC0,)
    assert words(page) == (1, 0, 0)
    os.close(channel)
    device.close()


def test_bad_request():
    device = Device()
    cq, _, page = device.cq()
    qp, _ = device.qp(device.pd(), cq)
    wrs = [(1, SEND, [], 0, 0), (2, SEND_WITH_INV, [], 0, 0), (3, SEND, [], 0, 0)]
    fails(errno.EINVAL, device.post_send, qp, wrs)
    assert words(page) == (1, 0, 0)
    device.close()


def test_memory():
    device = Device()
    pd = device.pd()
    cq, _, page = device.cq()
    qp, _ = device.qp(pd, cq)
    source = bytearray(os.urandom(5 * 4096 + 77))
    target = bytearray(3 * 4096 + 128)
    # So that the last word is aligned.
    skip = -(ctypes.addressof(ctypes.c_char.from_buffer(target)) + 3 * 4096) % 8
    _, lkey = device.mr(pd, source, access=0)
    _, rkey = device.mr(pd, target, length=3 * 4096 + skip)
    # Across pages of both, in two pieces.
    device.post_send(qp, [(1, RDMA_WRITE, [(4000, 5000, lkey), (77, 3000, lkey)], 100, rkey)])
    assert words(page) == (1, 0, 0)
    assert target[100:8100] == source[4000:9000] + source[77:3077]
    last = struct.unpack_from("Q", target, 3 * 4096 + skip - 8)[0]
    assert last == source[4000], last
    # Outside, to what may not be written, and without a region.
    for sge, remote, key in (
        ((len(source) - 9, 10, lkey), 0, rkey),
        ((0, 10, lkey), 3 * 4096 + skip - 9, rkey),
        ((1 << 63, 10, lkey), 0, rkey),
        ((0, 10, lkey), (1 << 64) - 5, rkey),
        ((0, 10, rkey), 0, lkey),
        ((0, 10, 4711), 0, rkey),
    ):
        device.post_send(qp, [(1, RDMA_WRITE, [sge], remote, key)])
        assert words(page)[1] == 4, (sge, remote)
    fails(errno.EFAULT, device.call, REG_MR, struct.pack("QQQII", 4096, 4096, 4096, pd, 1), 12)
    fails(errno.EINVAL, device.call, REG_MR, struct.pack("QQQII", 4096, 0, 4096, pd, 1), 12)
    fails(errno.EINVAL, device.call, REG_MR, struct.pack("QQQII", 4096, 1 << 63, 4096, pd, 1), 12)
    # A region outlives the mapping of its memory.
    device.close()


def test_rereg():
    device = Device()
    pd, other = device.pd(), device.pd()
    buffer = bytearray(4096)
    mr, key = device.mr(pd, buffer)
    # IB_MR_REREG_PD | IB_MR_REREG_ACCESS
    resp = device.call(REREG_MR, struct.pack("IIQQQII", mr, 6, 0, 0, 0, other, 1), 8)
    assert struct.unpack("II", resp) == (key, key)
    device.destroy(DEALLOC_PD, pd)
    fails(errno.EBUSY, device.destroy, DEALLOC_PD, other)
    fails(
        errno.EOPNOTSUPP, device.call, REREG_MR, struct.pack("IIQQQII", mr, 1, 0, 0, 0, 0, 0), 8
    )
    device.destroy(DEREG_MR, mr)
    device.destroy(DEALLOC_PD, other)
    device.close()


def test_ah():
    device = Device()
    pd = device.pd()
    # To our own IPv4 address, from the GID at index 1, which is the same.
    dgid = bytes(10) + b"\xff\xff" + bytes([10, 1, 1, 1])
    attr = dgid + struct.pack("IBBBB", 0, 1, 64, 0, 0) + struct.pack("HBBBBBB", 0, 0, 0, 0, 1, 1, 0)
    resp = device.call(CREATE_AH, struct.pack("QII", 0xA4, pd, 0) + attr, 4)
    device.destroy(DESTROY_AH, struct.unpack("I", resp)[0])
    device.close()


def test_counters():
    device, _, _, _, _, _, (_, buffer), _ = everything()
    folder = "/sys/class/infiniband/t0/"
    assert int(read(folder + "hw_counters/regions")) == 1
    assert int(read(folder + "hw_counters/numbers")) >= 2
    assert int(read(folder + "ports/1/hw_counters/queue_pairs")) == 1
    assert json.loads(rdma("-j", "statistic", "show"))[0]["queue_pairs"] == 1
    del buffer
    device.close()


def test_description():
    assert read("/sys/class/infiniband/t0/fw_ver") == "a version of more than 31 bytes"
    assert read("/sys/class/infiniband/t0/node_desc") == "test"
    with open("/sys/class/infiniband/t0/node_desc", "w", encoding="utf-8") as file:
        file.write("x" * 64)
    assert read("/sys/class/infiniband/t0/node_desc") == "x" * 64


def test_details():
    device, *_ = everything()
    # Not as JSON, in which rdma(8) of iproute2 6.1 has but 32 bits of a number.
    words = rdma("-dd", "resource", "show", "qp").split()
    found = " ".join(words[words.index("drv_small") :])
    assert found == (
        "drv_small 7 drv_small_hex 0x7f drv_large 1099511627776 "
        "drv_large_hex 0x8000000000000000 drv_word hello"
    ), found
    device.close()


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def hold():
    child = subprocess.Popen([sys.executable, __file__, "hold"], stdout=subprocess.PIPE)
    child.stdout.readline()
    return child


def rdma(*args):
    return subprocess.run(["rdma", *args], check=True, stdout=subprocess.PIPE, text=True).stdout


def test_process_is_killed():
    child = hold()
    assert "mr 1 " in rdma("resource"), rdma("resource")
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert "pd 0 cq 0 qp 0 cm_id 0 mr 0 ctx 0 srq 0" in rdma("resource"), rdma("resource")


def test_module_is_in_use():
    child = hold()
    assert subprocess.run(["rmmod", "rdmatest"], stderr=subprocess.DEVNULL).returncode != 0
    assert "t0" in rdma("link")
    child.kill()
    child.wait()


def test_link_is_deleted_while_in_use():
    device, _, _, (_, page), *_ = everything()
    rdma("link", "delete", "t0")
    fails(errno.EIO, device.pd)
    page[0:4] = b"mine"
    assert page[0:4] == b"mine"
    device.close()
    add()


def test_netdev_goes_while_in_use():
    device = everything()[0]
    subprocess.run(["ip", "link", "delete", "d0"], check=True)
    fails(errno.EIO, device.pd)
    assert "t0" not in rdma("link")
    device.close()
    add()


def test_module_goes():
    subprocess.run(["rmmod", "rdmatest"], check=True)
    assert "t0" not in rdma("link")


def add():
    netdev = "ip link add d0 type dummy && ip addr add 10.1.1.1/24 dev d0 && ip link set d0 up"
    if not os.path.exists("/sys/class/net/d0"):
        subprocess.run(["sh", "-c", netdev], check=True)
    rdma("link", "add", "t0", "type", "rdmatest", "netdev", "d0")
    while not os.path.exists("/dev/infiniband/uverbs0"):
        time.sleep(0.01)


def main():
    if sys.argv[1:] == ["hold"]:
        _objects = everything()
        print("ready", flush=True)
        signal.pause()
    add()
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"ok {name[5:].replace('_', ' ')}", flush=True)


main()
