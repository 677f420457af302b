// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver, `ferroce.ko`: built for a kernel, checked, and put where modprobe finds it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use ferroce_kmod::check::{self, Finding, ModuleReport, Reason, Severity, Stage};
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::kernel::Kernel;
use ferroce_lab::cache::Cache;
use ferroce_lab::driver::{is_debians, Signer, Target};
use ferroce_lab::modules::depmod;
use ferroce_lab::progress::note;
use ferroce_lab::provider::write;
use ferroce_lab::Error;

use super::args::{Driver, Place};
use super::dkms::{self, Dkms};
use super::obstacles::{self, Obstacle, Signing, System};
use crate::module::text::paragraph;

/// The module, in the folder of a kernel's modules: below `updates` depmod takes it before any other of its
/// name. The folder is its own, so that what others have put there, as the lab does, is not taken for it.
const MODULE: &str = "updates/ferroce/ferroce.ko";

/// The rule by which all users may open the devices, as they may those of hardware.
const RULE: &str = "etc/udev/rules.d/60-ferroce.rules";
const RULE_TEXT: &str = include_str!("60-ferroce.rules");

/// The driver that is to be installed, and where.
pub struct Plan {
    cache: Cache,
    system: System,
    signer: Option<Signer>,
    /// What it is built with, if that is on this machine already.
    target: Option<Target>,
    dkms: Option<Dkms>,
    /// Whether DKMS, which has this build, signs what comes of it.
    signs_later: bool,
}

impl Plan {
    /// Looks whether the driver can be had, and fails with all that is in the way.
    pub fn new(driver: &Driver, place: &Place) -> Result<Self> {
        let system = System::new(super::root(place), driver.kernel.as_deref());
        let signer = match (&driver.sign_key, &driver.sign_cert) {
            (Some(key), Some(certificate)) => Some(Signer {
                key: fs::canonicalize(key)
                    .with_context(|| format!("cannot find {}", key.display()))?,
                certificate: fs::canonicalize(certificate)
                    .with_context(|| format!("cannot find {}", certificate.display()))?,
            }),
            _ => None,
        };
        let dkms = match &driver.output {
            None if place.destdir.is_none() && signer.is_none() => Dkms::find(),
            _ => None,
        };
        let signing = match (&signer, &dkms) {
            (Some(_), _) => Signing::Key,
            (None, Some(dkms)) if dkms.is_trusted() => Signing::Key,
            (None, Some(_)) => Signing::Dkms,
            (None, None) if driver.for_dkms => Signing::Key,
            (None, None) => Signing::None,
        };
        // A package for a kernel of Debian's takes only what Debian's archive has.
        let is_elsewhere = place.destdir.is_some() || driver.output.is_some();
        let is_package = is_elsewhere && !system.has_kernel();
        let found = match is_package && is_debians(&system.release) {
            true => system.is_too_old().into_iter().collect(),
            false => system.obstacles(signing),
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
            dkms,
            signs_later: driver.for_dkms,
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
        match &self.dkms {
            Some(_) => note(
                "Place",
                "DKMS has it built, for each kernel that is installed later too",
            ),
            None => note("Place", &self.place().display().to_string()),
        }
    }

    fn place(&self) -> PathBuf {
        self.system.modules().join(MODULE)
    }

    /// Builds the driver, checks it against the kernel, and installs it.
    pub fn install(&self, tell: impl Fn(&Path)) -> Result<()> {
        let release = &self.system.release;
        // Where it may not be written, that is to be known before the build.
        let place = self.place();
        let mut folders = place.ancestors().skip(1);
        if let Some(folder) = folders.find(|folder| folder.exists()) {
            let may_write = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
            may_write.map_err(|errno| Error::file("write", &place)(errno.into()))?;
        }
        match &self.dkms {
            Some(dkms) => dkms.install(&project()?, release)?,
            None => {
                write(&place, &self.build()?)?;
                tell(&place);
                self.system.index()?;
            }
        }
        let rule = self.system.path(RULE);
        write(&rule, RULE_TEXT.as_bytes())?;
        tell(&rule);
        Ok(())
    }

    /// Builds the driver, signs it if it is to be signed, and checks it against the kernel. Returns the
    /// module.
    pub fn build(&self) -> Result<Vec<u8>> {
        let target = match &self.target {
            Some(target) => target.clone(),
            None => Target::debian(&self.cache, &self.system.release)?,
        };
        let module = target.driver(&self.cache, &project()?)?;
        let bytes = match &self.signer {
            Some(signer) => target.signed(&self.cache, &module, signer)?,
            None => fs::read(&module).map_err(Error::file("read", &module))?,
        };
        self.check(&target, &module, &bytes)?;
        Ok(bytes)
    }

    /// Has `ferroce module check` look at the module that was built.
    fn check(&self, target: &Target, module: &Path, bytes: &[u8]) -> Result<()> {
        let modules = self.system.modules();
        let installed = match self.system.has_kernel() {
            true => Some(Kernel::installed(&modules)?),
            false => None,
        };
        // Where the headers are not installed, what the kernel exports is with those that were fetched.
        let kernel = match installed.filter(Kernel::knows_exports) {
            Some(kernel) => kernel,
            None => Kernel::build_tree(&target.tree)?,
        };
        // Whom the firmware trusts is not to be seen: who signs the driver says that it will be trusted.
        // DKMS signs it later.
        let is_signed = self.signer.is_some() || self.signs_later;
        let name = module.display().to_string();
        let report = check::check_bytes(&kernel, ModuleFile::from_bytes(&name, bytes.to_vec())?);
        let mut findings: Vec<(Stage, &Finding)> = report
            .modules
            .iter()
            .flat_map(ModuleReport::findings)
            .filter(|(_, finding)| !(is_signed && finding.reason == Reason::Signature))
            .collect();
        findings.retain(|(_, finding)| finding.severity > Severity::Warning);
        let mut text = String::new();
        for (stage, finding) in &findings {
            let what = format!("{}: {}", stage.name(), finding.what);
            text += &paragraph("  - ", 4, &what);
            if let Some(help) = &finding.help {
                text += &paragraph("    > ", 6, help);
            }
        }
        let release = &self.system.release;
        let is_refusal = |(_, finding): &(Stage, &Finding)| finding.severity == Severity::Refused;
        if findings.iter().any(is_refusal) {
            bail!(
                "Linux {release} would not load the driver that was built for it, so it is not installed. \
                 `ferroce module check` says why:\n{}",
                text.trim_end()
            );
        }
        note(
            "Checked",
            &format!("Linux {release} would load it, as far as can be known"),
        );
        eprint!("{text}");
        Ok(())
    }
}

/// The folder with the driver's sources.
pub fn project() -> Result<PathBuf> {
    crate::lab::project(&crate::args::kernel_dir())
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
    for release in System::new(root, None).installed() {
        let system = System::new(root, Some(&release));
        let module = system.modules().join(MODULE);
        if remove_file(&module, &mut tell)? {
            // Empty now, unless others have put something into `updates`.
            for folder in module.ancestors().skip(1).take(2) {
                let _ = fs::remove_dir(folder);
            }
            system.index()?;
        }
    }
    remove_file(&root.join(RULE), &mut tell)?;
    dkms::remove(root, tell)?;
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
    /// Has depmod list the kernel's modules again, if the kernel is there: a package's script does that for
    /// the system that it is installed on.
    fn index(&self) -> Result<(), Error> {
        if !self.has_kernel() {
            return Ok(());
        }
        depmod(&self.root, &self.release, None)
    }
}
