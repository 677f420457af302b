// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest boots: a kernel that the lab built, or a distribution's.

use std::fmt;
use std::path::PathBuf;

use crate::backend::{Backend, Flavor, Series};
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
        let Flavor { backend, debug, .. } = kernel.flavor;
        Self {
            name: kernel.flavor.name(),
            backend,
            debug,
            release: kernel.release.clone(),
            file: kernel.image(),
            early: None,
            modules: modules.folder.clone(),
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
                series: Series::BEST,
            }
        )
    }
}
