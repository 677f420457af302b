// SPDX-License-Identifier: GPL-2.0

//! Exports a function for other modules to call; `../visitor` is one that does.
//!
//! By itself a public function of a module is out of reach for all others: the kernel links a
//! module against exported symbols only. C has `EXPORT_SYMBOL_GPL` for that. Linux 7.2 has no
//! counterpart for Rust modules, but the macro is no more than a note for the build: an entry in
//! the section `.export_symbol`, which [`export_symbol_gpl!`] writes as well. `modpost`, the last
//! step of a module's build, turns the entry into the symbol table that the kernel reads, and into
//! a line of `Module.symvers`:
//!
//! ```text
//! 0x00000000 greeter_greet greeter EXPORT_SYMBOL_GPL
//! ```
//!
//! C header: `include/linux/export.h`

use kernel::{
    prelude::*,
    str::CStrExt,
    sync::atomic::{Atomic, Relaxed},
};

module! {
    type: Greeter,
    name: "greeter",
    authors: ["The ferroce authors"],
    description: "Exports greeter_greet() for other modules",
    license: "GPL",
}

// ANCHOR: export
/// The same lines as `___EXPORT_SYMBOL` in C: licence, namespace (none), address.
macro_rules! export_symbol_gpl {
    ($name:literal) => {
        ::core::arch::global_asm!(
            ".section \".export_symbol\",\"a\"",
            concat!("__export_symbol_", $name, ":"),
            ".asciz \"GPL\"",
            ".asciz \"\"",
            ".balign 8",
            concat!(".quad ", $name),
            ".previous",
        );
    };
}
// ANCHOR_END: export

static GREETED: Atomic<u64> = Atomic::new(0);

/// Greets `whom` in the log and returns how many have been greeted so far.
///
/// The name is the contract between the modules, so it is not mangled, and it carries the name of
/// the module, since exported names are global to the kernel. The calling convention is C's, and
/// so are the types: Rust promises neither its calling convention nor the layout of its types
/// from one compilation to the next, and the two modules are compiled apart.
///
/// # Safety
///
/// `whom` must point to a NUL-terminated string that stays valid and unchanged during the call.
// ANCHOR: greet
#[no_mangle]
pub unsafe extern "C" fn greeter_greet(whom: *const c_char) -> u64 {
    // SAFETY: The caller promises just that.
    let whom = unsafe { CStr::from_char_ptr(whom) };
    pr_info!("welcome, {whom}\n");
    // Relaxed: the counter guards no other memory.
    GREETED.fetch_add(1, Relaxed) + 1
}
export_symbol_gpl!("greeter_greet");
// ANCHOR_END: greet

struct Greeter;

impl kernel::Module for Greeter {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("ready\n");
        Ok(Greeter)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // No call can be under way: the kernel does not unload a module that another one uses.
        pr_info!("greeted {} in all\n", GREETED.load(Relaxed));
    }
}
