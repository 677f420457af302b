// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections by address: the kernel's `ib_cm` and `rdma_cm` on the device, used by the programs of
//! rdmacm-utils and perftest.

use crate::device::with_device_script;
use crate::support::{Flavor, Ran, Test};
use crate::verbs::guest_script;

pub const TESTS: &[Test] = &[
    (
        "cm: programs connect by address, over IPv4 and IPv6",
        connect,
    ),
    ("cm: perftest's programs connect by address", perftest),
    ("cm: two devices of a host connect", two_devices),
    (
        "cm: what is sent to a group gets to those who joined",
        multicast,
    ),
    (
        "cm: a connection to where nobody listens is refused",
        refused,
    ),
    ("cm: commands are answered as they say", answered),
    ("cm: a program killed in mid-connect leaves nothing", killed),
    (
        "cm: a device goes with listeners and connections",
        device_goes,
    ),
];

pub const DEBUG_TESTS: &[Test] = &[
    (
        "debug: cm: programs connect by address, over IPv4 and IPv6",
        connect,
    ),
    ("debug: cm: two devices of a host connect", two_devices),
    (
        "debug: cm: what is sent to a group gets to those who joined",
        multicast,
    ),
    (
        "debug: cm: a connection to where nobody listens is refused",
        refused,
    ),
    (
        "debug: cm: a program killed in mid-connect leaves nothing",
        killed,
    ),
    (
        "debug: cm: a device goes with listeners and connections",
        device_goes,
    ),
];

/// Functions for the scripts:
///
/// - `ids STATE`: how many connection identifiers are in a state;
/// - `wait_for COMMAND`: waits for it to succeed;
/// - `both SERVER -- CLIENT`: runs a server, and once it listens its client, and wants both to succeed.
///
/// rdma_cm says LISTEN before it does (rdma_listen() in drivers/infiniband/core/cma.c sets the state first),
/// and refuses who comes in between (reject reason 8): there is nothing to await but time.
///
/// rping of before July 2025 may fail in the end though all was well: it closes its event channel before its
/// thread asks for one event more (rdma-core's pull request 1622).
const FUNCTIONS: &str = r#"
ids() { rdma resource show cm_id | grep -c "state $1 " || :; }
wait_for() { for i in $(seq 1200); do if eval "$1"; then return; fi; sleep 0.05; done; echo "never: $1"; return 1; }
well() { grep -q '^rdma_get_cm_event: Bad file descriptor' /tmp/$1 && ! grep -q 'error\|failed\|mismatch' /tmp/$1; }
both() {
    server=; while [ "$1" != -- ]; do server="$server $1"; shift; done; shift
    timeout 100 $server >/tmp/server 2>&1 & wait_for '[ $(ids LISTEN) != 0 ]'; sleep 0.3
    { timeout 100 "$@" >/tmp/client 2>&1 || well client; } && { wait $! || well server; } \
        || { echo "$@"; cat /tmp/server /tmp/client; exit 1; }
    wait_for '[ $(ids LISTEN) = 0 ]'; echo "$1 done"
}
ip -6 addr add fd00::1/64 dev eth0 nodad
"#;

fn run(flavor: &Flavor, script: &str) -> Ran {
    let ran = flavor.sh(&with_device_script(&format!("{FUNCTIONS}\n{script}\n:")));
    ran.ends_with(0)
}

fn connect(flavor: &Flavor) {
    let ran = run(
        flavor,
        "for a in 10.0.0.1 fd00::1; do
            both rping -s -a $a -C 5 -V -- rping -c -a $a -C 5 -V
            both udaddy -b $a -- udaddy -s $a
        done
        both ucmatose -b 10.0.0.1 -c 5 -- ucmatose -s 10.0.0.1 -c 5
        both ucmatose -b fd00::1 -f ip -- ucmatose -s fd00::1 -f ip
        # One that listens on all addresses, and a client that says which it comes from.
        both rping -s -C 1 -- rping -c -a 10.0.0.1 -I 10.0.0.1 -C 1",
    );
    assert_eq!(ran.stdout.matches(" done").count(), 7, "{ran:#?}");
}

/// The same table is for `ferroce run` (`tests/run_programs`).
fn answered(flavor: &Flavor) {
    let table = guest_script("rdma_cm.py", "10.0.0.1");
    run(flavor, &format!("modprobe rdma_ucm; {table}")).prints(" rows, 0 failed");
}

fn perftest(flavor: &Flavor) {
    // UC is not among what librdmacm connects.
    let ran = run(
        flavor,
        "for p in 'ib_send_bw' 'ib_send_bw -c UD' 'ib_send_lat -e' 'ib_write_bw -q 4 -b' \
            'ib_read_lat' 'ib_atomic_bw'; do
            both $p -R -F -n 20 -d fr0 -- $p -R -F -n 20 -d fr0 10.0.0.1
        done",
    );
    assert_eq!(ran.stdout.matches(" done").count(), 6, "{ran:#?}");
}

fn two_devices(flavor: &Flavor) {
    // rdma_cm takes a request only if the way back is by the interface that it came to
    // (validate_net_dev() in drivers/infiniband/core/cma.c): the two have a network in common. Over IPv6
    // it finds no such way between addresses of one host.
    let ran = run(
        flavor,
        "ip link add eth1 type dummy; ip addr add 10.0.0.2/24 dev eth1; ip link set eth1 up
        rdma link add fr1 type ferroce netdev eth1
        both rping -s -a 10.0.0.2 -C 5 -V -- rping -c -a 10.0.0.2 -I 10.0.0.1 -C 5 -V
        both rping -s -a 10.0.0.1 -C 5 -V -- rping -c -a 10.0.0.1 -I 10.0.0.2 -C 5 -V
        rdma link delete fr1",
    );
    assert_eq!(ran.stdout.matches(" done").count(), 2, "{ran:#?}");
}

fn multicast(flavor: &Flavor) {
    // rdma_cm has no IPv6 groups for RoCE v2 (cma_iboe_join_multicast() in the same file).
    let ran = run(
        flavor,
        "for i in 1 2; do
            stdbuf -oL mckey -m 239.0.0.1 -b 10.0.0.1 >/tmp/member$i & wait_for \"grep -q joined /tmp/member$i\"
        done
        timeout 100 mckey -m 239.0.0.1 -b 10.0.0.1 -s
        wait_for '[ $(cat /tmp/member* | grep -c \"return status 0\") = 2 ]'",
    );
    // A member gets all messages, or it would still wait.
    ran.prints("joined dgid: ::ffff:239.0.0.1");
}

fn refused(flavor: &Flavor) {
    let ran = run(
        flavor,
        "! timeout 100 rping -c -a 10.0.0.1 -C 1 >/tmp/nobody 2>&1
        cat /tmp/nobody
        # It has the address, but is no device's; the kernel knows without asking.
        ip link add eth1 type dummy; ip addr add 10.0.1.1/24 dev eth1; ip link set eth1 up
        ! timeout 100 rping -c -a 10.0.1.1 -C 1",
    );
    // IBTA 12.6.7.2: invalid service ID.
    ran.prints("RDMA_CM_EVENT_REJECTED, error 8");
}

fn killed(flavor: &Flavor) {
    let script = "for i in 1 2 3; do
            # A stopped server does not answer.
            rping -s -a 10.0.0.1 >/dev/null 2>&1 & server=$!
            wait_for '[ $(ids LISTEN) = 1 ]'; kill -STOP $server
            rping -c -a 10.0.0.1 >/dev/null 2>&1 & client=$!
            wait_for '[ $(ids CONNECT) != 0 ]'
            kill -9 $client; wait $client || :
            kill -9 $server; wait $server || :
            # In mid-traffic.
            rping -s -a 10.0.0.1 >/dev/null 2>&1 & server=$!
            wait_for '[ $(ids LISTEN) = 1 ]'
            rping -c -a 10.0.0.1 >/dev/null 2>&1 & client=$!
            wait_for '[ $(ids CONNECT) = 2 ]'
            kill -9 $((i % 2 ? client : server))
            kill -9 $client $server 2>/dev/null || :
            wait $client || :; wait $server || :
        done
        wait_for 'rdma resource show | grep -q \"cm_id 0 \"'";
    run(flavor, script);
}

fn device_goes(flavor: &Flavor) {
    let script = "rping -s -a 10.0.0.1 >/dev/null 2>&1 & a=$!
        wait_for '[ $(ids LISTEN) = 1 ]'
        rping -c -a 10.0.0.1 >/dev/null 2>&1 & b=$!
        wait_for '[ $(ids CONNECT) = 2 ]'
        ucmatose -b 10.0.0.1 -p 7 >/dev/null 2>&1 & c=$!
        rping -s -p 8 >/dev/null 2>&1 & d=$!
        wait_for '[ $(ids LISTEN) = 3 ]'
        HOW
        # They are told, and may go or stay; what they had on the device is gone.
        kill -9 $a $b $c $d 2>/dev/null || :
        wait $a || :; wait $b || :; wait $c || :; wait $d || :
        wait_for '[ -z \"$(rdma link)\" ]'";
    let again = "ip link show eth0 2>/dev/null || { ip link add eth0 type dummy; \
        ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up; }; \
        rdma link add fr0 type ferroce netdev eth0; rdma resource show";
    for how in ["rdma link delete fr0", "ip link delete eth0"] {
        run(flavor, &format!("{}\n{again}", script.replace("HOW", how)));
    }
}
