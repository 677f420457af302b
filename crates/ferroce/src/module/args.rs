// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ferroce module`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Module {
    /// Show what is in a module's file
    ///
    /// Its texts, as modinfo(8) shows them; the memory that it will take; its
    /// parameters, imports and exports; its relocations; who signed it. FILE is
    /// a .ko, also compressed by gzip, xz or zstd; NAME one of the running
    /// kernel's modules.
    Info(Info),
    /// Tell whether a kernel would load modules, and why not
    ///
    /// Goes through the stages of the kernel's loader outside of the kernel:
    /// copy and check, layout, symbols, relocations, init. Each says what it
    /// found. Modules that are needed are found, among the kernel's or in the
    /// folder of a FILE, and checked as well; several FILEs may need each other,
    /// and are listed in the order to load them in.
    /// What a module's own init does is not known before it runs.
    ///
    /// A compressed file is decompressed as this kernel would, if it does that
    /// itself (CONFIG_MODULE_DECOMPRESS), or as insmod(8) does.
    ///
    /// Exit status:
    ///     0  if all FILEs would load
    ///     1  if the kernel would refuse one
    ///     2  if it hangs on what cannot be known from here
    #[command(verbatim_doc_comment)]
    Check(Check),
    /// Load a module, and those that it needs
    ///
    /// If the kernel refuses, says at which stage and why, with the lines that
    /// the kernel logged. For root.
    Load(Load),
    /// Unload modules
    Unload(Unload),
    /// List the loaded modules: how large they are, and who uses them
    List(List),
    /// Show which modules one needs, and for which symbols
    Deps(Deps),
    /// Show what the kernel logged of a module
    Log(Log),
    /// Run a simple module in user space, with no kernel involved
    ///
    /// A tool to teach and to test with: the module's file is loaded as the
    /// kernel's loader would do it, but into a process, with stand-ins for the
    /// kernel's functions (printing, allocation, parameters). Its init and exit
    /// run in a child that can make no system call but to report. A module that
    /// needs a function without a stand-in is not run; the function is named.
    /// --list shows those that have one.
    Exec(Exec),
}

#[derive(Debug, clap::Args)]
pub struct Info {
    /// Its file, or the name of one of the running kernel's
    #[arg(value_name = "FILE|NAME", required = true)]
    pub modules: Vec<String>,
    /// All of it, for a program
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// The modules' files
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// For this kernel, not the running one: an installed VERSION, the folder
    /// of its modules, the folder that a kernel was built in, or one of the
    /// lab's: `lab` (which is `lab:uml`), `lab:uml-debug`, `lab:qemu`,
    /// `lab:qemu-debug`, `lab:debian`
    #[arg(long, value_name = "VERSION|DIR|lab[:NAME]")]
    pub kernel: Option<String>,
    /// With this parameter: NAME=VALUE, or MODULE.NAME=VALUE if there are
    /// several FILEs; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    pub param: Vec<String>,
    /// The whole report, for a program
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Load {
    /// Its file, or its name
    #[arg(value_name = "FILE|NAME")]
    pub module: String,
    /// Its parameters
    #[arg(value_name = "PARAM=VALUE")]
    pub params: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Unload {
    /// Their names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// For a program
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Deps {
    /// Its file, or the name of one of the kernel's
    #[arg(value_name = "FILE|NAME")]
    pub module: String,
    /// For this kernel, not the running one (as `check --kernel`)
    #[arg(long, value_name = "VERSION|DIR|lab[:NAME]")]
    pub kernel: Option<String>,
    /// For a program
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Log {
    /// Its name
    pub name: String,
    /// Go on with what the kernel logs from now on
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Its file, for x86-64 or User-Mode Linux
    #[arg(required_unless_present = "list")]
    pub file: Option<PathBuf>,
    /// Its parameters
    #[arg(value_name = "PARAM=VALUE")]
    pub params: Vec<String>,
    /// List the functions and the data of the kernel that there are stand-ins for
    #[arg(long, conflicts_with_all = ["file", "params"])]
    pub list: bool,
}
