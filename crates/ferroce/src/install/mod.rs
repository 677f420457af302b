// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce install` and `ferroce uninstall`: the plug-in for libibverbs, on
//! this machine.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{anyhow, bail, Result};
use ferroce_lab::progress::note;
use ferroce_lab::provider::{self, Libibverbs, Provider};
use ferroce_lab::Error;

use crate::args::{Installation, Place, Removal};
use crate::run::plugins::Plugins;

pub fn install(args: &Installation) -> Result<i32> {
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
    let library = args.library.as_ref();
    let library = library.map(|library| ["--library".into(), library.into()]);
    provider.install(root(&args.place), tell).map_err(|error| {
        denied(
            error,
            "install",
            &args.place,
            library.as_slice().as_flattened(),
        )
    })?;
    if args.place.destdir.is_none() && !Path::new("/sys/module/ferroce").exists() {
        note(
            "Missing",
            "the kernel has not loaded the driver, ferroce.ko: see ferroce install --help",
        );
    }
    Ok(0)
}

pub fn uninstall(args: &Removal) -> Result<i32> {
    // One that cannot be made out is no reason to leave files behind.
    let libibverbs = match &args.place.libibverbs {
        Some(_) => find(&args.place)?,
        None => find(&args.place).unwrap_or_default(),
    };
    let mut removed = false;
    let tell = |file: &Path| {
        removed = true;
        note("Removed", &file.display().to_string());
    };
    provider::remove(root(&args.place), libibverbs.as_ref(), tell)
        .map_err(|error| denied(error, "uninstall", &args.place, &[]))?;
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

/// Says how to do as root what only root may do.
fn denied(error: Error, command: &str, place: &Place, more: &[OsString]) -> anyhow::Error {
    let denied = matches!(&error, Error::File { source, .. } if source.kind() == ErrorKind::PermissionDenied);
    if !denied || rustix::process::geteuid().is_root() {
        return error.into();
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
