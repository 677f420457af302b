# SPDX-License-Identifier: MIT OR Apache-2.0
# Writes the packets of ibv_rc_pingpong between two devices into wire.pcap.
set -e

# ANCHOR: hosts
# Two network namespaces, for hosts, with a cable between them, and a device in each.
ip netns add a; ip netns add b
ip link add va netns a type veth peer name vb netns b
ip -n a addr add 10.0.0.1/24 dev va; ip -n a link set va up
ip -n b addr add 10.0.0.2/24 dev vb; ip -n b link set vb up
ip netns exec b ip link set lo up
ip netns exec a rdma link add fra type ferroce netdev va
ip netns exec b rdma link add frb type ferroce netdev vb
# ANCHOR_END: hosts

# ANCHOR: trace
ip netns exec a ferroce trace fra -o wire.pcap 2> /tmp/trace &
trace=$!
until grep -q tracing /tmp/trace; do sleep 0.1; done

ip netns exec b ibv_rc_pingpong -d frb -g 1 -n 5 > /dev/null &
# Until it listens on its port, 18515 or 0x4853 (proc(5), /proc/net/tcp).
until ip netns exec b cat /proc/net/tcp /proc/net/tcp6 | grep -q ':4853 [^ ]* 0A'; do sleep 0.1; done
ip netns exec a ibv_rc_pingpong -d fra -g 1 -n 5 10.0.0.2 > /dev/null

kill -INT $trace
wait $trace
cat /tmp/trace
# ANCHOR_END: trace
