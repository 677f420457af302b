// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong in the lab, told so that a person knows what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {}", .path.display(), told(.source))]
    File {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program's name.
        program: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{what} failed ({status}){}", quoted(.output))]
    Failed {
        /// What was being done.
        what: String,
        /// How the program ended.
        status: std::process::ExitStatus,
        /// The lines of its output that say why.
        output: String,
    },
    /// Something is missing on this machine, and installing it is not wanted.
    #[error("this machine lacks {}.\nTo install what is missing, run:\n{}", .missing.join(", "), indented(.commands))]
    Missing {
        /// The names of what is missing.
        missing: Vec<String>,
        /// Commands that install all of it.
        commands: Vec<String>,
    },
    /// No source of a supported kernel could be had.
    #[error("no kernel source could be had:\n{}\nferroce builds Linux {series}. Check the network, or point FERROCE_KERNEL_MIRROR at a mirror of kernel.org's /pub/linux/kernel", indented(.tried))]
    NoSource {
        /// The series that are supported.
        series: String,
        /// Each place that was asked, with what it answered.
        tried: Vec<String>,
    },
    /// No package of the kernel that was asked for could be had.
    #[error("Debian's kernel{} could not be had:\n{}", .version.as_ref().map(|v| format!(" {v}")).unwrap_or_default(), indented(.tried))]
    NoPackage {
        /// The version that was asked for, if one was.
        version: Option<String>,
        /// Each suite that was asked, with what it answered.
        tried: Vec<String>,
    },
    /// A download is not what its publisher says it is.
    #[error(
        "{file} from {origin} is damaged: its checksum is {found}, published is {expected}. It was deleted; try again, or another mirror"
    )]
    Digest {
        /// The file's name.
        file: String,
        /// Where it came from.
        origin: String,
        /// The digest that was published.
        expected: String,
        /// The digest of what arrived.
        found: String,
    },
    /// The configuration lost options that were asked for.
    #[error("the kernel's configuration would not keep {}; {hint}", .options.join(", "))]
    Config {
        /// The lines of the fragment that were dropped.
        options: Vec<String>,
        /// The likely cause.
        hint: String,
    },
    /// An argument makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The guest's kernel refused a module's file.
    #[error("{what}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        what: String,
    },
    /// One of several hosts failed.
    #[error("{name}: {error}")]
    Host {
        /// Which.
        name: String,
        /// Its error.
        error: Box<Error>,
    },
    /// The guest could not be brought to run the command.
    #[error("{what}{}", quoted(.log))]
    Guest {
        /// What happened.
        what: String,
        /// The end of the kernel's log.
        log: String,
    },
}

impl Error {
    /// Makes a closure that wraps an I/O error on `path`, for `map_err`.
    pub fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::File {
            action,
            path,
            source,
        }
    }
}

/// The reason, and what helps against the one that people meet most.
fn told(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{source}. Free some space, or set FERROCE_CACHE to a folder on a larger disk")
        }
        _ => source.to_string(),
    }
}

fn indented<S: AsRef<str>>(lines: &[S]) -> String {
    let lines: Vec<String> = lines.iter().map(|l| format!("  {}", l.as_ref())).collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    if text.trim().is_empty() {
        return String::new();
    }
    let lines: Vec<String> = text
        .trim_end()
        .lines()
        .map(|l| format!("  | {l}"))
        .collect();
    format!(":\n{}", lines.join("\n"))
}
