// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Debian packages: built by dpkg-buildpackage, with what belongs in them, and nothing that lintian
//! complains of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::{ensure, Install, Purpose};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn workspace() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    crates.canonicalize().unwrap()
}

fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}\n{stdout}{stderr}");
    stdout
}

/// Builds the packages of a copy of the workspace, in `folder`, of the program that is tested.
fn build(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    let copy = folder.join("source");
    fs::create_dir_all(&copy).unwrap();
    let entries = fs::read_dir(workspace()).unwrap().flatten();
    let sources =
        entries.filter(|entry| ![".git", "target"].iter().any(|x| entry.file_name() == *x));
    run(Command::new("cp")
        .arg("-a")
        .args(sources.map(|entry| entry.path()))
        .arg(&copy));
    let program = env!("CARGO_BIN_EXE_ferroce");
    let target = Path::new(program).ancestors().nth(2);
    run(Command::new("dpkg-buildpackage")
        // Rust may be rustup's, which is no package.
        .args(["--build=binary", "--no-sign", "--no-check-builddeps"])
        // What cargo would build is in this folder already.
        .env("CARGO_TARGET_DIR", target.unwrap())
        .env("CARGO", "true")
        .env("DEB_BUILD_OPTIONS", "noautodbgsym")
        .env("FERROCE", program)
        .current_dir(&copy));
}

/// Unpacks one of the packages that were built. Returns the folder, and what is in `DEBIAN` of it.
fn unpack(folder: &Path, name: &str, architecture: &str) -> PathBuf {
    let package = folder.join(format!("{name}_{VERSION}_{architecture}.deb"));
    let root = folder.join(name);
    run(Command::new("dpkg-deb")
        .arg("--raw-extract")
        .args([&package, &root]));
    root
}

/// All files below a folder, by their paths in it, sorted, but programs in Python, which are the tests'.
fn files(folder: &Path) -> Vec<String> {
    let found = run(Command::new("find")
        .args([".", "-type", "f", "!", "-name", "*.py"])
        .current_dir(folder));
    let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let names = files(one);
    assert_eq!(
        names,
        files(other),
        "in {} and {}",
        one.display(),
        other.display()
    );
    for name in names {
        let [a, b] = [one, other].map(|folder| fs::read(folder.join(&name)).unwrap());
        assert!(a == b, "{name} differs");
    }
}

#[test]
fn the_packages_have_program_plugins_rule_and_source_and_please_lintian() {
    let cache = Cache::open().unwrap();
    let install = match std::env::var_os("FERROCE_NO_INSTALL") {
        Some(_) => Install::No,
        None => Install::Yes,
    };
    ensure(&cache, &[Purpose::Packaging], install).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
    build(&folder);
    let ferroce = unpack(&folder, "ferroce", "amd64");
    let dkms = unpack(&folder, "ferroce-dkms", "all");
    let workspace = workspace();
    let read = |path: &Path| fs::read_to_string(path).unwrap();

    // The program finds the modules' sources, which are those of the workspace.
    let program = ferroce.join("usr/bin/ferroce");
    let version = run(Command::new(&program).arg("--version"));
    assert_eq!(version, format!("ferroce {VERSION}\n"));
    let doctor = Command::new(&program)
        .args(["doctor", "--json"])
        .env_remove("FERROCE_KERNEL_DIR")
        .output();
    let doctor = String::from_utf8(doctor.unwrap().stdout).unwrap();
    let share = ferroce.join("usr/share/ferroce");
    let sources = share.join("kernel").display().to_string();
    assert!(doctor.contains(&sources), "no {sources} in {doctor}");
    let parts = [
        "kernel",
        "crates/ferroce-core/src",
        "crates/ferroce-device/src",
    ];
    for part in parts {
        assert_same(&share.join(part), &workspace.join(part));
    }

    // A plug-in for each private interface, and what names it: no file that stays when the package goes.
    let plugins = ferroce.join("usr/lib/x86_64-linux-gnu/libibverbs");
    let expected = [34, 57, 59, 64, 65].map(|abi| format!("./libferroce-rdmav{abi}.so"));
    assert_eq!(files(&plugins), expected);
    for name in &expected {
        let abi = name
            .trim_start_matches("./libferroce-rdmav")
            .trim_end_matches(".so");
        let register = format!("verbs_register_driver_{abi}\0");
        let bytes = fs::read(plugins.join(name)).unwrap();
        assert!(
            bytes
                .windows(register.len())
                .any(|w| w == register.as_bytes()),
            "{name}"
        );
    }
    let link = fs::read_link(ferroce.join("etc/libibverbs.d/ferroce.driver")).unwrap();
    assert_eq!(
        read(&ferroce.join(link.strip_prefix("/").unwrap())),
        "driver ferroce\n"
    );
    assert!(!ferroce.join("DEBIAN/conffiles").exists());
    let rule = read(&ferroce.join("usr/lib/udev/rules.d/60-ferroce.rules"));
    assert!(rule.contains("MODE=\"0666\""), "{rule}");
    for page in ["man1/ferroce.1.gz", "man1/ferroce-install.1.gz"] {
        assert!(ferroce.join("usr/share/man").join(page).exists(), "{page}");
    }

    // DKMS has the driver's source, and is told of it when the package comes and goes.
    let source = dkms.join(format!("usr/src/ferroce-{VERSION}"));
    for part in ["kernel/driver", "kernel/net", "kernel/rdma"]
        .into_iter()
        .chain(parts.into_iter().skip(1))
    {
        assert_same(&source.join(part), &workspace.join(part));
    }
    let conf = read(&source.join("dkms.conf"));
    assert!(
        conf.contains(
            "FERROCE_CACHE=/var/cache/ferroce /usr/bin/ferroce install --kernel $kernelver"
        ),
        "{conf}"
    );
    for (script, what) in [
        ("postinst", "dkms/common.postinst"),
        ("prerm", "dkms remove"),
    ] {
        assert!(
            read(&dkms.join("DEBIAN").join(script)).contains(what),
            "{script}"
        );
    }

    let changes = folder.join(format!("ferroce_{VERSION}_amd64.changes"));
    run(Command::new("lintian")
        .args(["--fail-on", "error,warning", "--allow-root"])
        .arg(changes));
}
