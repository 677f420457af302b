// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads and unloads.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::{delete_module, finit_module, init_module};
use serde::Serialize;

use super::{explain, Explanation, KernelLog};
use crate::check::Stage;
use crate::elf::Elf;
use crate::error::{Error, Malformed, Result};
use crate::file::{Compression, ModuleFile};
use crate::kernel::{beside, ModuleTree, Running};
use crate::linkage::{name_of_path, struct_name};
use crate::modinfo::Modinfo;
use crate::signature;

/// A module that was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadedNow {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What the kernel logged meanwhile.
    pub log: Vec<String>,
}

/// Why loading failed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel refused a module.
    #[error("the kernel refused {} at {}: {} ({errno})", .path.display(), .explanation.stage.name(), .explanation.reason, errno = super::errno_name(*.errno))]
    Refused {
        /// The file.
        path: PathBuf,
        /// What the system call returned.
        errno: Errno,
        /// What that means.
        explanation: Explanation,
        /// What the kernel logged.
        log: Vec<String>,
    },
    /// It did not come to that.
    #[error(transparent)]
    Other(#[from] Error),
}

/// Loads a module, by name or file, and before it those that it needs and that
/// are not loaded. Tells what it loaded. `params` are for the module itself,
/// as they are on the kernel's command line.
pub fn load(
    tree: &ModuleTree,
    target: &str,
    params: &str,
) -> std::result::Result<Vec<LoadedNow>, LoadError> {
    let params = CString::new(params)
        .map_err(|_| Error::Usage("a parameter cannot have a NUL in it".to_owned()))?;
    let mut done = Vec::new();
    let Plan { files, absent } = plan(tree, target)?;
    for (index, path) in files.iter().enumerate() {
        let params = match index + 1 == files.len() {
            true => params.as_c_str(),
            false => c"",
        };
        match (load_file(path, params), &absent) {
            (Ok(loaded), _) => done.push(loaded),
            (Err(LoadError::Refused { errno, .. }), Some(absent)) if errno == Errno::NOENT => {
                return Err(Error::Usage(absent.clone()).into());
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(done)
}

struct Plan {
    /// The files to load, in order.
    files: Vec<PathBuf>,
    /// What to say of a needed module that has no file, if the kernel misses a symbol. To
    /// the kernel it does not matter what a module says that it needs.
    absent: Option<String>,
}

fn plan(tree: &ModuleTree, target: &str) -> Result<Plan> {
    let is_file = target.contains('/') || target.contains(".ko");
    let path = match is_file {
        true => PathBuf::from(target),
        false => tree.path(target).map(Path::to_owned).ok_or_else(|| {
            Error::Usage(format!(
                "there is no module {target} below {}; give a file's path to load that",
                tree.root().display()
            ))
        })?,
    };
    let name = name_of_path(&path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let needs = match is_file {
        false => tree.needs(&name).to_vec(),
        // What depmod does not know says itself what it needs.
        true => {
            let mut needs = Vec::new();
            for direct in depends(&path)? {
                let further = tree.needs(&direct).to_vec();
                needs.push(direct);
                needs.extend(further);
            }
            needs
        }
    };
    let loaded = crate::kernel::loaded()?;
    let mut files: Vec<PathBuf> = Vec::new();
    let mut absent = None;
    // Those that are needed by others come last, and are to be loaded first.
    for need in needs.iter().rev() {
        if loaded.iter().any(|m| m.name == *need) {
            continue;
        }
        let known = tree.path(need).map(Path::to_owned);
        match known.or_else(|| beside(folder, need)) {
            Some(path) if files.contains(&path) => {}
            Some(path) => files.push(path),
            None => {
                let what = format!(
                    "{name} needs {need}, which is neither loaded nor below {} nor beside it: \
                     load it first",
                    tree.root().display()
                );
                absent.get_or_insert(what);
            }
        }
    }
    files.push(path);
    Ok(Plan { files, absent })
}

/// What a file says that it needs. The kernel is to judge a broken one.
fn depends(path: &Path) -> Result<Vec<String>> {
    let Ok(file) = ModuleFile::read(path) else {
        // For the error, which the system call tells no better.
        File::open(path).map_err(Error::file("open", path))?;
        return Ok(Vec::new());
    };
    let (module, _) = signature::split(&file.bytes);
    let names = Elf::parse(module).map(|elf| {
        let modinfo = Modinfo::of(&elf);
        modinfo.depends().map(str::to_owned).collect()
    });
    Ok(names.unwrap_or_else(|_: Malformed| Vec::new()))
}

fn load_file(path: &Path, params: &std::ffi::CStr) -> std::result::Result<LoadedNow, LoadError> {
    // Without /dev/kmsg there is an errno to go by.
    let log = KernelLog::from_now().ok();
    let result = insert(path, params)?;
    let log: Vec<String> = log
        .map(|mut log| log.records().into_iter().map(|r| r.text).collect())
        .unwrap_or_default();
    match result {
        Ok(()) => Ok(LoadedNow {
            name: own_name(path),
            path: path.to_owned(),
            log,
        }),
        Err(errno) => Err(LoadError::Refused {
            path: path.to_owned(),
            errno,
            explanation: match fs::metadata(path) {
                // kernel_read_file() refuses it, and nothing is logged.
                Ok(file) if file.len() == 0 => Explanation {
                    stage: Stage::CopyAndCheck,
                    reason: "the file is empty",
                },
                _ => explain(errno, &log),
            },
            log,
        }),
    }
}

/// The name by which the kernel knows it, which its file may not have.
fn own_name(path: &Path) -> String {
    let of_file = |file: ModuleFile| {
        let (module, _) = signature::split(&file.bytes);
        let elf = Elf::parse(module).ok()?;
        struct_name(&elf).or_else(|| Modinfo::of(&elf).get("name").map(str::to_owned))
    };
    let name = ModuleFile::read(path).ok().and_then(of_file);
    name.unwrap_or_else(|| name_of_path(path))
}

/// The system call; a compressed file goes in as it is where the kernel knows
/// the compression, and else decompressed.
fn insert(path: &Path, params: &std::ffi::CStr) -> Result<std::result::Result<(), Errno>> {
    /// MODULE_INIT_COMPRESSED_FILE (include/uapi/linux/module.h).
    const COMPRESSED: i32 = 4;
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut magic = [0; 6];
    let start = std::os::unix::fs::FileExt::read_at(&file, &mut magic, 0).unwrap_or(0);
    let Some(compression) = Compression::of(&magic[..start]) else {
        return Ok(finit_module(file.as_fd(), params, 0));
    };
    let known = fs::read_to_string("/sys/module/compression").unwrap_or_default();
    if known.trim() == compression.name() {
        return Ok(finit_module(file.as_fd(), params, COMPRESSED));
    }
    let file = ModuleFile::read(path)?;
    Ok(init_module(&file.bytes, params))
}

/// Why unloading failed.
#[derive(Debug, thiserror::Error)]
pub enum UnloadError {
    /// Others use it.
    #[error("{name} is in use{by}")]
    InUse {
        /// The module.
        name: String,
        /// By whom, as the end of a sentence.
        by: String,
    },
    /// The kernel refused for another reason.
    #[error("the kernel did not unload {name}: {reason}")]
    Refused {
        /// The module.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Unloads a module; tells what the kernel logged meanwhile.
pub fn unload(name: &str) -> std::result::Result<Vec<String>, UnloadError> {
    let name = name_of_path(Path::new(name));
    let refused = |reason: String| UnloadError::Refused {
        name: name.clone(),
        reason,
    };
    let Ok(name_c) = CString::new(name.as_str()) else {
        return Err(refused("no module has a NUL in its name".to_owned()));
    };
    let log = KernelLog::from_now().ok();
    let result = delete_module(&name_c, OPEN_NONBLOCK);
    match result {
        Ok(()) => Ok(log
            .map(|mut log| log.records().into_iter().map(|r| r.text).collect())
            .unwrap_or_default()),
        Err(Errno::WOULDBLOCK) => Err(UnloadError::InUse {
            by: users(&name),
            name,
        }),
        Err(Errno::NOENT) => Err(refused("no module of this name is loaded".to_owned())),
        Err(Errno::BUSY) => Err(refused(
            "it has no exit function, or is being loaded or unloaded now".to_owned(),
        )),
        Err(Errno::PERM) => Err(refused("that is for root".to_owned())),
        Err(errno) => Err(refused(errno.to_string())),
    }
}

/// delete_module(2) without O_NONBLOCK waits for nothing since Linux 3.13, but
/// the flag is part of the interface.
const OPEN_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

fn users(name: &str) -> String {
    let modules = crate::kernel::loaded().unwrap_or_default();
    let running = Running {
        loaded: modules,
        ..Running::default()
    };
    match running.module(name) {
        Some(module) if !module.users.is_empty() => {
            format!(" by {}: unload them first", module.users.join(", "))
        }
        Some(module) => match module.references {
            Some(count) => format!(", {count} times, by what is no module"),
            None => String::new(),
        },
        None => String::new(),
    }
}
