// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address handles.

use std::collections::HashMap;

use ferroce_device::address::Address;
use parking_lot::RwLock;

/// The address handles of this process, by their numbers.
#[derive(Default)]
pub struct Addresses(RwLock<(HashMap<u32, Address>, u32)>);

impl Addresses {
    /// Makes a handle. Returns its number.
    pub fn add(&self, address: Address) -> u32 {
        let mut guard = self.0.write();
        let (addresses, next) = &mut *guard;
        loop {
            *next = next.wrapping_add(1);
            if !addresses.contains_key(next) {
                addresses.insert(*next, address);
                return *next;
            }
        }
    }

    /// Where packets by a handle go.
    pub fn get(&self, number: u32) -> Option<Address> {
        self.0.read().0.get(&number).copied()
    }

    /// Destroys a handle.
    pub fn remove(&self, number: u32) {
        self.0.write().0.remove(&number);
    }
}
