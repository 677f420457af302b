# SPDX-License-Identifier: MIT OR Apache-2.0
"""An address that a host loses is sent from no more, and once it is back all goes on.

    wire_address.py DEVICE NETDEV NAMESPACE PEER ADDRESS

DEVICE has ADDRESS, which is its third GID, and its network device has another one of the same network, so that
the route stays.
"""

import ipaddress
import os
import subprocess
import sys

import pyverbs.enums as e

from rig import *

LENGTH = 64
# Local ACK timeout: 0.5 s, which is waited for seven times.
TIMEOUT = 17


def counters(name):
    where = f"/sys/class/infiniband/{name}/ports/1/hw_counters"
    return {name: int(open(f"{where}/{name}").read()) for name in ("sent_pkts", "rcvd_pkts", "send_err")}


def main():
    name, netdev, namespace, peer_name, address = sys.argv[1:]
    device, peer = Device(name, 2), Device(peer_name, 2)
    assert ipaddress.ip_address(device.gid) == ipaddress.ip_address(address), device.gid
    memory = Memory(PAGE)
    here, there = memory.region(device.pd), memory.region(peer.pd)
    ends = {}
    for qp_type in RC, UC, UD:
        ends[qp_type] = Qp(device, qp_type), Qp(peer, qp_type)
        connect(*ends[qp_type], **({} if qp_type == UD else {"timeout": TIMEOUT}))

    def ip(*command):
        subprocess.run(("ip", "-n", namespace, "addr", *command, "dev", netdev), check=True)

    def has_gid():
        gids = f"/sys/class/infiniband/{name}/ports/1/gids"
        found = []
        for index in range(8):
            try:
                found.append(ipaddress.ip_address(open(f"{gids}/{index}").read().strip()))
            except OSError:
                pass
        return ipaddress.ip_address(address) in found

    def send(qp_type):
        one, other = ends[qp_type]
        other.post_recv([(0, [(memory.address + 1024, GRH + LENGTH, there.lkey)])])
        wr = send_wr(e.IBV_WR_SEND, [(memory.address, LENGTH, here.lkey)])
        if qp_type == UD:
            wr.set_wr_ud(one.ah, other.number, QKEY)
        one.qp.post_send(wr)

    def sent(qp_type):
        (wc,) = ends[qp_type][0].sent()
        assert wc.status == e.IBV_WC_SUCCESS, f"{TRANSPORTS[qp_type]}: {wc}"

    def received(qp_type):
        (wc,) = ends[qp_type][1].received()
        assert wc.status == e.IBV_WC_SUCCESS, f"{TRANSPORTS[qp_type]}: {wc}"

    for qp_type in ends:
        send(qp_type)
        sent(qp_type)
        received(qp_type)

    ip("del", f"{address}/64")
    until("the GID to go", lambda: not has_gid())
    before = counters(name), counters(peer_name)
    for qp_type in ends:
        send(qp_type)
    # Who is unreliable does not hear of it. Who is reliable tries again.
    sent(UC)
    sent(UD)
    until("packets without a way", lambda: counters(name)["send_err"] >= before[0]["send_err"] + 4)
    after = counters(name), counters(peer_name)
    assert after[0]["sent_pkts"] == before[0]["sent_pkts"], f"{before} {after}"
    assert after[1]["rcvd_pkts"] == before[1]["rcvd_pkts"], f"{before} {after}"
    for one, other in ends.values():
        none(other.recv_cq)
    none(ends[RC][0].send_cq)

    ip("add", f"{address}/64", "nodad")
    until("the GID to be back", has_gid)
    sent(RC)
    received(RC)
    for qp_type in UC, UD:
        # The receive of the message that was lost is still there, and so it is one of two.
        send(qp_type)
        sent(qp_type)
        received(qp_type)
    print("back again")


main()
