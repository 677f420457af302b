// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernel: the architecture it is built for, and whether it is one to
//! measure with or one to find bugs with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::fetch::Series;

/// What a guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backend {
    /// User-Mode Linux: the kernel is an ordinary process.
    Uml,
    /// QEMU, x86-64, with KVM if that works and TCG if not.
    Qemu,
}

impl Backend {
    /// The kernel's name of the architecture.
    pub fn arch(self) -> &'static str {
        match self {
            Backend::Uml => "um",
            Backend::Qemu => "x86_64",
        }
    }

    /// The kernel that boots, in the build folder.
    ///
    /// For QEMU the ELF file with its PVH entry: nothing to decompress, which
    /// matters where each instruction is emulated.
    pub fn image(self) -> &'static str {
        match self {
            Backend::Uml => "linux",
            Backend::Qemu => "vmlinux",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Uml => "uml",
            Backend::Qemu => "qemu",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uml" => Ok(Backend::Uml),
            "qemu" => Ok(Backend::Qemu),
            _ => Err("the backends are uml (the default) and qemu".to_owned()),
        }
    }
}

/// A kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flavor {
    /// What it runs on.
    pub backend: Backend,
    /// Whether it looks for bugs, at the price of speed.
    pub debug: bool,
    /// Which series of Linux.
    pub series: Series,
}

impl Flavor {
    /// The name of its build folder: "uml", "qemu-debug".
    pub fn name(self) -> String {
        format!("{}{}", self.backend, if self.debug { "-debug" } else { "" })
    }

    /// The configuration fragments, in the order in which they apply.
    pub fn fragments(self) -> &'static [&'static str] {
        match (self.backend, self.debug) {
            (Backend::Uml, false) => &["common", "um"],
            (Backend::Uml, true) => &["common", "um", "debug"],
            (Backend::Qemu, false) => &["common", "x86_64"],
            (Backend::Qemu, true) => &["common", "x86_64", "debug", "debug-x86_64"],
        }
    }

    /// About how many steps a build from nothing prints, to show progress
    /// against before the first build on this machine has counted them.
    pub fn expected_steps(self) -> u64 {
        match (self.backend, self.debug) {
            (Backend::Uml, false) => 1510,
            (Backend::Uml, true) => 1530,
            (Backend::Qemu, false) => 1790,
            (Backend::Qemu, true) => 1820,
        }
    }

    /// About how many minutes that takes on two cores.
    pub fn expected_minutes(self) -> u64 {
        match (self.backend, self.debug) {
            (Backend::Uml, false) => 5,
            (Backend::Uml, true) => 7,
            (Backend::Qemu, false) => 7,
            (Backend::Qemu, true) => 15,
        }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.backend {
            Backend::Uml => "User-Mode Linux",
            Backend::Qemu => "QEMU",
        })?;
        f.write_str(if self.debug { " (debug)" } else { "" })
    }
}
