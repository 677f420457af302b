// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that are made for other devices: OpenMPI over UCX, UCX itself, libfabric, qperf.
//!
//! A short form of each. To go on for long, with all of their tests:
//!
//! ```sh
//! FERROCE_LONG=1 cargo test --release -p ferroce --test lab -- programs
//! ```

use std::path::Path;
use std::process::Command;

use crate::device::BY_WIRE;
use crate::support::{ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    ("programs: OpenMPI over UCX, every byte right", |flavor| {
        mpi(flavor, "")
    }),
    (
        "programs: OpenMPI over UCX by the wire, every byte right",
        |flavor| mpi(flavor, BY_WIRE),
    ),
    ("programs: UCX's own tests over RC and UD", ucx),
    ("programs: libfabric's ping-pongs", libfabric),
    ("programs: qperf", qperf),
];

/// Whether to go on for long.
fn long() -> bool {
    std::env::var_os("FERROCE_LONG").is_some()
}

/// A device with an IPv4 address (GID index 1) and an IPv6 one (2). `server` starts something, and waits
/// until it listens at a TCP port.
const SETUP: &str =
    "set -e; export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp; ip link set lo up; \
    ip link add eth0 type dummy; ip link set eth0 mtu 9000 up; ip addr add 10.0.0.1/24 dev eth0; \
    ip addr add fd00::1/64 dev eth0 nodad; rdma link add fr0 type ferroce netdev eth0; \
    modprobe rdma_ucm; until [ -e /dev/infiniband/uverbs0 ]; do sleep 0.05; done; \
    server() { port=$(printf ':%04X [^ ]* 0A' $1); shift; timeout 100 \"$@\" >/tmp/server 2>&1 & \
    until cat /proc/net/tcp /proc/net/tcp6 | grep -q \"$port\"; do sleep 0.05; done; }; ";

/// Runs a script with a device in a guest. `before` is to be done before there is one.
fn with_device(flavor: &Flavor, before: &str, script: &str) -> crate::support::Ran {
    flavor.sh(&format!("{before}{SETUP}{script}")).ends_with(0)
}

/// Point to point, collectives and one-sided, between 2 and 4 processes, over both kinds of addresses.
fn mpi(flavor: &Flavor, before: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/programs/mpi.c");
    let folder = tempfile::tempdir().expect("there is room");
    let program = folder.path().join("mpi");
    ran(Command::new("mpicc")
        .arg("-O2")
        .arg(source)
        .arg("-o")
        .arg(&program))
    .ends_with(0);
    let rounds = if long() { 20 } else { 1 };
    let script = format!(
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; \
         for gid in 1 2; do for ranks in 2 4; do timeout 600 mpirun --oversubscribe -n $ranks \
         --mca pml ucx --mca osc ucx -x UCX_TLS=rc_verbs,ud_verbs,self -x UCX_NET_DEVICES=fr0:1 \
         -x UCX_IB_GID_INDEX=$gid {} {rounds}; done; done",
        program.display()
    );
    let printed = with_device(flavor, before, &script).stdout;
    for ranks in [2, 4] {
        let line = format!("{ranks} ranks, every byte right");
        assert_eq!(printed.matches(&line).count(), 2, "{printed}");
    }
}

/// `ucx_perftest` looks at no data, but it ends only if all of it arrives.
fn ucx(flavor: &Flavor) {
    let (tests, gids, count): (&[&str], _, _) = match long() {
        true => (
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
            "1 2",
            2000,
        ),
        false => (
            &["tag_lat", "ucp_am_bw", "ucp_put_lat", "ucp_get", "ucp_fadd"],
            "1",
            100,
        ),
    };
    let script = format!(
        "export UCX_NET_DEVICES=fr0:1; for gid in {gids}; do \
         for transport in rc_verbs,ud_verbs ud_verbs; do for test in {}; do \
         size=4096; case $test in ucp_add|ucp_fadd|ucp_swap|ucp_cswap) size=8;; esac; \
         export UCX_TLS=$transport,self UCX_IB_GID_INDEX=$gid; server 13337 ucx_perftest; \
         timeout 60 ucx_perftest 127.0.0.1 -t $test -n {count} -s $size >/tmp/client 2>&1 && \
         grep -q Final: /tmp/client || {{ echo $transport $test; cat /tmp/server /tmp/client; exit 1; }}; \
         wait $! || :; echo done: $transport $test; done; done; done",
        tests.join(" ")
    );
    let printed = with_device(flavor, "", &script).stdout;
    let gids = gids.split(' ').count();
    assert_eq!(
        printed.matches("done: ").count(),
        gids * 2 * tests.len(),
        "{printed}"
    );
}

fn libfabric(flavor: &Flavor) {
    let count = if long() { 5000 } else { 100 };
    let script = format!(
        "for kind in 'verbs msg' 'verbs;ofi_rxm rdm'; do set -- $kind; \
         server 47592 fi_pingpong -p \"$1\" -e $2 -I {count}; \
         timeout 100 fi_pingpong -p \"$1\" -e $2 -I {count} 10.0.0.1 >/tmp/client 2>&1 || \
         {{ echo \"$kind\"; cat /tmp/server /tmp/client; exit 1; }}; wait $! || :; \
         echo \"done: $kind\"; done"
    );
    let printed = with_device(flavor, "", &script).stdout;
    assert_eq!(printed.matches("done: ").count(), 2, "{printed}");
}

/// qperf's tests of RC, each for a second, connected by address: its other ones name no GRH, without which
/// `ib_core` connects nothing on RoCE (IBTA A17.4.4), and fail on rdma_rxe as well.
fn qperf(flavor: &Flavor) {
    let tests: &[&str] = match long() {
        true => &[
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
        false => &["rc_lat", "rc_rdma_write_bw", "ver_rc_compare_swap"],
    };
    let script = format!(
        "server 19765 qperf; for test in {}; do \
         timeout 60 qperf 10.0.0.1 -cm 1 -t 1 $test || {{ cat /tmp/server; exit 1; }}; \
         echo done: $test; done; kill $!; wait $! || :",
        tests.join(" ")
    );
    let printed = with_device(flavor, "", &script).stdout;
    assert_eq!(printed.matches("done: ").count(), tests.len(), "{printed}");
}
