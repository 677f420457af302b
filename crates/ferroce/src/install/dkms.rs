// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver in the hands of DKMS, which has a module built anew for each kernel that is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::find_program;
use ferroce_lab::progress::note;
use ferroce_lab::provider::write;
use ferroce_lab::Error;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the driver is built of, from the folder of the workspace.
const SOURCES: [&str; 6] = [
    "Cargo.toml",
    "kernel/driver",
    "kernel/net",
    "kernel/rdma",
    "crates/ferroce-core/src",
    "crates/ferroce-device/src",
];

/// The certificate of the key that DKMS signs modules with.
const CERTIFICATE: &str = "/var/lib/dkms/mok.pub";

/// This machine's DKMS.
pub struct Dkms {
    program: PathBuf,
}

impl Dkms {
    pub fn find() -> Option<Self> {
        let program = find_program("dkms")?;
        Some(Self { program })
    }

    /// Whether the firmware trusts the key that it signs modules with.
    pub fn is_trusted(&self) -> bool {
        let Some(mokutil) = find_program("mokutil") else {
            return false;
        };
        let output = Command::new(mokutil)
            .args(["--test-key", CERTIFICATE])
            .env("LC_ALL", "C")
            .output();
        output.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).contains("is already enrolled")
        })
    }

    /// Gives it the sources in `project`'s workspace, and has it build and install the driver for a kernel.
    pub fn install(&self, cache: &Cache, project: &Path, release: &str) -> Result<()> {
        if self
            .run(&["status", "-m", "ferroce", "-v", VERSION])?
            .contains("ferroce")
        {
            self.run(&["remove", "-m", "ferroce", "-v", VERSION, "--all"])?;
        }
        let place = sources(Path::new("/"));
        remove_folder(&place)?;
        let workspace = project.parent().unwrap_or(project);
        for source in SOURCES {
            copy(&workspace.join(source), &place.join(source))?;
        }
        write(&place.join("dkms.conf"), conf(cache)?.as_bytes())?;
        note("Installed", &place.display().to_string());
        self.run(&["add", "-m", "ferroce", "-v", VERSION])?;
        note(
            "Building",
            &format!("the driver for Linux {release}, by DKMS"),
        );
        self.run(&["install", "-m", "ferroce", "-v", VERSION, "-k", release])?;
        note(
            "Installed",
            &format!("the driver for Linux {release}, by DKMS"),
        );
        Ok(())
    }

    /// What it prints.
    fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .output()
            .map_err(|source| Error::Start {
                program: self.program.display().to_string(),
                source,
            })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        // Of a build that failed, it tells only where the log is.
        let log = format!("/var/lib/dkms/ferroce/{VERSION}/build/make.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        Err(Error::Failed {
            what: format!("dkms {}", arguments.join(" ")),
            status: output.status,
            output: text + &String::from_utf8_lossy(&output.stderr) + &log,
        })
    }
}

/// Where DKMS has the sources.
fn sources(root: &Path) -> PathBuf {
    root.join(format!("usr/src/ferroce-{VERSION}"))
}

/// How DKMS is to build the driver: by this very program, in its copy of the sources.
fn conf(cache: &Cache) -> Result<String> {
    let program = std::env::current_exe()?;
    let quoted = |path: &Path| shell_words::quote(&path.to_string_lossy()).into_owned();
    Ok(format!(
        "PACKAGE_NAME=\"ferroce\"\n\
         PACKAGE_VERSION=\"{VERSION}\"\n\
         MAKE[0]=\"FERROCE_KERNEL_DIR=kernel FERROCE_CACHE={} {} install --kernel $kernelver --for-dkms --output ferroce.ko\"\n\
         CLEAN=\"rm -f ferroce.ko\"\n\
         BUILT_MODULE_NAME[0]=\"ferroce\"\n\
         DEST_MODULE_LOCATION[0]=\"/updates\"\n\
         AUTOINSTALL=\"yes\"\n",
        quoted(&cache.path("")),
        quoted(&program),
    ))
}

/// Has DKMS forget the driver, and removes its sources.
pub fn remove(root: &Path, mut tell: impl FnMut(&Path)) -> Result<(), Error> {
    let place = sources(root);
    if !place.exists() {
        return Ok(());
    }
    if let Some(dkms) = Dkms::find().filter(|_| root == Path::new("/")) {
        dkms.run(&["remove", "-m", "ferroce", "-v", VERSION, "--all"])?;
    }
    remove_folder(&place)?;
    tell(&place);
    Ok(())
}

fn remove_folder(place: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(place) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", place)(e)),
        _ => Ok(()),
    }
}

/// Copies a file, or all files below a folder.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if !from.is_dir() {
        let text = fs::read(from).map_err(Error::file("read", from))?;
        return write(to, &text);
    }
    let entries = fs::read_dir(from).map_err(Error::file("read", from))?;
    for entry in entries.flatten() {
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
