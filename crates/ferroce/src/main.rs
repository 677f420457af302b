// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce`: the command-line program.

mod args;
mod bench;
mod demo;
mod doctor;
mod install;
mod lab;
mod link;
mod manual;
mod module;
mod root;
mod run;
mod top;
mod trace;
mod vm;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    ferroce_lab::guest::enter();
    // A closed pipe is an error that is handled where it occurs.
    let command = args::parse().command;
    let failed = match command {
        Command::Demo(_) | Command::Lab(_) => ferroce_lab::session::status::LAB as u8,
        Command::Run(_) => run::FAILED,
        _ => 1,
    };
    let result = match command {
        Command::Demo(args) => demo::run(&args),
        Command::Lab(command) => lab::run(command),
        Command::Bench(args) => bench::run(&args),
        Command::BenchGuest { plan } => bench::guest::run(&plan),
        Command::Link(command) => link::run(&command),
        Command::Top(args) => top::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Install(args) => install::install(&args),
        Command::Uninstall(args) => install::uninstall(&args),
        Command::Module(command) => module::run(command),
        Command::Run(args) => run::run(&args),
        Command::Vm(command) => vm::run(command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder),
    };
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            // The errors of the project's own say all there is in one text.
            let own = error.is::<ferroce_lab::Error>() || error.is::<ferroce_kmod::Error>();
            match own {
                true => eprintln!("ferroce: {error}"),
                false => eprintln!("ferroce: {error:#}"),
            }
            ExitCode::from(failed)
        }
    }
}
