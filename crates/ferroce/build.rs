// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the libraries that `ferroce` carries: the shim of `ferroce run`, and the plug-ins for libibverbs,
//! one for each private interface of it. A cargo of its own builds them, in a folder below `OUT_DIR`: they
//! have a profile of their own, and the plug-in is built several times, with other features each time.
//!
//! `FERROCE_PLUGINS=DIR` has it take the libraries of a folder instead: `libferroce_shim.so` and
//! `libferroce-rdmavNN.so`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest, Sha256};

/// The private interfaces of libibverbs that the plug-in can be built for: see its Cargo.toml.
const ABIS: [u32; 5] = [34, 57, 59, 64, 65];
const SHIM: &str = "libferroce_shim.so";
const PREBUILT: &str = "FERROCE_PLUGINS";

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    match env::var_os(PREBUILT) {
        Some(folder) => take(Path::new(&folder), &out),
        None => build(&out),
    }
    println!("cargo::rustc-env=FERROCE_LIBRARIES_HASH={}", hash(&out));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo has set no {name}: {error}"))
}

fn plugin(abi: u32) -> String {
    format!("libferroce-rdmav{abi}.so")
}

fn names() -> impl Iterator<Item = String> {
    ABIS.into_iter().map(plugin).chain([SHIM.to_owned()])
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to)
        .unwrap_or_else(|e| panic!("cannot copy {} to {}: {e}", from.display(), to.display()));
}

/// Takes libraries that were built before.
fn take(folder: &Path, out: &Path) {
    println!("cargo::rerun-if-changed={}", folder.display());
    for name in names() {
        copy(&folder.join(&name), &out.join(&name));
    }
}

fn build(out: &Path) {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let workspace = manifest.join("../..");
    for name in ["Cargo.toml", "Cargo.lock"] {
        watch(&workspace.join(name));
    }
    for package in ["core", "device", "user", "provider", "shim"] {
        let folder = workspace.join(format!("crates/ferroce-{package}"));
        watch(&folder.join("Cargo.toml"));
        watch(&folder.join("src"));
    }

    let target = target();
    let built = out.join("libraries").join(&target).join("plugin");
    for (index, abi) in ABIS.into_iter().enumerate() {
        let mut cargo = cargo(&workspace, out, &target);
        cargo.args(["--package", "ferroce-provider"]);
        match index {
            0 => cargo.args(["--package", "ferroce-shim"]),
            _ => cargo.args(["--features", &format!("abi{abi}")]),
        };
        let status = cargo.status();
        let status = status.unwrap_or_else(|error| panic!("cannot start {cargo:?}: {error}"));
        assert!(status.success(), "{cargo:?} has failed");
        copy(
            &built.join("libferroce_provider.so"),
            &out.join(plugin(abi)),
        );
    }
    copy(&built.join(SHIM), &out.join(SHIM));
}

/// Has the libraries be built again when a file or a folder changes.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// Programs with verbs are glibc's, whatever `ferroce` itself is built for.
fn target() -> String {
    variable("TARGET").replace("-musl", "-gnu")
}

fn cargo(workspace: &Path, out: &Path, target: &str) -> Command {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", "plugin"])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(out.join("libraries"))
        .current_dir(workspace);
    // What is meant for the program's build: clippy in place of the compiler, flags for its target.
    for name in [
        "RUSTC_WORKSPACE_WRAPPER",
        "CLIPPY_ARGS",
        "CLIPPY_TERMINAL_WIDTH",
        "CARGO_ENCODED_RUSTFLAGS",
    ] {
        cargo.env_remove(name);
    }
    cargo
}

/// The hash of all libraries: where they are unpacked is named by it.
fn hash(out: &Path) -> String {
    let mut hasher = Sha256::new();
    for name in names() {
        let file = out.join(&name);
        let bytes =
            fs::read(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    let hash = hasher.finalize();
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
