// SPDX-License-Identifier: MIT OR Apache-2.0
//! The modules that are looked at: those asked for, and those that they need.
//! All that concerns a module alone is done here, on all processors.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::io::Errno;

use super::{copy, init, place, relocate, Finding, ModuleReport, Reason, Request, Stage};
use crate::elf::Elf;
use crate::error::{Error, Malformed};
use crate::file::{Compression, ModuleFile};
use crate::kernel::{is_module, Kernel, Owner};
use crate::layout::Layout;
use crate::linkage::{name_of_path, Linkage};
use crate::modinfo::Modinfo;
use crate::signature;

/// A module, after all stages that concern it alone.
pub struct Examined {
    pub report: ModuleReport,
    /// What it takes and offers; nothing if the file is no module.
    pub linkage: Option<Linkage>,
    /// It is in the kernel already, and is here for what it exports.
    pub loaded: bool,
}

/// The modules that are looked at.
pub struct Set {
    pub modules: Vec<Examined>,
}

impl Set {
    /// Examines the modules asked for, then those that they need, and so on.
    pub fn gather(kernel: &Kernel, requests: &[Request]) -> Self {
        let mut modules: Vec<Examined> = requests
            .par_iter()
            .map(|request| examine(kernel, request, true))
            .collect();
        let mut next = modules.len();
        let mut names: HashSet<String> = modules.iter().map(|m| m.report.name.clone()).collect();
        let mut exported: HashSet<String> = HashSet::new();
        let beside = Beside::of(requests);
        let mut done = 0;
        loop {
            let new = &modules[done..next];
            let offered = new.iter().filter_map(|m| m.linkage.as_ref());
            exported.extend(offered.flat_map(|l| l.exports.iter().map(|e| e.name.clone())));
            let mut needed = HashMap::<String, PathBuf>::new();
            for linkage in new.iter().filter_map(|m| m.linkage.as_ref()) {
                for import in &linkage.imports {
                    if exported.contains(&import.name) {
                        continue;
                    }
                    let found =
                        owner(kernel, &import.name).or_else(|| beside.owner(kernel, &import.name));
                    if let Some((name, path)) = found
                        && !names.contains(&name)
                    {
                        needed.insert(name, path);
                    }
                }
            }
            if needed.is_empty() {
                break;
            }
            names.extend(needed.keys().cloned());
            let mut paths: Vec<PathBuf> = needed.into_values().collect();
            paths.sort();
            modules.par_extend(
                paths
                    .par_iter()
                    .map(|path| examine(kernel, &Request::new(path), false)),
            );
            done = next;
            next = modules.len();
        }
        Self { modules }
    }
}

/// The module of the kernel's that exports a symbol, if there is a file.
fn owner(kernel: &Kernel, symbol: &str) -> Option<(String, PathBuf)> {
    let name = match kernel.export(symbol) {
        Some((_, Owner::Vmlinux)) => return None,
        Some((_, Owner::Module(name))) => name.as_str(),
        None => kernel.modules.owner(symbol)?,
    };
    let path = kernel.modules.path(name).filter(|path| path.exists())?;
    Some((name.to_owned(), path.to_owned()))
}

/// The modules in the folders of those that are asked for. They are read only if
/// a symbol is not known from elsewhere.
struct Beside {
    folders: BTreeSet<PathBuf>,
    owners: OnceCell<HashMap<String, PathBuf>>,
}

impl Beside {
    fn of(requests: &[Request]) -> Self {
        let folder = |request: &Request| {
            let folder = request.path.parent()?;
            let here = folder.as_os_str().is_empty();
            Some(if here { Path::new(".") } else { folder }.to_owned())
        };
        Self {
            folders: requests.iter().filter_map(folder).collect(),
            owners: OnceCell::new(),
        }
    }

    /// The module that exports a symbol which the kernel is not known to have.
    fn owner(&self, kernel: &Kernel, symbol: &str) -> Option<(String, PathBuf)> {
        if matches!(kernel.export(symbol), Some((_, Owner::Vmlinux))) {
            return None;
        }
        let owners = self.owners.get_or_init(|| self.read());
        let path = owners.get(symbol)?;
        Some((module_name_of(path)?, path.clone()))
    }

    /// The files by the symbols that they export.
    fn read(&self) -> HashMap<String, PathBuf> {
        let entries = self.folders.iter().filter_map(|f| fs::read_dir(f).ok());
        let files = entries.flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files.filter(|path| is_module(path)).collect();
        files.sort();
        let exports = |path: &PathBuf| {
            let symbols = linkage_of(path).map(|linkage| linkage.exports);
            let symbols = symbols.unwrap_or_default().into_iter();
            let owned = symbols.map(|export| (export.name, path.clone()));
            owned.collect::<Vec<_>>()
        };
        files.par_iter().flat_map_iter(exports).collect()
    }
}

/// What a file takes and offers, if it is a module.
fn linkage_of(path: &Path) -> Option<Linkage> {
    let file = ModuleFile::read(path).ok()?;
    let (module, _) = signature::split(&file.bytes);
    let elf = Elf::parse(module).ok()?;
    Some(Linkage::of(&elf, &Modinfo::of(&elf), path))
}

fn module_name_of(path: &Path) -> Option<String> {
    Some(linkage_of(path)?.name)
}

fn examine(kernel: &Kernel, request: &Request, asked_for: bool) -> Examined {
    match ModuleFile::read_for(&request.path, kernel.decompresses()) {
        Ok(file) => examine_file(kernel, &file, &request.params, asked_for),
        Err(error) => {
            let mut report = empty_report(&request.path, asked_for);
            let findings = report.stage(Stage::CopyAndCheck, "");
            findings.push(unreadable(&error));
            Examined::broken(report)
        }
    }
}

impl Examined {
    /// What is no module.
    fn broken(report: ModuleReport) -> Self {
        Self {
            report,
            linkage: None,
            loaded: false,
        }
    }
}

fn empty_report(path: &Path, asked_for: bool) -> ModuleReport {
    ModuleReport {
        path: path.to_owned(),
        name: name_of_path(path),
        asked_for,
        needs: Vec::new(),
        stages: Vec::new(),
    }
}

/// All stages that concern a module alone.
pub fn examine_file(
    kernel: &Kernel,
    file: &ModuleFile,
    params: &[(String, Option<String>)],
    asked_for: bool,
) -> Examined {
    let mut report = empty_report(&file.path, asked_for);
    let (module, signature) = match copy::looks_at_signatures(kernel) {
        // To such a kernel a signature is what follows a module.
        Some(false) => (&file.bytes[..], Ok(None)),
        _ => signature::split(&file.bytes),
    };
    let elf = match Elf::parse(module) {
        Ok(elf) => elf,
        Err(reason) => {
            let findings = report.stage(Stage::CopyAndCheck, "");
            copy::signature(kernel, &signature, findings);
            findings.push(malformed(
                &reason,
                system_call(kernel, file),
                file.bytes.len(),
            ));
            return Examined::broken(report);
        }
    };
    let modinfo = Modinfo::of(&elf);
    let linkage = Linkage::of(&elf, &modinfo, &file.path);
    report.name = linkage.name.clone();
    let running = kernel.running.as_ref();
    let loaded = !asked_for && running.is_some_and(|r| r.module(&linkage.struct_name).is_some());
    if !loaded {
        go_through(
            kernel,
            params,
            &mut report,
            (&elf, &modinfo, &linkage),
            file.compression,
            &signature,
        );
    }
    Examined {
        report,
        linkage: Some(linkage),
        loaded,
    }
}

/// All stages but symbols.
fn go_through(
    kernel: &Kernel,
    params: &[(String, Option<String>)],
    report: &mut ModuleReport,
    (elf, modinfo, linkage): (&Elf, &Modinfo, &Linkage),
    compression: Option<Compression>,
    signature: &Result<Option<signature::Signature>, Malformed>,
) {
    let summary = copy::summary(modinfo) + &decompression(kernel, compression);
    let findings = report.stage(Stage::CopyAndCheck, summary);
    copy::signature(kernel, signature, findings);
    copy::check(kernel, elf, modinfo, linkage, findings);
    let layout = Layout::of(elf, kernel.layout_options());
    let summary = place::summary(&layout);
    place::check(
        kernel,
        elf,
        &layout,
        linkage,
        report.stage(Stage::Layout, summary),
    );
    let mut findings = Vec::new();
    let summary = relocate::check(kernel, elf, &layout, linkage, &mut findings);
    *report.stage(Stage::Relocations, summary) = findings;
    let findings = report.stage(Stage::Init, init::summary(elf));
    init::check(elf, modinfo, linkage, params, findings);
    init::check_sysfs(kernel, elf, modinfo, &layout, linkage, findings);
}

/// Who decompresses a file.
fn decompression(kernel: &Kernel, compression: Option<Compression>) -> String {
    let Some(compression) = compression else {
        return String::new();
    };
    let by = match kernel.decompresses() == Some(compression) {
        true => "this kernel",
        false => "kmod, not by this kernel",
    };
    format!("; {} data, decompressed by {by}", compression.name())
}

fn unreadable(error: &Error) -> Finding {
    let errno = match error {
        Error::File { source, .. } => Errno::from_io_error(source).unwrap_or(Errno::IO),
        // What kmod's library returns.
        Error::Compressed { .. } | Error::Malformed { .. } => Errno::INVAL,
        _ => Errno::NOEXEC,
    };
    let mut finding = Finding::refused(Reason::Unreadable, errno, error.to_string());
    if let Error::Malformed { reason, .. } = error {
        // module_decompress().
        finding.kernel_says = reason.kernel_says.clone();
        finding.help = Some("kmod before version 31 decompresses it itself".to_owned());
    }
    finding
}

/// How a module comes into the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SystemCall {
    /// `finit_module(2)`.
    File,
    /// The same with MODULE_INIT_COMPRESSED_FILE.
    CompressedFile,
    /// `init_module(2)`, as kmod decompressed it.
    Memory,
}

fn system_call(kernel: &Kernel, file: &ModuleFile) -> SystemCall {
    match file.compression {
        None => SystemCall::File,
        known if known == kernel.decompresses() => SystemCall::CompressedFile,
        Some(_) => SystemCall::Memory,
    }
}

fn malformed(reason: &Malformed, call: SystemCall, length: usize) -> Finding {
    // What is refused before the loader sees it, which logs nothing:
    // kernel_read_file() and copy_module_from_user().
    let (unseen, errno) = match call {
        SystemCall::File => (length == 0, Errno::INVAL),
        SystemCall::CompressedFile => (false, Errno::NOEXEC),
        SystemCall::Memory => (length < ELF_HEADER, Errno::NOEXEC),
    };
    let errno = if unseen { errno } else { Errno::NOEXEC };
    let mut finding = Finding::refused(Reason::Malformed, errno, reason.to_string());
    finding.kernel_says = reason.kernel_says.clone().filter(|_| !unseen);
    finding
}

/// sizeof(Elf64_Ehdr).
const ELF_HEADER: usize = 64;
