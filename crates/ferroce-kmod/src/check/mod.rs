// SPDX-License-Identifier: MIT OR Apache-2.0
//! Would a kernel load these modules? The loader's stages gone through one by
//! one, each with what it would find.
//!
//! The kernel stops at the first thing that it does not take. This goes on,
//! so that all of it is known at once; the first refusal is the kernel's.

mod copy;
mod init;
mod memory;
mod order;
mod place;
mod pointers;
mod relocate;
mod resolve;
mod set;

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use crate::file::ModuleFile;
use crate::kernel::Kernel;

/// A stage of the loader, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The file is copied and checked, its signature too.
    CopyAndCheck,
    /// Its sections get their places in memory.
    Layout,
    /// Its symbols get their addresses.
    Symbols,
    /// The addresses are written into code and data.
    Relocations,
    /// Parameters are set, and its code runs.
    Init,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::CopyAndCheck,
        Self::Layout,
        Self::Symbols,
        Self::Relocations,
        Self::Init,
    ];

    /// Its name for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::CopyAndCheck => "copy and check",
            Self::Layout => "layout",
            Self::Symbols => "symbols",
            Self::Relocations => "relocations",
            Self::Init => "init",
        }
    }
}

/// Why a module is refused, or may be: for a program to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The file cannot be read or decompressed.
    Unreadable,
    /// The file is no module, or a broken one.
    Malformed,
    /// It is for another processor.
    Machine,
    /// Its `struct module` is not the kernel's.
    StructModule,
    /// Its `vermagic` is not the kernel's.
    Vermagic,
    /// Its signature is missing, broken, or not by anybody that is trusted.
    Signature,
    /// It has no checksums, or not that of a symbol.
    NoVersion,
    /// A checksum is not the kernel's.
    Version,
    /// The kernel takes no modules, or not this one.
    Forbidden,
    /// It is loaded already.
    Loaded,
    /// It is a live patch, and the kernel takes none.
    Livepatch,
    /// A section cannot be where or what it is to be.
    Section,
    /// A symbol is nowhere.
    UnknownSymbol,
    /// A symbol is for modules under the GPL only.
    GplOnly,
    /// A symbol's namespace is not imported.
    Namespace,
    /// A symbol is a common one (`-fcommon`).
    CommonSymbol,
    /// A symbol is in a section that is not there.
    SymbolSection,
    /// A module that it needs does not load.
    Dependency,
    /// It exports a symbol that is there already.
    DuplicateSymbol,
    /// Modules need each other in a circle.
    Cycle,
    /// The loader cannot apply a kind of relocation.
    UnknownRelocation,
    /// A number does not fit where it is to go.
    Overflow,
    /// A relocation is out of place.
    BadRelocation,
    /// A parameter's value is not taken.
    BadParameter,
    /// A parameter is not the module's.
    UnknownParameter,
    /// Two parameters have one name.
    DuplicateParameter,
    /// Two sections have one name.
    DuplicateSection,
    /// It changes what the kernel is trusted for.
    Taint,
    /// It needs to be known that something is not known.
    Unknown,
}

/// What a finding means for loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing; it is good to know.
    Note,
    /// It loads, but somebody should look.
    Warning,
    /// Whether it loads hangs on what cannot be known from here.
    Undecided,
    /// It does not load.
    Refused,
}

/// Something that a stage finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it means.
    pub severity: Severity,
    /// What it is.
    pub reason: Reason,
    /// What is the matter, in words.
    pub what: String,
    /// The line that the kernel logs, if it logs one, as /dev/kmsg has it.
    pub kernel_says: Option<String>,
    /// What the system call returns, such as `ENOEXEC`.
    pub errno: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Finding {
    fn new(severity: Severity, reason: Reason, what: impl Into<String>) -> Self {
        Self {
            severity,
            reason,
            what: what.into(),
            kernel_says: None,
            errno: None,
            help: None,
        }
    }

    fn refused(reason: Reason, errno: Errno, what: impl Into<String>) -> Self {
        let mut finding = Self::new(Severity::Refused, reason, what);
        finding.errno = Some(crate::live::errno_name(errno));
        finding
    }

    fn undecided(reason: Reason, what: impl Into<String>) -> Self {
        Self::new(Severity::Undecided, reason, what)
    }

    fn warning(reason: Reason, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, reason, what)
    }

    fn note(reason: Reason, what: impl Into<String>) -> Self {
        Self::new(Severity::Note, reason, what)
    }

    fn says(mut self, line: impl Into<String>) -> Self {
        self.kernel_says = Some(crate::live::as_logged(&line.into()));
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What one stage comes to.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// Which.
    pub stage: Stage,
    /// What it does with this module, in a few words; nothing where a broken
    /// file leaves nothing to do.
    pub summary: String,
    /// What it finds.
    pub findings: Vec<Finding>,
}

/// What one module comes to.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleReport {
    /// Its file.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// Whether it was asked for, or is needed by one that was.
    pub asked_for: bool,
    /// The modules that it needs, directly.
    pub needs: Vec<String>,
    /// The stages, in order, as far as they can be gone through.
    pub stages: Vec<StageReport>,
}

/// Whether a module loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does, unless its own init refuses.
    Loads,
    /// It hangs on what cannot be known from here.
    Undecided,
    /// It does not.
    Refused,
}

impl ModuleReport {
    /// Whether it loads.
    pub fn verdict(&self) -> Verdict {
        match self.worst() {
            Some(Severity::Refused) => Verdict::Refused,
            Some(Severity::Undecided) => Verdict::Undecided,
            _ => Verdict::Loads,
        }
    }

    /// All that was found, by stage.
    pub fn findings(&self) -> impl Iterator<Item = (Stage, &Finding)> {
        let stages = self.stages.iter();
        stages.flat_map(|s| s.findings.iter().map(|finding| (s.stage, finding)))
    }

    /// Where the kernel would stop, and why.
    pub fn refusal(&self) -> Option<(Stage, &Finding)> {
        self.findings()
            .find(|(_, f)| f.severity == Severity::Refused)
    }

    /// Whether it may stop before that, which cannot be known.
    pub fn may_stop_before(&self) -> bool {
        let mut before = self
            .findings()
            .take_while(|(_, f)| f.severity != Severity::Refused);
        before.any(|(_, f)| f.severity == Severity::Undecided)
    }

    fn worst(&self) -> Option<Severity> {
        self.findings().map(|(_, f)| f.severity).max()
    }

    /// The findings of a stage, to add to; the stage comes where it belongs.
    fn stage(&mut self, stage: Stage, summary: impl Into<String>) -> &mut Vec<Finding> {
        let index = self.stages.partition_point(|s| s.stage < stage);
        let summary = summary.into();
        let findings = Vec::new();
        self.stages.insert(
            index,
            StageReport {
                stage,
                summary,
                findings,
            },
        );
        &mut self.stages[index].findings
    }
}

/// What a set of modules comes to, on one kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The kernel.
    pub kernel: String,
    /// The modules, in the order in which they are to be loaded.
    pub modules: Vec<ModuleReport>,
}

impl Report {
    /// Whether all load that were asked for.
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.modules.iter().filter(|m| m.asked_for);
        let verdicts: Vec<_> = verdicts.map(ModuleReport::verdict).collect();
        match () {
            () if verdicts.contains(&Verdict::Refused) => Verdict::Refused,
            () if verdicts.contains(&Verdict::Undecided) => Verdict::Undecided,
            () => Verdict::Loads,
        }
    }
}

/// A module to check.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its file.
    pub path: PathBuf,
    /// The parameters that it is to be given, each with its value if it has one.
    pub params: Vec<(String, Option<String>)>,
}

impl Request {
    /// A module without parameters.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            params: Vec::new(),
        }
    }
}

/// Checks modules against a kernel and against each other. The modules that
/// they need and the kernel has are found and checked as well.
pub fn check(kernel: &Kernel, requests: &[Request]) -> Report {
    let set = set::Set::gather(kernel, requests);
    Report {
        kernel: kernel.name.clone(),
        modules: resolve::resolve(kernel, set),
    }
}

/// The same of one module whose bytes are in memory already, with nothing else
/// looked for.
pub fn check_bytes(kernel: &Kernel, file: ModuleFile) -> Report {
    let module = set::examine_file(kernel, &file, &[], true);
    let set = set::Set {
        modules: vec![module],
    };
    Report {
        kernel: kernel.name.clone(),
        modules: resolve::resolve(kernel, set),
    }
}
