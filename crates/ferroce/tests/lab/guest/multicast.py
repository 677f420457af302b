# SPDX-License-Identifier: MIT OR Apache-2.0
"""Multicast groups by the wire, and what the network devices know of them.

    multicast.py DEVICE NETDEV NAMESPACE  DEVICE NETDEV NAMESPACE  DEVICE lo NAMESPACE

The first device sends, the second receives, the third is over a loopback device. There is a namespace
`away` to which the second can go.
"""

import errno
import ipaddress
import json
import os
import struct
import subprocess
import sys
import time

import pyverbs.enums as e
from pyverbs.addr import AH, GID, AHAttr, GlobalRoute

from rig import *

ALL_MEMBERS = 0xFFFFFF
# enum ib_uverbs_write_cmds.
ATTACH_MCAST, DETACH_MCAST = 30, 31
# A group: its GID, the group's Ethernet address (RFC 1112 6.4, RFC 2464 7), and whom one sends to it from.
GROUPS = {
    "239.129.2.3": ("::ffff:239.129.2.3", "01:00:5e:01:02:03", ("::ffff:10.0.0.1", "::ffff:127.0.0.1")),
    "ff15::1:2345": ("ff15::1:2345", "33:33:00:01:23:45", ("fd00::1", "::1")),
}
SIZE, SLOTS = 64, 4


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def ip(*command):
    return run("ip", *command)


class Host:
    """A device, and the network device that it is over."""

    def __init__(self, name, netdev, namespace):
        self.device = Device(name)
        self.netdev, self.namespace = netdev, namespace

    def gid_index(self, gids):
        """Which of its GIDs is one of these."""
        wanted = [ipaddress.ip_address(gid) for gid in gids]
        table = range(self.device.context.query_port(1).gid_tbl_len)
        gid = lambda index: ipaddress.ip_address(str(self.device.context.query_gid(1, index)))
        return next(index for index in table if gid(index) in wanted)

    def groups(self):
        """The groups that the network device is in: {address: how often}."""
        (found,) = json.loads(ip("-n", self.namespace, "-j", "maddr", "show", "dev", self.netdev))
        return {
            entry.get("address") or entry["link"]: entry.get("users", 1) for entry in found["maddr"]
        }

    def is_in(self, group, times):
        """That it is in a group so often, or not at all, and its filter lets that through."""
        mac, groups = GROUPS[group][1], self.groups()
        assert groups.get(group, 0) == times, f"{group} should be there {times} times: {groups}"
        assert (mac in groups) == (times > 0), f"{mac}: {groups}"


class Member:
    """A queue pair that datagrams come to, in a context of its own."""

    def __init__(self, host):
        self.host = host
        self.device = Device(host.device.name)
        self.memory = Memory(SLOTS * (GRH + SIZE))
        self.mr = self.memory.region(self.device.pd)
        self.qp = Qp(self.device, UD)
        connect(self.qp, self.qp)
        for slot in range(SLOTS):
            self.wants(slot)

    def wants(self, slot):
        at = self.memory.address + slot * (GRH + SIZE)
        self.qp.post_recv([(slot, [(at, GRH + SIZE, self.mr.lkey)])])

    def command(self, number, group):
        """struct ib_uverbs_attach_mcast, since pyverbs does not have it, for the one queue pair there is."""
        gid = ipaddress.ip_address(GROUPS[group][0]).packed
        done = 0
        for handle in range(16):
            call = struct.pack("IHH16sIHH", number, 8, 0, gid, handle, 0, 0)
            try:
                done += os.write(self.device.file, call) == len(call)
            except OSError as err:
                assert err.errno in (errno.ENOENT, errno.EINVAL), err
        assert done == 1, done

    def attach(self, group):
        self.command(ATTACH_MCAST, group)

    def detach(self, group):
        self.command(DETACH_MCAST, group)

    def gets(self, text):
        """That this is what it has got, and nothing else has come before."""
        (wc,) = self.qp.received()
        found = self.take(wc)
        assert found == text, f"{found}, not {text}"

    def take(self, wc):
        assert wc.status == e.IBV_WC_SUCCESS, str(wc)
        at = wc.wr_id * (GRH + SIZE)
        text = bytes(self.memory.view[at + GRH : at + wc.byte_len])
        self.wants(wc.wr_id)
        return text


class Sender(Member):
    """A queue pair that sends."""

    def __init__(self, host):
        super().__init__(host)
        self.buffer = Memory(SIZE)
        self.source = self.buffer.region(self.device.pd)
        self.count = 0

    def send(self, text, gid, gid_index, number):
        route = GlobalRoute(dgid=gid, sgid_index=gid_index, hop_limit=64)
        with AH(self.device.pd, attr=AHAttr(port_num=1, is_global=1, gr=route)) as ah:
            self.buffer.put(0, text)
            wr = send_wr(e.IBV_WR_SEND, [(self.buffer.address, len(text), self.source.lkey)])
            wr.set_wr_ud(ah, number, QKEY)
            self.qp.qp.post_send(wr)
            (wc,) = self.qp.sent()
            assert wc.status == e.IBV_WC_SUCCESS, str(wc)

    def to_group(self, group, members):
        """That what is sent to a group comes to all its members."""
        self.count += 1
        text = f"number {self.count}, to {group}".encode()
        gid_index = self.host.gid_index(GROUPS[group][2])
        gid = GID(ipaddress.IPv6Address(GROUPS[group][0]).exploded)
        self.send(text, gid, gid_index, ALL_MEMBERS)
        for member in members:
            member.gets(text)

    def delivers(self, group, members, others):
        """That it comes to them once, and to nobody else: what is sent to each of all these comes next."""
        self.to_group(group, members)
        gid_index = self.host.device.gid_index
        for member in members + others:
            self.send(b"to one", member.host.device.gid, gid_index, member.qp.number)
            member.gets(b"to one")


def attach_and_detach(here, there, group):
    sender, near = Sender(here), Member(here)
    first, second, stranger = [Member(there) for _ in range(3)]
    before = there.groups()

    sender.delivers(group, [], [near, first, second, stranger])
    first.attach(group)
    there.is_in(group, 1)
    sender.delivers(group, [first], [near, second, stranger])
    second.attach(group)
    there.is_in(group, 2)
    sender.delivers(group, [first, second], [near, stranger])

    # Those at the sender's own host get it there, and not by the network once more; the sender does not
    # (IBTA 10.5.1).
    near.attach(group)
    sender.attach(group)
    here.is_in(group, 2)
    sender.delivers(group, [near, first, second], [stranger, sender])
    near.detach(group)
    sender.detach(group)
    here.is_in(group, 0)

    first.detach(group)
    there.is_in(group, 1)
    sender.delivers(group, [second], [near, first, stranger])
    second.detach(group)
    there.is_in(group, 0)
    assert there.groups() == before, there.groups()
    sender.delivers(group, [], [near, first, second, stranger])


def loopback(host):
    """All are at this host; nothing goes to a network and comes back."""
    sender, member, stranger = Sender(host), Member(host), Member(host)
    for group in GROUPS:
        member.attach(group)
        sender.attach(group)
        sender.delivers(group, [member], [stranger, sender])
        member.detach(group)
        sender.detach(group)


def network_device_changes(here, there):
    """It is in the groups wherever it is, as long as IP is there."""
    sender, member = Sender(here), Member(there)
    v4, v6 = GROUPS
    for group in GROUPS:
        member.attach(group)

    # IPv6 is not on networks that carry less than 1280 bytes (RFC 8200 5).
    ip("-n", there.namespace, "link", "set", there.netdev, "mtu", "1200")
    there.is_in(v4, 1)
    there.is_in(v6, 0)
    ip("-n", there.namespace, "link", "set", there.netdev, "mtu", "4300")
    there.is_in(v6, 1)

    home = there.namespace
    for origin, target in (home, "away"), ("away", home):
        ip("-n", origin, "link", "set", there.netdev, "netns", target)
        there.namespace = target
        for group in GROUPS:
            there.is_in(group, 1)
    for address in "10.0.0.2/24", "fd00::2/64":
        ip("-n", home, "addr", "add", address, "dev", there.netdev)
    ip("-n", home, "link", "set", there.netdev, "up")
    for group in GROUPS:
        # It takes a moment until both ends know of each other, and until then the network loses them.
        def arrives():
            sender.to_group(group, [])
            time.sleep(0.05)
            texts = [member.take(wc) for wc in member.qp.recv_cq.poll(SLOTS)[1]]
            return any(text.endswith(group.encode()) for text in texts)

        until(f"what is sent to {group}", arrives)
    return member


def device_goes(there):
    """What a device has joined it leaves, with those who have attached still there."""
    for group in GROUPS:
        there.is_in(group, 1)
    run("rdma", "link", "delete", there.device.name)
    for group in GROUPS:
        there.is_in(group, 0)
    exec_there = "ip", "netns", "exec", there.namespace
    name, netdev = there.device.name, there.netdev
    run(*exec_there, "rdma", "link", "add", name, "type", "ferroce", "netdev", netdev)


def main():
    here, there = Host(*sys.argv[1:4]), Host(*sys.argv[4:7])
    for group in GROUPS:
        attach_and_detach(here, there, group)
    loopback(Host(*sys.argv[7:]))
    member = network_device_changes(here, there)
    device_goes(there)
    print(f"{len(GROUPS)} groups")
    del member


main()
