// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce lab`.

pub mod args;
mod modules;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferroce_lab::backend::{Backend, Flavor, Series};
use ferroce_lab::cache::Cache;
use ferroce_lab::distribution::Distribution;
use ferroce_lab::driver::{is_debians, Target};
use ferroce_lab::image::Image;
use ferroce_lab::kernel::Kernel;
use ferroce_lab::modules::{lint, Modules};
use ferroce_lab::pack;
use ferroce_lab::prerequisites::{self, Purpose};
use ferroce_lab::progress::{self, note};
use ferroce_lab::provider::Provider;
use ferroce_lab::session::{hosts, Session};
use ferroce_lab::Error;

use crate::args::Setup;
use args::{Build, Choice, Clean, Lab, Machine, Pack};

pub fn run(command: Lab) -> Result<i32> {
    match command {
        Lab::Build(args) => build(&args),
        Lab::Run(args) => session(&args.machine, args.command(), false, args.hosts),
        Lab::Shell(args) => shell(&args.machine),
        Lab::Pack(args) => pack(&args),
        Lab::Unpack { file } => unpack(&file),
        Lab::Clean(args) => clean(&args),
    }
}

/// A kernel with its modules, ready to boot.
pub struct Ready {
    pub cache: Cache,
    pub image: Image,
    pub provider: Option<Provider>,
}

impl Ready {
    /// Gets or builds what is not there yet, and the programs for `more` than to run a guest.
    pub fn ensure(setup: &Setup, choice: &Choice, more: &[Purpose]) -> Result<Self> {
        let cache = Cache::open()?;
        let mut purposes = vec![Purpose::Run(choice.backend())];
        purposes.extend(more);
        let image = match choice {
            Choice::Built(flavor) => match without_compilers(&cache, setup, *flavor)? {
                Some(image) => {
                    prerequisites::ensure(&cache, &purposes, setup.install())?;
                    image
                }
                None => {
                    purposes.push(Purpose::Build(*flavor));
                    prerequisites::ensure(&cache, &purposes, setup.install())?;
                    let (kernel, modules) = built(&cache, setup, *flavor)?;
                    Image::built(&kernel, &modules)
                }
            },
            Choice::Distribution(kernel) => {
                // What was unpacked serves where Debian is not to be reached.
                let packed = match kernel {
                    Distribution::Debian(None) => pack::find(&cache, "debian"),
                    _ => None,
                };
                if packed.is_none() && kernel.is_to_be_fetched(&cache) {
                    purposes.push(Purpose::Debian);
                }
                prerequisites::ensure(&cache, &purposes, setup.install())?;
                let found = kernel.ensure(&cache, |release| {
                    let target = Target::find_debian(&cache, release);
                    let found = target.zip(project(&setup.kernel_dir).ok());
                    let driver =
                        found.map(|(target, project)| target.find_driver(&cache, &project));
                    Ok(driver.transpose()?.flatten())
                });
                found.or_else(|error| packed.ok_or(error))?
            }
        };
        let provider = Provider::for_guests(crate::install::carried)?;
        Ok(Self {
            cache,
            image,
            provider,
        })
    }

    /// The driver for the kernel: with the lab's own kernels' modules, or built for Debian's.
    pub fn driver(&self, kernel_dir: &Path) -> Result<PathBuf> {
        let Image {
            modules, release, ..
        } = &self.image;
        let own = modules.join("updates/ferroce.ko");
        if own.exists() {
            return Ok(own);
        }
        if !is_debians(release) {
            return Err(Error::Usage(format!(
                "the driver is built for the lab's kernels and for Debian's, which Linux {release} is not: after \
                 `ferroce install --kernel {release}` it is one of the kernel's modules"
            ))
            .into());
        }
        let target = Target::debian(&self.cache, release)?;
        Ok(target.driver(&self.cache, &project(kernel_dir)?)?)
    }

    pub fn run(&self, session: &Session) -> Result<i32> {
        self.run_to(session, std::io::stdout())
    }

    /// Runs it with its standard output going elsewhere.
    pub fn run_to(
        &self,
        session: &Session,
        output: impl std::io::Write + Send + 'static,
    ) -> Result<i32> {
        Ok(session.run(&self.cache, &self.image, self.provider.as_ref(), output)?)
    }
}

/// The kernel to take where none can be built, for want of sources or of Rust: one that was built before, or
/// that was unpacked.
fn without_compilers(cache: &Cache, setup: &Setup, flavor: Flavor) -> Result<Option<Image>> {
    let project = project(&setup.kernel_dir);
    let has_rust = prerequisites::find_program("rustc").is_some();
    let cached = match project {
        Ok(_) if has_rust => return Ok(None),
        Ok(project) => Image::cached(cache, &project, flavor)?,
        Err(_) => None,
    };
    Ok(cached.or_else(|| pack::find(cache, &flavor.name())))
}

/// A kernel that the lab builds, and the project's modules for it.
fn built(cache: &Cache, setup: &Setup, flavor: Flavor) -> Result<(Kernel, Modules)> {
    let project = project(&setup.kernel_dir)?;
    let kernel = Kernel::ensure(cache, &project, flavor)?;
    let modules = Modules::ensure(cache, &project, &kernel)?;
    Ok((kernel, modules))
}

/// The folder by which `module --kernel lab:FLAVOR` knows a kernel of the lab's:
/// of its modules, or where these are not built the one it was built in.
pub fn kernel_folder(name: &str) -> Result<PathBuf> {
    if let Ok(kernel @ Distribution::Debian(_)) = name.parse::<Distribution>() {
        let folder = kernel.find_modules(&Cache::open()?)?;
        let missing = || {
            Error::Usage(format!(
                "it is not fetched yet: ferroce lab build --kernel {kernel}"
            ))
        };
        return Ok(folder.ok_or_else(missing)?);
    }
    let (backend, debug) = match name.strip_suffix("debug") {
        Some(rest) => (rest.trim_end_matches('-'), true),
        None => (name, false),
    };
    let backend = match backend {
        "" => Backend::Uml,
        _ => backend.parse().map_err(|_| unknown_kernel(name))?,
    };
    let flavor = Flavor {
        backend,
        debug,
        series: Series::BEST,
    };
    let project = project(&crate::args::kernel_dir())?;
    let cache = Cache::open()?;
    let Some(kernel) = Kernel::find(&cache, &project, flavor)? else {
        let backend = match backend {
            Backend::Uml => "",
            Backend::Qemu => " --backend qemu",
        };
        let debug = if debug { " --debug" } else { "" };
        return Err(Error::Usage(format!(
            "the lab's kernel {} is not built yet: ferroce lab build{backend}{debug}",
            flavor.name()
        ))
        .into());
    };
    let modules = Modules::find(&cache, &project, &kernel)?;
    Ok(modules.unwrap_or(kernel.dir))
}

fn unknown_kernel(name: &str) -> Error {
    Error::Usage(format!(
        "the lab has no kernel {name}: its kernels are lab (which is lab:uml), lab:uml-debug, \
         lab:qemu, lab:qemu-debug and lab:debian"
    ))
}

/// The folder with the kernel modules' sources, if it is there.
pub fn project(kernel_dir: &Path) -> Result<PathBuf> {
    kernel_dir.canonicalize().with_context(|| {
        format!(
            "the kernel modules' sources are not at {}; say where they are with --kernel-dir, or \
             in FERROCE_KERNEL_DIR",
            kernel_dir.display()
        )
    })
}

fn build(args: &Build) -> Result<i32> {
    let mut more = Vec::new();
    if args.verbs {
        more.push(Purpose::Verbs);
    }
    if args.programs {
        more.push(Purpose::Programs);
    }
    let flavor = match args.kernel.choice(None)? {
        Choice::Built(flavor) => flavor,
        choice if !args.clippy => {
            let mut ready = Ready::ensure(&args.setup, &choice, &more)?;
            let driver = match args.driver {
                true => {
                    let driver = ready.driver(&args.setup.kernel_dir)?;
                    // With the driver among its modules.
                    ready = Ready::ensure(&args.setup, &choice, &more)?;
                    Some(driver)
                }
                false => None,
            };
            let image = &ready.image;
            note("Ready", &image.to_string());
            note("Kernel", &image.file.display().to_string());
            note("Modules", &image.modules.display().to_string());
            if let Some(driver) = driver {
                if let Some(target) = Target::find_debian(&ready.cache, &image.release) {
                    note("Headers", &target.tree.display().to_string());
                }
                note("Driver", &driver.display().to_string());
            }
            return Ok(0);
        }
        _ => anyhow::bail!("--clippy needs a kernel that the lab builds: leave out --kernel"),
    };
    let cache = Cache::open()?;
    more.push(Purpose::Build(flavor));
    prerequisites::ensure(&cache, &more, args.setup.install())?;
    let (kernel, modules) = built(&cache, &args.setup, flavor)?;
    if args.clippy {
        lint(&cache, &project(&args.setup.kernel_dir)?, &kernel)?;
        note("Checked", "the modules have no warnings");
        return Ok(0);
    }
    if !kernel.built_now && !modules.built_now {
        note(
            "Fresh",
            &format!("Linux {} for {flavor} and its modules", kernel.release),
        );
    }
    note("Kernel", &kernel.image().display().to_string());
    note(
        "Modules",
        &modules.folder.join("updates").display().to_string(),
    );
    note(
        "Yours",
        &format!("make -C {} M=$PWD modules", kernel.dir.display()),
    );
    Ok(0)
}

fn session(machine: &Machine, command: Vec<OsString>, terminal: bool, count: u32) -> Result<i32> {
    let choice = machine.choice(count)?;
    let counts_instructions = machine.clock.counts_instructions(choice.backend())?;
    let mut ready = Ready::ensure(&machine.setup, &choice, &[])?;
    let module_files = ready.module_files(&machine.module, &machine.setup.kernel_dir)?;
    let session = Session {
        command,
        cpus: machine.cpus,
        memory: machine.memory(),
        append: machine.append.clone(),
        counts_instructions,
        cards: machine.cards(),
        monitor: machine.monitor.clone(),
        timeout: machine.timeout,
        writable: machine.rw.clone(),
        module_files,
        terminal,
        show_log: machine.kernel_log,
    };
    let result = match count {
        1 => ready.run(&session),
        _ => {
            let provider = ready.provider.as_ref();
            let run = hosts::run(&session, count, &ready.cache, &ready.image, provider);
            run.map_err(Into::into)
        }
    };
    result.map_err(|error| {
        let refused = match error.downcast_ref() {
            Some(Error::Host { error, .. }) => Some(&**error),
            error => error,
        };
        let Some(Error::Refused { path, what }) = refused else {
            return error;
        };
        let file = session.module_files.iter().find(|file| file.path == *path);
        let why = file.map(|file| ready.why_refused(file, what));
        match why.filter(|why| !why.is_empty()) {
            Some(why) => anyhow::anyhow!("{what}\n{why}"),
            None => error,
        }
    })
}

fn shell(machine: &Machine) -> Result<i32> {
    let name = match machine.choice(1)? {
        Choice::Built(flavor) => flavor.name(),
        Choice::Distribution(kernel) => kernel.to_string(),
    };
    // The user's own settings, and then a prompt that says where one is.
    let prompt = format!(r"\[\e[1;33m\](ferroce {name})\[\e[0m\] \w \$ ");
    let settings = format!("[ -r ~/.bashrc ] && . ~/.bashrc\nPROMPT_COMMAND=\nPS1='{prompt}'\n");
    let mut file = tempfile::Builder::new()
        .prefix("ferroce-shell-")
        .tempfile()?;
    std::io::Write::write_all(&mut file, settings.as_bytes())?;
    let bash = [
        OsString::from("bash"),
        "--rcfile".into(),
        file.path().into(),
        "-i".into(),
    ];
    session(machine, bash.to_vec(), true, 1)
}

fn pack(args: &Pack) -> Result<i32> {
    let ready = Ready::ensure(&args.setup, &args.kernel.choice(None)?, &[])?;
    pack::pack(&ready.image, &args.output)?;
    let size = std::fs::metadata(&args.output).map_or(0, |found| found.len());
    note(
        "Packed",
        &format!("{}, {}", args.output.display(), progress::bytes(size)),
    );
    note(
        "There",
        &format!(
            "tar -xzf {0} {1} && ./{1} lab unpack {0}",
            args.output.display(),
            pack::PROGRAM
        ),
    );
    Ok(0)
}

fn unpack(file: &Path) -> Result<i32> {
    let image = pack::unpack(&Cache::open()?, file)?;
    note("Unpacked", &image.to_string());
    Ok(0)
}

fn clean(args: &Clean) -> Result<i32> {
    let cache = Cache::open()?;
    let whole = [
        "kernel",
        "modules",
        "provider",
        "packed",
        "distribution",
        "source",
        "tools",
        "locks",
        "kvm",
        "vm-image",
    ];
    let names = if args.all { &whole[..] } else { &whole[..3] };
    let mut removed = false;
    for name in names {
        removed |= remove(&cache.path(name))?;
    }
    if !removed {
        note("Clean", "there was nothing to remove");
    }
    Ok(0)
}

fn remove(path: &Path) -> Result<bool> {
    let result = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match result {
        Ok(()) => {
            note("Removed", &path.display().to_string());
            Ok(true)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot remove {}", path.display())),
    }
}
