// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce install` and `ferroce uninstall`: the plug-in for libibverbs and the
//! driver, on this machine.

pub mod args;
mod dkms;
mod driver;
mod obstacles;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{anyhow, bail, Result};
use ferroce_lab::progress::note;
use ferroce_lab::provider::{self, Libibverbs, Provider};
use ferroce_lab::Error;

use crate::run::plugins::Plugins;
use args::{Installation, Place, Removal};
use driver::Plan;
use obstacles::{Signing, System};

pub fn install(args: &Installation) -> Result<i32> {
    if args.driver.dkms {
        let place = dkms::package(root(&args.place), &driver::project()?)?;
        note("Installed", &place.display().to_string());
        return Ok(0);
    }
    // What is in the way is told before anything is done.
    let plan = args
        .driver
        .is_wanted()
        .then(|| Plan::new(&args.driver, &args.place));
    let plan = plan.transpose()?;
    if let Some(plan) = plan.as_ref().filter(|_| args.driver.check) {
        plan.tell();
        return Ok(0);
    }
    if let Some((plan, file)) = plan.as_ref().zip(args.driver.output.as_ref()) {
        provider::write(file, &plan.build()?)?;
        note("Built", &file.display().to_string());
        return Ok(0);
    }
    let Some(libibverbs) = find(&args.place)? else {
        bail!(
            "this machine has no libibverbs, of which the plug-in would be a part: \
             install rdma-core (on Debian and Ubuntu: sudo apt-get install ibverbs-utils)"
        );
    };
    let provider = match &args.library {
        Some(library) => Provider::given(library, &libibverbs)?,
        None => carried(&libibverbs)?,
    };
    let tell = |file: &Path| note("Installed", &file.display().to_string());
    if let Some(plan) = &plan {
        plan.install(tell)
            .map_err(|error| denied_install(error, args))?;
    }
    provider
        .install(root(&args.place), tell)
        .map_err(|error| denied_install(error.into(), args))?;
    if args.place.destdir.is_none() && !Path::new("/sys/module/ferroce").exists() {
        match plan {
            Some(_) => note(
                "Next",
                "sudo modprobe ferroce; sudo ferroce link add fr0 eth0",
            ),
            None => tell_of_driver(),
        }
    }
    Ok(0)
}

/// Builds the driver for a kernel of Debian's, and puts it below a folder that stands for the root of a system
/// that has this kernel, with what goes with it.
pub fn driver_files(release: &str, root: &Path) -> Result<()> {
    let driver = args::Driver {
        kernel: Some(release.to_owned()),
        ..Default::default()
    };
    let place = Place {
        destdir: Some(root.to_owned()),
        libibverbs: None,
    };
    Plan::new(&driver, &place)?.install(|_| {})
}

/// Without the driver the plug-in is of no use. Says whether the kernel that runs can have it.
fn tell_of_driver() {
    let found = System::new(Path::new("/"), None).obstacles(Signing::None);
    if found.is_empty() {
        note(
            "Missing",
            "the driver, ferroce.ko, is not loaded: sudo modprobe ferroce, or where it is not installed \
             ferroce install --driver",
        );
        return;
    }
    note(
        "Warning",
        "as it is, this kernel cannot have the driver, ferroce.ko, without which the plug-in finds no device:",
    );
    eprint!("{}", obstacles::text(&found));
}

pub fn uninstall(args: &Removal) -> Result<i32> {
    // One that cannot be made out is no reason to leave files behind.
    let libibverbs = match &args.place.libibverbs {
        Some(_) => find(&args.place)?,
        None => find(&args.place).unwrap_or_default(),
    };
    let mut removed = false;
    let mut tell = |file: &Path| {
        removed = true;
        note("Removed", &file.display().to_string());
    };
    provider::remove(root(&args.place), libibverbs.as_ref(), &mut tell)
        .and_then(|()| driver::remove(root(&args.place), &mut tell))
        .map_err(|error| denied(error.into(), "uninstall", &args.place, &[]))?;
    if !removed {
        note("Clean", "there was nothing to remove");
    }
    Ok(0)
}

fn root(place: &Place) -> &Path {
    place.destdir.as_deref().unwrap_or(Path::new("/"))
}

fn find(place: &Place) -> Result<Option<Libibverbs>> {
    Ok(match &place.libibverbs {
        Some(file) => Some(Libibverbs::read(file)?),
        None => Libibverbs::find()?,
    })
}

/// The plug-in for a libibverbs, of those that this program carries.
pub fn carried(libibverbs: &Libibverbs) -> Result<Provider> {
    let libibverbs = libibverbs.known()?;
    let plugin = Plugins::ensure()?.plugin(libibverbs.abi);
    Ok(Provider::given(&plugin, libibverbs)?)
}

fn denied_install(error: anyhow::Error, args: &Installation) -> anyhow::Error {
    let mut words: Vec<OsString> = Vec::new();
    if let Some(library) = &args.library {
        words.extend(["--library".into(), library.into()]);
    }
    words.extend(args.driver.words());
    denied(error, "install", &args.place, &words)
}

/// Says how to do as root what only root may do.
fn denied(error: anyhow::Error, command: &str, place: &Place, more: &[OsString]) -> anyhow::Error {
    let denied = matches!(
        error.downcast_ref(),
        Some(Error::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied
    );
    if !denied || rustix::process::geteuid().is_root() {
        return error;
    }
    let mut words: Vec<OsString> = vec![command.into()];
    for (option, value) in [
        ("--destdir", &place.destdir),
        ("--libibverbs", &place.libibverbs),
    ] {
        if let Some(value) = value {
            words.extend([option.into(), value.into()]);
        }
    }
    words.extend_from_slice(more);
    anyhow!(
        "{error}. As root you may:\n  {}",
        crate::root::command(words)
    )
}
