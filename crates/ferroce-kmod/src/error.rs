// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong before there is anything to report on.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A file that is no kernel module, or a broken one: where, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{what} ({field} at offset {offset:#x})")]
pub struct Malformed {
    /// Where the field is in the (decompressed) file, in bytes.
    pub offset: u64,
    /// The field, as elf(5) or the kernel's sources name it.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
    /// The line that the kernel's loader logs on meeting it, where it logs one,
    /// as /dev/kmsg has it.
    pub kernel_says: Option<String>,
}

impl Malformed {
    pub(crate) fn new(offset: u64, field: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            offset,
            field: field.into(),
            what: what.into(),
            kernel_says: None,
        }
    }

    /// With the kernel's own words for it.
    pub(crate) fn says(mut self, line: impl Into<String>) -> Self {
        self.kernel_says = Some(crate::live::as_logged(&line.into()));
        self
    }
}

/// Any error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that cannot be used.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that is no module.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: Malformed,
    },
    /// A compressed file that cannot be decompressed.
    #[error("{}: cannot decompress it: {reason}", .path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A text of the kernel's build that does not read as one.
    #[error("{}, line {line}: {what}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A request that cannot be met, with what to do instead.
    #[error("{0}")]
    Usage(String),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Turns an I/O error into one that says what was tried, for `map_err`.
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// Says which file is malformed, for `map_err`.
    pub(crate) fn malformed(path: impl AsRef<Path>) -> impl FnOnce(Malformed) -> Self {
        let path = path.as_ref().to_owned();
        move |reason| Self::Malformed { path, reason }
    }
}
