// SPDX-License-Identifier: GPL-2.0

//! CRC-32.

use crate::rdma::bindings;

/// Adds bytes to a CRC-32, by the processor's instructions for it if it has any and the kernel uses them.
pub fn crc32_le(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: The pointer is valid for that many bytes. In any context (lib/crc/crc32-main.c).
    unsafe { bindings::crc32_le(crc, bytes.as_ptr().cast(), bytes.len()) }
}
