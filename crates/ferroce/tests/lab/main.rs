// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the lab by its command line, with real guests.
//!
//! Before the first test the kernels are built, which takes minutes on a new
//! machine and nothing afterwards. The tests of the QEMU debug kernel, which has
//! lockdep as well and takes longest, run on request:
//!
//! ```sh
//! cargo test --release -p ferroce --test lab -- --ignored qemu-debug
//! ```
//!
//! and so do all tests of the device in Debian's own kernel:
//!
//! ```sh
//! cargo test --release -p ferroce --test lab -- --ignored debian-device
//! ```

mod bench;
mod book;
mod bounded;
mod broken;
mod build;
mod card;
mod cm;
mod compressed;
mod device;
mod distribution;
mod driver;
mod errors;
mod hostile;
mod hosts;
mod install;
mod kernel_users;
mod link;
mod loader;
mod modules;
mod mutants;
mod pack;
mod programs;
#[path = "../common/rdma_core.rs"]
mod rdma_core;
mod run;
mod strict;
mod support;
mod sweep;
mod trace;
mod verbs;
mod wire;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use support::{DEBIAN, DEBIAN_DEVICE, DEBUG, QEMU, QEMU_DEBUG, UML};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    let role = match args.get(1).map(String::as_str) {
        Some(support::SERVE) => Some(support::serve as fn(&[String])),
        Some(sweep::LOAD_EACH) => Some(sweep::load_each as fn(&[String])),
        _ => None,
    };
    if let Some(role) = role {
        role(&args.split_off(2));
        return ExitCode::SUCCESS;
    }
    let args = Arguments::from_args();
    let trials = trials();
    if !args.list {
        for flavor in [UML, DEBUG, QEMU, QEMU_DEBUG, DEBIAN, DEBIAN_DEVICE] {
            let wanted = trials
                .iter()
                .any(|t| t.kind() == flavor.name && selected(&args, t));
            if wanted && !flavor.build() {
                eprintln!("the kernel for the tests cannot be built: see above");
                return ExitCode::FAILURE;
            }
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// Whether the filters on the command line let a test run.
fn selected(args: &Arguments, trial: &Trial) -> bool {
    // As the harness names it.
    let name = format!("[{}] {}", trial.kind(), trial.name());
    let matches = |f: &String| {
        if args.exact {
            name == *f
        } else {
            name.contains(f.as_str())
        }
    };
    let asked_for = match trial.has_ignored_flag() {
        true => args.ignored || args.include_ignored,
        false => !args.ignored,
    };
    asked_for && args.filter.as_ref().is_none_or(matches) && !args.skip.iter().any(matches)
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (flavor, tests) in [
        (UML, run::TESTS),
        (UML, modules::TESTS),
        (UML, errors::TESTS),
        (UML, build::TESTS),
        (UML, pack::TESTS),
        (UML, device::TESTS),
        (UML, cm::TESTS),
        (UML, verbs::TESTS),
        (UML, bounded::TESTS),
        (UML, link::TESTS),
        (UML, install::TESTS),
        (UML, driver::TESTS),
        (UML, bench::TESTS),
        (UML, loader::TESTS),
        (UML, mutants::TESTS),
        (UML, compressed::TESTS),
        (UML, sweep::TESTS),
        (UML, strict::TESTS),
        (UML, wire::TESTS),
        (UML, programs::TESTS),
        (UML, programs::long_tests()),
        (UML, trace::TESTS),
        (UML, book::TESTS),
        (UML, book::SESSIONS),
        (DEBUG, build::DEBUG_TESTS),
        (DEBUG, modules::DEBUG_TESTS),
        (DEBUG, device::DEBUG_TESTS),
        (DEBUG, cm::DEBUG_TESTS),
        (DEBUG, verbs::DEBUG_TESTS),
        (DEBUG, bounded::DEBUG_TESTS),
        (DEBUG, hostile::DEBUG_TESTS),
        (DEBUG, wire::DEBUG_TESTS),
        (DEBUG, book::DEBUG_SESSIONS),
        (QEMU, run::QEMU_TESTS),
        (QEMU, modules::QEMU_TESTS),
        (QEMU, verbs::QEMU_TESTS),
        (QEMU, loader::QEMU_TESTS),
        (QEMU, book::QEMU_SESSIONS),
        (QEMU, hosts::TESTS),
        (QEMU, card::TESTS),
        (DEBIAN, distribution::TESTS),
        (DEBIAN, compressed::DEBIAN_TESTS),
        (DEBIAN, device::DEBIAN_TESTS),
        (DEBIAN, verbs::DEBIAN_TESTS),
        (DEBIAN, card::DEBIAN_TESTS),
        (DEBIAN_DEVICE, device::debian_device_tests()),
        (DEBIAN_DEVICE, cm::TESTS),
        (DEBIAN_DEVICE, verbs::TESTS),
        (DEBIAN_DEVICE, bounded::TESTS),
        (DEBIAN_DEVICE, wire::TESTS),
        (DEBIAN, hosts::DEBIAN_TESTS),
        (DEBIAN, kernel_users::long_tests()),
        (QEMU_DEBUG, book::QEMU_DEBUG_SESSIONS),
        (QEMU_DEBUG, modules::QEMU_DEBUG_TESTS),
        (QEMU_DEBUG, device::DEBUG_TESTS),
        (QEMU_DEBUG, cm::DEBUG_TESTS),
        (QEMU_DEBUG, verbs::DEBUG_TESTS),
        (QEMU_DEBUG, bounded::DEBUG_TESTS),
        (QEMU_DEBUG, hostile::DEBUG_TESTS),
        (QEMU_DEBUG, wire::DEBUG_TESTS),
        (QEMU_DEBUG, card::DEBUG_TESTS),
    ] {
        for (name, test) in tests {
            let run = move || -> Result<(), Failed> {
                test(&flavor);
                Ok(())
            };
            trials.push(
                Trial::test(*name, run)
                    .with_kind(flavor.name)
                    .with_ignored_flag(flavor.on_request),
            );
        }
    }
    trials
}
