// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the lab needs: toolchain, packages, room, and guests that start.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use ferroce_lab::backend::{Backend, Flavor, Series};
use ferroce_lab::cache::Cache;
use ferroce_lab::image::Image;
use ferroce_lab::kernel::Kernel;
use ferroce_lab::pack;
use ferroce_lab::prerequisites::{self, Purpose, Toolchain};
use ferroce_lab::progress;
use ferroce_lab::vm::{Vm, Vms};
use ferroce_lab::Accelerator;

use super::{seccomp, Finding, State};

/// The kernels.
const FLAVORS: [(Backend, bool); 4] = [
    (Backend::Uml, false),
    (Backend::Uml, true),
    (Backend::Qemu, false),
    (Backend::Qemu, true),
];

/// The demo's.
fn demos() -> Flavor {
    flavor(Backend::Uml, false)
}

fn flavor(backend: Backend, debug: bool) -> Flavor {
    Flavor {
        backend,
        debug,
        series: Series::BEST,
    }
}

/// How much room the demo takes where nothing has been fetched: the source, one kernel, the modules.
const ROOM_FOR_ALL: u64 = 3 << 30;
/// How much a guest's memory takes, of the size that a guest has by default.
const GUEST_MEMORY: u64 = 1 << 30;
/// How long a guest may take: the slowest of the lab's take half of it.
const GUEST_LIMIT: Duration = Duration::from_secs(60);

/// The lab of this machine.
pub struct Lab {
    cache: Cache,
    /// The folder with the modules' sources.
    project: Result<PathBuf>,
}

impl Lab {
    pub fn look() -> Result<Self> {
        Ok(Self {
            cache: Cache::open()?,
            project: crate::lab::project(&crate::args::kernel_dir()),
        })
    }

    /// What the demo needs.
    pub fn needs(&self) -> Vec<Finding> {
        vec![
            self.toolchain(),
            self.packages(),
            self.sources(),
            self.room(),
            memory(),
            seccomp_filters(),
            self.guest(demos()),
        ]
    }

    /// What other commands of the lab's need, and what there is.
    pub fn others(&self) -> Vec<Finding> {
        vec![
            self.qemu(),
            self.accelerator(),
            self.further_packages(),
            self.cached(),
            self.machines(),
        ]
    }

    fn toolchain(&self) -> Finding {
        let name = "toolchain";
        if which("rustc").is_none() {
            return match self.image(demos()) {
                Some(_) => Finding::new(name, State::None, "no Rust: the kernel here is used"),
                None => Finding::new(name, State::Lacks, "no Rust").remedy("https://rustup.rs"),
            };
        }
        match Toolchain::find(&self.cache, demos()) {
            Ok(toolchain) => {
                let lines: Vec<&str> = toolchain.identity.lines().collect();
                let of = |start: &str| lines.iter().find(|line| line.starts_with(start));
                let parts = [of("rustc"), of("gcc"), of("bindgen"), of("libclang")];
                let parts: Vec<&str> = parts.into_iter().flatten().copied().collect();
                Finding::new(name, State::Works, parts.join(", "))
            }
            // What it is, is told by the packages.
            Err(_) => Finding::new(name, State::Gets, "not complete yet: see packages"),
        }
    }

    fn packages(&self) -> Finding {
        let name = "packages";
        let flavor = demos();
        let run = [Purpose::Run(flavor.backend), Purpose::Verbs];
        let mut purposes = run.to_vec();
        if which("rustc").is_some() {
            purposes.push(Purpose::Build(flavor));
        }
        let Some(missing) = prerequisites::missing(&self.cache, &purposes) else {
            return Finding::new(name, State::Works, "all that the demo needs");
        };
        let state = match missing.is_installable {
            true => State::Gets,
            false => State::Lacks,
        };
        Finding::new(name, state, format!("without {}", missing.names.join(", ")))
            .remedy(missing.commands.join("; "))
    }

    fn sources(&self) -> Finding {
        let name = "sources";
        match &self.project {
            Ok(folder) => Finding::new(name, State::Works, folder.display().to_string()),
            Err(_) if self.image(demos()).is_some() => Finding::new(
                name,
                State::None,
                "none: the kernel that was unpacked is used",
            ),
            Err(error) => Finding::new(name, State::Lacks, format!("{error:#}")),
        }
    }

    fn room(&self) -> Finding {
        let name = "disk";
        let folder = self.cache.path("");
        let Ok(found) = rustix::fs::statvfs(&folder) else {
            let text = format!("{} cannot be looked at", folder.display());
            return Finding::new(name, State::Lacks, text);
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let text = format!("{} left in {}", progress::bytes(free), folder.display());
        let needed = match self.image(demos()) {
            Some(_) => 0,
            None => ROOM_FOR_ALL,
        };
        match free >= needed {
            true => Finding::new(name, State::Works, text),
            false => Finding::new(name, State::Lacks, text).remedy(format!(
                "the demo takes {}: set FERROCE_CACHE to a folder with more room",
                progress::bytes(needed)
            )),
        }
    }

    /// A kernel that is built.
    fn kernel(&self, flavor: Flavor) -> Option<Kernel> {
        let project = self.project.as_ref().ok()?;
        Kernel::find(&self.cache, project, flavor).ok()?
    }

    /// A kernel with modules, which can be booted: one that was built, or else unpacked.
    fn image(&self, flavor: Flavor) -> Option<Image> {
        let project = self.project.as_ref().ok();
        let cached =
            project.and_then(|project| Image::cached(&self.cache, project, flavor).ok()?);
        cached.or_else(|| pack::find(&self.cache, &flavor.name()))
    }

    /// Whether a guest starts: one is booted.
    fn guest(&self, flavor: Flavor) -> Finding {
        let name = match flavor.backend {
            Backend::Uml => "UML guest",
            Backend::Qemu => "QEMU guest",
        };
        if self.image(flavor).is_none() {
            let text = "not tried: its kernel or the modules are not built yet";
            return Finding::new(name, State::Gets, text)
                .remedy(format!("ferroce lab build --backend {}", flavor.backend));
        }
        match boot(flavor) {
            Ok(time) => {
                let text = format!("booted, ran true, powered off: {}", progress::time(time));
                Finding::new(name, State::Works, text)
            }
            Err(why) => Finding::new(name, State::Lacks, why),
        }
    }

    fn qemu(&self) -> Finding {
        let flavor = flavor(Backend::Qemu, false);
        if let Some(missing) = prerequisites::missing(&self.cache, &[Purpose::Run(flavor.backend)])
        {
            let text = format!("without {}", missing.names.join(", "));
            return Finding::new("QEMU guest", State::None, text)
                .remedy(missing.commands.join("; "));
        }
        self.guest(flavor)
    }

    fn accelerator(&self) -> Finding {
        let name = "KVM";
        let Some(image) = self.image(flavor(Backend::Qemu, false)) else {
            return Finding::new(
                name,
                State::None,
                "not tried: no kernel for QEMU with the modules is built yet",
            );
        };
        match Accelerator::choose(&self.cache, Some(&image.file)) {
            Ok(Accelerator::Kvm) => Finding::new(name, State::Works, "a test guest runs"),
            Ok(Accelerator::Tcg { why }) => Finding::new(name, State::None, why)
                .remedy("QEMU translates instead (TCG), which is about ten times as slow"),
            Ok(Accelerator::Counting) => Finding::new(name, State::None, "not tried"),
            Err(error) => Finding::new(name, State::None, error.to_string()),
        }
    }

    /// What the debug kernels, and the tests with other people's programs, need beside.
    fn further_packages(&self) -> Finding {
        let name = "packages";
        let flavor = flavor(Backend::Qemu, true);
        let purposes = [Purpose::Build(flavor), Purpose::Programs, Purpose::Debian];
        match prerequisites::missing(&self.cache, &purposes) {
            None => Finding::new(name, State::Works, "all for --debug, and for all tests"),
            Some(missing) => Finding::new(
                name,
                State::None,
                format!(
                    "for --debug and for all tests, without {}",
                    missing.names.join(", ")
                ),
            )
            .remedy(missing.commands.join("; ")),
        }
    }

    /// The kernels in the cache.
    fn cached(&self) -> Finding {
        let name = "kernels";
        let folder = self.cache.path("kernel");
        let current: Vec<(Flavor, Kernel)> = FLAVORS
            .into_iter()
            .map(|(backend, debug)| flavor(backend, debug))
            .filter_map(|flavor| Some((flavor, self.kernel(flavor)?)))
            .collect();
        let mut lines: Vec<String> = current
            .iter()
            .map(|(flavor, kernel)| {
                let size = progress::bytes(size(&kernel.dir));
                format!("{}: Linux {}, {size}", flavor.name(), kernel.release)
            })
            .collect();
        let is_current = |path: &Path| current.iter().any(|(_, kernel)| kernel.dir == path);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let others: Vec<u64> = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && !is_current(path))
            .map(|path| size(&path))
            .collect();
        if !others.is_empty() {
            let total = progress::bytes(others.iter().sum());
            lines.push(format!(
                "{} of other sources or settings: {total}",
                others.len()
            ));
        }
        match lines.is_empty() {
            true => Finding::new(name, State::None, "none is built yet"),
            false => Finding::new(name, State::Works, lines.join("\n"))
                .remedy("to remove all of them: ferroce lab clean"),
        }
    }

    /// The virtual machines, and what they need.
    fn machines(&self) -> Finding {
        let name = "machines";
        let lines = match Vms::open().and_then(|vms| vms.all()) {
            Ok(vms) => vms.iter().map(line).collect::<Vec<_>>(),
            Err(error) => return Finding::new(name, State::None, error.to_string()),
        };
        if let Some(missing) = prerequisites::missing(&self.cache, &[Purpose::VirtualMachine]) {
            let text = format!("for ferroce vm, without {}", missing.names.join(", "));
            return Finding::new(name, State::None, text).remedy(missing.commands.join("; "));
        }
        match lines.is_empty() {
            true => Finding::new(name, State::None, "none is there")
                .remedy("to make one: ferroce vm create NAME"),
            false => Finding::new(name, State::Works, lines.join("\n")),
        }
    }
}

/// What is told of a virtual machine.
fn line(vm: &Vm) -> String {
    let state = match vm.is_running() {
        true => "runs",
        false => "is off",
    };
    let size = progress::bytes(vm.disk_used());
    format!("{}: {state}, {size} on disk", vm.name)
}

/// Runs `true` in a guest. Returns how long that took, or what went wrong.
fn boot(flavor: Flavor) -> std::result::Result<Duration, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let started = Instant::now();
    let output = Command::new(program)
        .args(["lab", "run", "--no-install"])
        .args(["--backend", &flavor.backend.to_string()])
        .args(["--timeout", &GUEST_LIMIT.as_secs().to_string()])
        .args(["--", "true"])
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(started.elapsed()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn memory() -> Finding {
    let name = "memory";
    let mut folders = vec![PathBuf::from("/dev/shm"), std::env::temp_dir()];
    folders.dedup();
    let room = |folder: &Path| {
        let found = rustix::fs::statvfs(folder);
        found.map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize))
    };
    let text = |folder: &Path| {
        let room = progress::bytes(room(folder));
        format!("{room} left in {}", folder.display())
    };
    match folders.iter().find(|folder| room(folder) >= GUEST_MEMORY) {
        Some(folder) => Finding::new(name, State::Works, text(folder)),
        None => {
            let found: Vec<String> = folders.iter().map(|folder| text(folder)).collect();
            Finding::new(name, State::Lacks, found.join(", ")).remedy(format!(
                "a guest takes {}: set TMPDIR to a folder with more room, or use --mem",
                progress::bytes(GUEST_MEMORY)
            ))
        }
    }
}

fn seccomp_filters() -> Finding {
    let name = "seccomp";
    match seccomp::obstacle() {
        Ok(None) => Finding::new(name, State::Works, "a filter works"),
        Ok(Some(why)) => Finding::new(name, State::Lacks, why).remedy(
            "User-Mode Linux needs it: allow it in the container's settings, or use \
             --backend qemu",
        ),
        Err(error) => Finding::new(name, State::Lacks, format!("{error:#}")),
    }
}

fn which(program: &str) -> Option<PathBuf> {
    prerequisites::find_program(program)
}

/// How much room a folder takes on the disk, in bytes. Of what cannot be read it counts nothing.
fn size(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            // stat(2): blocks of 512 bytes.
            total += found.blocks() * 512;
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}
