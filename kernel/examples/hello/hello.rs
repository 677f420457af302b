// SPDX-License-Identifier: GPL-2.0

//! The smallest module worth loading: it greets in the kernel log on load and on unload.
//!
//! ```text
//! insmod hello.ko name=Ada    # log: "hello: hello, Ada"
//! rmmod hello                 # log: "hello: goodbye, Ada"
//! ```
//!
//! `modinfo hello.ko` shows what `module!` and `string_param!` below have put into the file.

use kernel::prelude::*;

mod string_param;
use string_param::string_param;

// ANCHOR: module
module! {
    type: Hello,
    name: "hello",
    authors: ["The ferroce authors"],
    description: "Greets in the kernel log on load and on unload",
    // Not a formality: the kernel's Rust API is GPL-only, another licence would not load.
    license: "GPL",
}

// A longer value is refused by the kernel before `init` runs.
string_param! {
    static NAME: StringParam<32> = c"world";
    name: "name",
    description: "Whom to greet, 1 to 31 bytes (default: world)",
}
// ANCHOR_END: module

// ANCHOR: init
/// Exists as long as the module is loaded: `init` makes it, and unloading drops it. A real driver
/// keeps its resources in here, so that one that fails half-way has nothing to undo by hand.
struct Hello;

impl kernel::Module for Hello {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let name = NAME.value();
        // An `Err` becomes the errno that insmod reports, and the module is not loaded. The errno
        // alone rarely says what to do about it, so the log does.
        if name.is_empty() {
            pr_err!("`name` is empty; name somebody, as in name=Ada\n");
            return Err(EINVAL);
        }

        // A `CStr` prints with all but plain ASCII escaped, so that a name cannot forge log lines.
        pr_info!("hello, {name}\n");
        Ok(Hello)
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        pr_info!("goodbye, {}\n", NAME.value());
    }
}
// ANCHOR_END: init
