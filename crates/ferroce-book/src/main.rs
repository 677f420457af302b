// SPDX-License-Identifier: MIT OR Apache-2.0
//! Renders the book into a folder: `cargo run -p ferroce-book -- FOLDER`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use ferroce_book::{build, root, LANGUAGES};

fn main() -> Result<()> {
    let default = || root().join("target/book").into_os_string();
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(default));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    for language in LANGUAGES {
        let into = folder.join(language);
        build(language, &into)?;
        println!("{}", into.join("index.html").display());
    }
    Ok(())
}
