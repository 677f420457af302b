// SPDX-License-Identifier: MIT OR Apache-2.0
//! Virtual machines that stay: a disk over a cloud image, which cloud-init sets up when it first boots, on
//! QEMU, reached by ssh.
//!
//! Each has a folder in the user's data folder, with its [`Settings`], its disk, the keys, the seed for
//! cloud-init, and while it runs the sockets to QEMU.

mod boot;
mod cloud;
mod console;
mod disk;
mod machine;
mod qmp;
mod seed;
mod ssh;
mod stop;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::progress::note;

pub use cloud::Image;
pub use disk::Base;
pub use machine::Started;
pub use seed::{PASSWORD, SHARE, USER};

/// The name of a machine, which is its host name too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A label of a host name (RFC 1123, 2.1).
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let ends = |c: Option<char>| c.is_some_and(|c| c != '-');
        let mut chars = text.chars();
        let (first, last) = (chars.next(), text.chars().last());
        match text.len() <= 63 && text.chars().all(is_plain) && ends(first) && ends(last) {
            true => Ok(Self(text.to_owned())),
            false => Err("give letters a to z, digits and hyphens, such as lesson-1".to_owned()),
        }
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The image under its disk.
    pub base: Base,
    /// The size of the disk in bytes.
    pub disk: u64,
    /// Its memory in bytes.
    pub memory: u64,
    /// How many processors it has.
    pub cpus: u32,
    /// The folder of the host's that it has at [`SHARE`].
    pub share: Option<PathBuf>,
    /// The port of the host's loopback address that leads to its ssh.
    pub port: u16,
    /// What cloud-init installs.
    pub packages: Vec<String>,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub settings: Settings,
    folder: PathBuf,
}

/// The user's machines.
#[derive(Debug, Clone)]
pub struct Vms {
    root: PathBuf,
}

/// The first port that is given to a machine.
const FIRST_PORT: u16 = 2222;
const SETTINGS: &str = "vm.json";
/// The longest path of a socket (unix(7)), with the zero at its end left out.
const SOCKET_PATH: usize = 107;

impl Vms {
    /// Those in `ferroce/vm` in the user's data folder, which the first one makes.
    pub fn open() -> Result<Self> {
        let data = dirs::data_dir().ok_or_else(|| {
            Error::Usage("no data folder is known: set HOME or XDG_DATA_HOME".into())
        })?;
        Ok(Self {
            root: data.join("ferroce/vm"),
        })
    }

    /// The folder with the cloud images that were fetched.
    fn images(&self) -> PathBuf {
        self.root.with_file_name("images")
    }

    /// The image, fetched if need be.
    pub fn image(&self, image: &Image) -> Result<Base> {
        let file = match image {
            Image::File(file) => file.clone(),
            Image::Cloud(cloud) => cloud.ensure(&self.images())?,
        };
        Base::read(&file)
    }

    /// All of them, by name.
    pub fn all(&self) -> Result<Vec<Vm>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::file("read", &self.root))?,
        };
        let mut names: Vec<Name> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names.iter().map(|name| self.read(name)).collect()
    }

    /// The one of this name.
    pub fn get(&self, name: &Name) -> Result<Vm> {
        if self.root.join(&name.0).exists() {
            return self.read(name);
        }
        let names: Vec<String> = self.all()?.into_iter().map(|vm| vm.name).collect();
        let others = match &names[..] {
            [] => "nor any other".to_owned(),
            names => format!("but {}", names.join(", ")),
        };
        Err(Error::Usage(format!(
            "there is no virtual machine {0}, {others}. To make it: ferroce vm create {0}",
            name.0
        )))
    }

    fn read(&self, name: &Name) -> Result<Vm> {
        let folder = self.root.join(&name.0);
        let file = folder.join(SETTINGS);
        let text = fs::read(&file).map_err(Error::file("read", &file))?;
        let settings = serde_json::from_slice(&text).map_err(|wrong| {
            Error::Usage(format!(
                "{} is not as ferroce wrote it: {wrong}",
                file.display()
            ))
        })?;
        Ok(Vm {
            name: name.0.clone(),
            settings,
            folder,
        })
    }

    /// Fails if a machine of this name could not be made.
    pub fn check_new(&self, name: &Name) -> Result<()> {
        let folder = self.root.join(&name.0);
        if folder.exists() {
            return Err(Error::Usage(format!(
                "there is a virtual machine {0} already: start it (ferroce vm start {0}), delete it \
                 (ferroce vm delete {0}), or give another name",
                name.0
            )));
        }
        let longest = folder.join(machine::CONSOLE).as_os_str().len();
        if longest > SOCKET_PATH {
            return Err(Error::Usage(format!(
                "the path of {} is too long, by {} characters, for a socket in it: give a shorter name, \
                 or set XDG_DATA_HOME to another folder",
                folder.display(),
                longest - SOCKET_PATH
            )));
        }
        Ok(())
    }

    /// Makes one. It is not started.
    pub fn create(&self, name: &Name, settings: Settings) -> Result<Vm> {
        self.check_new(name)?;
        settings.check()?;
        fs::create_dir_all(&self.root).map_err(Error::file("create", &self.root))?;
        // Its name has a dot, which no machine's has.
        let staging = tempfile::Builder::new()
            .prefix(".creating-")
            // The keys, the disk and the console are for nobody else.
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.root)
            .map_err(Error::file("create a folder in", &self.root))?;
        let dir = staging.path();
        disk::create(&dir.join(disk::FILE), &settings)?;
        let keys = ssh::Keys::make(dir, &name.0)?;
        seed::Seed::new(&name.0, &settings, &keys).write(&dir.join(seed::FILE))?;
        let file = dir.join(SETTINGS);
        settings.write(&file)?;
        let folder = self.root.join(&name.0);
        fs::rename(dir, &folder).map_err(Error::file("create", &folder))?;
        Ok(Vm {
            name: name.0.clone(),
            settings,
            folder,
        })
    }

    /// A port that no other machine has, and nothing else listens at.
    pub fn free_port(&self) -> Result<u16> {
        let taken: Vec<u16> = self.all()?.iter().map(|vm| vm.settings.port).collect();
        (FIRST_PORT..=u16::MAX)
            .filter(|port| !taken.contains(port))
            .find(|port| is_free(*port).is_ok())
            .ok_or_else(|| Error::Usage("no port is free for ssh".to_owned()))
    }

    /// Fails if something listens at the port of a machine that does not run, and says what.
    pub fn check_port(&self, name: &str, port: u16) -> Result<()> {
        let Err(error) = is_free(port) else {
            return Ok(());
        };
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(Error::Usage(format!(
                "port {port} cannot be had for ssh: {error}. Give another by --ssh-port, above 1023"
            )));
        }
        let others = self.all()?.into_iter();
        let mut others = others.filter(|vm| vm.name != name && vm.settings.port == port);
        let holder = match others.find(Vm::is_running) {
            Some(vm) => format!("by the virtual machine {}", vm.name),
            None => format!("by another program (ss -ltnp 'sport = {port}' says which)"),
        };
        Err(Error::Usage(format!(
            "port {port}, which is to lead to ssh of {name}, is taken {holder}. Give another: --ssh-port {}",
            self.free_port()?
        )))
    }
}

/// Whether a program can listen at a port.
fn is_free(port: u16) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

impl Settings {
    fn check(&self) -> Result<()> {
        if let Some(share) = &self.share
            && !share.is_dir()
        {
            return Err(Error::Usage(format!(
                "the folder to share, {}, is none",
                share.display()
            )));
        }
        self.base.check_size(self.disk)
    }

    fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        crate::provider::write(file, text.as_bytes())
    }
}

impl Vm {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where all of it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its disk takes on this machine's, in bytes.
    pub fn disk_used(&self) -> u64 {
        // stat(2): blocks are of 512 bytes.
        fs::metadata(self.path(disk::FILE)).map_or(0, |meta| meta.blocks() * 512)
    }

    /// Has another port lead to its ssh from now on.
    pub fn set_port(&mut self, port: u16) -> Result<()> {
        self.settings.port = port;
        self.settings.write(&self.path(SETTINGS))
    }

    /// Whether QEMU runs it.
    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    fn must_run(&self) -> Result<()> {
        match self.is_running() {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "{0} does not run: ferroce vm start {0}",
                self.name
            ))),
        }
    }

    /// Removes it, and its disk. It does not run.
    pub fn delete(self) -> Result<()> {
        if self.is_running() {
            return Err(Error::Usage(format!(
                "{0} runs: ferroce vm stop {0} first, or ferroce vm delete --force {0}",
                self.name
            )));
        }
        fs::remove_dir_all(&self.folder).map_err(Error::file("remove", &self.folder))?;
        note("Deleted", &format!("{}, with its disk", self.name));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_host() {
        let longest = "a".repeat(63);
        for name in ["a", "lesson-1", "7", longest.as_str()] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        let too_long = "a".repeat(64);
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "..",
            "ä",
            too_long.as_str(),
        ] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }
}
