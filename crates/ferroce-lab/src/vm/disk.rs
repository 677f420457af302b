// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk: what a machine writes is in a file of its own, over an image that stays as it is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::error::{Error, Result};
use crate::progress;

/// The disk in a machine's folder.
pub const FILE: &str = "disk.qcow2";

const PROGRAM: &str = "qemu-img";

/// An image that disks are made over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The file.
    pub file: PathBuf,
    /// What QEMU calls its format: "raw", "qcow2".
    pub format: String,
    /// The size of the disk that it is, in bytes.
    pub size: u64,
    /// When the file was changed last, in nanoseconds since 1970.
    changed: i64,
}

/// What `qemu-img info --output=json` tells.
#[derive(Deserialize)]
struct Info {
    format: String,
    #[serde(rename = "virtual-size")]
    size: u64,
}

impl Base {
    /// Looks at an image.
    pub fn read(file: &Path) -> Result<Self> {
        let file = fs::canonicalize(file).map_err(Error::file("find the image", file))?;
        // A machine that runs over the same image has it open too.
        let info = run(Command::new(PROGRAM)
            .args(["info", "--force-share", "--output=json"])
            .arg(&file))?;
        let Info { format, size } = serde_json::from_slice(&info).map_err(|wrong| {
            Error::Usage(format!(
                "{PROGRAM} tells nothing of {}: {wrong}",
                file.display()
            ))
        })?;
        let changed = changed(&file)?;
        Ok(Self {
            file,
            format,
            size,
            changed,
        })
    }

    /// Fails if a disk would have no room for the image.
    pub fn check_size(&self, disk: u64) -> Result<()> {
        if disk >= self.size {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "a disk of {} is too small for the image, whose disk has {}: give --disk {}G or more",
            progress::bytes(disk),
            progress::bytes(self.size),
            self.size.div_ceil(1 << 30)
        )))
    }

    /// Fails if the image is not what a disk was made over.
    pub fn check_unchanged(&self, name: &str) -> Result<()> {
        let again = format!("ferroce vm delete {name}, and create it again");
        if !self.file.exists() {
            return Err(Error::Usage(format!(
                "the image under the disk of {name}, {}, is not there any more: put it back, or {again}",
                self.file.display()
            )));
        }
        match changed(&self.file)? == self.changed {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "the image under the disk of {name}, {}, was changed since, and the disk is of no use over \
                 another one: put back what it was, with its time, or {again}",
                self.file.display()
            ))),
        }
    }
}

fn changed(file: &Path) -> Result<i64> {
    let meta = fs::metadata(file).map_err(Error::file("read", file))?;
    Ok(meta.mtime() * 1_000_000_000 + meta.mtime_nsec())
}

/// Makes a disk, on which nothing is written yet.
pub fn create(place: &Path, settings: &Settings) -> Result<()> {
    let Base { file, format, .. } = &settings.base;
    run(Command::new(PROGRAM)
        .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
        .arg(file)
        .arg(place)
        .arg(settings.disk.to_string()))?;
    Ok(())
}

/// What the program prints.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().map_err(|source| Error::Start {
        program: PROGRAM.to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = command.get_args().map(|word| word.to_string_lossy());
    Err(Error::Failed {
        what: format!("{PROGRAM} {}", shell_words::join(words)),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
