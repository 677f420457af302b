// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wire: two network namespaces of a guest, joined by a pair of virtual Ethernet devices, each with
//! an RDMA device of ferroce or of rdma_rxe.

use crate::support::{Flavor, Ran, Test};
use crate::verbs::guest_script;

pub const TESTS: &[Test] = &[
    ("wire: ping-pong between hosts, IPv4 and IPv6", |flavor| {
        pingpongs(flavor, "ferroce", "ferroce", 1000)
    }),
    (
        "wire: ping-pong with rdma_rxe, IPv4 and IPv6, both ways",
        pingpong_with_rxe,
    ),
    ("wire: perftest's programs between hosts", perftest),
    (
        "wire: perftest's programs with rdma_rxe, both ways",
        perftest_with_rxe,
    ),
    (
        "wire: connections by address, with rdma_rxe too",
        by_address,
    ),
    (
        "wire: packets go in bursts, and every byte is counted",
        bursts,
    ),
    ("wire: what goes wrong is counted at both ends", counters),
    (
        "wire: every byte of random work requests is where it should be",
        |flavor| every_byte(flavor, 3000),
    ),
    (
        "wire: every opcode with every path MTU, 0 bytes to 8 MiB",
        |flavor| sizes(flavor, "ferroce", "ferroce", "1"),
    ),
    (
        "wire: every opcode with every path MTU, with rdma_rxe, over IPv6",
        |flavor| sizes(flavor, "ferroce", "rxe", "2"),
    ),
    ("wire: nothing is lost on a bad network", |flavor| {
        bad_network(flavor, "ferroce", "ferroce", "fa,fb 0", long(1000, 200_000))
    }),
    ("wire: packets above the network's MTU are lost", mtu),
    (
        "wire: nothing is lost on a bad network, with rdma_rxe",
        |flavor| bad_network(flavor, "ferroce", "rxe", "fa 1", long(1000, 100_000)),
    ),
    (
        "wire: packets that nobody should send are dropped and counted",
        hostile,
    ),
    (
        "wire: packets of programs of this host and of strangers reach nobody",
        injected,
    ),
    (
        "wire: nothing is sent from an address that is gone",
        lost_address,
    ),
    (
        "wire: network devices are in the groups that queue pairs are in",
        groups,
    ),
    ("wire: by a VLAN, with rdma_rxe too", by_vlan),
    ("wire: by a bridge", by_bridge),
    ("wire: the UDP port is one driver's", port),
    (
        "wire: a device follows its network device to another namespace",
        moves,
    ),
];

pub const DEBUG_TESTS: &[Test] = &[
    // Under lockdep on a busy machine an iteration takes 80 ms.
    ("debug: wire: ping-pong between hosts", |flavor| {
        pingpongs(flavor, "ferroce", "ferroce", 100)
    }),
    (
        "debug: wire: every byte of random work requests is where it should be",
        |flavor| every_byte(flavor, 1000),
    ),
    ("debug: wire: nothing is lost on a bad network", |flavor| {
        bad_network(flavor, "ferroce", "ferroce", "fa,fb 0", 500)
    }),
    (
        "debug: wire: packets that nobody should send are dropped and counted",
        hostile,
    ),
    (
        "debug: wire: packets of programs of this host and of strangers reach nobody",
        injected,
    ),
    (
        "debug: wire: nothing is sent from an address that is gone",
        lost_address,
    ),
    (
        "debug: wire: network devices are in the groups that queue pairs are in",
        groups,
    ),
];

/// The devices fa and fb of two drivers, in the namespaces a and b. All addresses are usable at once: one
/// that comes later would be an event that programs hear of. Neighbours know each other: a bad network
/// loses questions of ARP as well, and then it takes seconds to connect.
pub fn hosts(one: &str, other: &str) -> String {
    format!(
        "set -e; modprobe rdma_rxe; for n in a b; do ip netns add $n; ip -n $n link set lo up; done; \
         ip link add va netns a mtu 4300 type veth peer name vb netns b mtu 4300; \
         ip -n a addr add 10.0.0.1/24 dev va; ip -n b addr add 10.0.0.2/24 dev vb; \
         ip -n a addr add fd00::1/64 dev va nodad; ip -n b addr add fd00::2/64 dev vb nodad; \
         A='ip netns exec a'; B='ip netns exec b'; \
         for n in a b; do ip netns exec $n sh -c \"echo 0 > /proc/sys/net/ipv6/conf/v$n/accept_dad\"; \
         ip -n $n link set v$n up; done; \
         ip -n a neigh replace 10.0.0.2 dev va lladdr $(ip -n b -br link show vb | awk '{{print $3}}'); \
         ip -n b neigh replace 10.0.0.1 dev vb lladdr $(ip -n a -br link show va | awk '{{print $3}}'); \
         $A rdma link add fa type {one} netdev va; $B rdma link add fb type {other} netdev vb; \
         listening() {{ until $A cat /proc/net/tcp /proc/net/tcp6 | grep -q ':4853 [^ ]* 0A'; \
         do sleep 0.05; done; }}; \
         until ip -n a -6 neigh replace fd00::2 dev va lladdr $(ip -n b -br link show vb | awk '{{print $3}}') \
         && ip -n b -6 neigh replace fd00::1 dev vb lladdr $(ip -n a -br link show va | awk '{{print $3}}'); \
         do sleep 0.1; done; "
    )
}

/// Both devices go, and the module of ours with them.
const THE_END: &str = "; $A rdma link delete fa; $B rdma link delete fb; modprobe -r ferroce; \
    ip netns delete a; ip netns delete b";

fn between(flavor: &Flavor, one: &str, other: &str, script: &str) -> Ran {
    flavor
        .sh(&format!("{}{script}{THE_END}", hosts(one, other)))
        .ends_with(0)
}

fn pingpongs(flavor: &Flavor, one: &str, other: &str, iterations: u32) {
    let script = format!(
        "for gid in 1 2; do for p in rc uc ud srq; do \
         $A ibv_${{p}}_pingpong -d fa -g $gid -n {iterations} >/dev/null & listening; \
         $B timeout 60 ibv_${{p}}_pingpong -d fb -g $gid -n {iterations} 10.0.0.1 | grep iters; \
         wait $!; done; done"
    );
    let ran = between(flavor, one, other, &script);
    let iterations = format!("{iterations} iters");
    assert_eq!(ran.stdout.matches(&iterations).count(), 8, "{ran:#?}");
}

fn pingpong_with_rxe(flavor: &Flavor) {
    pingpongs(flavor, "ferroce", "rxe", 1000);
    pingpongs(flavor, "rxe", "ferroce", 1000);
}

const PERFTEST: &[&str] = &[
    "ib_write_bw -c RC -s 65536",
    "ib_write_bw -c UC -s 65536",
    "ib_write_bw -c RC -b -q 4",
    "ib_write_lat -c RC",
    "ib_write_lat -c UC",
    "ib_read_bw -s 1048576 -n 10",
    "ib_read_lat",
    "ib_send_bw -c RC -s 1048576 -n 10",
    "ib_send_bw -c RC --use-srq",
    "ib_send_bw -c RC -e",
    "ib_send_lat -c RC",
    "ib_send_lat -c UC",
    "ib_send_lat -c UD",
    "ib_atomic_bw",
    "ib_atomic_bw -A CMP_AND_SWAP",
    "ib_atomic_lat",
];

/// It asks for an event with completions in the queue, does not take them all, and waits for the event
/// (perftest#137). Only a device that raises it at once, as a ConnectX does, gets to the end for certain:
/// rdma_rxe does not.
const TAKES_SOME: &str = "ib_send_bw -c RC -b -e -q 16 -n 500";

fn perftests(flavor: &Flavor, one: &str, other: &str, commands: &[&str]) {
    let run =
        "run() { $A timeout 100 \"$1\" -d fa -x 1 -F -n 50 $2 >/tmp/server 2>&1 & listening; \
        $B timeout 60 \"$1\" -d fb -x 1 -F -n 50 $2 10.0.0.1 >/tmp/client 2>&1 && wait $! || \
        { echo \"$@\"; cat /tmp/server /tmp/client; exit 1; }; echo \"$1 done\"; }; ";
    let script = commands.iter().fold(run.to_owned(), |script, command| {
        let (program, options) = command.split_once(' ').unwrap_or((command, ""));
        format!("{script}run {program} '{options}'; ")
    });
    let ran = between(flavor, one, other, script.trim_end_matches("; "));
    assert_eq!(
        ran.stdout.matches(" done").count(),
        commands.len(),
        "{ran:#?}"
    );
}

fn perftest(flavor: &Flavor) {
    let commands = [PERFTEST, &[TAKES_SOME; 3]].concat();
    perftests(flavor, "ferroce", "ferroce", &commands);
}

fn perftest_with_rxe(flavor: &Flavor) {
    perftests(flavor, "ferroce", "rxe", PERFTEST);
    perftests(flavor, "rxe", "ferroce", PERFTEST);
}

fn by_address(flavor: &Flavor) {
    let script = "$A timeout 60 rping -s -a 10.0.0.1 -C 5 -V >/tmp/server 2>&1 & \
        until rdma resource show cm_id | grep -q LISTEN; do sleep 0.05; done; sleep 0.3; \
        $B timeout 30 rping -c -v -a 10.0.0.1 -C 5 -V | grep -c 'ping data'; wait $!";
    for (one, other) in [
        ("ferroce", "ferroce"),
        ("ferroce", "rxe"),
        ("rxe", "ferroce"),
    ] {
        between(flavor, one, other, &format!("modprobe rdma_ucm; {script}")).prints("5");
    }
}

/// A message of 64 KiB is 16 packets of the path MTU: the first one has an address as well, and goes with
/// the second, and of the others 7 go at a time. Nobody on the way cuts them up. Besides there is what the
/// programs say to each other by TCP.
fn bursts(flavor: &Flavor) {
    let script = "counter() { cat /sys/class/infiniband/$1/ports/1/hw_counters/$2; }; \
        frames() { $B cat /sys/class/net/vb/statistics/tx_packets; }; \
        datagrams() { $A awk '/^Udp: [0-9]/ { print $2 }' /proc/net/snmp; }; \
        run() { $A timeout 100 $@ -d fa -x 1 -F -n 300 >/dev/null 2>&1 & listening; \
        $B timeout 60 $@ -d fb -x 1 -F -n 300 10.0.0.1 >/dev/null; wait $!; }; \
        run ib_write_bw -s 65536; packets=$(counter fb sent_pkts); [ $packets -ge 4800 ]; \
        echo $(frames) frames and $(datagrams) datagrams for $packets packets; \
        [ $(($(frames) * 3)) -lt $packets ]; [ $(($(datagrams) * 3)) -lt $packets ]; \
        run ib_read_bw -s 65536; run ib_send_bw -s 65536; run ib_atomic_bw; \
        [ $(counter fb sent_bytes) = $(counter fa rcvd_bytes) ]; \
        [ $(counter fa sent_bytes) = $(counter fb rcvd_bytes) ]; \
        [ $(counter fb sent_bytes) = $((300 * 65536 * 2)) ]; \
        echo $(counter fa sent_bytes) bytes read and fetched";
    between(flavor, "ferroce", "ferroce", script)
        .prints(&format!("{} bytes read", 300 * (65536 + 8)));
}

fn mtu(flavor: &Flavor) {
    let script = format!(
        "ip -n a link set va mtu 1500; ip -n b link set vb mtu 1500; {}",
        guest_script("wire_mtu.py", "fa fb")
    );
    between(flavor, "ferroce", "ferroce", &script).prints("what is too long is lost");
}

fn counters(flavor: &Flavor) {
    let script = guest_script("wire_counters.py", "fa fb");
    between(flavor, "ferroce", "ferroce", &script).prints("5 cases");
}

fn every_byte(flavor: &Flavor, batches: u32) {
    let script = guest_script("every_byte.py", &format!("fa fb {batches}"));
    between(flavor, "ferroce", "ferroce", &script).prints("23 kinds of work requests");
    // What stays on one host goes by the wire as well.
    flavor
        .sh(&format!(
            "modprobe -r ferroce; modprobe ferroce local=0; {}{script}{THE_END}",
            hosts("ferroce", "ferroce")
        ))
        .ends_with(0)
        .prints("23 kinds of work requests");
}

fn sizes(flavor: &Flavor, one: &str, other: &str, gid_index: &str) {
    let script = guest_script("wire.py", &format!("sizes fa fb {gid_index}"));
    // On a busy machine rdma_rxe may have packets of an unreliable connection out of order.
    let lost = match (one, other) {
        ("ferroce", "ferroce") => "and 0 lost",
        _ => " lost",
    };
    between(flavor, one, other, &script).prints(lost);
}

/// So many requests, or many with FERROCE_LONG=1.
fn long(requests: u32, many: u32) -> u32 {
    match crate::support::long() {
        true => many,
        false => requests,
    }
}

/// `requests` on each kind of network. The local ACK timeout is 0.5 s: rdma_rxe answers by threads, and on a
/// busy machine those did not run for as long as all retries took with 67 ms. `readers` are the devices that have
/// READ requests, and how many bytes all of theirs have at least.
///
/// What is not asked of rdma_rxe it does not do between two of its own either. As requester, a late
/// acknowledgement amid the responses of a READ has it forget that these have begun (`rxe_completer`,
/// `COMPST_UPDATE_COMP`), and the next one fails the queue pair. As responder, it goes by the length of the last
/// new request when it answers a READ again, and fails if that was zero (`read_reply`).
fn bad_network(flavor: &Flavor, one: &str, other: &str, readers: &str, requests: u32) {
    for netem in [
        "loss 5%",
        "duplicate 5%",
        "delay 1ms reorder 75%",
        "corrupt 1%",
        "delay 1ms reorder 75% loss 5% duplicate 5% corrupt 1%",
    ] {
        let script = format!(
            "tc -n a qdisc add dev va root netem {netem}; tc -n b qdisc add dev vb root netem {netem}; {}",
            guest_script("wire.py", &format!("many fa fb 1 {requests} 17 {readers}"))
        );
        between(flavor, one, other, &script).prints(" requests");
    }
}

fn hostile(flavor: &Flavor) {
    let script = guest_script("wire_hostile.py", "fa 10.0.0.1 fb 10.0.0.2 b");
    between(flavor, "ferroce", "ferroce", &script).prints("18 kinds of packets dropped, 6 lies");
}

/// Two addresses more of the other host: those that the strangers send from.
fn injected(flavor: &Flavor) {
    let program = guest_script(
        "wire_injected.py",
        &format!("fa a fb b 10.0.0.77 fd00::77 {}", long(20_000, 1_000_000)),
    );
    let script = format!(
        "ip -n b addr add 10.0.0.77/24 dev vb; ip -n b addr add fd00::77/64 dev vb nodad; {program}"
    );
    // In the end what stays on one host goes by the wire as well, and comes by the loopback device.
    for before in ["", "modprobe ferroce local=0; "] {
        let hosts = hosts("ferroce", "ferroce");
        flavor
            .sh(&format!("{before}{hosts}{script}{THE_END}"))
            .ends_with(0)
            .prints("8 connections and 3 queue pairs for datagrams are what they were");
    }
}

/// The other address keeps the route: IPv6 does not ask for more.
fn lost_address(flavor: &Flavor) {
    let program = guest_script("wire_address.py", "fa va a fb fd00::1");
    let script = format!("ip -n a addr add fd00::3/64 dev va nodad; {program}");
    between(flavor, "ferroce", "ferroce", &script).prints("back again");
}

/// The groups of perftest's programs are 239.1.2.3 and ff15::1:2345.
fn groups(flavor: &Flavor) {
    let program = guest_script("multicast.py", "fa va a fb vb b fl lo a");
    let script = format!(
        "run() {{ $A timeout 400 $@ -d fa >/dev/null 2>&1 & listening; \
         $B timeout 300 $@ -d fb 10.0.0.1 >/dev/null 2>&1; wait $!; }}; \
         ping='ib_send_lat -c UD -g -F -n 50 -M'; \
         run $ping 0:0:0:0:0:0:0:0:0:0:255:255:239:1:2:3 -x 1; \
         run $ping 255:21:0:0:0:0:0:0:0:0:0:0:0:1:35:69 -x 2; \
         ip netns add away; $A rdma link add fl type ferroce netdev lo; {program}; \
         $A rdma link delete fl; ip netns delete away"
    );
    between(flavor, "ferroce", "ferroce", &script).prints("2 groups");
}

/// An RDMA device has the addresses of what is made of its network device as well: `u$n` of `v$n`. Programs go
/// by these.
fn by_upper(flavor: &Flavor, one: &str, other: &str, make: &str, more: &str) {
    let script = format!(
        "gid() {{ until grep -il \"0a05:000$2\" /sys/class/infiniband/$1/ports/1/gids/*; \
         do sleep 0.05; done 2>/dev/null | sed 's|.*/||'; }}; \
         for n in a b; do {make}; ip -n $n link set u$n up; done; \
         ip -n a addr add 10.5.0.1/24 dev ua; ip -n b addr add 10.5.0.2/24 dev ub; \
         for p in rc uc ud; do \
         $A timeout 60 ibv_${{p}}_pingpong -d fa -g $(gid fa 1) >/dev/null & listening; \
         $B timeout 60 ibv_${{p}}_pingpong -d fb -g $(gid fb 2) 10.5.0.1 | grep iters; wait $!; done; \
         [ $($B cat /sys/class/net/ub/statistics/tx_packets) -ge 3000 ]{more}"
    );
    let ran = between(flavor, one, other, &script);
    assert_eq!(ran.stdout.matches("1000 iters").count(), 3, "{ran:#?}");
}

/// A group of IPv4, since rdma_cm, which has `ua` join, has no others for RoCE v2. Not with rdma_rxe as who sends
/// to it: `mckey` goes at once, and rdma_rxe drops what it has not sent by then.
fn by_vlan(flavor: &Flavor) {
    let make = "ip -n $n link add link v$n name u$n type vlan id 5";
    let group = "; modprobe rdma_ucm; \
        $A stdbuf -oL timeout 60 mckey -m 239.0.0.1 -b 10.5.0.1 >/tmp/member & \
        until grep -q joined /tmp/member; do sleep 0.05; done; \
        $B timeout 60 mckey -m 239.0.0.1 -b 10.5.0.2 -s; wait $!; grep 'return status 0' /tmp/member";
    for (one, other, more) in [
        ("ferroce", "ferroce", group),
        ("rxe", "ferroce", group),
        ("ferroce", "rxe", ""),
    ] {
        by_upper(flavor, one, other, make, more);
    }
}

/// Not with rdma_rxe, which a packet does not get to by a bridge (`rxe_udp_encap_recv()`).
fn by_bridge(flavor: &Flavor) {
    let make =
        "ip -n $n link add u$n type bridge forward_delay 0; ip -n $n link set v$n master u$n";
    by_upper(flavor, "ferroce", "ferroce", make, "");
}

fn port(flavor: &Flavor) {
    let script = "$B rdma link delete fb; $B rdma link add r0 type rxe netdev vb; \
        ! $B rdma link add fb type ferroce netdev vb; \
        dmesg | grep 'UDP port 4791 of this network namespace is somebody else'; \
        $B rdma link delete r0; $B rdma link add fb type ferroce netdev vb; \
        ! $B rdma link add r0 type rxe netdev vb";
    between(flavor, "ferroce", "ferroce", script).prints("somebody else");
}

/// The name of a device that goes by itself is free some time after nobody sees the device any more.
fn moves(flavor: &Flavor) {
    let script = "ip netns add c; ip -n b link set vb netns c; ip -n c addr add 10.0.0.2/24 dev vb; \
        ip -n c link set vb up; $A ibv_rc_pingpong -d fa -g 1 >/dev/null & listening; \
        until cat /sys/class/infiniband/fb/ports/1/gids/1 | grep -q 0a00:0002; do sleep 0.05; done; \
        ip netns exec c timeout 60 ibv_rc_pingpong -d fb -g 1 10.0.0.1 | grep iters; wait $!; \
        ip netns delete c; until ! rdma link show fa/1 && ! rdma link show fb/1; do sleep 0.05; done; \
        for n in a b; do ip link add v$n netns $n type dummy; ip -n $n link set v$n up; \
        until ip netns exec $n rdma link add f$n type ferroce netdev v$n; do sleep 0.05; done; done";
    between(flavor, "ferroce", "ferroce", script).prints("1000 iters");
}
