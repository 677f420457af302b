// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce install` and `ferroce uninstall`: in guests, which have the plug-in
//! already, and into folders of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{ferroce, ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    (
        "the plug-in is uninstalled and installed, and programs see it",
        round_trip,
    ),
    (
        "without root the command for root is printed, and works",
        without_root,
    ),
    (
        "an installation warns where no driver can be",
        without_driver,
    ),
    (
        "without libibverbs nothing is installed, and all uninstalled",
        without_libibverbs,
    ),
    (
        "each private interface gets its plug-in, an unknown one is refused",
        interfaces,
    ),
];

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libibverbs.so.1";
const PLACE: &str = "/usr/lib/x86_64-linux-gnu/libibverbs/libferroce-rdmav34.so";
const DRIVER: &str = "/etc/libibverbs.d/ferroce.driver";

fn program() -> String {
    ferroce().get_program().display().to_string()
}

fn round_trip(flavor: &Flavor) {
    let ran = flavor
        .sh(&format!(
            "F={}; set -e; ip link add eth0 type dummy; $F link add fr0 eth0; \
             echo 1; ibv_devices | grep fr0; $F uninstall; echo 2; ! ibv_devices | grep fr0; \
             $F uninstall; echo 3; $F install; ibv_devices | grep fr0; stat -c %a {PLACE} {DRIVER}; \
             ls /etc/libibverbs.d | grep -c ferroce; rm {PLACE}; $F uninstall; ! ls {DRIVER}; \
             touch {PLACE}; $F uninstall; ! ls {PLACE}",
            program()
        ))
        .ends_with(0)
        .says(&format!(
            "Removed {DRIVER}\n     Removed {PLACE}\n       Clean there was nothing to remove\n   \
             Installed {PLACE}\n   Installed {DRIVER}\n     Removed {DRIVER}\n"
        ));
    assert!(ran.stdout.contains("644\n644\n1\n"), "{ran:#?}");
    assert_eq!(ran.stdout.matches("fr0").count(), 2, "{ran:#?}");
}

fn without_root(flavor: &Flavor) {
    flavor
        .sh(&format!(
            "F={}; cp {PLACE} /tmp/plugin.so; $F uninstall 2>/dev/null; \
             user() {{ setpriv --reuid 65534 --clear-groups $F \"$@\"; }}; \
             user install --library /tmp/plugin.so 2>/tmp/said; echo $?; cat /tmp/said; \
             sudo() {{ \"$@\"; }}; eval \"$(tail -1 /tmp/said)\"; user uninstall; echo $?; ls {PLACE}",
            program()
        ))
        .ends_with(0)
        .prints("1\n")
        .prints(&format!("cannot write {PLACE}: Permission denied"))
        .prints(" install --library /tmp/plugin.so\n")
        .prints(&format!("1\n{PLACE}"))
        .says(&format!("Installed {DRIVER}"))
        .says(&format!("cannot remove {DRIVER}: Permission denied"));
}

/// The driver is not loaded in these guests, but it could be; and then the kernel's modules are gone.
fn without_driver(flavor: &Flavor) {
    let ran = flavor
        .sh(&format!(
            "F={}; $F install && mount -t tmpfs none /lib/modules && $F install",
            program()
        ))
        .ends_with(0)
        .says("Missing the driver, ferroce.ko, is not loaded: sudo modprobe ferroce")
        .says("Warning as it is, this kernel cannot have the driver");
    let (first, second) = ran.stderr.split_once("Warning").expect("it is there");
    assert!(!first.contains("  - "), "{first}");
    let said = second.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("- Linux 7.")
            && said.contains("is not installed: there is no /lib/modules/"),
        "{said}"
    );
    assert!(
        said.contains("use ferroce run, which needs no driver"),
        "{said}"
    );
}

fn without_libibverbs(flavor: &Flavor) {
    flavor
        .sh(&format!(
            "rm {LIBRARY}*; ldconfig; {F} install; echo $?; {F} uninstall",
            F = program()
        ))
        .ends_with(0)
        .prints("1\n")
        .says("this machine has no libibverbs")
        .says(&format!("Removed {DRIVER}\n     Removed {PLACE}"));
}

/// Replaces a text of a file by one of the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    for place in 0..=bytes.len() - from.len() {
        if bytes[place..].starts_with(from.as_bytes()) {
            bytes[place..place + from.len()].copy_from_slice(to.as_bytes());
        }
    }
}

/// This machine's libibverbs, as one with another private interface.
fn libibverbs(dir: &Path, abi: u32) -> PathBuf {
    let mut bytes = fs::read(LIBRARY).unwrap();
    let name = "verbs_register_driver_";
    replace(&mut bytes, &format!("{name}34"), &format!("{name}{abi}"));
    replace(&mut bytes, "-rdmav34.so", &format!("-rdmav{abi}.so"));
    let file = dir.join(format!("libibverbs-{abi}.so"));
    fs::write(&file, bytes).unwrap();
    file
}

fn interfaces(_: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    let command = |name: &str, abi: u32| {
        let mut command = ferroce();
        command
            .arg(name)
            .arg("--libibverbs")
            .arg(libibverbs(dir.path(), abi))
            .env("DESTDIR", dir.path().join("root"));
        command
    };
    let known = [34, 57, 59, 64, 65];
    for (index, abi) in known.into_iter().enumerate() {
        let place = PLACE.replace("34", &abi.to_string());
        let place = dir.path().join("root").join(&place[1..]);
        ran(&mut command("install", abi))
            .ends_with(0)
            .says(&format!("Installed {}", place.display()));
        let plugin = fs::read(&place).unwrap();
        let name = format!("verbs_register_driver_{abi}\0");
        assert!(plugin.windows(name.len()).any(|w| w == name.as_bytes()));

        // And not another's.
        let other = known[(index + 1) % known.len()];
        ran(command("install", other).arg("--library").arg(&place))
            .ends_with(1)
            .says(&format!(
                "is no plug-in for libibverbs' private interface {other}"
            ));
    }
    ran(&mut command("install", 66))
        .ends_with(1)
        .says("has the private interface 66")
        .says("34 (rdma-core 36 to 56), 57 (rdma-core 57 and 58), 59 (rdma-core 59 to 63)")
        .says("Install one of these releases of rdma-core, or a ferroce that knows 66");
    let mut uninstalled = ran(&mut command("uninstall", 34)).ends_with(0);
    for abi in known {
        uninstalled = uninstalled.says(&format!("libferroce-rdmav{abi}.so"));
    }
    ran(ferroce().args(["install", "--libibverbs", "/etc/passwd"]))
        .ends_with(1)
        .says("/etc/passwd is no libibverbs");
}
