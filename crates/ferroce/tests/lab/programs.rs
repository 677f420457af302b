// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that are made for other devices: OpenMPI over UCX, UCX itself, libfabric, perftest, qperf, rsockets
//! and the crates ibverbs and sideway.
//!
//! A short form of each. To run all that they can do, the crates' tests and examples too, which are fetched from
//! crates.io:
//!
//! ```sh
//! FERROCE_LONG=1 cargo test --release -p ferroce --test lab -- programs:
//! ```
//!
//! `FERROCE_DRIVER=rxe` runs the same on rdma_rxe, to compare. What fails there, and not here, is said at each test.

mod rust_crates;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::device::BY_WIRE;
use crate::support::{long, ran, Flavor, Test};
use crate::wire::hosts;

pub const TESTS: &[Test] = &[
    ("programs: OpenMPI over UCX, every byte right", |flavor| {
        mpi(flavor, Route::Local)
    }),
    (
        "programs: OpenMPI over UCX by the wire, every byte right",
        |flavor| mpi(flavor, Route::LocalByWire),
    ),
    (
        "programs: OpenMPI over UCX between hosts, every byte right",
        |flavor| mpi(flavor, Route::Hosts),
    ),
    ("programs: UCX's own tests over RC and UD", |flavor| {
        ucx(flavor, Route::Local)
    }),
    (
        "programs: UCX's own tests over RC and UD between hosts",
        |flavor| ucx(flavor, Route::Hosts),
    ),
    ("programs: libfabric's ping-pongs", |flavor| {
        libfabric(flavor, Route::Local)
    }),
    ("programs: libfabric's ping-pongs between hosts", |flavor| {
        libfabric(flavor, Route::Hosts)
    }),
    ("programs: perftest's options", |flavor| {
        perftest(flavor, Route::Local)
    }),
    ("programs: perftest's options between hosts", |flavor| {
        perftest(flavor, Route::Hosts)
    }),
    ("programs: qperf", |flavor| qperf(flavor, Route::Local)),
    (
        "programs: TCP programs over rsockets, every byte right",
        |flavor| rsockets(flavor, Route::Local),
    ),
    (
        "programs: TCP programs over rsockets between hosts, every byte right",
        |flavor| rsockets(flavor, Route::Hosts),
    ),
];

/// Those that take long: by another route, or with much to be fetched and built.
const LONG_TESTS: &[Test] = &[
    (
        "programs: UCX's own tests over RC and UD by the wire",
        |flavor| ucx(flavor, Route::LocalByWire),
    ),
    ("programs: libfabric's ping-pongs by the wire", |flavor| {
        libfabric(flavor, Route::LocalByWire)
    }),
    ("programs: perftest's options by the wire", |flavor| {
        perftest(flavor, Route::LocalByWire)
    }),
    ("programs: qperf between hosts", |flavor| {
        qperf(flavor, Route::Hosts)
    }),
    (
        "programs: TCP programs over rsockets by the wire, every byte right",
        |flavor| rsockets(flavor, Route::LocalByWire),
    ),
    (
        "programs: tests and examples of the crate ibverbs",
        rust_crates::ibverbs,
    ),
    (
        "programs: tests and examples of the crate sideway",
        rust_crates::sideway,
    ),
];

/// The tests that take long, with FERROCE_LONG=1.
pub fn long_tests() -> &'static [Test] {
    match long() {
        true => LONG_TESTS,
        false => &[],
    }
}

/// The driver to test: another one to compare with.
fn driver() -> String {
    std::env::var("FERROCE_DRIVER").unwrap_or_else(|_| "ferroce".into())
}

/// How the two programs of a test reach each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// By one device, which copies.
    Local,
    /// By one device, in packets.
    LocalByWire,
    /// Between two network namespaces, each with a device.
    Hosts,
}

/// For the scripts:
///
/// - `$A COMMAND`, `$B COMMAND`: runs a command on the server's host, on the client's;
/// - `$FA`, `$FB`: their devices, with an IPv4 address (GID index 1) and an IPv6 one (2);
/// - 10.0.0.1 and fd00::1, `$B4` and `$B6`: their addresses;
/// - `server PORT COMMAND`: starts a server, and waits until it listens, by TCP or by rdma_cm, which says LISTEN
///   some time before it does (`cm.rs`);
/// - `client COMMAND`: runs a client, and wants it to succeed; `gone` then wants the same of the server.
const FUNCTIONS: &str = r#"
failed() { echo "failed: $@"; cat /tmp/server /tmp/client; dmesg | tail -n 5; exit 1; }
listens() {
    $A cat /proc/net/tcp /proc/net/tcp6 | grep -q "$(printf ':%04X [^ ]* 0A' $1)" && return
    rdma resource show cm_id | grep -q "LISTEN .*:$1 " && sleep 0.3
}
server() {
    port=$1; shift; : >/tmp/client; $A timeout 900 "$@" >/tmp/server 2>&1 & server=$!
    until listens $port; do kill -0 $server || failed "$@"; sleep 0.05; done
}
client() { $B timeout 600 "$@" >/tmp/client 2>&1 || failed "$@"; }
gone() { wait $server || failed server; }
modprobe rdma_ucm
until [ -e /dev/infiniband/rdma_cm ]; do sleep 0.05; done
"#;

/// All can go: nothing is left of what the programs had.
const THE_END: &str = "\nfor f in $FA $([ $FA = $FB ] || echo $FB); do rdma link delete $f || \
    $B rdma link delete $f; done; modprobe -r ferroce";

/// Runs a script in a guest with the devices of a route, and gives what it prints.
fn with_devices(flavor: &Flavor, route: Route, script: &str) -> String {
    let driver = driver();
    let devices = match route {
        Route::Hosts => format!(
            "{} FA=fa FB=fb B4=10.0.0.2 B6=fd00::2",
            hosts(&driver, &driver)
        ),
        Route::Local | Route::LocalByWire => format!(
            "{}set -e; ip link set lo up; ip link add eth0 type dummy; ip link set eth0 mtu 9000 up; \
             ip addr add 10.0.0.1/24 dev eth0; ip addr add fd00::1/64 dev eth0 nodad; \
             rdma link add fr0 type {driver} netdev eth0; A= B= FA=fr0 FB=fr0 B4=10.0.0.1 B6=fd00::1",
            match route {
                Route::LocalByWire => BY_WIRE,
                _ => "",
            }
        ),
    };
    let environment = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp; ";
    flavor
        .sh(&format!(
            "{environment}{devices}{FUNCTIONS}{script}{THE_END}"
        ))
        .ends_with(0)
        .stdout
}

/// As `with_devices`, with a script that prints `done: ` so many times.
fn does(flavor: &Flavor, route: Route, script: &str, times: usize) {
    let printed = with_devices(flavor, route, script);
    assert_eq!(printed.matches("done: ").count(), times, "{printed}");
}

/// A file beside this one.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lab/programs")
        .join(name)
}

/// A file beside this one, compiled, and the folder that it is in.
fn compiled(name: &str, options: &[&str], libraries: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("there is room");
    let program = folder.path().join("compiled");
    ran(Command::new("gcc")
        .arg("-O2")
        .args(options)
        .arg(source(name))
        .args(libraries)
        .arg("-o")
        .arg(&program))
    .ends_with(0);
    (folder, program)
}

/// mpirun starts its daemon on the other host by a program in place of ssh. It tells hosts by their names.
const MPI_HOSTS: &str = r#"
cat >/tmp/agent <<'END'
#!/bin/sh
shift; exec ip netns exec b sh -c "export HOST=b; $*"
END
cat >/tmp/rank <<'END'
#!/bin/sh
export UCX_NET_DEVICES=f${HOST:-a}:1; exec "$@"
END
chmod +x /tmp/agent /tmp/rank; rank=/tmp/rank
hosts='-H 10.0.0.1:2,10.0.0.2:2 --map-by node --mca plm_rsh_agent /tmp/agent --mca oob_tcp_if_include 10.0.0.0/24'
"#;

/// Point to point, collectives and one-sided, between 2 and 4 processes, over both kinds of addresses. On rdma_rxe
/// it aborts over IPv4: UCX drops all datagrams, since their completions do not tell it that they came by IPv4.
fn mpi(flavor: &Flavor, route: Route) {
    let folder = tempfile::tempdir().expect("there is room");
    let program = folder.path().join("mpi");
    ran(Command::new("mpicc")
        .arg("-O2")
        .arg(source("mpi.c"))
        .arg("-o")
        .arg(&program))
    .ends_with(0);
    let rounds = if long() { 5 } else { 1 };
    let hosts = match route {
        Route::Hosts => MPI_HOSTS,
        Route::Local | Route::LocalByWire => "rank=; hosts='-x UCX_NET_DEVICES=fr0:1'",
    };
    let script = format!(
        "{hosts}
         export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
         for gid in 1 2; do for ranks in 2 4; do
             $A timeout 1200 mpirun --oversubscribe -n $ranks $hosts --mca pml ucx --mca osc ucx \
                 -x UCX_TLS=rc_verbs,ud_verbs,self -x UCX_IB_GID_INDEX=$gid $rank {} {rounds}
         done; done",
        program.display()
    );
    let printed = with_devices(flavor, route, &script);
    for ranks in [2, 4] {
        let line = format!("{ranks} ranks, every byte right");
        assert_eq!(printed.matches(&line).count(), 2, "{printed}");
    }
}

/// `ucx_perftest` looks at no data, but it ends only if all of it arrives. On rdma_rxe it ends over
/// IPv4 with "unhandled timeout error" of UD, for the same reason as OpenMPI.
fn ucx(flavor: &Flavor, route: Route) {
    let (tests, gids, count): (&[&str], &[u32], _) = match (long(), route) {
        (true, _) => (
            &[
                "tag_lat",
                "tag_bw",
                "tag_sync_lat",
                "ucp_am_lat",
                "ucp_am_bw",
                "ucp_put_lat",
                "ucp_put_bw",
                "ucp_get",
                "ucp_add",
                "ucp_fadd",
                "ucp_swap",
                "ucp_cswap",
                "stream_lat",
                "stream_bw",
            ],
            &[1, 2],
            2000,
        ),
        (false, Route::Hosts) => (&["tag_bw", "ucp_put_bw", "ucp_cswap"], &[2], 100),
        (false, _) => (
            &["tag_lat", "ucp_am_bw", "ucp_put_lat", "ucp_get", "ucp_fadd"],
            &[1],
            100,
        ),
    };
    let gid_list: Vec<_> = gids.iter().map(u32::to_string).collect();
    let script = format!(
        "for gid in {}; do for transport in rc_verbs,ud_verbs ud_verbs; do for test in {}; do
             size=4096; case $test in ucp_add|ucp_fadd|ucp_swap|ucp_cswap) size=8;; esac
             export UCX_TLS=$transport,self UCX_IB_GID_INDEX=$gid
             server 13337 env UCX_NET_DEVICES=$FA:1 ucx_perftest
             client env UCX_NET_DEVICES=$FB:1 ucx_perftest 10.0.0.1 -t $test -n {count} -s $size
             grep -q Final: /tmp/client || failed $transport $test
             wait $server || :; echo done: $gid $transport $test
         done; done; done",
        gid_list.join(" "),
        tests.join(" ")
    );
    does(flavor, route, &script, gids.len() * 2 * tests.len());
}

/// All sizes, with every byte looked at (`-c`). With `-m tagged` it does what fabtests' `fi_rdm_tagged_pingpong`
/// does, which no package of Debian has. On rdma_rxe `verbs;ofi_rxm` fails: it has no queues as long as that asks
/// for (EINVAL).
fn libfabric(flavor: &Flavor, route: Route) {
    let count = if long() { 1000 } else { 20 };
    let script = format!(
        "for address in 10.0.0.1 fd00::1; do for kind in 'verbs msg msg' 'verbs;ofi_rxm rdm msg' \
             'verbs;ofi_rxm rdm tagged'; do
             set -- $kind; six=; [ $address = 10.0.0.1 ] || six=-6
             options=\"-c -e $2 -m $3 -I {count} $six\"
             server 47592 fi_pingpong -p \"$1\" -d $FA $options
             client fi_pingpong -p \"$1\" -d $FB $options $address
             wait $server || :; echo \"done: $address $kind\"
         done; done"
    );
    does(flavor, route, &script, 6);
}

/// Options of perftest's programs, beside those of `device.rs`. None looks at the data: `verbs.rs` does.
fn perftest(flavor: &Flavor, route: Route) {
    // Lists of requests; a queue that all queue pairs receive by; connections by rdma_cm; going by the
    // clock, which perftest does not do with events; and waiting for events with completions left in the queue,
    // which hangs on rdma_rxe (`wire.rs`).
    let short = [
        "ib_send_bw -l 16",
        "ib_send_bw --use-srq -q 4 -R",
        "ib_write_bw -l 16 -q 4 -b",
        "ib_write_bw -R -D 1 -f 0",
        "ib_read_bw -l 8",
        "ib_send_bw -b -e -q 16",
    ];
    let all = [
        "ib_send_bw -l 16 --recv_post_list=16",
        "ib_send_bw -l 16 --use-srq -q 16",
        "ib_send_bw -l 16 -c UC",
        "ib_send_bw -l 16 -c UD",
        "ib_send_bw -l 16 -R -e",
        "ib_send_bw --use_old_post_send -l 16",
        "ib_write_bw --use_old_post_send -l 16",
        "ib_send_lat --use-srq",
        "ib_send_lat --use-srq -e -R",
        "ib_send_lat -R -e -c UD",
        "ib_send_bw -c UD --use-srq",
        "ib_send_bw -c UD -R -b",
        "ib_write_lat -R",
        "ib_write_bw -R -q 16 -b",
        "ib_write_bw -c UC -l 16",
        "ib_read_bw -R -b",
        "ib_read_bw -l 8 -q 4 -e",
        "ib_read_lat -R -e",
        "ib_atomic_bw -l 4 -R",
        "ib_atomic_bw -A CMP_AND_SWAP -l 4 -q 4",
        "ib_atomic_lat -R",
        "ib_send_bw -D 2 -f 0",
        "ib_send_bw -D 2 -f 0 --use-srq -q 4",
        "ib_send_bw -D 2 -f 0 -c UD",
        "ib_send_lat -D 2 -f 0",
        "ib_write_bw -D 2 -f 0 -l 16",
        "ib_write_lat -D 2 -f 0",
        "ib_read_bw -D 2 -f 0",
        "ib_read_lat -D 2 -f 0",
        "ib_atomic_bw -D 2 -f 0",
        "ib_write_bw -z",
        "ib_write_bw --odp",
        "ib_send_bw -I 64 -s 64",
        "ib_send_bw --mr_per_qp -q 4",
        "ib_write_bw -Q 1 -t 1",
        "ib_send_bw -r 1 -t 1",
        "ib_write_bw --reversed",
    ];
    let mut commands = short.to_vec();
    if long() {
        commands.extend(all);
    }
    let script: String = commands
        .iter()
        .map(|command| {
            let (program, options) = command.split_once(' ').expect("it has options");
            // Lists of requests are to fit.
            let count = if options.contains("-D ") { "" } else { "-n 96" };
            format!(
                "server 18515 {program} {options} {count} -d $FA -x 1 -F
                 client {program} {options} {count} -d $FB -x 1 -F 10.0.0.1
                 gone; echo 'done: {command}'\n"
            )
        })
        .collect();
    does(flavor, route, &script, commands.len());
}

/// qperf's tests, each for a second: of RC connected by address; and of UC and UD, which name no GRH, without
/// which `ib_core` connects nothing on RoCE (IBTA A17.4.4). As it is qperf fails there on rdma_rxe as well, so
/// it gets one (`grh.c`).
fn qperf(flavor: &Flavor, route: Route) {
    let (rc, others): (&[&str], &[&str]) = match long() {
        true => (
            &[
                "rc_lat",
                "rc_bw",
                "rc_bi_bw",
                "rc_rdma_read_lat",
                "rc_rdma_read_bw",
                "rc_rdma_write_lat",
                "rc_rdma_write_bw",
                "rc_rdma_write_poll_lat",
                "rc_compare_swap_mr",
                "rc_fetch_add_mr",
                "ver_rc_compare_swap",
                "ver_rc_fetch_add",
            ],
            &[
                "uc_lat",
                "uc_bw",
                "uc_bi_bw",
                "uc_rdma_write_lat",
                "uc_rdma_write_bw",
                "uc_rdma_write_poll_lat",
                "ud_lat",
                "ud_bw",
                "ud_bi_bw",
            ],
        ),
        false => (
            &["rc_lat", "rc_rdma_write_bw", "ver_rc_compare_swap"],
            &["uc_rdma_write_bw", "ud_lat"],
        ),
    };
    let (_folder, library) = compiled("grh.c", &["-shared", "-fPIC"], &["-libverbs"]);
    let script = format!(
        "run() {{
             for test in $tests; do client $with qperf 10.0.0.1 $options -t 1 $test; echo done: $test; done
             kill $server; wait $server || :
         }}
         server 19765 qperf
         with= options='-cm 1' tests='{}'; run
         preload='env LD_PRELOAD={}'
         server 19765 $preload PEER_ADDRESS=::ffff:$B4 qperf
         with=\"$preload PEER_ADDRESS=::ffff:10.0.0.1\" options= tests='{}'; run",
        rc.join(" "),
        library.display(),
        others.join(" ")
    );
    does(flavor, route, &script, rc.len() + others.len());
}

/// rsockets' own programs, and some that know of TCP only, with rsockets' functions put before those of the C
/// library: netcat, and one that looks at every byte. That they do not go by TCP is seen from who listens.
///
/// Not with every program, on rdma_rxe as well: those functions know of no SOCK_CLOEXEC and no accept4(), as
/// Python and OpenBSD's netcat have, and iperf3 stops after one block of data.
fn rsockets(flavor: &Flavor, route: Route) {
    let (_folder, program) = compiled("tcp.c", &["-pthread"], &[]);
    let (program, megabytes) = (program.display(), if long() { 200 } else { 5 });
    let script = format!(
        "for program in rstream riostream; do
             options='-S all -C 20 -T v'
             server 7471 $program -b 10.0.0.1 $options; client $program -s 10.0.0.1 $options; gone
             echo done: $program
         done
         preload='env LD_PRELOAD=/usr/lib/x86_64-linux-gnu/rsocket/librspreload.so'
         no_tcp() {{ ! $A cat /proc/net/tcp /proc/net/tcp6 | grep ':1389 [^ ]* 0A' || failed it listens by TCP; }}
         for address in 10.0.0.1 fd00::1; do
             server 5001 $preload {program} server $address 5001; no_tcp
             client $preload {program} client $address 5001 {megabytes}
             grep 'every byte right' /tmp/client || failed tcp
             gone; echo done: $address
         done
         head -c {megabytes}M /dev/urandom >/tmp/data
         server 5001 $preload nc.traditional -l -s 10.0.0.1 -p 5001; no_tcp
         client $preload nc.traditional -q 1 10.0.0.1 5001 </tmp/data
         gone; cmp /tmp/data /tmp/server && echo done: netcat"
    );
    does(flavor, route, &script, 5);
}
