// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cards of a machine: PCI functions with memory on board, each with a network device.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use ferroce_core::card::Header;

use super::qemu::escaped;
use crate::error::{Error, Result};

/// The most that a machine may have.
pub const MOST: u32 = 8;

/// How much memory a card has on board. The first page is the header's.
const MEMORY: u64 = 4 << 20;

/// Gives a machine so many cards, `card0` and so on to QEMU's monitor, in slots that they can be taken from
/// while it runs. `host` tells its network devices from those of other machines on the network.
pub fn add(command: &mut Command, count: u32, host: u32, folder: &Path) -> Result<()> {
    // That has slots of which an interrupt of their own tells (PCI Express), so no ACPI is needed.
    command.args(["-machine", "q35"]);
    // Or else QEMU leaves the slots to ACPI, and says that they are empty (docs/pcie.txt).
    command.args([
        "-global",
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    ]);
    for number in 0..count {
        let name = format!("card{number}");
        let mac = [0x52, 0x54, 0, 1, host as u8, number as u8];
        let memory = folder.join(&name);
        File::create_new(&memory)
            .and_then(|file| {
                file.set_len(MEMORY)?;
                file.write_all_at(&Header { mac }.to_bytes(), 0)
            })
            .map_err(Error::file("write", &memory))?;
        let [a, b, c, d, e, f] = mac;
        for (option, value) in [
            (
                "-object",
                format!(
                    "memory-backend-file,id={name}-memory,share=on,size={MEMORY},mem-path={}",
                    escaped(&memory)
                ),
            ),
            (
                "-device",
                format!(
                    "pcie-root-port,id={name}-slot,chassis={0},slot={0}",
                    number + 1
                ),
            ),
            (
                "-device",
                format!("ivshmem-plain,id={name},memdev={name}-memory,bus={name}-slot"),
            ),
            ("-netdev", format!("hubport,id={name}-port,hubid=0")),
            (
                "-device",
                format!(
                    "virtio-net-pci,id={name}-net,netdev={name}-port,romfile=,\
                     mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
                ),
            ),
        ] {
            command.args([option, &value]);
        }
    }
    Ok(())
}
