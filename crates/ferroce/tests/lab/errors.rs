// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad input gets one clear error that says what to do, and leaves nothing
//! half-made.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferroce_lab::cache::Cache;
use sha2::{Digest, Sha256};

use crate::support::{ferroce, kernel_dir, ran, Flavor, Ran, Test, SERVE};

pub const TESTS: &[Test] = &[
    ("a backend that does not exist is refused", no_backend),
    (
        "memory and processors that make no sense are refused",
        no_machine,
    ),
    (
        "a --rw folder and a --module file that do not exist are named",
        no_such_file,
    ),
    (
        "a module for another kernel is refused with the kernel's reason",
        foreign_module,
    ),
    ("a file that is no module is refused", no_module),
    (
        "--no-install prints the commands and installs nothing",
        no_install,
    ),
    (
        "without a network the places that were tried are listed",
        no_network,
    ),
    (
        "a download with a wrong digest is told and not kept",
        wrong_digest,
    ),
    (
        "an archive that is broken is told and not kept",
        broken_archive,
    ),
    ("a full disk is told and nothing is left", full_disk),
    (
        "a cache folder with a space in its path is refused",
        space_in_path,
    ),
];

fn no_backend(_: &Flavor) {
    ran(ferroce().args(["lab", "run", "--backend", "xen", "--", "true"]))
        .ends_with(2)
        .says("the backends are uml (the default) and qemu");
}

fn no_machine(_: &Flavor) {
    ran(ferroce().args(["lab", "run", "--mem", "3", "--", "true"]))
        .ends_with(2)
        .says("too little for a guest")
        .says("512M");
    ran(ferroce().args(["lab", "run", "--mem", "banana", "--", "true"]))
        .ends_with(2)
        .says("'banana'")
        .says("that is no size: give one such as 512M or 4G");
    ran(ferroce().args(["lab", "run", "--cpus", "0", "--", "true"]))
        .ends_with(2)
        .says("1..=8");
    ran(ferroce().args(["lab", "run", "--timeout", "soon", "--", "true"]))
        .ends_with(2)
        .says("number of seconds");
    ran(ferroce().args(["lab", "run"]))
        .ends_with(2)
        .says("<COMMAND>");
    ran(ferroce().args(["lab", "run", "--mem", "900T", "--", "true"]))
        .ends_with(125)
        .says("no room for the guest's memory");
}

fn no_such_file(flavor: &Flavor) {
    ran(flavor.lab(&["--rw", "/no/such/folder"]).arg("true"))
        .ends_with(125)
        .says("/no/such/folder");
    ran(flavor.lab(&["--rw", "/etc/passwd"]).arg("true"))
        .ends_with(125)
        .says("is not a folder");
    ran(flavor.lab(&["--module", "/no/such/file.ko"]).arg("true"))
        .ends_with(125)
        .says("/no/such/file.ko");
}

/// The example module as the lab built it.
fn hello_ko() -> Vec<u8> {
    let built = ran(ferroce().args(["lab", "build"])).ends_with(0);
    let line = built
        .stderr
        .lines()
        .find(|l| l.trim_start().starts_with("Modules "))
        .unwrap()
        .to_owned();
    let folder = line.trim_start().trim_start_matches("Modules ").to_owned();
    fs::read(Path::new(&folder).join("hello.ko")).unwrap()
}

fn foreign_module(flavor: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("foreign.ko");
    let mut bytes = hello_ko();
    let magic = b"vermagic=7";
    let place = bytes.windows(magic.len()).position(|w| w == magic).unwrap();
    bytes[place + magic.len() - 1] = b'6';
    fs::write(&file, bytes).unwrap();
    ran(flavor
        .lab(&["--module", file.to_str().unwrap()])
        .arg("true"))
    .ends_with(125)
    .says("foreign.ko")
    .says("version magic '6.")
    .says("should be '7.");
}

fn no_module(flavor: &Flavor) {
    ran(flavor.lab(&["--module", "/etc/passwd"]).arg("true"))
        .ends_with(125)
        .says("cannot load /etc/passwd");
}

fn no_install(_: &Flavor) {
    let cache = tempfile::tempdir().unwrap();
    let ran = ran(ferroce()
        .args(["lab", "build", "--no-install"])
        .env("PATH", "/no/such/folder")
        .env("FERROCE_CACHE", cache.path()))
    .ends_with(125)
    .says("To install what is missing, run:")
    .says("apt-get install -y --no-install-recommends")
    .says("rustup component add rust-src")
    .says("cargo install --locked bindgen-cli@");
    assert!(!ran.stderr.contains("Installing"), "{ran:#?}");
    assert!(!cache.path().join("source").exists());
}

/// A mirror of kernel.org on this machine, with one release.
struct Mirror {
    dir: tempfile::TempDir,
    server: Child,
    url: String,
}

impl Mirror {
    fn with(archive: &[u8], digest_of: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = "linux-7.2.99.tar.xz";
        let digest: String = Sha256::digest(digest_of)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        fs::write(dir.path().join(name), archive).unwrap();
        fs::write(
            dir.path().join("sha256sums.asc"),
            format!("{digest}  {name}\n"),
        )
        .unwrap();
        let port = dir.path().join("port");
        let server = Command::new(std::env::current_exe().unwrap())
            .arg(SERVE)
            .args([dir.path(), &port])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while fs::read_to_string(&port).unwrap_or_default().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let url = format!("http://127.0.0.1:{}", fs::read_to_string(&port).unwrap());
        Self { dir, server, url }
    }

    /// Builds from it, in a cache of its own.
    fn build(&self, cache: &Path) -> Ran {
        ran(in_cache(cache)
            .args(["lab", "build", "--kernel-dir"])
            .arg(kernel_dir())
            .env("FERROCE_KERNEL_MIRROR", &self.url))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The program with a cache of its own, but the tools of the one that is there.
fn in_cache(cache: &Path) -> Command {
    let mut command = ferroce();
    command
        .env("FERROCE_CACHE", cache)
        .env("PATH", tools_path());
    command
}

/// `PATH` with what the lab has installed for itself.
fn tools_path() -> String {
    let tools = Cache::open().unwrap().path("tools/bin");
    format!("{}:{}", tools.display(), std::env::var("PATH").unwrap())
}

/// What is in a cache's folder of sources.
fn sources(cache: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(cache.join("source")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn no_network(_: &Flavor) {
    let cache = tempfile::tempdir().unwrap();
    // Nothing listens on the discard port.
    ran(in_cache(cache.path())
        .args(["lab", "build"])
        .env("FERROCE_KERNEL_MIRROR", "http://127.0.0.1:9"))
    .ends_with(125)
    .says("no kernel source could be had")
    .says("http://127.0.0.1:9/v7.x")
    .says("Check the network");
    assert_eq!(sources(cache.path()), Vec::<String>::new());
}

fn wrong_digest(_: &Flavor) {
    let cache = tempfile::tempdir().unwrap();
    let mirror = Mirror::with(b"this is not it", b"something else");
    mirror
        .build(cache.path())
        .ends_with(125)
        .says("linux-7.2.99.tar.xz")
        .says("is damaged");
    assert_eq!(sources(cache.path()), Vec::<String>::new());
}

fn broken_archive(_: &Flavor) {
    let cache = tempfile::tempdir().unwrap();
    let mirror = Mirror::with(b"this is no archive", b"this is no archive");
    mirror
        .build(cache.path())
        .ends_with(125)
        .says("cannot unpack the kernel's source");
    assert_eq!(sources(cache.path()), Vec::<String>::new());
}

fn full_disk(flavor: &Flavor) {
    // In a guest, where anyone may mount: the mirror there, and a small disk.
    let archive = vec![0x5a; 4 << 20];
    let mirror = Mirror::with(&archive, &archive);
    let script = format!(
        "mkdir /tmp/disk; mount -t tmpfs -o size=2M small /tmp/disk; \
         {server} {SERVE} {dir} /tmp/port >/dev/null & \
         while ! [ -s /tmp/port ]; do sleep 0.05; done; \
         PATH={path} FERROCE_CACHE=/tmp/disk FERROCE_KERNEL_MIRROR=http://127.0.0.1:$(cat /tmp/port) \
         {ferroce} lab build --kernel-dir {kernel}; \
         status=$?; ls /tmp/disk/source; exit $status",
        server = std::env::current_exe().unwrap().display(),
        dir = mirror.dir.path().display(),
        path = tools_path(),
        ferroce = ferroce().get_program().display(),
        kernel = kernel_dir().display(),
    );
    let ran = flavor
        .sh(&script)
        .ends_with(125)
        .says("FERROCE_CACHE to a folder on a larger disk");
    assert_eq!(ran.stdout, "");
}

fn space_in_path(_: &Flavor) {
    let cache = tempfile::tempdir().unwrap();
    ran(ferroce()
        .args(["lab", "build"])
        .env("FERROCE_CACHE", cache.path().join("a b")))
    .ends_with(125)
    .says("spaces or colons");
}
