// SPDX-License-Identifier: GPL-2.0

//! Calls a function that another module, `../greeter`, exports.
//!
//! Three parties have to know about that:
//!
//! - The compiler believes the declaration below. Nothing checks it against the definition.
//! - The build (`modpost`) looks the name up in greeter's `Module.symvers`, and notes in
//!   visitor.ko that it needs greeter: `modinfo -F depends visitor.ko`.
//! - The kernel puts in the address as it loads visitor.ko, so greeter must be loaded by then.
//!   Otherwise insmod fails with "Unknown symbol in module", and the log says
//!   "visitor: Unknown symbol greeter_greet (err -2)"; -2 is `ENOENT`.
//!
//! `insmod` loads the one file it is given, and the order is up to you. `modprobe visitor` gets it
//! right: it reads from `modules.dep` who needs whom. `make ... modules_install` keeps that file up
//! to date, by way of `depmod`, which matches the symbols of all installed modules.
//!
//! As long as visitor is loaded, `rmmod greeter` fails: "Module greeter is in use by: visitor".

use kernel::{prelude::*, str::CStrExt};

module! {
    type: Visitor,
    name: "visitor",
    authors: ["The ferroce authors"],
    description: "Calls greeter_greet() of the module greeter",
    license: "GPL",
}

// ANCHOR: visit
extern "C" {
    /// `whom` must point to a NUL-terminated string that stays valid and unchanged during the
    /// call.
    fn greeter_greet(whom: *const c_char) -> u64;
}

struct Visitor;

impl kernel::Module for Visitor {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: The declaration has the types of the definition in `../greeter/greeter.rs`. The
        // argument is a string literal with a NUL at its end, which lives as long as this module.
        let count = unsafe { greeter_greet(c"visitor".as_char_ptr()) };
        pr_info!("I am visitor number {count}\n");
        Ok(Visitor)
    }
}
// ANCHOR_END: visit
