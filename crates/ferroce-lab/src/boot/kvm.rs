// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether KVM can be used. That /dev/kvm exists proves nothing: on some
//! machines a guest hangs in it. A test guest that runs to its end does.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{detach, qemu};
use crate::cache::Cache;
use crate::error::{Error, Result};

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
    /// Finds out, once for each boot of the host. The test guest is `kernel`, or, without one, a boot sector.
    pub fn choose(cache: &Cache, kernel: Option<&Path>) -> Result<Self> {
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
                let works = match kernel {
                    Some(kernel) => runs_kernel(kernel)?,
                    None => runs_boot_sector()?,
                };
                // For the next time; without it the test is done again. That a boot sector runs does not
                // prove that a kernel does.
                if kernel.is_some() || !works {
                    let _ = fs::write(&verdict, boot + if works { "works" } else { "fails" });
                }
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
fn runs_kernel(kernel: &Path) -> Result<bool> {
    let mut command = qemu::base(Accelerator::Kvm);
    command
        .args(["-m", "256M", "-smp", "2", "-kernel"])
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdout(Stdio::piped());
    let Some((_, mut guest)) = run(command)? else {
        return Ok(false);
    };
    let mut log = Vec::new();
    if let Some(mut stdout) = guest.stdout.take() {
        let _ = stdout.read_to_end(&mut log);
    }
    Ok(String::from_utf8_lossy(&log).contains("Kernel panic"))
}

/// `mov dx, EXIT; mov al, 0x10; out dx, al; hlt`, which has QEMU end with [`EXIT_STATUS`].
const BOOT_SECTOR: [u8; 7] = [0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4];
/// The port of QEMU's device that ends it. The status is what was written, doubled, plus one.
const EXIT_DEVICE: &str = "isa-debug-exit,iobase=0xf4";
const EXIT_STATUS: i32 = 0x10 << 1 | 1;

/// Has the firmware boot a sector that ends the machine.
fn runs_boot_sector() -> Result<bool> {
    let wrap = |source| Error::file("write", std::env::temp_dir())(source);
    let mut disk = tempfile::NamedTempFile::new().map_err(wrap)?;
    let mut sector = [0; 512];
    sector[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all(&sector).map_err(wrap)?;
    let mut command = qemu::bare(&Accelerator::Kvm);
    command
        .args(["-m", "64M", "-device", EXIT_DEVICE, "-drive"])
        .arg(format!(
            "file={},format=raw,if=ide",
            qemu::escaped(disk.path())
        ))
        .stdout(Stdio::null());
    let ended = run(command)?;
    Ok(ended.is_some_and(|(status, _)| status.code() == Some(EXIT_STATUS)))
}

/// Waits until a guest has ended; `None` if it takes too long.
fn run(mut command: Command) -> Result<Option<(ExitStatus, Child)>> {
    let failed = |source| Error::Start {
        program: qemu::PROGRAM.to_owned(),
        source,
    };
    command.stdin(Stdio::null()).stderr(Stdio::null());
    detach(&mut command);
    let mut guest = command.spawn().map_err(failed)?;
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = guest.try_wait().map_err(failed)? {
            return Ok(Some((status, guest)));
        }
        if Instant::now() > end {
            let _ = guest.kill();
            let _ = guest.wait();
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
