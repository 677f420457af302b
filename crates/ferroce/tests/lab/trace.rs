// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce trace`, in guests with rdma_rxe on both ends of a cable.

use crate::support::{Flavor, Ran, Test};

pub const TESTS: &[Test] = &[
    ("trace: a device's packets, and no others", packets),
    (
        "trace: what offloads leave to the hardware is done",
        offloads,
    ),
    ("trace: it ends as it should, and says what is wrong", ends),
];

/// Devices ra and rb, at 10.0.0.1 and 10.0.0.2, the second in a namespace of its own; `$F` is the
/// program, and `tracing FILE OPTIONS...` starts a trace of ra, and returns once it is at it.
const CABLE: &str = "set -e; ip netns add b; ip link add va type veth peer name vb netns b; \
    B='ip netns exec b'; $B ip link set lo up; \
    ip addr add 10.0.0.1/24 dev va; ip -6 addr add fd00::1/64 dev va nodad; ip link set va up; \
    $B ip addr add 10.0.0.2/24 dev vb; $B ip -6 addr add fd00::2/64 dev vb nodad; $B ip link set vb up; \
    rdma link add ra type rxe netdev va; $B rdma link add rb type rxe netdev vb; \
    tracing() { file=$1; shift; $F trace ra -o $file \"$@\" 2>/tmp/said & t=$!; \
        until grep -q tracing /tmp/said; do kill -0 $t; sleep 0.02; done; }; ";

/// Reads the packets of a pcap file: `for length, packet in packets(FILE)`.
const READ: &str = r#"
import struct, sys
def packets(name):
    data = open(name, "rb").read()
    magic, major, minor, _, _, snap, link = struct.unpack_from("=IHHiIII", data)
    # Nanoseconds, Ethernet (the pcap format, draft-ietf-opsawg-pcap).
    assert (magic, major, minor, link) == (0xA1B23C4D, 2, 4, 1), data[:24]
    at = 24
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, at)
        assert nanoseconds < 10**9 and kept == min(length, snap)
        yield length, data[at + 16 : at + 16 + kept]
        at += 16 + kept
"#;

fn sh(flavor: &Flavor, script: &str) -> Ran {
    let program = env!("CARGO_BIN_EXE_ferroce");
    flavor.sh(&format!("F={program}; {CABLE}\n{script}"))
}

/// A Python program that has [`READ`].
fn python(program: &str) -> String {
    format!("/usr/bin/python3 - <<'END'\n{READ}\n{program}\nEND\n")
}

fn packets(flavor: &Flavor) {
    let look = python(
        "\
both = list(packets('/tmp/both'))
opcodes = [p[42] for _, p in both]
# Of ten messages: the path MTU of the programs is 1024, so each is sent in four packets (IBTA 9.2,
# table 38: RC SEND first, middle, middle, last, and acknowledgements).
assert [opcodes.count(code) for code in (0, 1, 2)] == [10, 20, 10], opcodes
assert opcodes.count(17) >= 2 and set(opcodes) == {0, 1, 2, 17}, opcodes
assert {p[26:34] for _, p in both} == {bytes((10, 0, 0, 1, 10, 0, 0, 2)), bytes((10, 0, 0, 2, 10, 0, 0, 1))}
assert all(p[12:14] == b'\\x08\\0' and p[36:38] == (4791).to_bytes(2, 'big') for _, p in both)
# Of the same ones, another trace has the first three, and of them the headers.
few = list(packets('/tmp/few'))
assert [(l, p[:66]) for l, p in both[:3]] == [(l, p) for l, p in few], few
",
    );
    sh(
        flavor,
        &format!(
            "$F trace ra -o - -c 3 -s 66 2>/tmp/few-said >/tmp/few & few=$!
            until grep -q tracing /tmp/few-said; do sleep 0.02; done
            tracing /tmp/both
            # Neither is one of the device's.
            /usr/bin/python3 -c 'import socket
for port in (4790, 4792): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(20), (\"10.0.0.2\", port))'
            $B ibv_rc_pingpong -d rb -g 1 -n 5 >/tmp/server &
            until $B cat /proc/net/tcp /proc/net/tcp6 | grep -q ':4853 [^ ]* 0A'; do sleep 0.05; done
            timeout 60 ibv_rc_pingpong -d ra -g 1 -n 5 10.0.0.2
            wait $few; cat /tmp/few-said; kill -INT $t; wait $t; cat /tmp/said
            {look}"
        ),
    )
    .ends_with(0)
    .prints("ferroce: tracing ra on va; Ctrl-C ends it")
    .prints("ferroce: 3 packets, 3 of them cut short; 0 dropped by the kernel");
}

fn offloads(flavor: &Flavor) {
    // UDP segmentation offload (udp(7), UDP_SEGMENT), as one that makes many packets at once uses it.
    let send = "\
for family, to in ((socket.AF_INET, '10.0.0.2'), (socket.AF_INET6, 'fd00::2')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_UDP, 103, 100)
    s.sendto(bytes(range(250)), (to, 4791))
";
    let look = python(
        "\
def checksum(data):
    words = struct.unpack(f'>{len(data) // 2}H', data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
found = [p for _, p in packets('/tmp/cut')]
assert len(found) == 6, found
v4, v6 = found[:3], found[3:]
pieces = [bytes(range(250))[at : at + 100] for at in (0, 100, 200)]
assert [p[42:] for p in v4] == [p[62:] for p in v6] == pieces
for number, p in enumerate(v4):
    ip, udp = p[14:34], p[34:]
    assert checksum(ip) == 0xFFFF and int.from_bytes(ip[2:4], 'big') == len(p) - 14
    assert int.from_bytes(ip[4:6], 'big') == (int.from_bytes(v4[0][18:20], 'big') + number) % 65536
    assert int.from_bytes(udp[4:6], 'big') == len(udp)
    assert checksum(ip[12:20] + bytes((0, 17)) + udp[4:6] + udp) == 0xFFFF
for p in v6:
    ip, udp = p[14:54], p[54:]
    assert int.from_bytes(ip[4:6], 'big') == len(udp) == int.from_bytes(udp[4:6], 'big')
    assert checksum(ip[8:40] + udp[4:6] + bytes((0, 17)) + udp) == 0xFFFF
",
    );
    sh(
        flavor,
        &format!(
            "tracing /tmp/cut -c 6
            /usr/bin/python3 -c \"import socket\n{send}\"
            wait $t; cat /tmp/said
            {look}"
        ),
    )
    .ends_with(0)
    .prints("ferroce: 6 packets; 0 dropped by the kernel");
}

fn ends(flavor: &Flavor) {
    sh(
        flavor,
        "tracing /tmp/x -d 0.1; wait $t; cat /tmp/said
        tracing /tmp/x; kill $t; wait $t
        # Who reads it goes away: the next packet finds that out.
        mkfifo /tmp/fifo; head -c 24 </tmp/fifo >/tmp/head & head=$!
        tracing /tmp/fifo; wait $head
        /usr/bin/python3 -c 'import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(20), (\"10.0.0.2\", 4791))'
        wait $t
        ! $F trace nix -o /tmp/x; ! $F trace rb -o /tmp/x; ! $F trace ra -o /nowhere/x
        ! $F trace ra -o - >/dev/full
        ! setpriv --reuid 1000 --clear-groups $F trace ra -o /tmp/y; ! test -e /tmp/y
        # One that is down may come up; one that is gone does not.
        tracing /tmp/x; ip link set va down; ip link set va up; ip link delete va
        ! wait $t; cat /tmp/said",
    )
    .ends_with(0)
    .prints("ferroce: 0 packets; 0 dropped by the kernel")
    .prints("ferroce: the network interface va is gone")
    .says("there is no RDMA device nix, but ra, rb")
    .says("rb has no network interface in this network namespace")
    .says("cannot create /nowhere/x: No such file or directory")
    .says("cannot write the standard output: No space left on device")
    .says("cannot trace ra: only root may do that:\n  sudo /");
}
