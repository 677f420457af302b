# SPDX-License-Identifier: MIT OR Apache-2.0
"""Cards on a PCI bus: card.py all|rebind TIMES|unplugged"""

import ctypes
import glob
import json
import mmap
import os
import subprocess
import sys

import pyverbs.enums as e
from pyverbs.device import AllocDmAttr, Context, DM
from pyverbs.mr import DMMR
from pyverbs.pyverbs_error import PyverbsRDMAError

from rig import (
    ALL,
    LOCAL_WRITE,
    PAGE,
    RC,
    REMOTE_READ,
    REMOTE_WRITE,
    ZERO_BASED,
    Device,
    Memory,
    Qp,
    connect,
    send_wr,
    until,
)

CLASS = "/sys/class/infiniband"
DRIVER = "/sys/bus/pci/drivers/ferroce"
# crates/ferroce-lab/src/boot/card.rs: the memory on board, of which the first page is the header's.
BOARD = 4 << 20
MEGABYTE = 1 << 20
# GID 0 is that of the link-local address.
GID = 0
# The kernel's own on each device, those of QP 1.
NOTHING = {"pd": 1, "cq": 1, "qp": 1, "cm_id": 0, "mr": 0, "ctx": 0, "srq": 0}


def read(path):
    with open(path) as file:
        return file.read().strip()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def devices():
    return sorted(os.listdir(CLASS)) if os.path.isdir(CLASS) else []


def function(device):
    """The card's place on its bus."""
    return os.path.basename(os.path.realpath(f"{CLASS}/{device}/device"))


def errno_of(action, *args, **kwargs):
    try:
        action(*args, **kwargs)
    except (PyverbsRDMAError, OSError) as error:
        return getattr(error, "error_code", None) or error.errno
    return 0


def on_the_bus():
    """What programs look for in sysfs, and administrators."""
    assert devices() == ["ferroce0", "ferroce1"], devices()
    for number, name in enumerate(devices()):
        card = f"{CLASS}/{name}/device"
        assert read(f"{card}/vendor") == "0x1af4" and read(f"{card}/device") == "0x1110"
        assert os.path.realpath(f"{card}/driver") == DRIVER
        assert os.path.realpath(f"{card}/subsystem") == "/sys/bus/pci"
        # Of the slot: the function itself is none of PCI Express.
        assert read(f"{card}/../max_link_speed").endswith("PCIe")
        assert read(f"{card}/net/eth{number}/address").endswith(f":{number:02x}")
        modinfo = subprocess.run(["modinfo", "-F", "alias", "ferroce"], capture_output=True, text=True)
        assert "pci:v00001AF4d00001110sv*sd*bc*sc*i*" in modinfo.stdout, modinfo
        # It goes with its card.
        delete = subprocess.run(["rdma", "link", "delete", name], capture_output=True, text=True)
        assert delete.returncode != 0 and "Invalid argument" in delete.stderr, delete
    # Nor does another one come over its network device.
    add = ["rdma", "link", "add", "fr0", "type", "ferroce", "netdev", "eth0"]
    assert "File exists" in subprocess.run(add, capture_output=True, text=True).stderr


def memory_of(card):
    """What is behind its BAR. With CONFIG_IO_STRICT_DEVMEM nobody but the driver gets at that while it is bound."""
    with open(f"{card}/resource2", "r+b") as file:
        try:
            return mmap.mmap(file.fileno(), BOARD)
        except OSError as error:
            assert error.errno == 22 and os.path.exists(f"{card}/driver"), error
            return None


def on_board():
    """Device memory is that of the card."""
    one, other = Device("ferroce0", GID), Device("ferroce1", GID)
    board = memory_of(f"{CLASS}/ferroce0/device")
    assert board is None or board[:8] == b"ferroce\0"

    size = one.context.query_device_ex().max_dm_size
    assert size == MEGABYTE, size
    dm = DM(one.context, AllocDmAttr(MEGABYTE))
    mark = os.urandom(64)
    dm.copy_to_dm(100, mark, len(mark))
    at = board.find(mark) if board else PAGE + 100
    assert at >= PAGE and at % PAGE == 100, at
    # Written by a peer, on the other card, and read back by it.
    access = LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | ZERO_BASED
    region = DMMR(one.pd, MEGABYTE, access, dm=dm, offset=0)
    memory = Memory(PAGE)
    local = memory.region(other.pd, ALL)
    a, b = Qp(one, RC), Qp(other, RC)
    connect(a, b)
    written = os.urandom(256)
    memory.put(0, written)
    end = MEGABYTE - len(written)
    for opcode, target in (e.IBV_WR_RDMA_WRITE, 0), (e.IBV_WR_RDMA_READ, 1024):
        wr = send_wr(opcode, [(memory.address + target, len(written), local.lkey)])
        wr.set_wr_rdma(region.rkey, end)
        b.qp.post_send(wr)
        (done,) = b.sent()
        assert done.status == e.IBV_WC_SUCCESS, done
    memory.expect(1024, written)
    assert memory.difference() is None, memory.difference()
    assert not board or board[at - 100 + end : at - 100 + MEGABYTE] == written

    # What it does not have it does not give, and what was given back is zero.
    more = [DM(one.context, AllocDmAttr(MEGABYTE)) for _ in range(2)]
    assert errno_of(DM, one.context, AllocDmAttr(MEGABYTE)) == 12
    rest = [DM(one.context, AllocDmAttr(PAGE)) for _ in range(MEGABYTE // PAGE - 1)]
    assert errno_of(DM, one.context, AllocDmAttr(1)) == 12
    for part in [a, b, region, *rest]:
        part.close()
    more.pop().close()
    region = None
    dm.close()
    again = [DM(one.context, AllocDmAttr(MEGABYTE)) for _ in range(2)]
    assert all(part.copy_from_dm(0, 256) == bytes(256) for part in again)
    assert not board or (board.find(mark) == -1 and board.find(written) == -1)


class User:
    """A process that has something of each kind, and waits for its device to go."""

    def __init__(self, name, peer):
        self.device, self.peer = Device(name, GID), Device(peer, GID)
        self.dm = DM(self.device.context, AllocDmAttr(PAGE))
        self.region = DMMR(self.device.pd, PAGE, LOCAL_WRITE | ZERO_BASED, dm=self.dm, offset=0)
        self.memory = Memory(PAGE)
        self.local = self.memory.region(self.device.pd)
        self.a, self.b = Qp(self.device, RC), Qp(self.peer, RC)
        connect(self.a, self.b)
        # There is no receive for it: it waits.
        wr = send_wr(e.IBV_WR_SEND, [(self.memory.address, 64, self.local.lkey)], wr_id=7)
        self.a.qp.post_send(wr)

    def see(self):
        """That all is told."""
        until("the event", lambda: e.IBV_EVENT_DEVICE_FATAL in self.device.events())
        # The last completion comes from where the rings are, which stay.
        (done,) = self.a.sent()
        assert (done.wr_id, done.status) == (7, e.IBV_WC_WR_FLUSH_ERR), done
        assert errno_of(Qp, self.device, RC) == 5
        # The board is not the process's any more.
        self.dm.copy_to_dm(0, b"lost", 4)


def left(names):
    """That nothing is left of what programs had."""
    for name in names:
        found = json.loads(subprocess.check_output(["rdma", "-j", "resource", "show", name]))[0]
        found = {kind: found[kind] for kind in NOTHING}
        assert found == NOTHING, (name, found)


def rebind(times):
    """Unbinds and binds a card, with users of its device and without."""
    where = function("ferroce0")
    for number in range(times):
        user = number % 4 == 0 and User("ferroce0", "ferroce1")
        write(f"{DRIVER}/unbind", where)
        assert devices() == ["ferroce1"], devices()
        if user:
            user.see()
        # By the context's end the device's memory is free.
        user = None
        write(f"{DRIVER}/bind", where)
        assert devices() == ["ferroce0", "ferroce1"], devices()
    left(devices())
    print(f"{times} times")


def reloaded():
    """The module goes with its devices in use, and finds the cards when it comes."""
    subprocess.run(["rmmod", "ferroce"], check=True)
    assert devices() == []
    assert not os.path.exists(DRIVER)
    subprocess.run(["modprobe", "ferroce"], check=True)
    assert devices() == ["ferroce0", "ferroce1"], devices()


def not_ours():
    """Somebody else's memory on such a function is left to them, and told of to nobody."""
    where = function("ferroce1")
    write(f"{DRIVER}/unbind", where)

    def flip(at, bits):
        # Mapped anew each time: what is mapped goes when a driver asks for the BAR.
        with memory_of(f"/sys/bus/pci/devices/{where}") as board:
            board[at] ^= bits

    for at in 0, 8:
        flip(at, 1)
        assert errno_of(write, f"{DRIVER}/bind", where) == 19
        flip(at, 1)
    # A network device that there is not: the driver waits for it.
    flip(15, 0x80)
    assert errno_of(write, f"{DRIVER}/bind", where) in (517, 11, 22)
    flip(15, 0x80)
    write(f"{DRIVER}/bind", where)
    assert devices() == ["ferroce0", "ferroce1"], devices()


def network_device_goes():
    """A card's device goes with its network device, and the card can be unbound afterwards."""
    where = function("ferroce1")
    network = os.path.realpath("/sys/class/net/eth1/device/..")
    network = os.path.basename(network)
    driver = os.path.realpath(f"/sys/bus/pci/devices/{network}/driver")
    write(f"{driver}/unbind", network)
    until("the device to go", lambda: devices() == ["ferroce0"])
    write(f"{DRIVER}/unbind", where)
    write(f"{driver}/bind", network)
    subprocess.run(["ip", "link", "set", "eth1", "up"], check=True)
    write(f"{DRIVER}/bind", where)
    assert devices() == ["ferroce0", "ferroce1"], devices()


def unplugged():
    """The first card is taken out of its slot while its device is written to and from."""
    user = User("ferroce0", "ferroce1")
    slot = os.path.dirname(os.path.realpath(f"{CLASS}/ferroce0/device"))
    server = ["ib_write_bw", "-d", "ferroce1", "-x", "0", "-D", "60"]
    client = ["ib_write_bw", "-d", "ferroce0", "-x", "0", "-D", "60", "localhost"]
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        listens = lambda: ":4853 " in read("/proc/net/tcp") + read("/proc/net/tcp6")
        until("ib_write_bw to listen", listens)
        with subprocess.Popen(client, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as second:
            bytes_in = lambda: int(read(f"{CLASS}/ferroce1/ports/1/hw_counters/rcvd_bytes"))
            begun = bytes_in()
            until("traffic", lambda: bytes_in() > begun + MEGABYTE)
            # The test takes the card out now.
            print("unplug", flush=True)
            until_gone = lambda: devices() == ["ferroce1"]
            for _ in range(6):
                try:
                    until("the card to go", until_gone)
                    break
                except AssertionError:
                    pass
            assert devices() == ["ferroce1"], devices()
            user.see()
            user = None
            assert second.wait(60) != 0
            # It waits for a peer that is gone.
            first.kill()
    assert not glob.glob(f"{slot}/*/vendor"), "there is a card in the slot"
    left(["ferroce1"])
    subprocess.run(["modprobe", "-r", "ferroce"], check=True)
    print("unplugged")


def main(what, *args):
    if what == "rebind":
        rebind(int(*args))
    elif what == "unplugged":
        unplugged()
    else:
        for part in on_the_bus, on_board, not_ours, network_device_goes, reloaded:
            part()
            left(devices())
        rebind(4)
        print("the cards work")


main(*sys.argv[1:])
