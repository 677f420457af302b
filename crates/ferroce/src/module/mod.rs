// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce module`.

mod args;
mod check;
mod exec;
mod info;
mod live;
pub mod text;

use std::path::PathBuf;

use anyhow::Result;
use ferroce_kmod::kernel::{Kernel, ModuleTree};
use ferroce_kmod::Error;

pub use args::Module;

pub fn run(command: Module) -> Result<i32> {
    match command {
        Module::Info(args) => info::run(&args),
        Module::Check(args) => check::run(&args),
        Module::Load(args) => live::load(&args),
        Module::Unload(args) => live::unload(&args),
        Module::List(args) => live::list(&args),
        Module::Deps(args) => check::deps(&args),
        Module::Log(args) => live::log(&args),
        Module::Exec(args) => exec::run(&args),
    }
}

/// The kernel that was asked for, or the running one.
fn kernel(which: Option<&str>) -> Result<Kernel> {
    Ok(match which {
        // A folder of that name is ./lab.
        Some("lab") => lab_kernel("")?,
        Some(which) if which.starts_with("lab:") => lab_kernel(&which["lab:".len()..])?,
        Some(which) => Kernel::find(which)?,
        None => Kernel::running()?,
    })
}

/// One of the lab's kernels.
fn lab_kernel(name: &str) -> Result<Kernel> {
    let folder = crate::lab::kernel_folder(name)?;
    Ok(Kernel::find(&folder.to_string_lossy())?)
}

/// The modules of the running kernel.
fn running_modules() -> ModuleTree {
    ModuleTree::of_running()
}

/// The file that a word on the command line means: a path, or the name of one
/// of a kernel's modules.
fn find_file(tree: &ModuleTree, word: &str) -> Result<PathBuf> {
    if word.contains('/') || word.contains(".ko") {
        return Ok(word.into());
    }
    match tree.path(word) {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::Usage(format!(
            "there is no module {word} below {}; for a file give its path, such as ./{word}",
            tree.root().display()
        ))
        .into()),
    }
}

/// A parameter as it is on a command line: its name, and a value if it has one.
fn parameter(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    }
}
