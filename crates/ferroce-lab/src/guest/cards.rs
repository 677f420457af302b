// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds drivers for the cards of the machine, as udev does for what it finds at boot.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ip, modules, network, Failure};
use crate::job::{Host, Job};

const BUS: &str = "/sys/bus/pci/devices";

/// Has the network devices of the cards up, each in a network of its own. To be called before drivers come.
pub fn connect(job: &Job) -> Result<(), Failure> {
    modules::modprobe(&["virtio_net"]).map_err(Failure::lab)?;
    let host = job.host.map_or(1, |host| host.number);
    // The first is the one to the other hosts, where there are any.
    let first = u32::from(job.host.is_some());
    for number in 0..job.cards {
        let name = format!("eth{}", first + number);
        network::expect_no_duplicates(&name)?;
        // So that they find each other, which are of one host.
        network::set("ipv4", &name, "accept_local", "1")?;
        let address = format!("{}/24", Host::card_address(host, number));
        ip(&["addr", "add", &address, "dev", &name])?;
        ip(&["link", "set", &name, "up"])?;
    }
    Ok(())
}

/// Loads the modules that say they are for a card, by its alias.
pub fn load_drivers() -> Result<(), Failure> {
    let cards = cards()?;
    for card in &cards {
        // What comes of it is seen below.
        let _ = modules::modprobe(&[&alias(card)]);
    }
    match cards.iter().find(|card| !card.join("driver").exists()) {
        None => Ok(()),
        Some(card) => Err(Failure::lab(format!(
            "no driver has taken the card at {}: the kernel's modules have none for {} (`--module ferroce` \
             loads the one of this project), or its log says why",
            card.display(),
            alias(card)
        ))),
    }
}

fn cards() -> Result<Vec<PathBuf>, Failure> {
    let failed = |e| Failure::lab(format!("cannot read {BUS}: {e}"));
    let functions = fs::read_dir(BUS).map_err(failed)?;
    // What vendor and device number make of an alias (`file2alias.c`).
    let begin = format!("pci:v00001AF4d{:08X}", ferroce_core::card::DEVICE);
    let mut cards: Vec<PathBuf> = functions
        .filter_map(|function| Some(function.ok()?.path()))
        .filter(|function| alias(function).starts_with(&begin))
        .collect();
    cards.sort();
    Ok(cards)
}

fn alias(function: &Path) -> String {
    let text = fs::read_to_string(function.join("modalias"));
    text.unwrap_or_default().trim().to_owned()
}
