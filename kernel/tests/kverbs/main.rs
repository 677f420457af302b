// SPDX-License-Identifier: GPL-2.0

//! Tests a device as the kernel's own users have it: a protocol that does between queue pairs of one
//! device all that there is, and looks at every byte.
//!
//! ```text
//! modprobe kverbs device=fr0
//! ```
//!
//! With the module loaded, all is as it should be; otherwise the kernel's log says what is not. The
//! parameter `gid` is the index of the GID to use. `peer` is the number of a process's UD queue pair, for
//! what is done between the kernel and a process instead, see [`process`].
//!
//! It posts and polls with interrupts off wherever it can, since a user may.

use core::sync::atomic::{AtomicI32, Ordering};
use kernel::{error::to_result, prelude::*, str::CStrExt, types::Opaque};

#[path = "../../rdma/compat.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, unused_macros)]
mod compat;

#[path = "../../rdma/bindings.rs"]
mod bindings;
#[path = "../../examples/hello/string_param.rs"]
mod string_param;
use string_param::string_param;

#[macro_use]
mod check;
mod connected;
mod contexts;
mod datagram;
mod errors;
mod events;
mod memory;
mod port;
mod process;
mod verbs;

module! {
    type: Kverbs,
    name: "kverbs",
    authors: ["The ferroce authors"],
    description: "Tests an RDMA device by kernel verbs",
    license: "GPL",
    params: {
        gid: u32 {
            default: 1,
            description: "Index of the GID to use",
        },
        peer: u32 {
            default: 0,
            description: "Number of a UD queue pair of a process to test with",
        },
    },
}

string_param! {
    static DEVICE: StringParam<64> = c"";
    name: "device",
    description: "The device to test",
}

type Test = (&'static str, fn(&verbs::Device) -> Result);

/// What is tested, in this order.
const TESTS: &[Test] = &[
    ("sends", connected::sends),
    ("inline data", connected::inline_data),
    ("RDMA", connected::rdma),
    ("atomics", connected::atomics),
    ("shared receive queue", connected::shared_receives),
    ("registered memory", memory::registered),
    ("another registration", memory::registered_anew),
    ("remote invalidation", memory::remote_invalidation),
    ("registrations that must fail", memory::refused),
    ("datagrams", datagram::datagrams),
    ("address handles", datagram::many_handles),
    ("port", port::changes),
    ("events", events::events),
    ("solicited events", events::solicited),
    ("handlers", events::handlers),
    ("overrun", events::overrun),
    ("polling contexts", contexts::all_contexts),
    ("shared completion queues", contexts::shared_queues),
    ("full queues", errors::full_queues),
    ("states", errors::states),
    ("bad keys", errors::bad_keys),
    ("flushing", errors::flushing),
    ("queue pairs that have gone", errors::gone),
];

/// What the tests have come to; positive if there is no such device.
static RESULT: AtomicI32 = AtomicI32::new(1);

fn run(device: &verbs::Device) -> Result {
    let peer: u32 = compat::parameter(module_parameters::peer.value());
    if peer != 0 {
        return process::lend(device, peer);
    }
    for (name, test) in TESTS {
        test(device).inspect_err(|error| pr_err!("{name}: {error:?}\n"))?;
    }
    pr_info!("{} tests passed\n", TESTS.len());
    Ok(())
}

/// # Safety
///
/// Only for `ib_core` to call, for a device that stays registered until this returns.
unsafe extern "C" fn add(device: *mut bindings::ib_device) -> c_int {
    // SAFETY: A valid device, whose name is a string.
    let name = unsafe { CStr::from_char_ptr((&raw const (*device).name).cast()) };
    if name == DEVICE.value() {
        let gid: u32 = compat::parameter(module_parameters::gid.value());
        // SAFETY: By the function's requirements.
        let result = unsafe { verbs::Device::new(device, gid) }.and_then(|device| run(&device));
        let errno = result.map_or_else(|error| error.to_errno(), |()| 0);
        RESULT.store(errno, Ordering::Relaxed);
    }
    0
}

struct Kverbs;

impl kernel::Module for Kverbs {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let client = KBox::new(
            Opaque::new(bindings::ib_client {
                name: c"kverbs".as_char_ptr(),
                add: Some(add),
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: It stays where it is while it is registered. To register it calls `add` for each
        // device that there is; for others there is no need to.
        unsafe {
            to_result(bindings::ib_register_client(client.get()))?;
            bindings::ib_unregister_client(client.get());
        }
        match RESULT.load(Ordering::Relaxed) {
            0 => Ok(Self),
            errno if errno < 0 => Err(Error::from_errno(errno)),
            _ => {
                pr_err!("there is no device {:?}\n", DEVICE.value());
                Err(ENODEV)
            }
        }
    }
}
