#!/bin/sh -e
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes rxe.pcap: what two devices of rdma_rxe say to each other. In the project's folder:
#
#     ferroce lab run --rw crates/ferroce-core/tests/wire/captures -- \
#         sh crates/ferroce-core/tests/wire/captures/rxe.sh
cd "$(dirname "$0")"
modprobe rdma_rxe
modprobe ib_uverbs
ip link add veth0 mtu 4300 type veth peer name veth1
ip netns add other
ip link set veth1 netns other
for number in 0 1; do
    test $number = 0 && in= || in="ip netns exec other"
    $in ip addr add 10.0.0.$((number + 1))/24 dev veth$number
    $in ip addr add fd00::$((number + 1))/64 dev veth$number nodad
    $in ip link set veth$number up
    $in rdma link add rxe$number type rxe netdev veth$number
done
# Every packet as long as Ethernet has them, and no other protocol.
tcpdump -Z root -i veth0 -U -w rxe.pcap udp port 4791 &
sleep 1
PYTHONPATH=../../../../ferroce/tests/lab/guest /usr/bin/python3 rxe.py
sleep 1
kill $!
wait $! || true
