// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds a kernel, and gathers what is known of it from where the kernel's
//! build, distributions and the kernel itself leave it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{texts, Config, Kernel, Keys, ModuleTree, Running};
use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::signature::Trusted;

impl Kernel {
    /// The kernel that `--kernel` names: a version that is installed, a folder
    /// with an installed kernel's modules, or a build tree.
    pub fn find(which: &str) -> Result<Self> {
        let path = Path::new(which);
        if path.is_dir() {
            let path = fs::canonicalize(path).map_err(Error::file("find", path))?;
            return match () {
                () if ["Module.symvers", ".config", "vmlinux.symvers"]
                    .iter()
                    .any(|name| path.join(name).exists()) =>
                {
                    Self::build_tree(&path)
                }
                () if ["modules.order", "modules.dep", "kernel"]
                    .iter()
                    .any(|name| path.join(name).exists()) =>
                {
                    Self::installed(&path)
                }
                () => Err(Error::Usage(format!(
                    "{} is neither a kernel's build folder (with Module.symvers or .config) nor \
                     the folder of an installed kernel's modules (/lib/modules/VERSION)",
                    path.display()
                ))),
            };
        }
        let folder = Path::new("/lib/modules").join(which);
        match folder.is_dir() {
            true => Self::installed(&folder),
            false => Err(Error::Usage(format!(
                "there is no kernel {which}: it is no folder, and {} is not there; installed are: {}",
                folder.display(),
                installed_versions()
            ))),
        }
    }

    /// The tree that a kernel was built in, or a distribution's excerpt of it
    /// for building modules.
    pub fn build_tree(dir: &Path) -> Result<Self> {
        // What vermagic and `uname -r` are made of is in utsrelease.h; Debian's
        // headers have another release in kernel.release.
        let release = utsrelease(&dir.join("include/generated/utsrelease.h"))
            .or_else(|| read_line(&dir.join("include/config/kernel.release")));
        let mut kernel = Self {
            name: match &release {
                Some(release) => format!("{release} (built in {})", dir.display()),
                None => format!("the one built in {}", dir.display()),
            },
            release,
            modules: ModuleTree::built(dir),
            ..Self::default()
        };
        kernel.read_build(dir)?;
        kernel.conclude();
        Ok(kernel)
    }

    /// An installed kernel, by the folder of its modules.
    pub fn installed(modules: &Path) -> Result<Self> {
        let release = modules.file_name().unwrap_or_default();
        let release = release.to_string_lossy().into_owned();
        let mut kernel = Self {
            name: format!("{release} (installed)"),
            ..Self::default()
        };
        kernel.read_installed(modules, release)?;
        kernel.conclude();
        Ok(kernel)
    }

    /// The kernel that runs this.
    pub fn running() -> Result<Self> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let mut kernel = Self {
            name: format!("{release} (running)"),
            running: Some(Running::look()?),
            ..Self::default()
        };
        let config = Path::new("/proc/config.gz");
        if config.exists() {
            kernel.config = Some(Config::read(config)?);
        }
        kernel.read_installed(&Path::new("/lib/modules").join(&release), release)?;
        let machine = uname.machine().to_string_lossy();
        kernel.arch = kernel.arch.or(match &*machine {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Arm64),
            _ => None,
        });
        // Not there without CONFIG_KALLSYMS.
        let kallsyms = Path::new("/proc/kallsyms");
        if !kernel.knows_exports() && kallsyms.exists() {
            kernel.exports = texts::exports_by_name(kallsyms)?;
        }
        kernel.conclude();
        Ok(kernel)
    }

    /// What is in a build tree.
    fn read_build(&mut self, dir: &Path) -> Result<()> {
        let config = dir.join(".config");
        if self.config.is_none() && config.exists() {
            self.config = Some(Config::read(&config)?);
        }
        for name in ["Module.symvers", "vmlinux.symvers"] {
            let symvers = dir.join(name);
            if self.exports.is_empty() && symvers.exists() {
                self.exports = texts::symvers(&symvers)?;
            }
        }
        self.take_map(&dir.join("System.map"));
        self.keys = keys(dir, self.config.as_ref());
        Ok(())
    }

    /// What is in /lib/modules/RELEASE, beside it in /boot, and in the build
    /// tree that it links to.
    fn read_installed(&mut self, modules: &Path, release: String) -> Result<()> {
        self.modules = ModuleTree::installed(modules);
        // A system may be unpacked somewhere: ROOT/lib/modules/RELEASE.
        let root = match modules.ancestors().nth(3) {
            Some(root) if root.ends_with("usr") => root.parent().unwrap_or(root),
            Some(root) => root,
            None => Path::new("/"),
        };
        let boot = |name: &str| root.join(format!("boot/{name}-{release}"));
        for path in [modules.join("config"), boot("config")] {
            if self.config.is_none() && path.exists() {
                self.config = Some(Config::read(&path)?);
            }
        }
        if let Ok(link) = fs::read_link(modules.join("build")) {
            let build = match link.strip_prefix("/") {
                Ok(path) if root.join(path).exists() => root.join(path),
                _ => modules.join(link),
            };
            self.read_build(&build)?;
        }
        let symvers = ["symvers", "symvers.gz", "symvers.xz", "symvers.zst"];
        let symvers = symvers.iter().map(|name| modules.join(name));
        for path in symvers.chain([root.join(format!("boot/symvers-{release}.gz"))]) {
            if self.exports.is_empty() && path.exists() {
                self.exports = texts::symvers(&path)?;
            }
        }
        self.take_map(&modules.join("System.map"));
        self.take_map(&boot("System.map"));
        if self.exports.is_empty()
            && let Some(map) = &self.system_map
        {
            self.exports = texts::exports_by_name(map)?;
        }
        self.release = Some(release);
        Ok(())
    }

    fn take_map(&mut self, path: &Path) {
        if self.system_map.is_none() && path.exists() {
            self.system_map = Some(path.to_owned());
        }
    }

    /// What follows from what was found.
    fn conclude(&mut self) {
        self.arch = self.config.as_ref().and_then(Config::arch).or(self.arch);
        self.vermagic = match (&self.config, &self.release) {
            (Some(config), Some(release)) => config.vermagic(release),
            _ => None,
        };
        let own: Vec<PathBuf> = self.modules.own().map(Path::to_owned).collect();
        own.iter().find_map(|path| self.learn_from(path));
    }
}

impl ModuleTree {
    /// The modules of the running kernel.
    pub fn of_running() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        Self::installed(&Path::new("/lib/modules").join(&*release))
    }
}

/// The keys that are built into a kernel, by the certificates in its tree.
fn keys(dir: &Path, config: Option<&Config>) -> Keys {
    let Ok(der) = fs::read(dir.join("certs/signing_key.x509")) else {
        return Keys::default();
    };
    let others = config.is_none_or(|config| {
        let list = config.get("CONFIG_SYSTEM_TRUSTED_KEYS");
        list.is_some_and(|keys| !keys.is_empty())
            || config.is_set("CONFIG_SECONDARY_TRUSTED_KEYRING")
            || config.is_set("CONFIG_INTEGRITY_PLATFORM_KEYRING")
    });
    let own = Trusted::from_der(&der);
    Keys {
        complete: own.is_ok() && !others,
        trusted: own.into_iter().collect(),
    }
}

fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// `#define UTS_RELEASE "7.2.12"`.
fn utsrelease(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.split('"').nth(1).map(str::to_owned)
}

fn installed_versions() -> String {
    let entries = fs::read_dir("/lib/modules").into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries.map(|e| e.file_name().into()).collect();
    names.sort();
    let names: Vec<_> = names.iter().map(|n| n.display().to_string()).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Debian 12's linux-headers: kernel.release has 6.1.187 there.
    #[test]
    fn the_release_of_a_headers_folder_is_that_of_utsrelease() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".config", "CONFIG_X86_64=y\nCONFIG_SMP=y\n");
        write("include/config/kernel.release", "6.1.187\n");
        let kernel = Kernel::find(dir.to_str().unwrap()).unwrap();
        assert_eq!(kernel.release.as_deref(), Some("6.1.187"));
        write(
            "include/generated/utsrelease.h",
            "#define UTS_RELEASE \"6.1.0-53-cloud-amd64\"\n",
        );
        let kernel = Kernel::find(dir.to_str().unwrap()).unwrap();
        assert_eq!(kernel.release.as_deref(), Some("6.1.0-53-cloud-amd64"));
        assert_eq!(
            kernel.vermagic.as_deref(),
            Some("6.1.0-53-cloud-amd64 SMP ")
        );
        assert!(kernel.name.starts_with("6.1.0-53-cloud-amd64 "));
    }
}
