// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest boots: a kernel that the lab built, or a distribution's.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::backend::{Backend, Flavor, Series};
use crate::cache::Cache;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::modules::Modules;

/// The modules that every guest has, if its kernel has them.
pub(crate) const RDMA_STACK: [&str; 3] = ["ib_uverbs", "rdma_ucm", "ib_umad"];

/// A kernel that is ready to boot, with its modules.
#[derive(Debug, Clone)]
pub struct Image {
    /// What guests know it by: "uml", "qemu-debug", "debian".
    pub name: String,
    /// What it runs on.
    pub backend: Backend,
    /// Whether it looks for bugs.
    pub debug: bool,
    /// What `uname -r` says in it.
    pub release: String,
    /// The kernel.
    pub file: PathBuf,
    /// The modules that its first process loads from an initramfs: those that reach the host's files, and
    /// others. `None` if the kernel needs none, and mounts these itself.
    pub early: Option<Vec<PathBuf>>,
    /// The folder that is to be /lib/modules/RELEASE.
    pub modules: PathBuf,
    /// The names of the modules that are loaded before the command.
    pub stack: Vec<String>,
}

impl Image {
    /// One that the lab built.
    pub fn built(kernel: &Kernel, modules: &Modules) -> Self {
        let modules = modules.folder.clone();
        Self::of_lab(
            kernel.flavor,
            kernel.image(),
            kernel.release.clone(),
            modules,
        )
    }

    /// One that the lab built before, with the modules of today's sources. No compiler is looked for.
    pub fn cached(cache: &Cache, project: &Path, flavor: Flavor) -> Result<Option<Self>> {
        for (dir, release) in Kernel::folders(cache, project, flavor) {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            if let Some(modules) = Modules::find_for(cache, project, &name, &release)? {
                let file = dir.join(flavor.backend.image());
                return Ok(Some(Self::of_lab(flavor, file, release, modules)));
            }
        }
        Ok(None)
    }

    fn of_lab(flavor: Flavor, file: PathBuf, release: String, modules: PathBuf) -> Self {
        Self {
            name: flavor.name(),
            backend: flavor.backend,
            debug: flavor.debug,
            release,
            file,
            early: None,
            modules,
            stack: RDMA_STACK.map(str::to_owned).to_vec(),
        }
    }
}

/// As in "Linux 7.2.12 for QEMU (debug)".
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, debug, .. } = *self;
        write!(
            f,
            "Linux {} for {}",
            self.release,
            Flavor {
                backend,
                debug,
                series: Series::NEWEST,
            }
        )
    }
}
