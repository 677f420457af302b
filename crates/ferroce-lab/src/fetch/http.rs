// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files by HTTP, with their digest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::Digest;

use crate::cache::hex;
use crate::error::{Error, Result};
use crate::progress::{self, Task, Unit};

/// Why a server did not give a file.
pub type Refusal = ureq::Error;

/// A short text.
pub fn text(url: &str) -> Result<String, Refusal> {
    ureq::get(url).call()?.body_mut().read_to_string()
}

/// Fetches a file, and shows how far it is. Returns its digest in hexadecimal.
pub fn file<D: Digest>(url: &str, path: &Path) -> Result<Result<String, Refusal>> {
    let mut response = match ureq::get(url).call() {
        Ok(response) => response,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let size = response.body().content_length().unwrap_or(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let what = format!("{name} ({})", progress::bytes(size));
    let mut task = Task::start("Fetching", &what, Unit::Bytes, size);
    let mut out = File::create(path).map_err(Error::file("create", path))?;
    let digest = save::<D>(response.body_mut().as_reader(), &mut out, &mut task)
        .map_err(Error::file("fetch", path))?;
    Ok(Ok(digest))
}

/// Copies, and returns the digest of what was copied.
fn save<D: Digest>(mut from: impl Read, to: &mut File, task: &mut Task) -> io::Result<String> {
    let mut hasher = D::new();
    let mut buf = vec![0; 1 << 16];
    loop {
        let n = from.read(&mut buf)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buf[..n]);
        to.write_all(&buf[..n])?;
        task.set(task.done() + n as u64);
    }
}
