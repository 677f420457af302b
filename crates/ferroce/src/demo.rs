// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce demo`: sets everything up and shows what it does.

use anyhow::Result;
use ferroce_lab::backend::{Backend, Flavor, Series};
use ferroce_lab::prerequisites::Purpose;
use ferroce_lab::progress::note;
use ferroce_lab::session::Session;

use crate::args::Setup;
use crate::lab::args::Choice;
use crate::lab::Ready;

/// Each step as it would be typed, with what it is for.
const SCRIPT: &str = r#"
cat <<'END'

RDMA: programs on two computers read and write each other's memory, and the
network cards copy the data; the kernels stay out of it. That takes a special
card on both sides. ferroce is such a card made of software: programs for RDMA
run on it as they are, on one computer too, to be developed and tested there.
END
step() { printf '\n\033[1m# %s\033[0m\n$ %s\n' "$1" "$2"; sh -c "$2" || exit; }
step 'This is a guest: a kernel of its own, as root, in one process of the host.' 'uname -sr; id -un'
step 'It has no RDMA card. It gets one, on top of an ordinary network interface.' \
     'ip link add eth0 type dummy && ip addr add 10.0.0.1/24 dev eth0 &&
  ip link set eth0 up && rdma link add fr0 type ferroce netdev eth0'
step 'The kernel knows it, and so do the standard RDMA tools.' 'rdma link; ibv_devices'
step 'What it can do, as any RDMA program sees it.' 'ibv_devinfo -d fr0 | grep -E "hca_id|state|max_mtu|active_mtu|link_layer"'

once() {
    ibv_rc_pingpong -d "$1" -g 1 -c > /dev/null &
    # Until it listens on its port, 18515 or 0x4853 (proc(5), /proc/net/tcp).
    until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':4853 [^ ]* 0A'; do sleep 0.05; done
    ibv_rc_pingpong -d "$1" -g 1 -c localhost > /tmp/pingpong || exit
    wait
}
# Three times, of which the middle one counts: the host has other things to do, too.
pingpong() {
    printf '\n\033[1m# %s\033[0m\n$ ibv_rc_pingpong -d %s -g 1 -c & ibv_rc_pingpong -d %s -g 1 -c localhost\n' "$2" "$1" "$1"
    for i in 1 2 3; do once "$1"; tail -1 /tmp/pingpong; done | tee /tmp/times
    echo '(The time for there and back; of three runs the middle one counts.)'
    eval "time_$1=$(awk '{print $(NF-1)}' /tmp/times | sort -n | sed -n 2p)"
}
pingpong fr0 'Two programs send 4 KiB back and forth a thousand times, and check each byte.'
rdma link delete fr0 && rdma link add rxe0 type rxe netdev eth0 || exit
pingpong rxe0 'The same over rdma_rxe, the software RDMA card that Linux has had so far.'
awk -v ours="$time_fr0" -v theirs="$time_rxe0" 'BEGIN {
    printf "\nThere and back in %.0f us with ferroce, %.0f us with rdma_rxe: %.1f times as fast.\n", ours, theirs, theirs / ours }'
"#;

pub fn run(setup: &Setup) -> Result<i32> {
    let flavor = Flavor {
        backend: Backend::Uml,
        debug: false,
        series: Series::BEST,
    };
    let ready = Ready::ensure(setup, &Choice::Built(flavor), &[Purpose::Verbs])?;
    note(
        "Booting",
        &format!(
            "Linux {} as a process, with 2 processors",
            ready.image.release
        ),
    );
    let status = ready.run(&Session {
        command: ["sh", "-c", SCRIPT].map(Into::into).to_vec(),
        cpus: 2,
        memory: 1 << 30,
        append: Vec::new(),
        counts_instructions: false,
        cards: 0,
        monitor: None,
        timeout: None,
        writable: Vec::new(),
        module_files: Vec::new(),
        terminal: false,
        show_log: false,
    })?;
    if status == 0 {
        println!("\nThe guest is gone, and with it all that it changed. To look around in one:");
        println!("  cargo run --release -- lab shell");
    }
    Ok(status)
}
