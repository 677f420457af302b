#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What an administrator sees of a device and does to it, while programs use it.

Run in a guest, as root, by the tests of the lab (device.rs). It looks through pyverbs, rdma(8), ip(8)
and sysfs, which know nothing of ferroce.
"""

import errno
import json
import os
import subprocess
import sys
import time

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute
from pyverbs.cq import CQ, CompChannel
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def fails(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode != 0, command
    return done.stdout


def rdma(*args):
    return json.loads(run("rdma", "-j", *args))


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def until(condition, instead=lambda: "it never came"):
    """The kernel follows events with threads of its own."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, instead()
        time.sleep(0.01)


def add(name, netdev, address, prefix=()):
    run(*prefix, "ip", "link", "add", netdev, "type", "dummy")
    run(*prefix, "ip", "addr", "add", address, "dev", netdev)
    run(*prefix, "ip", "link", "set", netdev, "up")
    run(*prefix, "rdma", "link", "add", name, "type", "ferroce", "netdev", netdev)
    until(lambda: gid_index(name, address.split("/")[0]) is not None)


def remove(name, netdev):
    run("rdma", "link", "delete", name)
    run("ip", "link", "delete", netdev)


def gids(name):
    folder = f"/sys/class/infiniband/{name}/ports/1/gids"
    return [read(f"{folder}/{i}") for i in range(16)]


def gid_index(name, address):
    mapped = "".join(f"{int(part):02x}" for part in address.split("."))
    gid = f"0000:0000:0000:0000:0000:ffff:{mapped[:4]}:{mapped[4:]}"
    now = gids(name)
    return now.index(gid) if gid in now else None


def port_counters(name):
    return rdma("statistic", "show", "link", f"{name}/1")[0]


def device_counter(name, counter):
    return int(read(f"/sys/class/infiniband/{name}/hw_counters/{counter}"))


class Side:
    """A process's things on a device."""

    def __init__(self, name, gid=None):
        self.name = name
        self.context = Context(name=name)
        self.gid = 1 if gid is None else gid
        self.pd = PD(self.context)
        self.channel = CompChannel(self.context)
        self.cq = CQ(self.context, 64, None, self.channel)
        self.mr = MR(self.pd, 4096, ACCESS)

    def qp(self, qp_type=e.IBV_QPT_RC, receives=4):
        init = QPInitAttr(
            qp_type=qp_type, scq=self.cq, rcq=self.cq, cap=QPCap(16, 16, 1, 1), sq_sig_all=1
        )
        attr = QPAttr(port_num=1)
        attr.qkey = 0x11
        # Which takes one for datagrams to RTS.
        qp = QP(self.pd, init, attr)
        if qp_type == e.IBV_QPT_UD:
            self.post(qp, receives)
        return qp

    def post(self, qp, count):
        for _ in range(count):
            qp.post_recv(RecvWR(num_sge=1, sg=[self.sge(4096)]))

    def sge(self, length):
        return SGE(self.mr.buf, length, self.mr.lkey)

    def route(self, peer):
        return AHAttr(
            port_num=1,
            is_global=1,
            gr=GlobalRoute(dgid=peer.context.query_gid(1, peer.gid), sgid_index=self.gid),
            dlid=0,
        )

    def connect(self, qp, peer, peer_qp, receives=4, rnr_retry=2):
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ACCESS
        qp.to_init(attr)
        self.post(qp, receives)
        attr.dest_qp_num = peer_qp.qp_num
        attr.path_mtu = e.IBV_MTU_1024
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
        attr.min_rnr_timer = 1
        attr.ah_attr = self.route(peer)
        qp.to_rtr(attr)
        attr.timeout = 4
        attr.retry_cnt = 2
        attr.rnr_retry = rnr_retry
        qp.to_rts(attr)

    def send(self, qp, length, opcode=e.IBV_WR_SEND, remote=None):
        wr = SendWR(opcode=opcode, num_sge=1, sg=[self.sge(length)])
        if remote:
            wr.set_wr_rdma(*remote)
        qp.post_send(wr)

    def completions(self, count):
        """The statuses of so many completions."""
        found = []
        until(lambda: found.extend(wc.status for wc in self.cq.poll()[1] or []) or len(found) >= count)
        return found


def pair(a, b, **options):
    """Two queue pairs, connected."""
    qps = a.qp(), b.qp()
    a.connect(qps[0], b, qps[1], **options)
    b.connect(qps[1], a, qps[0], **options)
    return qps


def talk(a, b):
    """What becomes of a message from one side to the other."""
    qps = pair(a, b)
    a.send(qps[0], 10)
    return a.completions(1)[0]


def test_what_it_is():
    add("fr0", "eth0", "10.0.0.1/24")
    version = sys.argv[1]
    assert version in run("ibv_devinfo", "-d", "fr0").split("fw_ver:")[1].splitlines()[0]
    assert read("/sys/class/infiniband/fr0/fw_ver") == version
    assert rdma("dev")[0]["fw"] == version
    with open("/sys/class/infiniband/fr0/node_desc", "w", encoding="utf-8") as file:
        file.write("a card in rack 7")
    assert read("/sys/class/infiniband/fr0/node_desc") == "a card in rack 7"
    remove("fr0", "eth0")


def test_counters():
    add("fr0", "eth0", "10.0.0.1/24")
    side = Side("fr0")
    a, b = pair(side, side)
    before = port_counters("fr0")
    doorbells = device_counter("fr0", "doorbells")

    def counted(**expected):
        nonlocal before
        # The RDMA core reads the counters every 10 ms at most.
        wanted = {**before, **{k: before[k] + v for k, v in expected.items()}}
        until(lambda: port_counters("fr0") == wanted, lambda: set(port_counters("fr0").items()) ^ set(wanted.items()))
        before = port_counters("fr0")

    for _ in range(3):
        side.send(a, 100)
        assert side.completions(2) == [e.IBV_WC_SUCCESS] * 2
    counted(rdma_sends=3, rdma_recvs=3, sent_bytes=300, rcvd_bytes=300)
    assert device_counter("fr0", "doorbells") == doorbells + 3
    there = side.mr.rkey, side.mr.buf
    for opcode in (e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_READ):
        side.send(a, 1000, opcode, there)
        assert side.completions(1) == [e.IBV_WC_SUCCESS]
        counted(rdma_sends=1, sent_bytes=1000, rcvd_bytes=1000)
    # A key that there is not; the peer's receives are flushed.
    side.send(a, 1000, e.IBV_WR_RDMA_WRITE, (side.mr.rkey ^ 1, side.mr.buf))
    assert e.IBV_WC_REM_ACCESS_ERR in side.completions(3)
    counted(req_remote_access_errors=1, resp_remote_access_errors=1)

    # No receive request: three attempts.
    side = Side("fr0")
    a, b = pair(side, side, receives=0)
    side.send(a, 100)
    assert side.completions(1) == [e.IBV_WC_RNR_RETRY_EXC_ERR]
    counted(rcvd_rnr_err=3, send_rnr_err=3, retry_rnr_exceeded_err=1)
    # No peer: two waits.
    side = Side("fr0")
    a, b = pair(side, side)
    b.close()
    side.send(a, 100)
    assert side.completions(1) == [e.IBV_WC_RETRY_EXC_ERR]
    counted(local_ack_timeout_err=2, retry_exceeded_err=1)

    # Datagrams, which nobody answers.
    side = Side("fr0")
    a, b = side.qp(e.IBV_QPT_UD), side.qp(e.IBV_QPT_UD, receives=0)
    ah = AH(side.pd, attr=side.route(side))
    for qpn in (b.qp_num, 0xABCDE):
        wr = SendWR(num_sge=1, sg=[side.sge(64)])
        wr.set_wr_ud(ah, qpn, 0x11)
        a.post_send(wr)
        assert side.completions(1) == [e.IBV_WC_SUCCESS]
    counted(rdma_sends=2, sent_bytes=128, out_of_buffer=1, undelivered=1)
    del a, b, ah, side
    remove("fr0", "eth0")


def wait_for_ever(closes):
    """Has a request tried again and again, every 10 µs, and ends meanwhile or is ended."""
    side = Side("fr0")
    # Seven is without end.
    qps = pair(side, side, receives=0, rnr_retry=7)
    side.send(qps[0], 100)
    print("waiting", flush=True)
    sys.stdin.readline()
    if closes == "closes":
        qps[0].close()


def test_a_request_that_waits_ends_with_its_queue():
    add("fr0", "eth0", "10.0.0.1/24")
    for how in ("closes", "exits", "killed"):
        command = sys.executable, __file__, sys.argv[1], "wait_for_ever", how
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "waiting\n"
        before = port_counters("fr0")["rcvd_rnr_err"]
        until(lambda: port_counters("fr0")["rcvd_rnr_err"] > before + 10)
        # The state of a send queue is left out when it is just being executed.
        queues = lambda: rdma("-dd", "resource", "show", "qp")
        until(lambda: any(qp.get("drv_sq_producer") == 1 and qp["drv_sq_waits"] for qp in queues()))
        if how == "killed":
            child.kill()
            child.wait()
        else:
            child.communicate("\n")
        # The kernel has one for itself.
        assert rdma("resource")[0]["qp"] == 1
    remove("fr0", "eth0")


def test_details():
    add("fr0", "eth0", "10.0.0.1/24")
    side = Side("fr0")
    a, b = pair(side, side)
    side.cq.req_notify(True)
    side.send(a, 100)
    side.completions(2)

    def detail(kind, **which):
        (found,) = [
            entry
            for entry in rdma("-dd", "resource", "show", kind)
            if all(entry.get(key) == value for key, value in which.items())
        ]
        return found

    of_a, of_b = (detail("qp", lqpn=qp.qp_num) for qp in (a, b))
    assert (of_a["drv_sq_producer"], of_a["drv_sq_consumer"]) == (1, 1), of_a
    assert of_a["drv_sq_need_doorbell"] == 1, of_a
    assert (of_b["drv_rq_producer"], of_b["drv_rq_consumer"]) == (4, 1), of_b
    of_cq = detail("cq", pid=os.getpid())
    assert (of_cq["drv_producer"], of_cq["drv_consumer"]) == (2, 2), of_cq
    assert (of_cq["drv_armed"], of_cq["drv_overrun"]) == ("solicited", 0), of_cq
    of_mr = detail("mr")
    assert (of_mr["drv_access"], of_mr["drv_memory"], of_mr["drv_windows"]) == (ACCESS, "pinned", 0)
    del a, b, side
    remove("fr0", "eth0")


def event(context):
    found = context.get_async_event()
    found.ack()
    return found.event_type


def events_until(context, last):
    """The events up to one of a kind."""
    found = []
    while not found or found[-1] != last:
        found.append(event(context))
    return found


def test_network_device_events():
    add("fr0", "eth0", "10.0.0.1/24")
    side = Side("fr0")
    a, _ = pair(side, side)
    guid = read("/sys/class/infiniband/fr0/node_guid")
    port = lambda: side.context.query_port(1)
    assert port().state == e.IBV_PORT_ACTIVE
    run("ip", "link", "set", "eth0", "down")
    events_until(side.context, e.IBV_EVENT_PORT_ERR)
    assert port().state == e.IBV_PORT_DOWN
    run("ip", "link", "set", "eth0", "up")
    events_until(side.context, e.IBV_EVENT_PORT_ACTIVE)
    assert port().state == e.IBV_PORT_ACTIVE

    # The largest that fits, with all headers; what is connected stays as it is.
    for mtu, active in ((9000, e.IBV_MTU_4096), (600, e.IBV_MTU_256), (1500, e.IBV_MTU_1024)):
        run("ip", "link", "set", "eth0", "mtu", str(mtu))
        assert port().active_mtu == active, mtu
        assert a.query(e.IBV_QP_PATH_MTU)[0].path_mtu == e.IBV_MTU_1024

    run("ip", "link", "set", "eth0", "name", "eth9")
    assert rdma("link")[0]["netdev"] == "eth9"
    run("ip", "link", "set", "eth9", "address", "02:11:22:33:44:55")
    until(lambda: "fe80:0000:0000:0000:0011:22ff:fe33:4455" in gids("fr0"))
    assert read("/sys/class/infiniband/fr0/node_guid") == guid
    run("ip", "addr", "add", "10.0.0.2/24", "dev", "eth9")
    until(lambda: gid_index("fr0", "10.0.0.2") is not None)
    run("ip", "addr", "del", "10.0.0.2/24", "dev", "eth9")
    until(lambda: gid_index("fr0", "10.0.0.2") is None)

    run("ip", "link", "delete", "eth9")
    events_until(side.context, e.IBV_EVENT_DEVICE_FATAL)
    until(lambda: not rdma("dev"))
    # What it has mapped is still there. What was posted has been flushed, and nothing else comes.
    assert all(wc.status == e.IBV_WC_WR_FLUSH_ERR for wc in side.cq.poll(16)[1])
    assert side.cq.poll()[0] == 0
    gone(side)


def gone(side):
    """The device is no longer this process's."""
    try:
        PD(side.context)
    except PyverbsRDMAError as error:
        assert error.error_code == errno.EIO, error
    else:
        raise AssertionError("the device still answers")


def test_which_network_devices():
    add("fr0", "eth0", "10.0.0.1/24")
    assert "File exists" in fails("rdma", "link", "add", "fr1", "type", "ferroce", "netdev", "eth0")
    run("ip", "link", "add", "eth1", "type", "dummy")
    assert "File exists" in fails("rdma", "link", "add", "fr0", "type", "ferroce", "netdev", "eth1")
    run("ip", "link", "delete", "eth1")

    # The loopback device, in a namespace where nothing else is.
    run("ip", "netns", "add", "c1")
    inside = "ip", "netns", "exec", "c1"
    link = "rdma", "link", "add", "fl0", "type", "ferroce", "netdev", "lo"
    assert "Network is down" in fails(*inside, *link)
    run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, *link)
    until(lambda: gid_index("fl0", "127.0.0.1") is not None)
    lo = Side("fl0", gid_index("fl0", "127.0.0.1"))
    assert talk(lo, lo) == e.IBV_WC_SUCCESS
    del lo
    run("ip", "netns", "delete", "c1")
    until(lambda: len(rdma("dev")) == 1)

    # The address of a bridge is one of those of the device in it, for others as well.
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "add", "eth1", "type", "dummy")
    run("ip", "link", "set", "eth1", "master", "br0")
    run("ip", "addr", "add", "10.2.0.1/24", "dev", "br0")
    # In place of a neighbour on the network who would answer for the others.
    run("ip", "link", "set", "br0", "arp", "off")
    run("ip", "link", "set", "eth1", "up")
    run("ip", "link", "set", "br0", "up")
    run("rdma", "link", "add", "fr1", "type", "ferroce", "netdev", "eth1")
    until(lambda: gid_index("fr1", "10.2.0.1") is not None)
    a, b = Side("fr0"), Side("fr1", gid_index("fr1", "10.2.0.1"))
    assert talk(a, b) == talk(b, a) == e.IBV_WC_SUCCESS
    del a, b
    run("ip", "link", "delete", "br0")
    remove("fr1", "eth1")
    remove("fr0", "eth0")


def test_the_interface_is_found_in_sysfs():
    folder = "/sys/class/infiniband/fr0/device/net"
    add("fr0", "eth0", "10.0.0.1/24")
    assert os.listdir(folder) == ["eth0"]
    assert read(f"{folder}/eth0/address") == read("/sys/class/net/eth0/address")
    run("ip", "link", "set", "eth0", "name", "eth7")
    assert os.listdir(folder) == ["eth7"]
    assert read(f"{folder}/eth7/address") == read("/sys/class/net/eth7/address")
    # A device has another name; its place is the same.
    run("rdma", "dev", "set", "fr0", "name", "fr7")
    place = os.path.realpath("/sys/class/infiniband/fr7/device")
    assert os.listdir(f"{place}/net") == ["eth7"]
    add("fr0", "eth0", "10.0.1.1/24")
    assert os.listdir(folder) == ["eth0"]
    remove("fr0", "eth0")
    # In another namespace the interface can have another name from the beginning.
    run("ip", "netns", "add", "c1")
    run("ip", "link", "set", "eth7", "netns", "c1", "name", "eth8")
    assert os.listdir(f"{place}/net") == ["eth8"]
    inside = "ip", "netns", "exec", "c1"
    assert read_inside(inside, f"{place}/net/eth8/address") == read_inside(inside, "/sys/class/net/eth8/address")
    run("ip", "netns", "delete", "c1")
    until(lambda: not os.path.exists(place))


def read_inside(inside, path):
    return run(*inside, "cat", path)


def test_namespaces_with_the_same_address():
    # In the mode that shares devices: this process may open both.
    add("fr0", "eth0", "10.0.0.1/24")
    run("ip", "netns", "add", "c1")
    add("fr1", "eth0", "10.0.0.1/24", prefix=("ip", "netns", "exec", "c1"))
    a, b = Side("fr0"), Side("fr1")
    # So that the numbers differ.
    spare = [a.qp() for _ in range(8)]
    assert talk(a, b) == talk(b, a) == e.IBV_WC_RETRY_EXC_ERR
    assert talk(a, a) == talk(b, b) == e.IBV_WC_SUCCESS
    del a, b, spare

    # A network device that moves takes its device along, to where its addresses are then.
    run("ip", "netns", "exec", "c1", "ip", "link", "set", "eth0", "name", "eth1")
    run("ip", "link", "set", "eth0", "netns", "c1")
    until(lambda: gid_index("fr0", "10.0.0.1") is None)
    for command in (("addr", "add", "10.0.0.2/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        run("ip", "netns", "exec", "c1", "ip", *command)
    until(lambda: gid_index("fr0", "10.0.0.2") is not None)
    a, b = Side("fr0", gid_index("fr0", "10.0.0.2")), Side("fr1", gid_index("fr1", "10.0.0.1"))
    assert talk(a, b) == talk(b, a) == e.IBV_WC_SUCCESS
    del a, b
    # They go with the namespace, since their network devices do.
    run("ip", "netns", "delete", "c1")
    until(lambda: not rdma("dev"))


def test_a_device_moves_to_another_namespace():
    exclusive = "rdma", "system", "set", "netns", "exclusive"
    # The namespaces of the tests before take a moment to go.
    until(lambda: subprocess.run(exclusive, stderr=subprocess.DEVNULL).returncode == 0)
    add("fr0", "eth0", "10.0.0.1/24")
    run("ip", "netns", "add", "c1")
    side = Side("fr0")
    a, b = pair(side, side)
    run("rdma", "dev", "set", "fr0", "netns", "c1")
    # It is taken away from who had it, and cannot be opened here any more.
    events_until(side.context, e.IBV_EVENT_DEVICE_FATAL)
    assert side.cq.poll()[0] == 0
    gone(side)
    assert not rdma("dev")
    try:
        Context(name="fr0")
    except PyverbsError:
        pass
    else:
        raise AssertionError("a device of another namespace can be opened")
    del a, b, side

    # Its addresses are still those of this namespace: in the other they are of no use.
    inside = "ip", "netns", "exec", "c1"
    me = sys.executable, __file__, sys.argv[1]
    run(*inside, *me, "talk_inside", "DOWN", str(e.IBV_WC_RETRY_EXC_ERR))
    run("ip", "link", "set", "eth0", "netns", "c1")
    for command in (("addr", "add", "10.0.0.1/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        run(*inside, "ip", *command)
    run(*inside, *me, "talk_inside", "ACTIVE", str(e.IBV_WC_SUCCESS))
    # And back, in the other order: a device is left over when its namespace goes, and comes home.
    run(*inside, "ip", "link", "set", "eth0", "netns", "1")
    run("ip", "netns", "delete", "c1")
    until(lambda: rdma("dev"))
    run("ip", "addr", "add", "10.0.0.1/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    until(lambda: gid_index("fr0", "10.0.0.1") is not None)
    side = Side("fr0", gid_index("fr0", "10.0.0.1"))
    assert talk(side, side) == e.IBV_WC_SUCCESS
    del side
    remove("fr0", "eth0")
    until(lambda: subprocess.run([*exclusive[:-1], "shared"], stderr=subprocess.DEVNULL).returncode == 0)


def talk_inside(state, status):
    """In a namespace: the port's state, and what becomes of a message to oneself."""
    until(lambda: gid_index("fr0", "10.0.0.1") is not None)
    assert rdma("link")[0]["state"] == state, rdma("link")
    side = Side("fr0", gid_index("fr0", "10.0.0.1"))
    assert talk(side, side) == int(status)


def main():
    if sys.argv[2:]:
        globals()[sys.argv[2]](*sys.argv[3:])
        return
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            print(name[5:].replace("_", " "), end=" ... ", flush=True)
            test()
            print("ok", flush=True)
    run("modprobe", "-r", "ferroce")


main()
