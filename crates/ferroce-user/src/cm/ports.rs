// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which port, in each port space.

use std::collections::HashMap;
use std::fs;

use slab::Slab;

use super::address::Address;
use super::id::Id;
use crate::table::random;
use crate::{Errno, Result};

/// The ids that have a port, by port space and port: the last one first.
#[derive(Debug, Default)]
pub struct Ports(HashMap<(u16, u16), Vec<usize>>);

/// The first port that everybody may have.
const FIRST_FREE: u16 = 1024;

impl Ports {
    /// The ids that have a port.
    pub fn owners(&self, ps: u16, port: u16) -> &[usize] {
        self.0.get(&(ps, port)).map_or(&[], Vec::as_slice)
    }

    /// Gives an id the port of its address, or any if that is zero.
    pub fn bind(&mut self, ids: &mut Slab<Id>, number: usize) -> Result<()> {
        let id = ids.get_mut(number).ok_or(Errno(libc::ENOENT))?;
        let own = id.ps;
        let address = id.src.as_mut().ok_or(Errno(libc::EINVAL))?;
        let ps = address.select_ps(own).ok_or(Errno(libc::EPROTONOSUPPORT))?;
        let port = match address.port() {
            0 => self.any(ids, number, ps)?,
            port => {
                // SAFETY: It has no preconditions.
                if port < FIRST_FREE && unsafe { libc::geteuid() } != 0 {
                    return Err(Errno(libc::EACCES));
                }
                self.check(ids, number, ps, port, true)?;
                port
            }
        };
        let id = &mut ids[number];
        id.bound = Some(ps);
        if let Some(address) = &mut id.src {
            address.set_port(port);
        }
        self.0.entry((ps, port)).or_default().insert(0, number);
        Ok(())
    }

    /// Takes it away.
    pub fn release(&mut self, id: &Id, number: usize) {
        let (Some(ps), Some(src)) = (id.bound, id.src) else {
            return;
        };
        let key = (ps, src.port());
        if let Some(owners) = self.0.get_mut(&key) {
            owners.retain(|owner| *owner != number);
            if owners.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// Whether an id may have a port beside those that have it, or listen there.
    pub fn check(
        &self,
        ids: &Slab<Id>,
        number: usize,
        ps: u16,
        port: u16,
        may_reuse: bool,
    ) -> Result<()> {
        let id = &ids[number];
        let Some(address) = id.src else { return Ok(()) };
        for owner in self.owners(ps, port) {
            let Some(other) = ids.get(*owner).filter(|_| *owner != number) else {
                continue;
            };
            let Some(theirs) = other.src else { continue };
            if may_reuse && id.reuseaddr && other.reuseaddr {
                continue;
            }
            if id.afonly && other.afonly && !address.is_like(&theirs) {
                continue;
            }
            if address.is_any() || theirs.is_any() {
                return Err(Errno(libc::EADDRNOTAVAIL));
            }
            if address.is_same_host(&theirs) {
                return Err(Errno(libc::EADDRINUSE));
            }
        }
        Ok(())
    }

    /// A port that nobody has, or only ids that cannot be mistaken for this one.
    fn any(&self, ids: &Slab<Id>, number: usize, ps: u16) -> Result<u16> {
        let (low, high) = range();
        let count = u64::from(high - low) + 1;
        let start = random() % count;
        for step in 0..count {
            let port = low + ((start + step) % count) as u16;
            let is_unique = |owner: &usize| {
                ids.get(*owner)
                    .is_none_or(|other| is_unique(&ids[number], other))
            };
            if self.owners(ps, port).iter().all(is_unique) {
                return Ok(port);
            }
        }
        Err(Errno(libc::EADDRNOTAVAIL))
    }
}

/// Whether two ids with one port differ in who they talk to.
fn is_unique(id: &Id, other: &Id) -> bool {
    let differ = |one: Option<Address>, other: Option<Address>| match (one, other) {
        (Some(one), Some(other)) => !one.is_any() && !other.is_any() && !one.is_same_host(&other),
        _ => false,
    };
    let ports = match (id.dst, other.dst) {
        (Some(one), Some(other)) => (one.port(), other.port()),
        _ => (0, 0),
    };
    ports.0 != 0 && ports.1 != 0 && ports.0 != ports.1
        || differ(id.src, other.src)
        || differ(id.dst, other.dst)
}

/// The ports that the host gives out.
fn range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low != 0 && low <= high => (low, high),
        _ => (32_768, 60_999),
    }
}
