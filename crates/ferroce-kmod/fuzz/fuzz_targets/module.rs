// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes for a module's file: all that is told of it, and all the checks.
#![no_main]

use ferroce_kmod::check::check_bytes;
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::info::Info;
use ferroce_kmod::kernel::Kernel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Compressed data is up to the libraries that decompress it.
    let Ok(file) = ModuleFile::from_bytes("fuzz.ko", data.to_vec()) else {
        return;
    };
    if let Ok(info) = Info::of(&file) {
        info.fields();
    }
    check_bytes(&Kernel::default(), file);
});
