// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes for a packet: what is parsed is emitted again, but for reserved bits.
#![no_main]

use ferroce_core::wire::{icrc::Preceding, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    Preceding::ipv4(&[0x45; 20], &[0; 8]).icrc(data);
    let Ok(packet) = Packet::parse(data) else {
        return;
    };
    let mut emitted = vec![0; packet.len()];
    // Of padding only the length of the packet is known, not whether there was more than there need be.
    assert!(packet.len() <= data.len());
    assert_eq!(packet.emit(&mut emitted), Ok(emitted.len()));
    let again = Packet::parse(&emitted).expect("what is emitted is a packet");
    assert_eq!(again.headers, packet.headers);
    assert_eq!(again.payload, packet.payload);
    assert_eq!(again.bth.psn, packet.bth.psn);
});
