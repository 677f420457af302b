// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system that a kernel's modules are compiled in: this machine, or packages of the kernel's own
//! distribution that are unpacked in a folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::prerequisites::find_program;
use crate::progress::{Task, Unit};

/// Where compilers run.
#[derive(Debug, Clone)]
pub enum Root {
    /// On this machine as it is.
    Host,
    /// With this folder for their root.
    Folder(PathBuf),
}

/// Has the shell make the folder `$0` a system, with the folders that follow up to "--" in it at the paths
/// that they have outside, and run what follows that.
const ENTER: &str = r#"set -e
for dir in /dev /proc; do mount --rbind "$dir" "$0$dir"; done
while [ "$1" != -- ]; do mkdir -p "$0$1"; mount --rbind "$1" "$0$1"; shift; done
shift
exec chroot "$0" "$@""#;

impl Root {
    /// A command that runs there, with nothing of the caller's environment. It finds each of the folders
    /// `shared` at the same path as here.
    pub fn command(&self, program: &str, shared: &[&Path]) -> Command {
        let mut command = match self {
            Self::Host => Command::new(program),
            Self::Folder(dir) => {
                let mut command = unshare();
                command.args(["sh", "-c", ENTER]).arg(dir);
                command.args(shared).arg("--").arg(program);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("HOME", "/")
            .stdin(Stdio::null());
        command
    }

    /// The first line that a program prints, if it is there and succeeds.
    pub fn first_line(&self, program: &str, argument: &str) -> Option<String> {
        let output = self.command(program, &[]).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().next()?.to_owned();
        output.status.success().then_some(line)
    }
}

/// The command that runs another with mounts of its own.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--mount");
    command
}

/// Whether this machine can unpack packages and run programs in them.
pub fn check() -> Result<()> {
    for program in ["dpkg-deb", "unshare"] {
        if find_program(program).is_none() {
            let lack = format!("the distribution's compilers need {program}, which is not here");
            return Err(Error::Usage(lack));
        }
    }
    let output = unshare()
        .args(["mount", "--bind", "/proc", "/proc"])
        .output();
    let output = output.map_err(|source| Error::Start {
        program: "unshare".to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the distribution's compilers run in a mount namespace of their own, which this user cannot \
         have here ({}). Run it as root, or allow user namespaces (sysctl \
         kernel.apparmor_restrict_unprivileged_userns=0, or kernel.unprivileged_userns_clone=1)",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// The packages that are unpacked in a folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Unpacked {
    /// The names of their files, `NAME_VERSION_ARCHITECTURE.deb`.
    files: Vec<String>,
}

const RECORD: &str = "ferroce-packages.json";

/// Unpacks packages into the folder of a root, where they are not yet, and makes it one to run programs in.
///
/// A package of which the folder has another version has the whole folder made again.
pub fn unpack(debs: &[PathBuf], dir: &Path) -> Result<()> {
    let name = |path: &Path| -> String {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let package = |file: &str| file.split('_').next().unwrap_or_default().to_owned();
    let mut unpacked: Unpacked = fs::read(dir.join(RECORD))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let new = |unpacked: &Unpacked| -> Vec<&PathBuf> {
        let is_new = |deb: &&PathBuf| !unpacked.files.contains(&name(deb));
        debs.iter().filter(is_new).collect()
    };
    let replaces = new(&unpacked).iter().any(|deb| {
        let deb = package(&name(deb));
        unpacked.files.iter().any(|file| package(file) == deb)
    });
    if (replaces || unpacked.files.is_empty()) && dir.exists() {
        fs::remove_dir_all(dir).map_err(Error::file("remove", dir))?;
        unpacked = Unpacked::default();
    }
    fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    let new = new(&unpacked);
    if new.is_empty() {
        return Ok(());
    }
    let what = format!("{} packages", new.len());
    let mut task = Task::start("Unpacking", &what, Unit::Runs, new.len() as u64);
    for deb in new {
        task.step(&name(deb));
        let output = Command::new("dpkg-deb")
            .arg("-x")
            .args([deb, dir])
            .env("LC_ALL", "C")
            .output()
            .map_err(|source| Error::Start {
                program: "dpkg-deb".to_owned(),
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Failed {
                what: format!("unpacking {}", deb.display()),
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        unpacked.files.push(name(deb));
    }
    // Its name is an alternative, which only a package's script would set up.
    let awk = dir.join("usr/bin/awk");
    if !awk.exists() {
        symlink("gawk", &awk).map_err(Error::file("create", &awk))?;
    }
    let record = dir.join(RECORD);
    let text = serde_json::to_vec(&unpacked).expect("plain data");
    fs::write(&record, text).map_err(Error::file("write", &record))
}
