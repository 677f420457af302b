// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network of one of several hosts: eth0, with an address, and the names of all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::{ip, Failure};
use crate::job::Host;

/// Names this host, and joins it to the others.
pub fn join(host: Host) -> Result<(), Failure> {
    let name = Host::name(host.number);
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| Failure::lab(format!("cannot set the host's name: {e}")))?;
    let mut names = String::new();
    for number in 1..=host.count {
        names += &format!("{} {}\n", Host::address(number), Host::name(number));
    }
    let file = "/etc/hosts";
    File::options()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(names.as_bytes()))
        .map_err(|e| Failure::lab(format!("cannot write {file} in the guest: {e}")))?;

    super::modules::modprobe(&["virtio_net"]).map_err(Failure::lab)?;
    expect_no_duplicates("eth0")?;
    let address = format!("{}/24", Host::address(host.number));
    ip(&["addr", "add", &address, "dev", "eth0"])?;
    ip(&["link", "set", "eth0", "up"])
}

/// Has the addresses of a network device there at once: nobody has the same, and to find that out takes a second.
pub fn expect_no_duplicates(device: &str) -> Result<(), Failure> {
    set("ipv6", device, "accept_dad", "0")
}

/// Sets what a version of IP knows of a network device (Documentation/networking/ip-sysctl.rst).
pub fn set(version: &str, device: &str, setting: &str, value: &str) -> Result<(), Failure> {
    let settings = Path::new("/proc/sys/net")
        .join(version)
        .join("conf")
        .join(device);
    if !settings.is_dir() {
        return Ok(());
    }
    let setting = settings.join(setting);
    fs::write(&setting, value)
        .map_err(|e| Failure::lab(format!("cannot write {}: {e}", setting.display())))
}
