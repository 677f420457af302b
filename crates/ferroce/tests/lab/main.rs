// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the lab by its command line, with real guests.
//!
//! Before the first test the kernels are built, which takes minutes on a new
//! machine and nothing afterwards.

mod build;
mod errors;
mod modules;
mod run;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use support::{DEBUG, QEMU, UML};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == support::SERVE) {
        support::serve(&args.split_off(2));
        return ExitCode::SUCCESS;
    }
    let args = Arguments::from_args();
    let trials = trials();
    if !args.list {
        for flavor in [UML, DEBUG, QEMU] {
            let wanted = trials
                .iter()
                .any(|t| t.kind() == flavor.name && selected(&args, t.name()));
            if wanted && !flavor.build() {
                eprintln!("the kernel for the tests cannot be built: see above");
                return ExitCode::FAILURE;
            }
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// Whether the filters on the command line let a test through.
fn selected(args: &Arguments, name: &str) -> bool {
    let matches = |f: &String| {
        if args.exact {
            name == f
        } else {
            name.contains(f.as_str())
        }
    };
    args.filter.as_ref().is_none_or(matches) && !args.skip.iter().any(matches)
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (flavor, tests) in [
        (UML, run::TESTS),
        (UML, modules::TESTS),
        (UML, errors::TESTS),
        (UML, build::TESTS),
        (DEBUG, modules::DEBUG_TESTS),
        (QEMU, run::QEMU_TESTS),
        (QEMU, modules::QEMU_TESTS),
    ] {
        for (name, test) in tests {
            let run = move || -> Result<(), Failed> {
                test(&flavor);
                Ok(())
            };
            trials.push(Trial::test(*name, run).with_kind(flavor.name));
        }
    }
    trials
}
