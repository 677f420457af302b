// SPDX-License-Identifier: MIT OR Apache-2.0
//! What cloud-init is told when a machine first boots: a FAT volume of the label `cidata` with three files
//! (cloud-init's data source NoCloud). They are JSON, which is YAML too.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{json, Value};

use super::ssh::Keys;
use super::Settings;
use crate::error::{Error, Result};

/// The volume in a machine's folder.
pub const FILE: &str = "seed.img";

/// The user that one is in a machine.
pub const USER: &str = "ferroce";
/// The password of [`USER`] at the console; ssh takes none.
pub const PASSWORD: &str = "ferroce";
/// Where a machine has the folder that is shared with it.
pub const SHARE: &str = "/mnt/share";

/// The tag by which the machine knows the share.
pub const SHARE_TAG: &str = "share";
/// The address of its network card.
pub const MAC: &str = "52:54:00:66:72:01";

/// What the machine writes to its second serial line when cloud-init has found the seed.
pub const SEEN: &str = "ferroce: cloud-init has read the seed";

const LABEL: &[u8; 11] = b"CIDATA     ";
/// In bytes. Of a smaller volume fatfs cannot make one that Linux mounts with certainty.
const SIZE: u64 = 1 << 20;

/// The contents.
#[derive(Debug)]
pub struct Seed {
    meta_data: Value,
    user_data: Value,
    network_config: Value,
}

impl Seed {
    /// For a machine of that name.
    pub fn new(name: &str, settings: &Settings, keys: &Keys) -> Self {
        let mut user = json!({
            "name": USER,
            "gecos": "the user of the lessons",
            "shell": "/bin/bash",
            "groups": "sudo",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": false,
            "plain_text_passwd": PASSWORD,
            "ssh_authorized_keys": [keys.user_public],
        });
        // Files of the share belong to the user here and there.
        let uid = rustix::process::getuid();
        if !uid.is_root() {
            user["uid"] = json!(uid.as_raw().to_string());
        }
        let mut user_data = json!({
            "hostname": name,
            // So that sudo finds the name without a name server.
            "manage_etc_hosts": "localhost",
            "users": [user],
            "ssh_pwauth": false,
            // So that the host's key is known, and no other is made, which takes long where each
            // instruction is emulated.
            "ssh_keys": {
                "ed25519_private": keys.host_private,
                "ed25519_public": keys.host_public,
            },
            // Where each instruction is emulated, the line may come too late for systemd.
            "runcmd": [["systemctl", "start", "--no-block", "serial-getty@ttyS0.service"]],
            "bootcmd": [["sh", "-c", format!("echo '{SEEN}' > /dev/ttyS1")]],
        });
        if settings.share.is_some() {
            let options = "trans=virtio,version=9p2000.L,msize=512000,nofail";
            user_data["mounts"] = json!([[SHARE_TAG, SHARE, "9p", options, "0", "0"]]);
        }
        if !settings.packages.is_empty() {
            user_data["package_update"] = json!(true);
            user_data["packages"] = json!(settings.packages);
        }
        let network_config = json!({
            "version": 2,
            "ethernets": {
                "eth0": {
                    "match": { "macaddress": MAC },
                    "set-name": "eth0",
                    "dhcp4": true,
                },
            },
        });
        Self {
            meta_data: json!({ "instance-id": format!("ferroce-{name}"), "local-hostname": name }),
            user_data,
            network_config,
        }
    }

    /// Writes the volume.
    pub fn write(&self, place: &Path) -> Result<()> {
        self.write_volume(place)
            .map_err(Error::file("write", place))
    }

    fn write_volume(&self, place: &Path) -> io::Result<()> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(place)?;
        file.set_len(SIZE)?;
        let options = FormatVolumeOptions::new().volume_label(*LABEL);
        fatfs::format_volume(&mut file, options)?;
        let volume = FileSystem::new(&mut file, FsOptions::new())?;
        let files = [
            ("meta-data", "", &self.meta_data),
            ("user-data", "#cloud-config\n", &self.user_data),
            ("network-config", "", &self.network_config),
        ];
        for (name, head, contents) in files {
            let mut file = volume.root_dir().create_file(name)?;
            writeln!(file, "{head}{contents:#}")?;
            file.flush()?;
        }
        volume.unmount()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;

    fn seed(share: Option<PathBuf>, packages: &[&str]) -> Seed {
        let settings: Settings = serde_json::from_value(json!({
            "base": { "file": "/b", "format": "raw", "size": 1, "changed": 1 },
            "disk": 1, "memory": 1, "cpus": 1, "share": share, "port": 1, "packages": packages,
        }))
        .unwrap();
        let keys = Keys {
            user_public: "ssh-ed25519 user".to_owned(),
            host_public: "ssh-ed25519 host".to_owned(),
            host_private: "-----BEGIN\nprivate\n".to_owned(),
        };
        Seed::new("lesson", &settings, &keys)
    }

    fn read(volume: &FileSystem<File>, name: &str) -> String {
        let mut text = String::new();
        let mut file = volume.root_dir().open_file(name).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_volume_is_what_cloud_init_looks_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(FILE);
        seed(None, &[]).write(&place).unwrap();
        let volume = FileSystem::new(File::open(&place).unwrap(), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        let user_data = read(&volume, "user-data");
        let (head, user_data) = user_data.split_once('\n').unwrap();
        assert_eq!(head, "#cloud-config");
        let user_data: Value = serde_json::from_str(user_data).unwrap();
        assert_eq!(user_data["users"][0]["name"], USER);
        assert_eq!(
            user_data["users"][0]["ssh_authorized_keys"],
            json!(["ssh-ed25519 user"])
        );
        let private = &user_data["ssh_keys"]["ed25519_private"];
        assert_eq!(private, "-----BEGIN\nprivate\n");
        let meta_data: Value = serde_json::from_str(&read(&volume, "meta-data")).unwrap();
        assert_eq!(meta_data["local-hostname"], "lesson");
        let network: Value = serde_json::from_str(&read(&volume, "network-config")).unwrap();
        assert_eq!(network["ethernets"]["eth0"]["dhcp4"], true);
    }

    #[test]
    fn only_what_is_wanted_is_mounted_and_installed() {
        let none = seed(None, &[]).user_data;
        assert!(none.get("mounts").is_none() && none.get("packages").is_none());
        let both = seed(Some("/src".into()), &["perftest"]).user_data;
        assert_eq!(both["mounts"][0][0], SHARE_TAG);
        assert_eq!(both["mounts"][0][1], SHARE);
        assert_eq!(both["packages"], json!(["perftest"]));
    }
}
