// SPDX-License-Identifier: MIT OR Apache-2.0
//! The book in `docs/book`, rendered by mdBook as a library: nobody has to install it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mdbook_driver::MDBook;

/// The languages that the book is in: each has a folder in `docs/book`.
pub const LANGUAGES: [&str; 2] = ["en", "zh"];

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the book in one language.
pub fn source(language: &str) -> PathBuf {
    root().join("docs/book").join(language)
}

/// Renders the book in one language into a folder.
pub fn build(language: &str, into: &Path) -> Result<()> {
    let mut book = MDBook::load(source(language))?;
    book.config.build.build_dir = into.to_owned();
    book.build()
}
