// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder that stands for `/sys/class/infiniband*` and `/dev/infiniband` in programs that
//! `ferroce run` starts: what a kernel shows of RoCE devices, as far as programs look at it
//! (Documentation/ABI/stable/sysfs-class-infiniband).
//!
//! ```text
//! class/infiniband/NAME           -> devices/ferroce/NAME.0/infiniband/NAME
//! class/infiniband_verbs/uverbsN  -> devices/ferroce/NAME.0/infiniband_verbs/uverbsN
//! dev/infiniband/uverbsN          a regular file: see ferroce-shim
//! class/misc/rdma_cm              the connection manager; dev/infiniband/rdma_cm is as above
//! ```
//!
//! A folder's name is the hash of what is in it, and nothing in it is ever changed, so that all programs
//! for which the same is to be seen share one. It is complete from the moment that it has its name.

use std::fs;
use std::io;
use std::os::unix::fs::{symlink, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use ferroce_core::uapi;
use sha2::{Digest, Sha256};

use super::gids::{self, Gid};

/// What the shim tells a device file's number as: see `ferroce-shim/src/device.rs`.
const MAJOR: u32 = 231;
const BASE_MINOR: u32 = 192;

/// Likewise of the connection manager's file, and the version of its commands
/// (`RDMA_USER_CM_ABI_VERSION`).
const CM_DEV: &str = "10:122";
const CM_ABI: u32 = 4;

/// The version of `uverbs` as a whole (`IB_USER_VERBS_ABI_VERSION`).
const VERBS_ABI: u32 = 6;

/// A device to be seen.
#[derive(Debug)]
pub struct Device {
    pub name: String,
    /// Of `uverbsN`.
    pub number: u32,
    pub guid: u64,
    pub gids: Vec<Gid>,
}

/// The devices of `ferroce run --device NAME --devices N`, with the host's addresses.
pub fn devices(name: &str, count: u32, first_number: u32) -> Vec<Device> {
    let identity = identity();
    let device = |(index, name)| {
        let guid = guid(&identity, index);
        Device {
            name,
            number: first_number + index,
            guid,
            gids: gids::table(guid),
        }
    };
    (0..count).zip(names(name)).map(device).collect()
}

/// Names that count up from the first: from the digits at its end, or with digits added if there are to
/// be several.
fn names(first: &str) -> impl Iterator<Item = String> + '_ {
    let stem = first.trim_end_matches(|c: char| c.is_ascii_digit());
    let start: Option<u64> = first[stem.len()..].parse().ok();
    (0..).map(move |index| match (start, index) {
        (_, 0) => first.to_owned(),
        (Some(start), _) => format!("{stem}{}", start.saturating_add(index)),
        (None, _) => format!("{stem}{index}"),
    })
}

/// What tells this user on this machine from others.
fn identity() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // Containers of one image may have the same machine-id, but not the same name.
    let machine = read("/etc/machine-id");
    let host = read("/proc/sys/kernel/hostname");
    let user = rustix::process::getuid().as_raw();
    format!("{} {} {user}", machine.trim(), host.trim())
}

/// A device's GUID: the same at each start.
fn guid(identity: &str, index: u32) -> u64 {
    let hash = Sha256::digest(format!("ferroce {identity} {index}"));
    let mut guid = [0; 8];
    guid.copy_from_slice(&hash[..8]);
    // Locally administered, and no group's (IEEE 802).
    guid[0] = guid[0] & !1 | 2;
    u64::from_be_bytes(guid)
}

fn guid_text(guid: u64) -> String {
    let part = |shift: u32| format!("{:04x}", (guid >> shift) as u16);
    [48, 32, 16, 0].map(part).join(":")
}

/// The connection manager, below `/` and below `/sys`.
const CM_FILE: &str = "dev/infiniband/rdma_cm";
const CM_CLASS: &str = "class/misc/rdma_cm";

/// Where a machine shows its RDMA devices.
const FOLDERS: [&str; 6] = [
    "/dev/infiniband",
    "/sys/class/infiniband",
    "/sys/class/infiniband_cm",
    "/sys/class/infiniband_mad",
    "/sys/class/infiniband_srp",
    "/sys/class/infiniband_verbs",
];

/// An entry of the folder.
#[derive(Debug)]
enum Entry {
    /// A file that is read.
    File(String),
    /// A device file.
    Device,
    /// A symbolic link.
    Link(PathBuf),
}

/// What is to be in the folder, each with its path there.
#[derive(Debug, Default)]
pub struct Tree(Vec<(PathBuf, Entry)>);

impl Tree {
    pub fn new(devices: &[Device]) -> Self {
        let mut tree = Self::default();
        tree.file("class/infiniband_verbs/abi_version", VERBS_ABI);
        // The newest entry comes first where the folder is in memory, and programs take the first device.
        for device in devices.iter().rev() {
            tree.device(device);
        }
        tree.file("class/misc/rdma_cm/abi_version", CM_ABI);
        tree.file("class/misc/rdma_cm/dev", CM_DEV);
        let file = PathBuf::from(CM_FILE);
        tree.0.push((file, Entry::Device));
        tree
    }

    fn file(&mut self, path: impl Into<PathBuf>, text: impl ToString) {
        let text = format!("{}\n", text.to_string());
        self.0.push((path.into(), Entry::File(text)));
    }

    fn link(&mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.0.push((path.into(), Entry::Link(target.into())));
    }

    fn device(&mut self, device: &Device) {
        let Device { name, number, .. } = device;
        let verbs = format!("uverbs{number}");
        // NCCL takes devices for ports of one if their paths are equal but for the last character.
        let parent = format!("devices/ferroce/{name}.0");
        let modalias = uapi::USER_MODALIAS.to_string_lossy();
        self.file(format!("{parent}/modalias"), modalias);
        self.file(format!("{parent}/numa_node"), -1);
        // By which programs find the addresses.
        if let Some(Gid { netdev, .. }) = device.gids.first() {
            let class = Path::new("/sys/class/net").join(netdev);
            self.link(format!("{parent}/net/{netdev}"), class);
        }

        let class = format!("{parent}/infiniband/{name}");
        let mut attribute = |name: &str, text: String| self.file(format!("{class}/{name}"), text);
        let guid = guid_text(device.guid);
        attribute("node_type", "1: CA".to_owned());
        attribute("node_guid", guid.clone());
        attribute("sys_image_guid", guid);
        attribute("node_desc", "ferroce".to_owned());
        attribute("fw_ver", env!("CARGO_PKG_VERSION").to_owned());
        attribute("hw_rev", "1".to_owned());
        attribute("hca_type", "ferroce".to_owned());
        attribute("board_id", "ferroce".to_owned());
        attribute("ports/1/state", "4: ACTIVE".to_owned());
        attribute("ports/1/phys_state", "5: LinkUp".to_owned());
        // As the device says in Query Port.
        attribute("ports/1/rate", "100 Gb/sec (4X EDR)".to_owned());
        attribute("ports/1/lid", "0x0".to_owned());
        attribute("ports/1/lid_mask_count", "0".to_owned());
        attribute("ports/1/sm_lid", "0x0".to_owned());
        attribute("ports/1/sm_sl", "0".to_owned());
        attribute("ports/1/cap_mask", "0x00010000".to_owned());
        attribute("ports/1/link_layer", "Ethernet".to_owned());
        attribute("ports/1/pkeys/0", "0xffff".to_owned());
        for (index, gid) in device.gids.iter().enumerate() {
            attribute(&format!("ports/1/gids/{index}"), gid.sysfs());
            let attributes = "ports/1/gid_attrs";
            attribute(&format!("{attributes}/types/{index}"), "RoCE v2".to_owned());
            attribute(&format!("{attributes}/ndevs/{index}"), gid.netdev.clone());
        }
        self.link(format!("{class}/device"), format!("../../../{name}.0"));
        self.link(
            format!("{class}/subsystem"),
            "../../../../../class/infiniband",
        );
        self.link(format!("class/infiniband/{name}"), format!("../../{class}"));

        let class = format!("{parent}/infiniband_verbs/{verbs}");
        self.file(format!("{class}/ibdev"), name);
        self.file(format!("{class}/abi_version"), uapi::UVERBS_ABI);
        self.file(
            format!("{class}/dev"),
            format!("{MAJOR}:{}", BASE_MINOR + number),
        );
        self.link(format!("{class}/device"), format!("../../../{name}.0"));
        self.link(
            format!("{class}/subsystem"),
            "../../../../../class/infiniband_verbs",
        );
        self.link(
            format!("class/infiniband_verbs/{verbs}"),
            format!("../../{class}"),
        );
        let file = format!("dev/infiniband/{verbs}");
        self.0.push((file.into(), Entry::Device));
    }

    /// Has the devices be seen as well that there are without these: this machine's, or those of a
    /// `ferroce run` around this one.
    pub fn keep(&mut self) {
        // There is one connection manager. The machine's, if it has one, is of its own devices.
        let own = Path::new("/").join(CM_FILE);
        if own.exists() {
            self.0
                .retain(|(path, _)| !path.starts_with(CM_CLASS) && path != Path::new(CM_FILE));
        }
        for folder in FOLDERS.map(Path::new) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let place = folder.strip_prefix("/sys").or(folder.strip_prefix("/"));
                let place = place.unwrap_or(folder).join(entry.file_name());
                // What is around is itself reached by way of a shim, which the kernel knows nothing of.
                let target = fs::canonicalize(entry.path());
                if !self.0.iter().any(|(path, _)| *path == place) {
                    self.link(place, target.unwrap_or_else(|_| entry.path()));
                }
            }
        }
        let class = Path::new("/sys").join(CM_CLASS);
        if own.exists() && class.exists() {
            self.link(CM_CLASS, class);
        }
    }

    /// The hash of all of it.
    fn name(&self) -> String {
        let mut hasher = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (path, entry) in &self.0 {
            part(path.as_os_str().as_encoded_bytes());
            match entry {
                Entry::File(text) => part(text.as_bytes()),
                Entry::Device => part(b"device"),
                Entry::Link(target) => part(target.as_os_str().as_encoded_bytes()),
            }
        }
        ferroce_lab::cache::hex(&hasher.finalize()[..8])
    }

    /// Makes the folder in another, if it is not there, and returns its path.
    pub fn ensure(&self, folder: &Path) -> Result<PathBuf> {
        let place = folder.join(self.name());
        if self.is_at(&place) {
            return Ok(place);
        }
        remove_unused(folder);
        let fail = || format!("cannot create {}", place.display());
        let new = tempfile::Builder::new()
            .prefix(NEW)
            .tempdir_in(folder)
            .with_context(fail)?;
        self.write(new.path()).with_context(fail)?;
        let new = new.keep();
        if let Err(error) = fs::rename(&new, &place) {
            // Another one was faster, or what is there lacks something.
            let taken = self.is_at(&place);
            if !taken {
                let _ = fs::remove_dir_all(&place);
            }
            if taken || fs::rename(&new, &place).is_err() {
                let _ = fs::remove_dir_all(&new);
            }
            if !self.is_at(&place) {
                return Err(error).with_context(fail);
            }
        }
        Ok(place)
    }

    /// Whether all is there: services that clean up may have removed files that were long not used.
    fn is_at(&self, place: &Path) -> bool {
        let there = |path| fs::symlink_metadata(place.join(path)).is_ok();
        self.0.iter().all(|(path, _)| there(path))
    }

    fn write(&self, place: &Path) -> io::Result<()> {
        for (path, entry) in &self.0 {
            let path = place.join(path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            match entry {
                Entry::File(text) => fs::write(path, text)?,
                Entry::Device => {
                    let mut options = fs::OpenOptions::new();
                    options
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(path)?;
                }
                Entry::Link(target) => symlink(target, path)?,
            }
        }
        // All programs see a class, if it has no devices either.
        fs::create_dir_all(place.join("class/infiniband"))?;
        fs::create_dir_all(place.join("dev/infiniband"))
    }
}

/// The first of `uverbsN` that this machine has no device of its own for.
pub fn free_number() -> u32 {
    let classes = fs::read_dir("/sys/class/infiniband_verbs");
    let taken = classes.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("uverbs")?.parse::<u32>().ok()
    });
    taken.max().map_or(0, |number| number + 1)
}

/// The beginning of a folder's name that is being filled.
const NEW: &str = "new-";
/// For how long a folder is left alone that no program has in its environment: one may be about to start.
const RECENT: Duration = Duration::from_secs(60);

/// Removes the folders that no process of this user uses. They are looked for when another is made: when
/// the host's addresses have changed, or what was asked for.
fn remove_unused(folder: &Path) {
    let mut unused: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.map(|changed| SystemTime::now().duration_since(changed));
            age.is_ok_and(|age| age.is_ok_and(|age| age > RECENT))
        })
        .map(|entry| entry.path())
        .collect();
    if unused.is_empty() {
        return;
    }
    let user = rustix::process::geteuid().as_raw();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let own = process.metadata().is_ok_and(|m| m.uid() == user);
        let Some(environment) = own
            .then(|| fs::read(process.path().join("environ")).ok())
            .flatten()
        else {
            continue;
        };
        for variable in environment.split(|byte| *byte == 0) {
            let value = variable.strip_prefix(super::DEVICES.as_bytes());
            if let Some(value) = value.and_then(|value| value.strip_prefix(b"=")) {
                unused.retain(|path| path.as_os_str().as_encoded_bytes() != value);
            }
        }
    }
    for path in unused {
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(first: &str, count: usize) -> Vec<String> {
        names(first).take(count).collect()
    }

    #[test]
    fn names_count_up() {
        assert_eq!(named("ferroce0", 3), ["ferroce0", "ferroce1", "ferroce2"]);
        assert_eq!(named("mlx5_9", 2), ["mlx5_9", "mlx5_10"]);
        assert_eq!(named("card", 3), ["card", "card1", "card2"]);
        assert_eq!(named("7", 2), ["7", "8"]);
    }

    #[test]
    fn guids_are_stable_and_differ() {
        let first = guid("here", 0);
        assert_eq!(first, guid("here", 0));
        assert_ne!(first, guid("here", 1));
        assert_ne!(first, guid("there", 0));
        assert_eq!(first >> 56 & 3, 2);
        assert_eq!(guid_text(0x0102_0304_0506_0708), "0102:0304:0506:0708");
    }

    #[test]
    fn a_folder_is_made_once_and_shared() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(&devices("ferroce0", 2, 0));
        let place = tree.ensure(folder.path()).unwrap();
        let inode = || {
            fs::metadata(place.join("dev/infiniband/uverbs1"))
                .unwrap()
                .ino()
        };
        let before = inode();
        assert_eq!(tree.ensure(folder.path()).unwrap(), place);
        assert_eq!(inode(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let other = Tree::new(&devices("ferroce0", 1, 0))
            .ensure(folder.path())
            .unwrap();
        assert_ne!(other, place);
    }

    #[test]
    fn a_folder_that_lacks_a_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(&devices("ferroce0", 1, 0));
        let place = tree.ensure(folder.path()).unwrap();
        let file = place.join("class/infiniband/ferroce0/node_guid");
        fs::remove_file(&file).unwrap();
        assert_eq!(tree.ensure(folder.path()).unwrap(), place);
        assert!(file.exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_lead_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        let place = Tree::new(&devices("x1", 1, 5))
            .ensure(folder.path())
            .unwrap();
        let read = |path: &str| fs::read_to_string(place.join(path)).unwrap();
        assert_eq!(
            read("class/infiniband/x1/device/modalias"),
            "ferroce:user\n"
        );
        assert_eq!(read("class/infiniband_verbs/uverbs5/ibdev"), "x1\n");
        assert_eq!(read("class/infiniband_verbs/uverbs5/dev"), "231:197\n");
        let link = "class/infiniband/x1/device/infiniband_verbs/uverbs5/subsystem/abi_version";
        assert_eq!(read(link), "6\n");
        assert_eq!(
            read("class/infiniband/x1/subsystem/x1/ports/1/state"),
            "4: ACTIVE\n"
        );
    }

    #[test]
    fn a_folder_that_nobody_uses_goes() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("0123456789abcdef");
        fs::create_dir(&old).unwrap();
        let recent = folder.path().join("fedcba9876543210");
        fs::create_dir(&recent).unwrap();
        let before = SystemTime::now() - 2 * RECENT;
        fs::File::open(&old).unwrap().set_modified(before).unwrap();
        remove_unused(folder.path());
        assert!(!old.exists());
        assert!(recent.exists());
    }
}
