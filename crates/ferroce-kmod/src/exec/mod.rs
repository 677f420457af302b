// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a simple module in user space: the loader's stages carried through
//! into a process, with stand-ins for what the kernel exports.
//!
//! It is a tool to teach and to test with, not a kernel: there are no
//! interrupts, no other processors, no devices, and what the kernel would patch
//! into code as it loads it (alternatives, static keys) stays as compiled. The
//! module's code runs in a child process that can do nothing but report, end,
//! and use up ten seconds of processor time.

mod child;
mod image;
mod params;
mod printk;
mod standins;

use std::path::Path;

use serde::Serialize;

use crate::arch::Machine;
use crate::elf::Elf;
use crate::error::Error;
use crate::file::ModuleFile;
use crate::modinfo::Modinfo;
use crate::signature;

pub use child::{End, Outcome};
pub use standins::names as stand_in_names;

/// The compiler of this program, as compilers sign in `.comment`.
const RUSTC: &str = env!("FERROCE_RUSTC");

/// Why a module was not run. Nothing of it has run then.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It imports what there is no stand-in for.
    #[error("no stand-in for {}: it was not run", .0.join(", "))]
    NoStandIn(Vec<String>),
    /// It needs what only a kernel has.
    #[error("{0}: it was not run")]
    NotSimple(String),
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] Error),
    /// The system did not let us.
    #[error("cannot {0}: {1}")]
    System(&'static str, std::io::Error),
}

/// A line that a module logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How urgent it is, from 0 (emergency) to 7 (debug); 4 if it does not say.
    pub level: u8,
    /// Its text.
    pub text: String,
}

/// Loads a module into a process of its own, and runs its init and its exit.
pub fn exec(path: &Path, params: &[(String, Option<String>)]) -> Result<Outcome, ExecError> {
    let file = ModuleFile::read(path)?;
    let (module, _) = signature::split(&file.bytes);
    let elf = Elf::parse(module).map_err(Error::malformed(path))?;
    if elf.machine != Machine::X86_64 || !cfg!(target_arch = "x86_64") {
        let what = "modules for x86-64 and User-Mode Linux run, on x86-64";
        return Err(ExecError::NotSimple(what.to_owned()));
    }
    same_compiler(&elf)?;
    let modinfo = Modinfo::of(&elf);
    let mut image = image::Image::load(&elf)?;
    params::set(&mut image, &elf, &modinfo, params)?;
    let image = image.seal()?;
    child::run(&image)
}

/// What Rust's library has no stable binary interface for is the same only
/// within one version of the compiler.
fn same_compiler(elf: &Elf) -> Result<(), ExecError> {
    let mut compilers = elf
        .contents(".comment")
        .split(|b| *b == 0)
        .map(crate::elf::text);
    let Some(theirs) = compilers.find(|c| c.starts_with("rustc ")) else {
        return Ok(());
    };
    // "rustc version 1.95.0 (...)" there, "rustc 1.95.0 (...)" here.
    if theirs.replace("rustc version ", "rustc ") == RUSTC {
        return Ok(());
    }
    Err(ExecError::NotSimple(format!(
        "it was compiled by {theirs}, this program by {RUSTC}, and what Rust code expects of its \
         library differs"
    )))
}

fn malformed(what: impl Into<String>) -> ExecError {
    ExecError::NotSimple(what.into())
}
