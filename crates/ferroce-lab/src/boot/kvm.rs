// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether KVM can be used. That /dev/kvm exists proves nothing: on some
//! machines a guest hangs in it. A test guest that runs to its end does.

use std::fmt;
use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{detach, qemu};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::image::Image;

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accelerator {
    /// On the processor.
    Kvm,
    /// By translation, because KVM cannot be used.
    Tcg {
        /// Why.
        why: String,
    },
    /// By translation, one processor after the other, with a clock that goes on by a nanosecond with each
    /// instruction, and jumps over the time in which none has one.
    Counting,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accelerator::Kvm => f.write_str("KVM"),
            Accelerator::Tcg { why } => write!(f, "TCG ({why})"),
            Accelerator::Counting => f.write_str("TCG, counting instructions"),
        }
    }
}

/// How long the test guest may take: on KVM it needs a fraction of a second.
const LIMIT: Duration = Duration::from_secs(5);

impl Accelerator {
    /// Finds out, once for each boot of the host.
    pub fn choose(cache: &Cache, image: &Image) -> Result<Self> {
        let tcg = |why: &str| {
            Ok(Accelerator::Tcg {
                why: why.to_owned(),
            })
        };
        if let Err(e) = fs::File::options().read(true).write(true).open("/dev/kvm") {
            return tcg(&match e.kind() {
                std::io::ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
                _ => format!("/dev/kvm cannot be opened: {e}"),
            });
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let verdict = cache.path("kvm");
        let known = fs::read_to_string(&verdict).unwrap_or_default();
        let works = match known.strip_prefix(&boot) {
            Some(known) if !boot.is_empty() => known == "works",
            _ => {
                let works = test_guest(image)?;
                // For the next time; without it the test is done again.
                let _ = fs::write(&verdict, boot + if works { "works" } else { "fails" });
                works
            }
        };
        if works {
            Ok(Accelerator::Kvm)
        } else {
            tcg("a test guest does not run in this machine's KVM")
        }
    }
}

/// Boots a kernel without a root: it ends in a panic about that, if it gets
/// that far.
fn test_guest(image: &Image) -> Result<bool> {
    let failed = |source| Error::Start {
        program: qemu::PROGRAM.to_owned(),
        source,
    };
    let mut command = qemu::base(Accelerator::Kvm);
    command
        .args(["-m", "256M", "-smp", "2", "-kernel"])
        .arg(&image.file)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    detach(&mut command);
    let mut guest = command.spawn().map_err(failed)?;
    let end = Instant::now() + LIMIT;
    while guest.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > end {
            let _ = guest.kill();
            let _ = guest.wait();
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut log = Vec::new();
    if let Some(mut stdout) = guest.stdout.take() {
        let _ = stdout.read_to_end(&mut log);
    }
    Ok(String::from_utf8_lossy(&log).contains("Kernel panic"))
}
