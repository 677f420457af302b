// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the libraries that `ferroce` carries: the shim of `ferroce run`, and the plug-ins for libibverbs,
//! one for each private interface of it. A cargo of its own builds them, in a target folder of its own: they
//! have a profile of their own, and the plug-in is built several times, with other features each time.
//!
//! The folder is the same for all profiles of the program, which would else each build them: what was built
//! is kept there by the hash of what it was built from.
//!
//! `FERROCE_PLUGINS=DIR` has it take the libraries of a folder instead: `libferroce_shim.so` and
//! `libferroce-rdmavNN.so`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use sha2::{Digest, Sha256};

/// The private interfaces of libibverbs that the plug-in can be built for: see its Cargo.toml.
const ABIS: [u32; 5] = [34, 57, 59, 64, 65];
const SHIM: &str = "libferroce_shim.so";
/// What cargo calls each of the plug-ins.
const PLUGIN: &str = "libferroce_provider.so";
const PREBUILT: &str = "FERROCE_PLUGINS";
/// The packages, of crates/ferroce-*, that the libraries consist of.
const PACKAGES: [&str; 5] = ["core", "device", "user", "provider", "shim"];
/// Variables that change what cargo builds.
const FLAGS: [&str; 1] = ["RUSTFLAGS"];

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    let folder = match env::var_os(PREBUILT) {
        Some(folder) => {
            let folder = PathBuf::from(folder);
            println!("cargo::rerun-if-changed={}", folder.display());
            folder
        }
        None => build(&out),
    };
    let mut hasher = Hasher::default();
    for name in names() {
        let file = folder.join(&name);
        hasher.file(&file);
        let copied = fs::copy(&file, out.join(name));
        copied.unwrap_or_else(|e| panic!("cannot copy {}: {e}", file.display()));
    }
    println!(
        "cargo::rustc-env=FERROCE_LIBRARIES_HASH={}",
        hasher.finish()
    );
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

/// Finds the libraries that were built of the same sources, or builds them. Returns their folder.
fn build(out: &Path) -> PathBuf {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../..");
    // Programs with verbs are glibc's, whatever `ferroce` itself is built for.
    let target = variable("TARGET").replace("-musl", "-gnu");
    let key = key(&workspace, &target);
    let all = folder(out);
    let place = all.join(key);
    // Cargo's own lock is released between what is built here and what is copied.
    let _lock = lock(&all);
    if names().all(|name| place.join(name).exists()) {
        return place;
    }
    let built = all.join(&target).join("plugin");
    let new = tidy(&all);
    for (index, abi) in ABIS.into_iter().enumerate() {
        // All plug-ins have the same name here, and cargo takes one that is there for the one that it would
        // build.
        for file in [built.join(PLUGIN), built.join("deps").join(PLUGIN)] {
            remove(fs::remove_file(&file), &file);
        }
        let mut cargo = cargo(&workspace, &all, &target);
        cargo.args(["--package", "ferroce-provider"]);
        match index {
            0 => cargo.args(["--package", "ferroce-shim"]),
            _ => cargo.args(["--features", &format!("abi{abi}")]),
        };
        let status = cargo.status();
        let status = status.unwrap_or_else(|error| panic!("cannot start {cargo:?}: {error}"));
        assert!(status.success(), "{cargo:?} has failed");
        let plugin = plugin(abi);
        keep(
            &built.join(PLUGIN),
            &new.join(plugin),
            &format!("verbs_register_driver_{abi}\0"),
        );
    }
    keep(&built.join(SHIM), &new.join(SHIM), "ferroce_shim_channel\0");
    fs::rename(&new, &place).unwrap_or_else(|e| {
        panic!(
            "cannot rename {} to {}: {e}",
            new.display(),
            place.display()
        )
    });
    place
}

/// Copies a library, which is the right one if it has this text.
fn keep(built: &Path, place: &Path, text: &str) {
    let bytes = fs::read(built).unwrap_or_else(|e| panic!("cannot read {}: {e}", built.display()));
    assert!(
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes()),
        "{} is not what was to be built: it has no {text:?}",
        built.display()
    );
    fs::write(place, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", place.display()));
}

/// Removes what was built of other sources, and makes a new folder.
fn tidy(all: &Path) -> PathBuf {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(KEPT)) {
        remove(fs::remove_dir_all(entry.path()), &entry.path());
    }
    let new = all.join("of-new");
    fs::create_dir(&new).unwrap_or_else(|e| panic!("cannot create {}: {e}", new.display()));
    new
}

/// The beginning of the names of folders with libraries.
const KEPT: &[u8] = b"of-";

fn remove(result: io::Result<()>, path: &Path) {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("cannot remove {}: {error}", path.display())
        }
        _ => {}
    }
}

/// The name of the folder for libraries that are built of the present sources. Has cargo run this program
/// again when those change.
fn key(workspace: &Path, target: &str) -> String {
    let mut hasher = Hasher::default();
    hasher.part(target.as_bytes());
    let rustc = Command::new(variable("RUSTC")).arg("-vV").output();
    let rustc = rustc.unwrap_or_else(|error| panic!("cannot start rustc: {error}"));
    hasher.part(&rustc.stdout);
    for name in FLAGS {
        println!("cargo::rerun-if-env-changed={name}");
        hasher.part(env::var_os(name).unwrap_or_default().as_encoded_bytes());
    }
    let packages = PACKAGES.map(|name| workspace.join(format!("crates/ferroce-{name}")));
    let packages = packages
        .iter()
        .flat_map(|dir| [dir.join("Cargo.toml"), dir.join("src")]);
    let of_all = ["Cargo.toml", "Cargo.lock"].map(|name| workspace.join(name));
    for path in of_all.into_iter().chain(packages) {
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
            hasher.all(&path);
        }
    }
    String::from_utf8_lossy(KEPT).into_owned() + &hasher.finish()
}

/// `libraries` in the target folder, by which `OUT_DIR` is TARGET/[TRIPLE/]PROFILE/build/PACKAGE/out.
fn folder(out: &Path) -> PathBuf {
    let mut folders = out.ancestors().skip(2);
    let found = match (folders.next(), folders.nth(1)) {
        (Some(build), Some(target)) if build.ends_with("build") => match folders.next() {
            Some(above) if target.ends_with(variable("TARGET")) => above,
            _ => target,
        },
        _ => out,
    };
    found.join("libraries")
}

fn lock(folder: &Path) -> File {
    let locked = fs::create_dir_all(folder).and_then(|()| {
        let file = File::create(folder.join("lock"))?;
        file.lock()?;
        Ok(file)
    });
    locked.unwrap_or_else(|error| panic!("cannot lock {}: {error}", folder.display()))
}

fn cargo(workspace: &Path, folder: &Path, target: &str) -> Command {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", "plugin"])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(folder)
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

#[derive(Default)]
struct Hasher(Sha256);

impl Hasher {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn file(&mut self, file: &Path) {
        let bytes =
            fs::read(file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
        self.part(&bytes);
    }

    /// A file, or all files of a folder.
    fn all(&mut self, path: &Path) {
        if path.is_dir() {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths.iter().for_each(|path| self.all(path));
        } else {
            self.part(path.file_name().unwrap_or_default().as_encoded_bytes());
            self.file(path);
        }
    }

    fn finish(self) -> String {
        let hash = self.0.finalize();
        hash.iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}
