// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver in the hands of DKMS, which has a module built anew for each kernel that is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::find_program;
use ferroce_lab::progress::note;
use ferroce_lab::provider::{is_left, package_of, write};
use ferroce_lab::Error;

use super::obstacles::{self, OPTIONS};

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

/// Where a module's sources say how they are built.
const CONF: &str = "dkms.conf";

/// The program that builds it, among the sources.
const PROGRAM: &str = "ferroce";

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

    /// Gives it the sources in `project`'s workspace, unless a package has done so, and has it build and
    /// install the driver for a kernel.
    pub fn install(&self, project: &Path, release: &str) -> Result<()> {
        let module = ["-m", "ferroce", "-v", VERSION];
        let root = Path::new("/");
        if package_of(&sources(root).join(CONF)).is_none() {
            if self.run("status", &module)?.contains("ferroce") {
                self.run("remove", &[&module[..], &["--all"]].concat())?;
            }
            let cache = Cache::open()?;
            let program = sources(root).join(PROGRAM);
            let place = put_sources(root, project, &program, &cache.path(""))?;
            // The one that runs may be in a folder of somebody's that does not stay.
            let running = std::env::current_exe()?;
            fs::copy(&running, &program).map_err(Error::file("copy", running))?;
            note("Installed", &place.display().to_string());
            self.run("add", &module)?;
        }
        let of_kernel = [&module[..], &["-k", release]].concat();
        // To install it twice is an error of DKMS'.
        if !self.run("status", &of_kernel)?.contains(": installed") {
            note(
                "Building",
                &format!("the driver for Linux {release}, by DKMS"),
            );
            self.run("install", &of_kernel)?;
        }
        note(
            "Installed",
            &format!("the driver for Linux {release}, by DKMS"),
        );
        Ok(())
    }

    /// What it prints.
    fn run(&self, action: &str, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.program)
            .arg(action)
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
            what: format!("dkms {action} {}", arguments.join(" ")),
            status: output.status,
            output: text + &String::from_utf8_lossy(&output.stderr) + &log,
        })
    }
}

/// Where DKMS has the sources.
fn sources(root: &Path) -> PathBuf {
    root.join(format!("usr/src/ferroce-{VERSION}"))
}

/// Puts the sources where DKMS takes them from, below `root`, and tells it to build them by `program`.
/// Returns their folder.
fn put_sources(root: &Path, project: &Path, program: &Path, cache: &Path) -> Result<PathBuf> {
    let place = sources(root);
    remove_folder(&place)?;
    let workspace = project.parent().unwrap_or(project);
    for source in SOURCES {
        copy(&workspace.join(source), &place.join(source))?;
    }
    write(&place.join(CONF), conf(program, cache).as_bytes())?;
    Ok(place)
}

/// Puts the sources below `root`, for a package that has them built by the program of another one.
pub fn package(root: &Path, project: &Path) -> Result<PathBuf> {
    let (program, cache) = ("/usr/bin/ferroce", "/var/cache/ferroce");
    put_sources(root, project, program.as_ref(), cache.as_ref())
}

/// How DKMS is to build the driver: by this program, in its copy of the sources. Kernels that cannot have
/// it are passed over, where its failure would be one of the kernel's installation.
fn conf(program: &Path, cache: &Path) -> String {
    let quoted = |path: &Path| shell_words::quote(&path.to_string_lossy()).into_owned();
    // The # is for LLVM=1, which DKMS puts behind the command for kernels that clang has compiled.
    format!(
        "PACKAGE_NAME=\"ferroce\"\n\
         PACKAGE_VERSION=\"{VERSION}\"\n\
         MAKE[0]=\"FERROCE_KERNEL_DIR=kernel FERROCE_CACHE={} {} install --kernel $kernelver --for-dkms --output ferroce.ko #\"\n\
         CLEAN=\"rm -f ferroce.ko\"\n\
         BUILT_MODULE_NAME[0]=\"ferroce\"\n\
         DEST_MODULE_LOCATION[0]=\"/updates\"\n\
         BUILD_EXCLUSIVE_KERNEL_MIN=\"{}\"\n\
         BUILD_EXCLUSIVE_CONFIG=\"{}\"\n\
         AUTOINSTALL=\"yes\"\n",
        quoted(cache),
        quoted(program),
        obstacles::oldest(),
        OPTIONS.join(" "),
    )
}

/// Has DKMS forget the driver, and removes its sources.
pub fn remove(root: &Path, mut tell: impl FnMut(&Path)) -> Result<(), Error> {
    let place = sources(root);
    if !place.exists() || is_left(&place.join(CONF)) {
        return Ok(());
    }
    if let Some(dkms) = Dkms::find().filter(|_| root == Path::new("/")) {
        dkms.run("remove", &["-m", "ferroce", "-v", VERSION, "--all"])?;
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
