// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce demo`: sets everything up and shows what it does.

use anyhow::Result;
use ferroce_lab::backend::{Backend, Flavor};
use ferroce_lab::prerequisites::Purpose;
use ferroce_lab::progress::note;
use ferroce_lab::session::Session;

use crate::args::Setup;
use crate::lab::Ready;

/// Each step as it would be typed, with what it is for.
const SCRIPT: &str = r#"
step() { printf '\n\033[1m# %s\033[0m\n$ %s\n' "$1" "$2"; sh -c "$2" || exit; }
step 'This is a guest: a kernel of its own, as root, in one process of the host.' 'uname -sr; id -un'
step 'Load a kernel module that is written in Rust.' 'modprobe hello name=world'
step 'There it is, beside the RDMA stack.' 'lsmod | head -4'
step 'What it wrote to the kernel log.' 'dmesg | grep hello:'
step 'Unload it.' 'modprobe -r hello && dmesg | grep hello: | tail -1'
"#;

pub fn run(setup: &Setup) -> Result<i32> {
    let flavor = Flavor {
        backend: Backend::Uml,
        debug: false,
    };
    let ready = Ready::ensure(
        setup,
        flavor,
        &[Purpose::Build(flavor), Purpose::Run(flavor)],
    )?;
    note(
        "Booting",
        &format!(
            "Linux {} as a process, with 2 processors",
            ready.kernel.release
        ),
    );
    let status = ready.run(&Session {
        command: ["sh", "-c", SCRIPT].map(Into::into).to_vec(),
        cpus: 2,
        memory: 1 << 30,
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
