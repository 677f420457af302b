// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the driver cannot be had on a kernel: each reason that can be known before anything is done, with
//! what to do about it.

use std::fs;
use std::path::{Path, PathBuf};

use ferroce_kmod::check::{self, Reason, Request};
use ferroce_kmod::kernel::{Config, Kernel};
use ferroce_lab::driver::{is_debians, Target, SERIES};
use ferroce_lab::prerequisites::numbers;

use crate::module::text::paragraph;

/// A system with a kernel that the driver is to be installed for.
pub struct System {
    /// The system's root.
    pub root: PathBuf,
    /// The kernel's release.
    pub release: String,
}

/// Something that is in the way.
#[derive(Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub what: String,
    /// What helps.
    pub help: String,
}

impl Obstacle {
    fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: help.into(),
        }
    }
}

/// The options that the driver needs.
pub const OPTIONS: [&str; 4] = [
    RUST,
    "CONFIG_INFINIBAND",
    "CONFIG_INFINIBAND_USER_ACCESS",
    "CONFIG_INFINIBAND_ON_DEMAND_PAGING",
];

const RUST: &str = "CONFIG_RUST";

/// Who signs the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Nobody.
    None,
    /// DKMS, with a key that the firmware does not trust yet.
    Dkms,
    /// Somebody whom the kernel trusts.
    Key,
}

const BY_KEY: &str = "sign it with a key that the firmware is told to trust: openssl req -new -x509 -newkey \
     rsa:2048 -nodes -days 3650 -subj /CN=ferroce/ -outform DER -keyout ferroce.key -out ferroce.der; \
     mokutil --import ferroce.der, and reboot, when the firmware asks for the password; then ferroce install \
     --driver --sign-key ferroce.key --sign-cert ferroce.der";

const BY_DKMS: &str = "have the firmware trust the key that DKMS signs with: mokutil --import \
     /var/lib/dkms/mok.pub (where that is not there yet, dkms generate_mok makes it), and reboot, when the \
     firmware asks for the password";

const ANOTHER_KERNEL: &str =
    "boot another kernel: Debian 13 has one in its backports (apt-get install -t \
     trixie-backports linux-image-amd64), or use ferroce run, which needs no driver";

impl System {
    /// The kernel of a release, or the one that runs.
    pub fn new(root: &Path, release: Option<&str>) -> Self {
        let running = || {
            rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned()
        };
        Self {
            root: root.to_owned(),
            release: release.map_or_else(running, str::to_owned),
        }
    }

    /// A path of the system's.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The folder with the kernel's modules.
    pub fn modules(&self) -> PathBuf {
        self.path("lib/modules").join(&self.release)
    }

    /// Whether the kernel's own modules are there, and not just what goes with them.
    pub fn has_kernel(&self) -> bool {
        self.modules().join("kernel").is_dir()
    }

    /// The folder that modules are built against, if it is there.
    pub fn headers(&self) -> Option<PathBuf> {
        let link = self.modules().join("build");
        let target = fs::read_link(&link).ok();
        let inside = target.and_then(|target| {
            let path = self.root.join(target.strip_prefix("/").ok()?);
            path.exists().then_some(path)
        });
        inside.or_else(|| link.canonicalize().ok())
    }

    /// The kernel's configuration, as a text.
    pub fn config(&self) -> Option<String> {
        let headers = self.headers().map(|headers| headers.join(".config"));
        let others = [
            self.modules().join("config"),
            self.path(&format!("boot/config-{}", self.release)),
        ];
        let mut places = headers.into_iter().chain(others);
        places.find_map(|path| fs::read_to_string(path).ok())
    }

    /// That the kernel is older than the driver is for, if it is.
    pub fn is_too_old(&self) -> Option<Obstacle> {
        let release = &self.release;
        is_older(release).then(|| {
            Obstacle::new(
                format!(
                    "Linux {release} is too old: the driver is for Linux {} and later",
                    oldest()
                ),
                ANOTHER_KERNEL,
            )
        })
    }

    /// All that is in the way of the driver on this kernel.
    pub fn obstacles(&self, signing: Signing) -> Vec<Obstacle> {
        let mut found: Vec<Obstacle> = self.is_too_old().into_iter().collect();
        let release = &self.release;
        if !self.modules().is_dir() {
            let installed = self.installed();
            let installed = match &installed[..] {
                [] => "none is".to_owned(),
                installed => format!("installed are {}", installed.join(", ")),
            };
            found.push(Obstacle::new(
                format!(
                    "Linux {release} is not installed: there is no {}",
                    self.modules().display()
                ),
                format!(
                    "name one that is installed ({installed}) by --kernel, or use ferroce run, which needs \
                     no driver"
                ),
            ));
            return found;
        }
        match self.config() {
            None => found.push(Obstacle::new(
                format!("the configuration of Linux {release} is not to be found"),
                self.install_headers(),
            )),
            Some(config) => self.of_config(&Config::parse(&config), signing, &mut found),
        }
        self.of_headers(&mut found);
        found
    }

    fn of_config(&self, config: &Config, signing: Signing, found: &mut Vec<Obstacle>) {
        let release = &self.release;
        if !config.is_set(RUST) {
            found.push(Obstacle::new(
                format!(
                    "Linux {release} was built without CONFIG_RUST, so it takes no driver in Rust"
                ),
                ANOTHER_KERNEL,
            ));
        }
        let missing: Vec<&str> = OPTIONS
            .into_iter()
            .filter(|option| *option != RUST)
            .filter(|option| !matches!(config.get(option), Some("y" | "m")))
            .collect();
        if !missing.is_empty() {
            found.push(Obstacle::new(
                format!("Linux {release} was built without {}", missing.join(", ")),
                ANOTHER_KERNEL,
            ));
        }
        let enforced = self.signatures_enforced(config);
        if let Some(why) = enforced.filter(|_| signing != Signing::Key) {
            let help = match signing {
                Signing::Dkms => BY_DKMS,
                _ => BY_KEY,
            };
            found.push(Obstacle::new(
                format!("Linux {release} loads signed modules only: {why}"),
                help,
            ));
        }
    }

    /// Why the kernel does not load a module without a signature.
    fn signatures_enforced(&self, config: &Config) -> Option<String> {
        let read = |path: &str| fs::read_to_string(self.path(path)).unwrap_or_default();
        if config.is_set("CONFIG_MODULE_SIG_FORCE") {
            return Some("it was built with CONFIG_MODULE_SIG_FORCE".to_owned());
        }
        if read("/sys/module/module/parameters/sig_enforce").trim() == "Y" {
            return Some("module.sig_enforce is on".to_owned());
        }
        let lockdown = read("/sys/kernel/security/lockdown");
        let level = lockdown.split_whitespace().find_map(|word| {
            let level = word.strip_prefix('[')?.strip_suffix(']')?;
            (level != "none").then(|| level.to_owned())
        })?;
        Some(format!(
            "it is locked down ({level}), as it is where Secure Boot is on"
        ))
    }

    fn of_headers(&self, found: &mut Vec<Obstacle>) {
        let release = &self.release;
        let Some(headers) = self.headers().filter(|dir| dir.join("Makefile").exists()) else {
            if !is_debians(release) {
                found.push(Obstacle::new(
                    format!("the headers of Linux {release} are not installed"),
                    self.install_headers(),
                ));
            }
            return;
        };
        if !Target::has_metadata(&headers) && !is_debians(release) {
            found.push(Obstacle::new(
                format!(
                    "the headers of Linux {release}, {}, lack the metadata of the kernel's Rust \
                     crates (rust/libkernel.rmeta)",
                    headers.display()
                ),
                "install the package that has it, on Ubuntu linux-lib-rust; on others, ask the distribution \
                 for it. For Debian's kernels ferroce makes it",
            ));
        }
        let sources = [
            headers.clone(),
            headers.join("source"),
            self.modules().join("source"),
        ];
        let has_rules = sources.iter().any(|dir| dir.join("rust/Makefile").exists());
        if Target::has_metadata(&headers) && !has_rules {
            found.push(Obstacle::new(
                format!(
                    "the headers of Linux {release}, {}, do not say how bindgen is to read the kernel's C: \
                     they lack rust/Makefile and rust/bindgen_parameters",
                    headers.display()
                ),
                "copy these two from the kernel's source of the same release into the headers",
            ));
        }
        if let Some(what) = self.is_of_another_build(&headers) {
            found.push(Obstacle::new(what, self.install_headers()));
        }
    }

    /// Whether the kernel's own modules, by their checksums and versions, are of another build than the
    /// headers, for which the kernel would refuse the driver.
    fn is_of_another_build(&self, headers: &Path) -> Option<String> {
        let installed = Kernel::installed(&self.modules()).ok()?;
        let module = installed.modules.path("ib_core")?;
        let kernel = Kernel::build_tree(headers).ok()?;
        let report = check::check(&kernel, &[Request::new(module)]);
        let module = report.modules.iter().find(|module| module.asked_for)?;
        let reasons = [Reason::Vermagic, Reason::Version, Reason::NoVersion];
        let mut refusals = module.findings();
        let (_, finding) = refusals.find(|(_, finding)| reasons.contains(&finding.reason))?;
        Some(format!(
            "the headers, {}, are of another build than Linux {} is: of its module {}, {}",
            headers.display(),
            self.release,
            module.name,
            finding.what
        ))
    }

    fn install_headers(&self) -> String {
        format!(
            "install the headers of this very kernel (on Debian and Ubuntu: apt-get install linux-headers-{})",
            self.release
        )
    }

    /// The releases that are installed.
    pub fn installed(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("lib/modules"));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_by_key(|name| numbers(name));
        names
    }
}

/// The oldest series that the driver is for.
pub fn oldest() -> &'static str {
    let oldest = SERIES.into_iter().min_by_key(|series| numbers(series));
    oldest.expect("there is one")
}

/// Whether a release is of an older one.
fn is_older(release: &str) -> bool {
    let series: Vec<u64> = numbers(release).into_iter().take(2).collect();
    series < numbers(oldest())
}

/// Obstacles as a report has them.
pub fn text(obstacles: &[Obstacle]) -> String {
    let mut out = String::new();
    for Obstacle { what, help } in obstacles {
        out += &paragraph("  - ", 4, what);
        out += &paragraph("    > ", 6, help);
    }
    out
}
