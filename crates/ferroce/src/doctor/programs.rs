// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs with verbs find here: libibverbs, its plug-ins, devices, and `ferroce run`.

use std::fs;
use std::path::Path;

use ferroce_lab::provider::{Libibverbs, Provider};

use super::{Finding, State};
use crate::{link, run};

pub fn findings() -> Vec<Finding> {
    let libibverbs = Libibverbs::find();
    let plugin = match &libibverbs {
        Ok(Some(libibverbs)) => Some(plugin(libibverbs)),
        _ => None,
    };
    let mut findings = vec![library(&libibverbs)];
    findings.extend(plugin);
    findings.push(devices());
    findings.push(user_space());
    findings
}

fn library(found: &ferroce_lab::Result<Option<Libibverbs>>) -> Finding {
    let name = "libibverbs";
    match found {
        Ok(Some(found)) => match found.known() {
            Ok(_) => Finding::new(
                name,
                State::Works,
                format!("{}, private interface {}", found.file.display(), found.abi),
            ),
            Err(error) => Finding::new(name, State::Lacks, error.to_string()),
        },
        Ok(None) => Finding::new(name, State::None, "none")
            .remedy("on Debian and Ubuntu: sudo apt-get install ibverbs-utils"),
        Err(error) => Finding::new(name, State::Lacks, error.to_string()),
    }
}

/// The plug-in for devices of the kernel's.
fn plugin(libibverbs: &Libibverbs) -> Finding {
    let name = "plug-in";
    let install = "for devices of the kernel's: sudo ferroce install";
    let ours = match crate::install::carried(libibverbs) {
        Ok(ours) => ours,
        Err(error) => return Finding::new(name, State::Lacks, format!("{error:#}")),
    };
    let Provider {
        library,
        place,
        driver,
    } = &ours;
    match (fs::read(place), driver.exists()) {
        (Ok(installed), true) => {
            let is_same = fs::read(library).is_ok_and(|ours| ours == installed);
            let shown = place.display();
            match is_same {
                true => Finding::new(name, State::Works, format!("{shown}, this version's")),
                false => Finding::new(name, State::Works, format!("{shown}, of another version"))
                    .remedy("this version's: sudo ferroce install"),
            }
        }
        (Ok(_), false) => Finding::new(
            name,
            State::Lacks,
            format!(
                "{} is here, but {} is not",
                place.display(),
                driver.display()
            ),
        )
        .remedy(install),
        (Err(_), _) => Finding::new(name, State::None, "not installed").remedy(install),
    }
}

fn devices() -> Finding {
    let name = "devices";
    let Ok(nldev) = link::Nldev::open() else {
        let has_core = Path::new("/sys/class/infiniband").exists();
        let text = match has_core {
            true => "cannot be listed",
            false => "none: this kernel has no RDMA core loaded",
        };
        return Finding::new(name, State::None, text)
            .remedy("without a kernel module: ferroce run -- PROGRAM");
    };
    match nldev.devices() {
        Ok(devices) if devices.is_empty() => {
            Finding::new(name, State::None, "none").remedy("make one: ferroce link add fr0 NETDEV")
        }
        Ok(devices) => {
            let names: Vec<String> = devices.into_iter().map(|device| device.name).collect();
            Finding::new(name, State::Works, names.join(", "))
        }
        Err(refusal) => Finding::new(name, State::Lacks, refusal.reason.to_string()),
    }
}

/// `ferroce run`, and in which way its processes would reach each other's memory.
fn user_space() -> Finding {
    let name = "ferroce run";
    match run::doctor::Reach::measure() {
        Ok(reach) => match reach.best() {
            Some((way, nanos)) => Finding::new(
                name,
                State::Works,
                format!("memory is reached by {way}: 8 bytes in {nanos} ns"),
            ),
            None => Finding::new(
                name,
                State::Lacks,
                "no way to reach another process' memory",
            )
            .remedy("see: ferroce run --doctor"),
        },
        Err(error) => Finding::new(name, State::Lacks, format!("{error:#}")),
    }
}
