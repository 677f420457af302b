// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce lab`.

mod modules;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferroce_lab::backend::{Backend, Flavor};
use ferroce_lab::cache::Cache;
use ferroce_lab::kernel::Kernel;
use ferroce_lab::modules::{lint, Modules};
use ferroce_lab::prerequisites::{self, Purpose};
use ferroce_lab::progress::note;
use ferroce_lab::provider::Provider;
use ferroce_lab::session::Session;
use ferroce_lab::Error;

use crate::args::{Build, Clean, Lab, Machine, Setup};

pub fn run(command: Lab) -> Result<i32> {
    match command {
        Lab::Build(args) => build(&args),
        Lab::Run(args) => session(&args.machine, args.command(), false),
        Lab::Shell(args) => shell(&args.machine),
        Lab::Clean(args) => clean(&args),
    }
}

/// A kernel with its modules, ready to boot.
pub struct Ready {
    pub cache: Cache,
    pub kernel: Kernel,
    pub modules: Modules,
    pub provider: Option<Provider>,
}

impl Ready {
    /// Builds what is not built yet.
    pub fn ensure(setup: &Setup, flavor: Flavor, purposes: &[Purpose]) -> Result<Self> {
        let project = project(&setup.kernel_dir)?;
        let cache = Cache::open()?;
        prerequisites::ensure(&cache, purposes, setup.install())?;
        let kernel = Kernel::ensure(&cache, &project, flavor)?;
        let modules = Modules::ensure(&cache, &project, &kernel)?;
        let provider = Provider::for_guests(crate::install::carried)?;
        Ok(Self {
            cache,
            kernel,
            modules,
            provider,
        })
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
        Ok(session.run(
            &self.cache,
            &self.kernel,
            &self.modules,
            self.provider.as_ref(),
            output,
        )?)
    }
}

/// The folder by which `module --kernel lab:FLAVOR` knows a kernel of the lab's:
/// of its modules, or where these are not built the one it was built in.
pub fn kernel_folder(name: &str) -> Result<PathBuf> {
    let (backend, debug) = match name.strip_suffix("debug") {
        Some(rest) => (rest.trim_end_matches('-'), true),
        None => (name, false),
    };
    let backend = match backend {
        "" => Backend::Uml,
        _ => backend.parse().map_err(|_| unknown_kernel(name))?,
    };
    let flavor = Flavor { backend, debug };
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
         lab:qemu and lab:qemu-debug"
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
    let flavor = args.which.flavor();
    let mut purposes = vec![Purpose::Build(flavor)];
    if args.verbs {
        purposes.push(Purpose::Verbs);
    }
    if args.programs {
        purposes.push(Purpose::Programs);
    }
    let ready = Ready::ensure(&args.setup, flavor, &purposes)?;
    if args.clippy {
        lint(
            &ready.cache,
            &project(&args.setup.kernel_dir)?,
            &ready.kernel,
        )?;
        note("Checked", "the modules have no warnings");
        return Ok(0);
    }
    let Ready {
        kernel, modules, ..
    } = &ready;
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

fn session(machine: &Machine, command: Vec<OsString>, terminal: bool) -> Result<i32> {
    let flavor = machine.which.flavor();
    let counts_instructions = machine.clock.counts_instructions(flavor)?;
    let ready = Ready::ensure(
        &machine.setup,
        flavor,
        &[Purpose::Build(flavor), Purpose::Run(flavor)],
    )?;
    let session = Session {
        command,
        cpus: machine.cpus,
        memory: machine.memory(),
        append: machine.append.clone(),
        counts_instructions,
        timeout: machine.timeout,
        writable: machine.rw.clone(),
        module_files: ready.module_files(&machine.module)?,
        terminal,
        show_log: machine.kernel_log,
    };
    ready.run(&session).map_err(|error| {
        let Some(ferroce_lab::Error::Refused { path, what }) = error.downcast_ref() else {
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
    let name = machine.which.flavor().name();
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
    session(machine, bash.to_vec(), true)
}

fn clean(args: &Clean) -> Result<i32> {
    let cache = Cache::open()?;
    let whole = [
        "kernel", "modules", "provider", "source", "tools", "locks", "kvm",
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
