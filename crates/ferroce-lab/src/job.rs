// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is told to do, in a file that it reads from the host.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::backend::Backend;
use crate::provider::Provider;

/// A string of the operating system's, which need not be UTF-8.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Text(ByteBuf);

impl<T: AsRef<OsStr>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(ByteBuf::from(text.as_ref().as_bytes()))
    }
}

impl Text {
    /// As an argument or a variable.
    pub fn os(&self) -> OsString {
        OsString::from_vec(self.0.to_vec())
    }

    /// As a path.
    pub fn path(&self) -> PathBuf {
        self.os().into()
    }
}

/// One of several guests that have a network between them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Host {
    /// Which, from 1 on.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl Host {
    /// The name that the host of a number has.
    pub fn name(number: u32) -> String {
        format!("host{number}")
    }

    /// Its address, in a network of 24 bits.
    pub fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, number as u8)
    }

    /// The address of one of its cards, in a network of 24 bits with those of that number on other hosts.
    pub fn card_address(host: u32, card: u32) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, card as u8 + 1, host as u8)
    }
}

/// A job for a guest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// What the guest runs on.
    pub backend: Backend,
    /// The program and its arguments.
    pub command: Vec<Text>,
    /// The folder to run it in.
    pub folder: Text,
    /// Its environment.
    pub environment: Vec<(Text, Text)>,
    /// Which of several hosts it is, if there are several.
    pub host: Option<Host>,
    /// How many cards the machine has.
    pub cards: u32,
    /// The terminal's lines and columns, if it is to have one.
    pub terminal: Option<(u16, u16)>,
    /// The host's folders that it may change; for QEMU each is a 9p share
    /// whose tag is "rw" and its place in this list.
    pub writable: Vec<Text>,
    /// This very program, which the guest has as `ferroce`.
    pub program: Text,
    /// A file to be seen as /proc/cpuinfo.
    pub processors: Option<Text>,
    /// The folder to be seen as /lib/modules/RELEASE.
    pub modules_folder: Text,
    /// The plug-in for libibverbs, if there is one.
    pub provider: Option<Plugin>,
    /// The names of modules to load first.
    pub modules: Vec<String>,
    /// Module files to load after them.
    pub module_files: Vec<ModuleFile>,
}

/// A module's file, and what it is to be given.
#[derive(Debug, Serialize, Deserialize)]
pub struct ModuleFile {
    /// The file.
    pub path: Text,
    /// Its parameters, as the kernel takes them: NAME=VALUE, with spaces between.
    pub parameters: Text,
}

/// The plug-in for libibverbs: see [`Provider`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Plugin {
    library: Text,
    place: Text,
    driver: Text,
}

impl From<&Provider> for Plugin {
    fn from(provider: &Provider) -> Self {
        Self {
            library: Text::from(&provider.library),
            place: Text::from(&provider.place),
            driver: Text::from(&provider.driver),
        }
    }
}

impl Plugin {
    /// As it was before.
    pub fn provider(&self) -> Provider {
        Provider {
            library: self.library.path(),
            place: self.place.path(),
            driver: self.driver.path(),
        }
    }
}

impl Job {
    /// Writes it to a file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, postcard::to_stdvec(self).map_err(io::Error::other)?)
    }

    /// Reads it from a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        postcard::from_bytes(&std::fs::read(path)?).map_err(io::Error::other)
    }
}
