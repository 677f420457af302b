// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads modules in the guest, and says why one would not load.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use rustix::fs::OFlags;

use super::Failure;
use crate::job::{Job, ModuleFile};

/// Loads the modules that the job names, then its files.
pub fn load(job: &Job) -> Result<(), Failure> {
    let names: Vec<&str> = job.modules.iter().map(String::as_str).collect();
    if !names.is_empty() {
        modprobe(&names).map_err(Failure::lab)?;
    }
    (0..)
        .zip(&job.module_files)
        .try_for_each(|(place, file)| load_file(place, file))
}

/// Loads modules of the kernel's by name, with those that they need.
pub fn modprobe(names: &[&str]) -> Result<(), String> {
    let modprobe =
        crate::prerequisites::find_program("modprobe").unwrap_or_else(|| "modprobe".into());
    let output = Command::new(modprobe)
        .arg("-a")
        .args(names)
        .output()
        .map_err(|e| format!("cannot start modprobe: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "cannot load {}: {}",
            names.join(", "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

fn load_file(place: u32, module: &ModuleFile) -> Result<(), Failure> {
    let path = &module.path.path();
    let parameters = CString::new(module.parameters.os().into_encoded_bytes())
        .map_err(|e| Failure::lab(format!("the parameters of {}: {e}", path.display())))?;
    let log = KernelLog::from_now();
    let file = File::open(path)
        .map_err(|e| Failure::lab(format!("cannot open {}: {e}", path.display())))?;
    let Err(reason) = rustix::system::finit_module(&file, &parameters, 0) else {
        return Ok(());
    };
    let mut what = format!("cannot load {}: {reason}", path.display());
    let said = log.lines();
    if said.is_empty() {
        what += ". The kernel gave no reason in its log";
    } else {
        what += ". The kernel's log says:";
        said.iter().for_each(|line| what += &format!("\n  {line}"));
    }
    Err(Failure {
        refused: Some(place),
        ..Failure::lab(what)
    })
}

/// What the kernel logs from a point in time on.
struct KernelLog(Option<File>);

impl KernelLog {
    fn from_now() -> Self {
        let open = || {
            let mut file = File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open("/dev/kmsg")?;
            file.seek(SeekFrom::End(0))?;
            std::io::Result::Ok(file)
        };
        Self(open().ok())
    }

    /// The messages, without their prefixes (Documentation/ABI/testing/dev-kmsg).
    fn lines(mut self) -> Vec<String> {
        let Some(file) = &mut self.0 else {
            return Vec::new();
        };
        let mut record = vec![0; 8192];
        let mut lines = Vec::new();
        // One record a read; an error at the end, where reading would wait.
        while let Ok(n @ 1..) = file.read(&mut record) {
            let text = String::from_utf8_lossy(&record[..n]);
            let message = text.split_once(';').map_or("", |(_, m)| m);
            lines.extend(message.lines().next().map(str::to_owned));
        }
        lines
    }
}
