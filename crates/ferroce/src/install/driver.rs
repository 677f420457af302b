// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver, `ferroce.ko`: built for a kernel, checked, and put where modprobe finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use ferroce_kmod::check::{self, Request, Severity, Verdict};
use ferroce_kmod::kernel::Kernel;
use ferroce_lab::cache::Cache;
use ferroce_lab::driver::{is_debians, Signer, Target};
use ferroce_lab::prerequisites::find_program;
use ferroce_lab::progress::note;
use ferroce_lab::Error;

use super::obstacles::{self, Obstacle, System};
use crate::args::{Driver, Place};
use crate::module::text::paragraph;

/// The module, in the folder of a kernel's modules: there depmod takes it before any other of its name.
const MODULE: &str = "updates/ferroce.ko";

/// The rule by which all users may open the devices, as they may those of hardware.
const RULE: &str = "etc/udev/rules.d/60-ferroce.rules";
const RULE_TEXT: &str = "\
# RDMA devices are for all users: who may do what with which memory is the device's to check.
SUBSYSTEM==\"infiniband_verbs\", KERNEL==\"uverbs*\", MODE=\"0666\"
";

/// The driver that is to be installed, and where.
pub struct Plan {
    cache: Cache,
    system: System,
    signer: Option<Signer>,
    /// What it is built with, if that is on this machine already.
    target: Option<Target>,
}

impl Plan {
    /// Looks whether the driver can be had, and fails with all that is in the way.
    pub fn new(driver: &Driver, place: &Place) -> Result<Self> {
        let release = match &driver.kernel {
            Some(release) => release.clone(),
            None => rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        };
        let system = System {
            root: super::root(place).to_owned(),
            release,
        };
        let signer = match (&driver.sign_key, &driver.sign_cert) {
            (Some(key), Some(certificate)) => Some(Signer {
                key: fs::canonicalize(key)
                    .with_context(|| format!("cannot find {}", key.display()))?,
                certificate: fs::canonicalize(certificate)
                    .with_context(|| format!("cannot find {}", certificate.display()))?,
            }),
            _ => None,
        };
        // A package for a kernel of Debian's takes only what Debian's archive has.
        let is_package = place.destdir.is_some() && !system.modules().is_dir();
        let found = match is_package && is_debians(&system.release) {
            true => Vec::new(),
            false => system.obstacles(signer.is_some()),
        };
        refuse(&system.release, &found)?;
        let cache = Cache::open()?;
        let headers = system.headers();
        let headers = headers.filter(|headers| Target::has_metadata(headers));
        let target = headers.map(|headers| {
            let config = system.config().unwrap_or_default();
            Target::installed(&cache, &system.release, headers, &config)
        });
        let target = target.transpose()?;
        if target.is_none() {
            Target::check_debian(&cache, &system.release)?;
        }
        Ok(Self {
            cache,
            system,
            signer,
            target,
        })
    }

    /// Says what [`Plan::install`] would do.
    pub fn tell(&self) {
        let release = &self.system.release;
        let how = match &self.target {
            Some(target) => format!("for Linux {release}, against {}", target.tree.display()),
            None => format!("for Linux {release}, with compilers and source of Debian's archive"),
        };
        note("Possible", &format!("to build the driver {how}"));
        note("Place", &self.place().display().to_string());
    }

    fn place(&self) -> PathBuf {
        self.system.modules().join(MODULE)
    }

    /// Builds the driver, checks it against the kernel, and installs it.
    pub fn install(&self, tell: impl Fn(&Path)) -> Result<()> {
        let System { root, release } = &self.system;
        // Where it may not be written, that is to be known before the build.
        let place = self.place();
        let folder = place.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        tempfile::NamedTempFile::new_in(folder).map_err(Error::file("write", &place))?;

        let cache = &self.cache;
        let project = crate::lab::project(&crate::args::kernel_dir())?;
        let target = match &self.target {
            Some(target) => target.clone(),
            None => Target::debian(cache, release)?,
        };
        let module = target.driver(cache, &project)?;
        self.check(&target, &module)?;
        let bytes = match &self.signer {
            Some(signer) => target.signed(cache, &module, signer)?,
            None => fs::read(&module).map_err(Error::file("read", &module))?,
        };
        ferroce_lab::provider::write(&place, &bytes)?;
        tell(&place);
        self.system.index()?;
        let rule = self.system.path(RULE);
        ferroce_lab::provider::write(&rule, RULE_TEXT.as_bytes())?;
        tell(&rule);
        Ok(())
    }

    /// Has `ferroce module check` look at the module that was built.
    fn check(&self, target: &Target, module: &Path) -> Result<()> {
        let modules = self.system.modules();
        let kernel = match modules.join("kernel").is_dir() {
            true => Kernel::installed(&modules)?,
            false => Kernel::build_tree(&target.tree)?,
        };
        let report = check::check(&kernel, &[Request::new(module)]);
        let verdict = report.verdict();
        if verdict == Verdict::Loads {
            note("Checked", "the kernel would load it");
            return Ok(());
        }
        let mut text = String::new();
        for module in &report.modules {
            let findings = module.findings();
            let matters = [Severity::Refused, Severity::Undecided];
            for (stage, finding) in findings.filter(|(_, f)| matters.contains(&f.severity)) {
                let what = format!("{}: {}", stage.name(), finding.what);
                text += &paragraph("  - ", 4, &what);
                text += &finding
                    .help
                    .iter()
                    .map(|help| paragraph("    > ", 6, help))
                    .collect::<String>();
            }
        }
        if verdict == Verdict::Refused {
            bail!(
                "Linux {} would not load the driver that was built for it, so it is not installed. `ferroce \
                 module check` says why:\n{text}",
                self.system.release
            );
        }
        note(
            "Checked",
            "as far as it can be known, the kernel would load it",
        );
        eprint!("{text}");
        Ok(())
    }
}

fn refuse(release: &str, found: &[Obstacle]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    bail!(
        "the driver cannot be installed for Linux {release}:\n{}",
        obstacles::text(found).trim_end()
    )
}

/// Removes what [`Plan::install`] made, for each kernel, and tells of each file.
pub fn remove(root: &Path, mut tell: impl FnMut(&Path)) -> Result<(), Error> {
    let system = |release: String| System {
        root: root.to_owned(),
        release,
    };
    for release in system(String::new()).installed() {
        let system = system(release);
        if remove_file(&system.modules().join(MODULE), &mut tell)? {
            system.index()?;
        }
    }
    remove_file(&root.join(RULE), &mut tell)?;
    Ok(())
}

fn remove_file(path: &Path, tell: &mut impl FnMut(&Path)) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => {
            tell(path);
            Ok(true)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::file("remove", path)(e)),
    }
}

impl System {
    /// Has depmod list the kernel's modules anew, if the kernel is there: a package's script does that for
    /// the system that it is installed on.
    fn index(&self) -> Result<(), Error> {
        if !self.modules().join("kernel").is_dir() {
            return Ok(());
        }
        let depmod = find_program("depmod").unwrap_or_else(|| "depmod".into());
        let mut depmod = Command::new(depmod);
        let output = depmod.arg("-b").arg(&self.root).arg(&self.release).output();
        let output = output.map_err(|source| Error::Start {
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
}
