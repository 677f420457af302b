// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce vm`: virtual machines that stay.

pub mod args;
mod install;
mod list;

use std::time::Duration;

use anyhow::{Context, Result};
use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::{self, Purpose};
use ferroce_lab::progress::note;
use ferroce_lab::vm::{Name, Settings, Vm as Machine, Vms};

use crate::args::Setup;
use args::{Boot, Create, Start, Vm};

pub fn run(command: Vm) -> Result<i32> {
    let vms = Vms::open()?;
    match command {
        Vm::Create(args) => create(&vms, &args),
        Vm::Start(args) => start(&vms, &args),
        Vm::Ssh { name, command } => match vms.get(&name)?.become_ssh(&command)? {},
        Vm::Console { name } => {
            vms.get(&name)?.console()?;
            Ok(0)
        }
        Vm::List { json } => list::run(&vms, json),
        Vm::Stop { names, timeout } => {
            for vm in all_of(&vms, &names)? {
                vm.stop(Duration::from_secs(timeout))?;
            }
            Ok(0)
        }
        Vm::Delete { names, force } => {
            for vm in all_of(&vms, &names)? {
                if force && vm.is_running() {
                    vm.stop(Duration::ZERO)?;
                }
                vm.delete()?;
            }
            Ok(0)
        }
    }
}

/// Those of the names, all of which there are.
fn all_of(vms: &Vms, names: &[Name]) -> Result<Vec<Machine>> {
    let mut names = names.to_vec();
    names.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    names.dedup();
    Ok(names
        .iter()
        .map(|name| vms.get(name))
        .collect::<Result<_, _>>()?)
}

/// What is needed on this machine.
fn prepare(setup: &Setup) -> Result<Cache> {
    let cache = Cache::open()?;
    prerequisites::ensure(&cache, &[Purpose::VirtualMachine], setup.install())?;
    Ok(cache)
}

fn create(vms: &Vms, args: &Create) -> Result<i32> {
    let name = args.name.as_ref();
    // What is wrong is told before anything is fetched.
    vms.check_new(&args.name)?;
    let share = args.share.as_ref().map(|share| {
        let found = share.canonicalize();
        found.with_context(|| format!("the folder to share, {}, is not there", share.display()))
    });
    let share = share.transpose()?;
    if let Some(port) = args.ssh_port {
        vms.check_port(name, port)?;
    }
    let cache = prepare(&args.boot.setup)?;
    let settings = Settings {
        base: vms.image(&args.image)?,
        disk: args.disk,
        memory: args.mem,
        cpus: args.cpus,
        share,
        port: match args.ssh_port {
            Some(port) => port,
            None => vms.free_port()?,
        },
        packages: args.package.clone(),
    };
    let vm = vms.create(&args.name, settings)?;
    note(
        "Created",
        &format!("{name}, over {}", vm.settings.base.file.display()),
    );
    match args.no_start {
        true => note("Next", &format!("ferroce vm start {name}")),
        false => boot(vms, &vm, &cache, &args.boot)?,
    }
    Ok(0)
}

fn start(vms: &Vms, args: &Start) -> Result<i32> {
    let mut vm = vms.get(&args.name)?;
    let cache = prepare(&args.boot.setup)?;
    if let Some(port) = args.ssh_port.filter(|port| *port != vm.settings.port) {
        if vm.is_running() {
            anyhow::bail!(
                "{0} runs, with port {1} for ssh: ferroce vm stop {0} first",
                vm.name,
                vm.settings.port
            );
        }
        vms.check_port(&vm.name, port)?;
        vm.set_port(port)?;
    }
    boot(vms, &vm, &cache, &args.boot)?;
    Ok(0)
}

/// Starts it if it does not run, waits for it, and installs ferroce in it if that is wanted.
fn boot(vms: &Vms, vm: &Machine, cache: &Cache, args: &Boot) -> Result<()> {
    let started = match vm.is_running() {
        true => vm.started(cache)?,
        false => {
            vms.check_port(&vm.name, vm.settings.port)?;
            vm.start(cache)?
        }
    };
    vm.wait(&started, args.timeout)?;
    vm.check()?;
    if args.install {
        install::install(vm, cache)?;
    }
    note("Next", &format!("ferroce vm ssh {}", vm.name));
    Ok(())
}
