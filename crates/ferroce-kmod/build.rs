// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells the crate which compiler builds it: a module in Rust can use its
//! stand-ins for the language's library only if the same one compiled both.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.map(|o| o.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    println!("cargo::rustc-env=FERROCE_RUSTC={}", version.trim());
    println!("cargo::rerun-if-changed=build.rs");
}
