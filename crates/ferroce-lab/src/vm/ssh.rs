// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way into a machine: keys, and OpenSSH's client, which does the rest.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Vm, USER};
use crate::error::{Error, Result};
use crate::modules::files_below;

const USER_KEY: &str = "key";
const HOST_KEY: &str = "host-key";
const KNOWN_HOSTS: &str = "known_hosts";
const CONFIG: &str = "ssh_config";

/// The exit status of ssh where it is ssh that failed (ssh(1)).
const FAILED: i32 = 255;

/// A machine's keys, as texts.
#[derive(Debug)]
pub struct Keys {
    /// By which the user comes in.
    pub user_public: String,
    /// By which the machine is known.
    pub host_public: String,
    /// The same, for the machine.
    pub host_private: String,
}

impl Keys {
    /// Makes them, into a machine's folder.
    pub fn make(folder: &Path, name: &str) -> Result<Self> {
        generate(&folder.join(USER_KEY), &format!("ferroce-vm-{name}"))?;
        let host = folder.join(HOST_KEY);
        generate(&host, &format!("root@{name}"))?;
        let read = |path: &Path| fs::read_to_string(path).map_err(Error::file("read", path));
        let public = |name: &str| {
            let text = read(&folder.join(format!("{name}.pub")))?;
            Ok::<_, Error>(text.trim().to_owned())
        };
        let keys = Self {
            user_public: public(USER_KEY)?,
            host_public: public(HOST_KEY)?,
            host_private: read(&host)?,
        };
        let known = folder.join(KNOWN_HOSTS);
        fs::write(&known, format!("{name} {}\n", keys.host_public))
            .map_err(Error::file("write", &known))?;
        Ok(keys)
    }
}

fn generate(place: &Path, comment: &str) -> Result<()> {
    let program = "ssh-keygen";
    let output = Command::new(program)
        .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
        .arg(place)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            program: program.to_owned(),
            source,
        })?;
    failed("making a key by ssh-keygen", output).map(drop)
}

/// The output of a program that did not fail.
fn failed(what: &str, output: Output) -> Result<Output> {
    match output.status.success() {
        true => Ok(output),
        false => Err(Error::Failed {
            what: what.to_owned(),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}

impl Vm {
    /// Writes the file.
    pub(super) fn write_ssh_config(&self) -> Result<()> {
        let place = self.ssh_config();
        let text = format!(
            "Host {name}\n\
             \x20 HostName 127.0.0.1\n\
             \x20 Port {port}\n\
             \x20 User {USER}\n\
             \x20 IdentityFile \"{key}\"\n\
             \x20 IdentitiesOnly yes\n\
             \x20 UserKnownHostsFile \"{known}\"\n\
             \x20 GlobalKnownHostsFile none\n\
             \x20 HostKeyAlias {name}\n\
             \x20 StrictHostKeyChecking yes\n\
             \x20 PasswordAuthentication no\n\
             \x20 LogLevel ERROR\n",
            name = self.name,
            port = self.settings.port,
            key = self.path(USER_KEY).display(),
            known = self.path(KNOWN_HOSTS).display(),
        );
        crate::provider::write(&place, text.as_bytes())
    }

    /// The file by which ssh, scp and rsync find it, once it was started: `ssh -F FILE NAME`.
    pub fn ssh_config(&self) -> PathBuf {
        self.path(CONFIG)
    }

    /// ssh to it, with options of ssh's, up to the command.
    fn ssh(&self, options: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.ssh_config()).args(options);
        ssh.arg(&self.name);
        ssh
    }

    /// Becomes ssh with a command, or with a shell if there is none. The words of the command are joined, and
    /// are for the shell there, as with ssh. Returns only if that fails.
    pub fn become_ssh<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Infallible> {
        use std::os::unix::process::CommandExt;
        self.must_run()?;
        let source = self.ssh(&[]).args(command).exec();
        Err(Error::Start {
            program: "ssh".to_owned(),
            source,
        })
    }

    /// Whether one can log in, and a command succeeds there.
    pub(super) fn succeeds(&self, command: &str) -> Result<bool> {
        let output = self
            .ssh(&["-o", "BatchMode=yes", "-o", "ConnectTimeout=60"])
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .map_err(cannot_start)?;
        Ok(output.status.success())
    }

    /// Has its shell run a command, with our streams but for standard input, and returns the exit status.
    pub fn run(&self, command: &str) -> Result<i32> {
        self.must_run()?;
        let status = self
            .ssh(&["-o", "BatchMode=yes"])
            .arg(command)
            .stdin(Stdio::null())
            // Standard output is for what was asked for.
            .stdout(io::stderr())
            .status()
            .map_err(cannot_start)?;
        match status.code() {
            Some(status) if status != FAILED => Ok(status),
            _ => Err(Error::Usage(format!(
                "the way by ssh into {0} broke down: see above, and ferroce vm console {0}",
                self.name
            ))),
        }
    }

    /// What a command prints, which is `what` for people.
    pub fn output(&self, what: &str, command: &str) -> Result<String> {
        self.must_run()?;
        let output = self
            .ssh(&["-o", "BatchMode=yes"])
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .map_err(cannot_start)?;
        let output = failed(&format!("{what} in {}", self.name), output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Puts all files below a folder into it, below its root, as root's.
    pub fn put(&self, tree: &Path) -> Result<()> {
        let mut ssh = self
            .ssh(&["-o", "BatchMode=yes"])
            // Its folders are left as they are; some, as /lib, are links.
            .arg("sudo tar --extract --no-same-owner --directory=/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot_start)?;
        let to = ssh.stdin.take().expect("piped");
        let sent = send(tree, to);
        let output = ssh.wait_with_output().map_err(cannot_start)?;
        failed(&format!("copying files into {}", self.name), output)?;
        sent.map_err(Error::file("copy", tree))
    }
}

fn cannot_start(source: io::Error) -> Error {
    Error::Start {
        program: "ssh".to_owned(),
        source,
    }
}

/// Writes an archive of files without their folders.
fn send(tree: &Path, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    for file in files_below(tree).map_err(io::Error::other)? {
        let name = file.strip_prefix(tree).map_err(io::Error::other)?;
        archive.append_path_with_name(&file, name)?;
    }
    archive.into_inner()?.flush()
}
