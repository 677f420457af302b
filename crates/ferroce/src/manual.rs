// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce completions` and `ferroce man`: the command line, described for shells and for man(1).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use ferroce_lab::progress::note;

use crate::args::Args;

pub fn completions(shell: Shell) -> Result<i32> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    io::stdout().write_all(&text)?;
    Ok(0)
}

pub fn pages(folder: &Path) -> Result<i32> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    clap_mangen::generate_to(Args::command(), folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    note(
        "Written",
        &format!("the manual pages into {}", folder.display()),
    );
    Ok(0)
}
