// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the project's modules against a kernel, and puts them together with
//! the kernel's own into a folder that a guest sees as /lib/modules/RELEASE.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::cache::{hex, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::kernel::{follow, Kernel};
use crate::prerequisites::find_program;
use crate::progress::{self, note, Task, Unit};

/// A module of the project's: its folder, and the folders of those whose
/// symbols it imports, which come before it.
struct Package {
    folder: &'static str,
    imports: &'static [&'static str],
}

const PACKAGES: [Package; 10] = [
    Package {
        folder: "driver",
        imports: &[],
    },
    Package {
        folder: "rdma/test",
        imports: &[],
    },
    Package {
        folder: "examples/hello",
        imports: &[],
    },
    Package {
        folder: "examples/greeter",
        imports: &[],
    },
    Package {
        folder: "examples/visitor",
        imports: &["examples/greeter"],
    },
    Package {
        folder: "examples/tiny1",
        imports: &[],
    },
    Package {
        folder: "examples/tiny2",
        imports: &[],
    },
    Package {
        folder: "examples/tiny3",
        imports: &[],
    },
    Package {
        folder: "tests/crash",
        imports: &[],
    },
    Package {
        folder: "tests/kverbs",
        imports: &[],
    },
];

/// What tells this way of laying out /lib/modules from those before it: with
/// `build`, the link to the kernel's build folder, which a guest sees as well.
const LAYOUT: &str = "2";

/// What else the driver is built of, from the folder of the modules.
const CRATES: [&str; 2] = ["../crates/ferroce-core/src", "../crates/ferroce-device/src"];

/// The workspace's manifest, which has the release.
const MANIFEST: &str = "../Cargo.toml";

/// Modules that are built and in place.
#[derive(Debug, Clone)]
pub struct Modules {
    /// The folder for /lib/modules/RELEASE. The project's modules are below
    /// `updates`.
    pub folder: PathBuf,
    /// Whether this call had to build them.
    pub built_now: bool,
}

impl Modules {
    /// Finds the modules for a kernel in the cache, or builds them.
    ///
    /// `project` is the folder with the modules' sources.
    pub fn ensure(cache: &Cache, project: &Path, kernel: &Kernel) -> Result<Self> {
        let root = place(cache, project, &kernel.name())?;
        let (all, key) = (
            root.parent().unwrap_or(&root),
            root.file_name().unwrap_or_default(),
        );
        let name = kernel.name();
        let folder = root.join("lib/modules").join(&kernel.release);
        if Seal::check(&root, |_| true) == Found::Whole {
            return Ok(Self {
                folder,
                built_now: false,
            });
        }
        let _lock = cache.lock(&format!("modules-{name}"), "building the modules")?;
        if Seal::check(&root, |_| true) == Found::Whole {
            return Ok(Self {
                folder,
                built_now: false,
            });
        }
        let started = Instant::now();
        let built = build(&all.join("build"), project, kernel, &[])?;
        install(all, &root, kernel, &built)?;
        remove_old(all, &key.to_string_lossy());
        note(
            "Built",
            &format!(
                "{} modules in {}",
                built.len(),
                progress::time(started.elapsed())
            ),
        );
        Ok(Self {
            folder,
            built_now: true,
        })
    }

    /// The folder for /lib/modules/RELEASE, if they are in the cache already.
    pub fn find(cache: &Cache, project: &Path, kernel: &Kernel) -> Result<Option<PathBuf>> {
        Self::find_for(cache, project, &kernel.name(), &kernel.release)
    }

    /// As [`find`](Self::find), for a kernel by the name of its folder and its release.
    pub(crate) fn find_for(
        cache: &Cache,
        project: &Path,
        name: &str,
        release: &str,
    ) -> Result<Option<PathBuf>> {
        let root = place(cache, project, name)?;
        let whole = Seal::check(&root, |_| true) == Found::Whole;
        Ok(whole.then(|| root.join("lib/modules").join(release)))
    }
}

/// Where the modules for a kernel are in the cache, or are to be.
fn place(cache: &Cache, project: &Path, kernel: &str) -> Result<PathBuf> {
    let key = &sources_key(project)?[..12];
    Ok(cache.path("modules").join(kernel).join(key))
}

/// Compiles the modules with clippy and takes its warnings for errors.
pub fn lint(cache: &Cache, project: &Path, kernel: &Kernel) -> Result<()> {
    let name = kernel.name();
    let _lock = cache.lock(
        &format!("clippy-{name}"),
        "checking the modules with clippy",
    )?;
    let out = cache.path("modules").join(name).join("clippy");
    build(
        &out,
        project,
        kernel,
        &["CLIPPY=1", "KRUSTFLAGS=-Dwarnings"],
    )?;
    Ok(())
}

/// Builds each package in a folder of its own below `out`.
fn build(out: &Path, project: &Path, kernel: &Kernel, options: &[&str]) -> Result<Vec<PathBuf>> {
    let mut task = Task::start(
        "Building",
        "the modules",
        Unit::Steps,
        5 * PACKAGES.len() as u64,
    );
    let mut built = Vec::new();
    for Package { folder, imports } in PACKAGES {
        let place = out.join(folder);
        fs::create_dir_all(&place).map_err(Error::file("create", &place))?;
        let mut make = kernel.make();
        make.current_dir(&kernel.dir)
            .arg(format!("M={}", project.join(folder).display()))
            .arg(format!("MO={}", place.display()))
            .args(options)
            .arg("modules");
        if !imports.is_empty() {
            let symbols = imports
                .iter()
                .map(|i| out.join(i).join("Module.symvers").display().to_string());
            make.arg(format!(
                "KBUILD_EXTRA_SYMBOLS={}",
                symbols.collect::<Vec<_>>().join(" ")
            ));
        }
        let what = format!("building {}", project.join(folder).display());
        follow(make, &what, &place.join("ferroce-build.log"), |step| {
            task.step(step)
        })?;
        let order = place.join("modules.order");
        let names = fs::read_to_string(&order).map_err(Error::file("read", &order))?;
        built.extend(
            names
                .lines()
                .map(|name| place.join(name).with_extension("ko")),
        );
    }
    Ok(built)
}

/// Puts the kernel's modules and the project's together, with the index that
/// modprobe reads.
fn install(all: &Path, root: &Path, kernel: &Kernel, built: &[PathBuf]) -> Result<()> {
    let staging = tempfile::Builder::new()
        .prefix("installing-")
        .tempdir_in(all)
        .map_err(Error::file("create a folder in", all))?;
    let mut make = kernel.make();
    make.current_dir(&kernel.dir)
        .arg(format!("INSTALL_MOD_PATH={}", staging.path().display()))
        // depmod is run below, with the project's modules in place.
        .args(["DEPMOD=true", "modules_install"]);
    follow(
        make,
        "installing the kernel's modules",
        &all.join("install.log"),
        |_| (),
    )?;

    let release = staging.path().join("lib/modules").join(&kernel.release);
    let updates = release.join("updates");
    fs::create_dir_all(&updates).map_err(Error::file("create", &updates))?;
    for module in built {
        let place = updates.join(module.file_name().unwrap_or_default());
        fs::copy(module, &place).map_err(Error::file("create", place))?;
    }
    depmod(
        staging.path(),
        &kernel.release,
        Some(&kernel.dir.join("System.map")),
    )?;

    let files = files_below(staging.path())?;
    Seal::write(
        staging.path(),
        files
            .iter()
            .filter_map(|f| Some(f.strip_prefix(staging.path()).ok()?.to_owned())),
    )?;
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", root)(e));
        }
        _ => {}
    }
    fs::rename(staging.keep(), root).map_err(Error::file("create", root))
}

/// Has depmod(8) write the index of the modules in `lib/modules/RELEASE` below
/// a root.
pub fn depmod(root: &Path, release: &str, map: Option<&Path>) -> Result<()> {
    let depmod = find_program("depmod").unwrap_or_else(|| "depmod".into());
    let mut command = Command::new(depmod);
    command.arg("-b").arg(root);
    if let Some(map) = map {
        command.arg("-F").arg(map);
    }
    let output = command
        .arg(release)
        .output()
        .map_err(|source| Error::Start {
            program: "depmod".to_owned(),
            source,
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Failed {
            what: "depmod".to_owned(),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}

/// Keeps the folders of the last sets of sources: guests that still run use
/// theirs, of other checkouts as well.
pub(crate) fn remove_old(all: &Path, key: &str) {
    const KEPT: usize = 16;
    let Ok(entries) = fs::read_dir(all) else {
        return;
    };
    let mut old: Vec<_> = entries
        .flatten()
        .filter(|e| {
            ![key, "build", "clippy"].iter().any(|n| e.file_name() == *n) && e.path().is_dir()
        })
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(KEPT) {
        let _ = fs::remove_dir_all(path);
    }
}

/// Tells one state of the modules' sources from another.
pub(crate) fn sources_key(project: &Path) -> Result<String> {
    if project
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|b| b.is_ascii_whitespace() || *b == b':')
    {
        return Err(Error::Usage(format!(
            "the kernel's build does not work in a folder with spaces or colons in its path: move the project out of {}",
            project.display()
        )));
    }
    let mut files = files_below(project)?;
    for sources in CRATES {
        files.extend(files_below(&project.join(sources))?);
    }
    files.push(project.join(MANIFEST));
    files.sort();
    let mut hasher = Sha256::new();
    hasher.update(LAYOUT);
    for file in files {
        let text = fs::read(&file).map_err(Error::file("read", &file))?;
        hasher.update(file.as_os_str().as_encoded_bytes());
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    Ok(hex(&hasher.finalize()))
}

pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(&dir)
            .map_err(Error::file("read", &dir))?
            .flatten()
        {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    Ok(files)
}
