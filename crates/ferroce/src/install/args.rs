// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ferroce install` and `ferroce uninstall`.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where the plug-in is installed.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Take this folder for the root, to make a package of the files in it
    #[arg(long, env = "DESTDIR", value_name = "DIR", hide_env_values = true)]
    pub destdir: Option<PathBuf>,
    /// Install for this libibverbs, not for the one of this machine
    #[arg(long, value_name = "FILE")]
    pub libibverbs: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Installation {
    #[command(flatten)]
    pub place: Place,
    /// Install this plug-in, not the one that this program carries
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    #[command(flatten)]
    pub driver: Driver,
}

/// Whether and how the driver is installed.
#[derive(Debug, Default, clap::Args)]
pub struct Driver {
    /// Build and install the driver too, for the kernel that runs
    #[arg(long)]
    pub driver: bool,
    /// Build and install the driver too, for this kernel, such as
    /// 7.3.4+deb13-amd64
    #[arg(long, value_name = "RELEASE", value_parser = release)]
    pub kernel: Option<String>,
    /// Only say what is in the way of the driver, or what would be done
    #[arg(long)]
    pub check: bool,
    /// Only build the driver, into this file, and install nothing
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub output: Option<PathBuf>,
    /// Only put the driver's source into DIR for DKMS, to make a package of it
    #[arg(long, requires = "destdir", conflicts_with_all = ["driver", "kernel", "check", "output"])]
    pub dkms: bool,
    /// It is DKMS that wants the driver, and signs it.
    #[arg(long, hide = true, requires = "output")]
    pub for_dkms: bool,
    /// Sign the driver with this private key, a file in PEM
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    pub sign_key: Option<PathBuf>,
    /// The certificate of that key, which the kernel is to trust, a file in DER
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    pub sign_cert: Option<PathBuf>,
}

impl Driver {
    /// Whether it is to be installed, or looked whether it can be.
    pub fn is_wanted(&self) -> bool {
        self.driver
            || self.kernel.is_some()
            || self.check
            || self.output.is_some()
            || self.sign_key.is_some()
    }

    /// The words that say the same on another command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        words.extend(self.driver.then(|| "--driver".into()));
        let kernel = self.kernel.iter().map(OsString::from);
        words.extend(kernel.flat_map(|kernel| ["--kernel".into(), kernel]));
        for (option, file) in [
            ("--sign-key", &self.sign_key),
            ("--sign-cert", &self.sign_cert),
        ] {
            let file = file.iter().map(OsString::from);
            words.extend(file.flat_map(|file| [option.into(), file]));
        }
        words
    }
}

/// A kernel's release becomes part of paths, and of apt's arguments.
fn release(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+-~_".contains(c);
    match text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("give one such as 7.3.4+deb13-amd64, as `uname -r` prints it".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub struct Removal {
    #[command(flatten)]
    pub place: Place,
}
