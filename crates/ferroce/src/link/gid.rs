// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port's table of GIDs, from sysfs
//! (Documentation/ABI/stable/sysfs-class-infiniband).

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// An entry that is in use.
#[derive(Debug, Serialize)]
pub struct Gid {
    /// Its place in the table, by which programs are told it.
    pub index: u32,
    pub gid: Ipv6Addr,
    /// "RoCE v2" and the like.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Gid {
    /// The address that it stands for.
    pub fn address(&self) -> String {
        match self.gid.to_ipv4_mapped() {
            Some(ipv4) => ipv4.to_string(),
            None => self.gid.to_string(),
        }
    }
}

/// The entries that are in use.
pub fn table(device: &str, port: u32) -> Result<Vec<Gid>> {
    let port = Path::new("/sys/class/infiniband").join(format!("{device}/ports/{port}"));
    let folder = port.join("gids");
    let unreadable = || format!("cannot read {}", folder.display());
    let mut gids = Vec::new();
    for entry in fs::read_dir(&folder).with_context(unreadable)? {
        let name = entry.with_context(unreadable)?.file_name();
        let Some(index) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let text = fs::read_to_string(folder.join(&name)).with_context(unreadable)?;
        let gid = text.trim().parse().ok();
        let Some(gid) = gid.filter(|gid: &Ipv6Addr| !gid.is_unspecified()) else {
            continue;
        };
        let kind = match fs::read_to_string(port.join("gid_attrs/types").join(&name)) {
            Ok(kind) => kind.trim().to_owned(),
            // It was emptied since.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => continue,
            Err(e) => return Err(e).with_context(unreadable),
        };
        gids.push(Gid { index, gid, kind });
    }
    gids.sort_by_key(|gid| gid.index);
    Ok(gids)
}
