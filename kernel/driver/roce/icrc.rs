// SPDX-License-Identifier: GPL-2.0

//! The CRC of packets: by the kernel's code, or by our own, whichever is faster here.

use crate::{
    net, rdma,
    wire::icrc::{crc32, Preceding},
};
use core::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
};

/// Set once, before there is any device.
static USE_KERNELS: AtomicBool = AtomicBool::new(false);

/// The ICRC of a packet, from the BTH on.
pub(super) fn icrc(preceding: Preceding, transport: &[u8]) -> [u8; 4] {
    match USE_KERNELS.load(Ordering::Relaxed) {
        true => preceding.icrc_by(transport, net::crc32_le),
        false => preceding.icrc(transport),
    }
}

/// Measures both, as the kernel does for RAID (lib/raid6/algos.c). The kernel's is the faster one by far if
/// it uses the processor's carry-less multiplication, and else, a byte at a time, by far the slower one; what
/// a processor says that it has may be emulated, and slow.
pub(super) fn choose() {
    const TIMES: usize = 8;
    let bytes = [0x5a; 1024];
    let shortest = |crc32: fn(u32, &[u8]) -> u32| {
        let time = |_| {
            let began = rdma::clock();
            black_box(crc32(0, black_box(&bytes)));
            rdma::clock() - began
        };
        (0..TIMES).map(time).min()
    };
    let is_faster = shortest(net::crc32_le) < shortest(crc32);
    USE_KERNELS.store(is_faster, Ordering::Relaxed);
}
